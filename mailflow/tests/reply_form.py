"""What every reply must look like, whatever it says (RFC 5321 §4.2, §4.5.3.1.5, RFC 2034 §4)."""

from __future__ import annotations

import re

MAX_LINE_OCTETS = 512  # with CRLF
# Words of our inside: none of them may get out.
SECRETS = ("Traceback", 'File "', "Error:", "SELECT", "INSERT", "django", "sqlite", "psycopg", ".py", "/var", "/tmp")  # noqa: S108


def check_form(reply: str, *, is_greeting: bool) -> int:
    """Fail where a reply is not well formed; return its code."""
    lines = reply.split("\n")
    code = lines[0][:3]
    for place, line in enumerate(lines):
        assert line.isascii(), line
        assert line.isprintable(), line
        assert len(line) + 2 <= MAX_LINE_OCTETS, line
        separator = "-" if place < len(lines) - 1 else " "
        assert re.match(rf"[2-5][0-5][0-9]{separator}", line), reply
        assert line[:3] == code, reply
        enhanced = re.match(r"[2-5][0-9]{2}[- ]([245])\.[0-9]{1,3}\.[0-9]{1,3} ", line)
        if code[0] == "3" or (is_greeting and code[0] == "2"):
            assert enhanced is None, reply
        else:
            assert enhanced is not None, reply
            assert enhanced[1] == code[0], reply
    assert not any(secret in reply for secret in SECRETS), reply
    return int(code)
