"""The resolver that asks the network, on dnspython (RFC 1035, RFC 2308).

Safe to share between the coroutines of a loop; holds no socket between questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import dns.asyncresolver
import dns.exception
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.MX import MX

from accounts.dns.base import DnsUnavailable, MailExchanger, NoSuchDomain
from accounts.dns.cache import AnswerCache, Records

EDNS_PAYLOAD_OCTETS = 1232  # larger answers come over TCP instead of in fragments


class DnsPythonResolver:
    """Implements `accounts.dns.base.Resolver`.

    `nameservers` are (address, port) in the order to ask; none means the system's configuration. A server that does not
    answer within `timeout_seconds` is passed over, a question ends after `lifetime_seconds`.
    """

    def __init__(
        self,
        nameservers: Sequence[tuple[str, int]] = (),
        *,
        timeout_seconds: float = 3.0,
        lifetime_seconds: float = 10.0,
        cache: AnswerCache | None = None,
    ) -> None:
        self._cache = AnswerCache() if cache is None else cache
        self._resolver = dns.asyncresolver.Resolver(configure=False)
        if nameservers:
            # Objects instead of addresses: two servers may differ in nothing but the port.
            self._resolver.nameservers = [dns.nameserver.Do53Nameserver(host, port) for host, port in nameservers]
        else:
            self._read_system_configuration()
        self._resolver.timeout = timeout_seconds
        self._resolver.lifetime = lifetime_seconds
        self._resolver.use_edns(0, 0, EDNS_PAYLOAD_OCTETS)

    def _read_system_configuration(self) -> None:
        try:
            self._resolver.read_resolv_conf("/etc/resolv.conf")
        except dns.resolver.NoResolverConfiguration:
            self._resolver.nameservers = []  # every question answers DnsUnavailable, and the mail waits

    async def mx(self, domain: str) -> Sequence[MailExchanger]:
        exchangers = []
        for record in await self._records(domain, "MX"):
            preference, _, host = record.partition(" ")
            exchangers.append(MailExchanger(int(preference), host))
        return exchangers

    async def addresses(self, host: str) -> Sequence[str]:
        """Ask for both families at once; one of them is enough where the other's question fails."""
        answers = await asyncio.gather(self._records(host, "A"), self._records(host, "AAAA"), return_exceptions=True)
        found: list[str] = []
        errors: list[BaseException] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                errors.append(answer)
            else:
                found.extend(answer)
        if found or not errors:
            return found
        # Temporary until proven permanent: one family without an answer outweighs the other's NXDOMAIN.
        raise next((error for error in errors if not isinstance(error, NoSuchDomain)), errors[0])

    async def _records(self, name: str, kind: str) -> Sequence[str]:
        key = (name.lower().rstrip("."), kind)
        try:
            records = self._cache.get(key)
        except KeyError:
            records, ttl_seconds = await self._ask(key[0], kind)
            self._cache.put(key, records, ttl_seconds)
        if records is None:
            raise NoSuchDomain(name)
        return records

    async def _ask(self, name: str, kind: str) -> tuple[Records, float]:
        """Return the records as text (None for NXDOMAIN) and for how many seconds they hold."""
        try:
            question = dns.name.from_text(name)
        except (dns.exception.DNSException, UnicodeError):
            return None, 0  # too long, or with an empty label: no such name can exist
        try:
            answer = await self._resolver.resolve(question, kind, raise_on_no_answer=False)
        except dns.resolver.NXDOMAIN as error:
            return None, _negative_ttl(error)
        except dns.resolver.NoNameservers as error:
            reason = "no name server is configured" if not self._resolver.nameservers else _last_trouble(error)
            raise DnsUnavailable(f"{kind} of {name}: {reason}") from None
        except dns.exception.Timeout:
            raise DnsUnavailable(f"{kind} of {name}: no answer in time") from None
        except (dns.exception.DNSException, OSError) as error:
            raise DnsUnavailable(f"{kind} of {name}: {type(error).__name__}") from None
        records = [] if answer.rrset is None else [_text(rdata) for rdata in answer.rrset]
        return tuple(records), answer.chaining_result.minimum_ttl


def _text(rdata: object) -> str:
    """Return `10 mail.example.net` for an MX (nothing after the blank is the null MX), the address for A and AAAA."""
    if not isinstance(rdata, MX):
        return str(rdata)
    host = "" if rdata.exchange == dns.name.root else rdata.exchange.to_text(omit_final_dot=True)
    return f"{rdata.preference} {host.lower()}"


def _negative_ttl(error: dns.resolver.NXDOMAIN) -> float:
    """Return for how many seconds the name may be taken as missing (the SOA's word)."""
    return min(float(response.resolve_chaining().minimum_ttl) for response in error.kwargs["responses"].values())


def _last_trouble(error: dns.resolver.NoNameservers) -> str:
    """Name what the last server did (SERVFAIL, REFUSED, a timeout), without dnspython's long listing."""
    errors = error.kwargs.get("errors") or []
    return f"the name servers answered {errors[-1][3]}" if errors else "no name server answered"
