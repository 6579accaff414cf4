"""The parameters of MAIL and RCPT (RFC 1870, 2852, 3030, 3461 §4, 4954 §5, 6152, 6531 §3.4, 8689 §2); pure."""

from __future__ import annotations

import re

from accounts.names import Address, InvalidName, parse_address
from mailflow.errors import Refused
from mailflow.smtp.envelope import DeliverBy, Envelope, Recipient
from mailflow.smtp.paths import PathArgument, check_smtputf8, decode_orcpt, decode_xtext
from mailflow.smtp.reply import Reply

_NOTIFY = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}
_BY = re.compile(r"([+-]?[0-9]{1,9});([RNrn])([Tt]?)\Z")
_BODY_TYPES = ("7BIT", "8BITMIME", "BINARYMIME")


def read_envelope(
    parsed: PathArgument, *, extended: bool, auth_offered: bool, max_octets: int, is_encrypted: bool = False
) -> Envelope:
    """Return the envelope that a MAIL begins; raises `Refused` for a parameter that is unknown or wrong."""
    envelope = Envelope(parsed.address)
    if not parsed.parameters and not parsed.needs_smtputf8:
        return envelope
    _need_ehlo(parsed, extended)
    for name, value in parsed.parameters.items():
        if name == "REQUIRETLS" and is_encrypted:  # RFC 8689 §2: within TLS alone, where it is announced
            _need_no_value(name, value)
            envelope.requires_tls = True
        elif not _read_parameter(envelope, name, value, auth_offered=auth_offered, max_octets=max_octets):
            raise Refused(Reply(555, "5.4", f"Parameter {name[:40]} of MAIL is not recognized"))
    check_smtputf8(parsed, "FROM", declared=envelope.is_smtputf8)
    return envelope


def _read_parameter(envelope: Envelope, name: str, value: str, *, auth_offered: bool, max_octets: int) -> bool:
    """Keep one parameter of MAIL; False where there is none of that name."""
    match name:
        case "SIZE":
            envelope.declared_octets = _declared_octets(value, max_octets)
        case "BODY":
            envelope.body_type = _one_of(value, "BODY", _BODY_TYPES)
        case "SMTPUTF8":
            _need_no_value(name, value)
            envelope.is_smtputf8 = True
        case "BY":
            envelope.deliver_by = _deliver_by(value)
        case "AUTH" if auth_offered:
            _check_auth(decode_xtext(value))
        case "RET":
            envelope.dsn_return = _one_of(value, "RET", ("FULL", "HDRS"))
        case "ENVID":
            envelope.envelope_id = decode_xtext(value)
            if not value or len(value) > 100:
                raise Refused(Reply(501, "5.4", "ENVID has 1 to 100 characters"))
        case _:
            return False
    return True


def read_recipient(address: Address, parsed: PathArgument, *, extended: bool, is_smtputf8: bool) -> Recipient:
    """Return the recipient of a RCPT with what DSN is to do for it; raises `Refused` as `read_envelope`."""
    check_smtputf8(parsed, "TO", declared=is_smtputf8)
    if not parsed.parameters:
        return Recipient(address)
    _need_ehlo(parsed, extended)
    notify = original = ""
    for name, value in parsed.parameters.items():
        if name == "NOTIFY":
            words = value.upper().split(",")
            if not set(words) <= _NOTIFY or ("NEVER" in words and len(words) > 1):
                raise Refused(Reply(501, "5.4", "NOTIFY is NEVER, or a list of SUCCESS, FAILURE and DELAY"))
            notify = ",".join(words)
        elif name == "ORCPT":
            if len(value) > 500:
                raise Refused(Reply(501, "5.4", "ORCPT has at most 500 characters"))
            original = decode_orcpt(value, declared=is_smtputf8)
        else:
            raise Refused(Reply(555, "5.4", f"Parameter {name[:40]} of RCPT is not recognized"))
    return Recipient(address, notify, original)


def _need_no_value(name: str, value: str) -> None:
    if value:
        raise Refused(Reply(501, "5.4", f"{name} has no value"))


def _check_auth(identity: str) -> None:
    """Judge AUTH=, a mailbox or `<>`. It is not kept: nobody's word but AUTH's own counts (RFC 4954 §5)."""
    if identity == "<>":
        return
    try:
        parse_address(identity)
    except InvalidName:
        raise Refused(Reply(501, "5.4", "AUTH= has a mailbox, or <>")) from None


def _need_ehlo(parsed: PathArgument, extended: bool) -> None:
    if parsed.parameters and not extended:
        raise Refused(Reply(555, "5.4", "Parameters need EHLO"))


def _declared_octets(value: str, limit: int) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > 20:
        raise Refused(Reply(501, "5.4", "SIZE is a number of octets"))
    if int(value) > limit:
        reason = f"{int(value)} octets are declared, the limit is {limit}"
        reply = Reply(552, "3.4", f"Message exceeds maximum size of {limit} octets")
        raise Refused(reply, reason, rule="size.over_limit")
    return int(value)


def _deliver_by(value: str) -> DeliverBy:
    match = _BY.match(value)
    if match is None:
        raise Refused(Reply(501, "5.4", "BY is a number of seconds of at most 9 digits, a semicolon and R or N"))
    seconds, mode = int(match[1]), match[2].upper()
    if mode == "R" and seconds <= 0:  # RFC 2852 §4
        raise Refused(Reply(501, "5.4", "BY with mode R needs a time above 0"))
    return DeliverBy(seconds, mode + match[3].upper())


def _one_of(value: str, name: str, allowed: tuple[str, ...]) -> str:
    if value.upper() not in allowed:
        raise Refused(Reply(501, "5.4", f"{name} is {' or '.join(allowed)}"))
    return value.upper()
