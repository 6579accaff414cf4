"""The parameters of MAIL and RCPT (RFC 1870, RFC 6152, RFC 4954 §5, RFC 3461 §4); pure."""

from __future__ import annotations

from accounts.names import Address
from mailflow.errors import Refused
from mailflow.smtp.envelope import Envelope, Recipient
from mailflow.smtp.paths import PathArgument, decode_xtext
from mailflow.smtp.reply import Reply

_NOTIFY = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}


def read_envelope(parsed: PathArgument, *, extended: bool, auth_offered: bool, max_octets: int) -> Envelope:
    """Return the envelope that a MAIL begins; raises `Refused` for a parameter that is unknown or wrong."""
    _need_ehlo(parsed, extended)
    envelope = Envelope(parsed.address)
    for name, value in parsed.parameters.items():
        match name:
            case "SIZE":
                envelope.declared_octets = _declared_octets(value, max_octets)
            case "BODY":
                envelope.body_type = _one_of(value, "BODY", ("7BIT", "8BITMIME"))
            case "AUTH" if auth_offered:
                decode_xtext(value)  # taken and not trusted: nobody's word but AUTH's own counts
            case "RET":
                envelope.dsn_return = _one_of(value, "RET", ("FULL", "HDRS"))
            case "ENVID":
                envelope.envelope_id = decode_xtext(value)
                if not value or len(value) > 100:
                    raise Refused(Reply(501, "5.4", "ENVID has 1 to 100 characters"))
            case _:
                raise Refused(Reply(555, "5.4", f"Parameter {name} of MAIL is not recognized"))
    return envelope


def read_recipient(address: Address, parsed: PathArgument, *, extended: bool) -> Recipient:
    """Return the recipient of a RCPT with what DSN is to do for it; raises `Refused` as `read_envelope`."""
    _need_ehlo(parsed, extended)
    notify = original = ""
    for name, value in parsed.parameters.items():
        if name == "NOTIFY":
            words = value.upper().split(",")
            if not set(words) <= _NOTIFY or ("NEVER" in words and len(words) > 1):
                raise Refused(Reply(501, "5.4", "NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY"))
            notify = ",".join(words)
        elif name == "ORCPT":
            kind, semicolon, rest = value.partition(";")
            if not (kind and semicolon and rest) or len(value) > 500:
                raise Refused(Reply(501, "5.4", "ORCPT is a type, a semicolon and an address in xtext"))
            original = f"{kind};{decode_xtext(rest)}"
        else:
            raise Refused(Reply(555, "5.4", f"Parameter {name} of RCPT is not recognized"))
    return Recipient(address, notify, original)


def _need_ehlo(parsed: PathArgument, extended: bool) -> None:
    if parsed.parameters and not extended:
        raise Refused(Reply(555, "5.4", "Parameters need EHLO"))


def _declared_octets(value: str, limit: int) -> int:
    if not value.isdigit() or len(value) > 20:
        raise Refused(Reply(501, "5.4", "SIZE is a number of octets"))
    if int(value) > limit:
        raise Refused(Reply(552, "3.4", f"Message is larger than the {limit} octets that are taken here"))
    return int(value)


def _one_of(value: str, name: str, allowed: tuple[str, ...]) -> str:
    if value.upper() not in allowed:
        raise Refused(Reply(501, "5.4", f"{name} is {' or '.join(allowed)}"))
    return value.upper()
