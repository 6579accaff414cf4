"""The resolver that asks the network, on dnspython (RFC 1035, RFC 2308).

Safe to share between the coroutines of a loop; holds no socket between questions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.flags
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.TLSA import TLSA
from dns.rdtypes.ANY.TXT import TXT

from accounts.dns.base import Answer, DnsUnavailable, MailExchanger, NoSuchDomain, Tlsa
from accounts.dns.cache import AnswerCache, Records

EDNS_PAYLOAD_OCTETS = 1232  # larger answers come over TCP instead of in fragments


class DnsPythonResolver:
    """Implements `accounts.dns.base.Resolver`.

    `nameservers` are (address, port) in the order to ask; none means the system's configuration. A server that does not
    answer within `timeout_seconds` is passed over, a question ends after `lifetime_seconds`. `validates`: the operator
    says that these servers check DNSSEC, and that nobody can put words into their mouth on the way: only then is the AD
    bit asked for and believed (RFC 6840 §5.7, RFC 4035 §4.9.3).
    """

    def __init__(
        self,
        nameservers: Sequence[tuple[str, int]] = (),
        *,
        timeout_seconds: float = 3.0,
        lifetime_seconds: float = 10.0,
        validates: bool = False,
        cache: AnswerCache | None = None,
    ) -> None:
        self._validates = validates
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
        if validates:
            self._resolver.set_flags(dns.flags.RD | dns.flags.AD)

    def _read_system_configuration(self) -> None:
        try:
            self._resolver.read_resolv_conf("/etc/resolv.conf")
        except dns.resolver.NoResolverConfiguration:
            self._resolver.nameservers = []  # every question answers DnsUnavailable, and the mail waits

    async def mx(self, domain: str) -> Answer[MailExchanger]:
        return await self._records(domain, "MX")

    async def txt(self, name: str) -> Answer[str]:
        return await self._records(name, "TXT")

    async def tlsa(self, name: str) -> Answer[Tlsa]:
        return await self._records(name, "TLSA")

    async def is_signed_alias(self, host: str) -> bool:
        found = await self._records(host, "CNAME")
        return bool(found) and found.is_secure

    async def addresses(self, host: str) -> Answer[str]:
        """Ask for both families at once; one of them is enough where the other's question fails.

        Nobody is asked for this machine itself.
        """
        if _names_this_machine(host):
            return Answer(("127.0.0.1", "::1"))
        answers = await asyncio.gather(self._records(host, "A"), self._records(host, "AAAA"), return_exceptions=True)
        found: list[Answer[str]] = []
        errors: list[BaseException] = []
        for answer in answers:
            if isinstance(answer, BaseException):
                errors.append(answer)
            else:
                found.append(answer)
        if any(found) or not errors:
            is_secure = all(answer.is_secure for answer in found if answer)
            name = next((answer.name for answer in found if answer), "")
            return Answer((address for answer in found for address in answer), is_secure=is_secure, name=name)
        # Temporary until proven permanent: one family without an answer outweighs the other's NXDOMAIN.
        raise next((error for error in errors if not isinstance(error, NoSuchDomain)), errors[0])

    async def _records(self, name: str, kind: str) -> Answer[Any]:
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
        """Return the records (None for NXDOMAIN) and for how many seconds they hold."""
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
        records = [] if answer.rrset is None else [_value(rdata) for rdata in answer.rrset]
        is_secure = self._validates and bool(answer.response.flags & dns.flags.AD)
        found = Answer(records, is_secure=is_secure, name=_name(answer.canonical_name))
        return found, answer.chaining_result.minimum_ttl


def _value(rdata: object) -> MailExchanger | Tlsa | str:
    match rdata:
        case MX():
            return MailExchanger(rdata.preference, _name(rdata.exchange))
        case TLSA():
            return Tlsa(rdata.usage, rdata.selector, rdata.mtype, rdata.cert)
        case TXT():
            return b"".join(rdata.strings).decode("utf-8", "replace")
        case _:
            return str(rdata)


def _names_this_machine(host: str) -> bool:
    name = host.lower().rstrip(".")
    return name == "localhost" or name.endswith(".localhost")


def _name(name: dns.name.Name) -> str:
    """Return a name in lower case without the dot at its end; the root, as in a null MX, is empty."""
    return "" if name == dns.name.root else name.to_text(omit_final_dot=True).lower()


def _negative_ttl(error: dns.resolver.NXDOMAIN) -> float:
    """Return for how many seconds the name may be taken as missing (the SOA's word)."""
    return min(float(response.resolve_chaining().minimum_ttl) for response in error.kwargs["responses"].values())


def _last_trouble(error: dns.resolver.NoNameservers) -> str:
    """Name what the last server did (SERVFAIL, REFUSED, a timeout), without dnspython's long listing."""
    errors = error.kwargs.get("errors") or []
    return f"the name servers answered {errors[-1][3]}" if errors else "no name server answered"
