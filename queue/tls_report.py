"""The report that a domain gets of a day's TLS sessions: to whom, its JSON, its message (RFC 8460 §3, §4, §5); pure."""

from __future__ import annotations

import datetime as dt
import email.encoders
import email.policy
import email.utils
import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from itertools import groupby
from urllib.parse import unquote

from accounts.names import InvalidName, parse_address

MAX_TARGETS = 5
MAX_DETAILS = 500  # kinds of failure of one policy; a report is read by machines, and bounded all the same
_VERSION = re.compile(r"v=TLSRPTv1[ \t]*;")


@dataclass(frozen=True, slots=True)
class Figure:
    """What a row of `TlsFigure` says, without its day and domain."""

    policy_type: str
    mx_host: str
    result: str
    reason: str
    receiving_address: str
    sending_address: str
    policy: Sequence[str]
    count: int


def targets(texts: Iterable[str]) -> list[str]:
    """Return the addresses that the TXT records at `_smtp._tls` ask to be written to; none where they are not valid.

    `https:` targets are left out: reports go by mail.
    """
    records = [text for text in texts if _VERSION.match(text)]
    if len(records) != 1:
        return []
    fields = [part.strip(" \t").partition("=") for part in records[0].split(";")]
    uris = next((value for name, _, value in fields if name == "rua"), "")
    found = []
    for uri in uris.split(","):
        scheme, _, rest = uri.strip(" \t").partition(":")
        if scheme.lower() == "mailto":
            address = unquote(rest.partition("?")[0])
            try:
                parse_address(address)
            except InvalidName:
                continue
            if address.isascii() and address.isprintable():
                found.append(address)
    return list(dict.fromkeys(found))[:MAX_TARGETS]


def build(
    domain: str,
    day: dt.date,
    figures: Iterable[Figure],
    *,
    contact: str,
    sts_policy: Sequence[str],
) -> dict[str, object]:
    """Return the report as JSON has it. `sts_policy`: the lines of the domain's MTA-STS policy, as it is known now."""
    begins = dt.datetime.combine(day, dt.time(), dt.UTC)
    ends = begins + dt.timedelta(days=1, seconds=-1)
    by_policy = sorted(figures, key=_policy_key)
    return {
        "organization-name": contact.rpartition("@")[2],
        "date-range": {"start-datetime": _moment(begins), "end-datetime": _moment(ends)},
        "contact-info": contact,
        "report-id": report_id(domain, day, contact),
        "policies": [
            _policy(domain, list(rows), sts_policy) for _, rows in groupby(by_policy, key=_policy_key)
        ],
    }  # fmt: skip


def report_id(domain: str, day: dt.date, contact: str) -> str:
    """Return the same id for the same report, so that one that comes twice is seen to."""
    digest = hashlib.sha256(f"{domain} {day.isoformat()} {contact}".encode()).hexdigest()[:24]
    return f"{digest}@{contact.rpartition('@')[2]}"


def _policy_key(figure: Figure) -> tuple[str, tuple[str, ...]]:
    return figure.policy_type, tuple(figure.policy)


def _policy(domain: str, rows: list[Figure], sts_policy: Sequence[str]) -> dict[str, object]:
    kind = rows[0].policy_type
    lines = list(sts_policy if kind == "sts" else rows[0].policy)
    policy: dict[str, object] = {"policy-type": kind, "policy-domain": domain}
    if lines:
        policy["policy-string"] = lines
    if kind == "sts":
        policy["mx-host"] = [line.removeprefix("mx: ") for line in lines if line.startswith("mx: ")]
    failures = [row for row in rows if row.result]
    described: dict[str, object] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": sum(row.count for row in rows if not row.result),
            "total-failure-session-count": sum(row.count for row in failures),
        },
    }
    if failures:
        most = sorted(failures, key=lambda row: -row.count)[:MAX_DETAILS]
        described["failure-details"] = [_failure(row) for row in most]
    return described


def _failure(row: Figure) -> Mapping[str, object]:
    details = {
        "result-type": row.result,
        "sending-mta-ip": row.sending_address,
        "receiving-mx-hostname": row.mx_host,
        "receiving-ip": row.receiving_address,
        "failed-session-count": row.count,
        "failure-reason-code": row.reason,
    }
    return {name: value for name, value in details.items() if value}


def compose(
    report: Mapping[str, object], domain: str, day: dt.date, to: Sequence[str], *, contact: str, now: dt.datetime
) -> bytes:
    """Return the report as a message with CRLF line ends (RFC 8460 §5.3).

    It is declared to need no TLS: what it tells of must not keep it from arriving (RFC 8460 §3, RFC 8689 §3).
    """
    submitter = contact.rpartition("@")[2]
    own_id = f"<{report['report-id']}>"
    begins = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp())
    message = MIMEMultipart("report", boundary=f"=_{hashlib.sha256(own_id.encode()).hexdigest()[:32]}")
    message.set_param("report-type", "tlsrpt")
    message["From"] = f"<{contact}>"
    message["To"] = ", ".join(f"<{address}>" for address in to)
    message["Date"] = email.utils.format_datetime(now)
    message["Message-ID"] = own_id
    message["Subject"] = f"Report Domain: {domain} Submitter: {submitter} Report-ID: {own_id}"
    message["TLS-Report-Domain"] = domain
    message["TLS-Report-Submitter"] = submitter
    message["TLS-Required"] = "No"
    message["Auto-Submitted"] = "auto-generated"
    words = f"This is an aggregate TLS report from {submitter}\nfor {domain}, of {day:%Y-%m-%d} (UTC).\n"
    message.attach(MIMEText(words, "plain", "us-ascii"))
    data = MIMEBase("application", "tlsrpt+gzip")
    data.set_payload(gzip.compress(json.dumps(report, indent=1).encode(), mtime=0))
    email.encoders.encode_base64(data)
    name = f"{submitter}!{domain}!{begins}!{begins + 86399}.json.gz"
    data.add_header("Content-Disposition", "attachment", filename=name)
    message.attach(data)
    return message.as_bytes(policy=email.policy.SMTP.clone(max_line_length=998))


def _moment(at: dt.datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
