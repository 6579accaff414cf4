"""Which port has which commands: mail, submission (RFC 6409), dial-up forwarding (RFC 2645)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mailflow.listener.commands import auth, content, greeting, mail, turn
from mailflow.listener.session import REQUIRETLS, SIZE, Command, Port

_COMMON: Mapping[bytes, Command] = {
    b"HELO": greeting.helo,
    b"EHLO": greeting.ehlo,
    b"STARTTLS": greeting.starttls,
    b"AUTH": auth.auth,
    b"RSET": greeting.rset,
    b"NOOP": greeting.noop,
    b"HELP": greeting.help_,
    b"QUIT": greeting.quit_,
}
_MAIL: Mapping[bytes, Command] = {
    **_COMMON,
    b"MAIL": mail.mail,
    b"RCPT": mail.rcpt,
    b"DATA": content.data,
    b"BDAT": content.bdat,
    b"VRFY": greeting.vrfy,
    b"EXPN": greeting.expn,
    b"ETRN": turn.etrn,
    b"ATRN": greeting.not_implemented,
}
_KEYWORDS = (
    "PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "BINARYMIME", "DSN", "DELIVERBY", "ENHANCEDSTATUSCODES", SIZE,
    REQUIRETLS,
)  # fmt: skip

SMTP = Port(_MAIL, (*_KEYWORDS, "ETRN"))
SMTPS = replace(SMTP, implicit_tls=True)
# RFC 6409 §7: neither ETRN nor ATRN.
SUBMISSION = Port({**_MAIL, b"ETRN": greeting.not_implemented}, _KEYWORDS, needs_account=True)
ODMR = Port(
    {
        **_COMMON,
        b"ATRN": turn.atrn,
        # RFC 2645 §5: until it is turned around, the session has nothing to do with mail.
        **dict.fromkeys((b"MAIL", b"RCPT", b"DATA", b"BDAT", b"VRFY", b"EXPN", b"ETRN"), greeting.not_implemented),
    },
    ("PIPELINING", "ENHANCEDSTATUSCODES", "ATRN"),
    has_challenge=True,
)
ODMRS = replace(ODMR, implicit_tls=True)
