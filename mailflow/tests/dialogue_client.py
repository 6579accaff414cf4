"""What a client may say, right and wrong, and strategies that put it together (RFC 5321 §4.1, RFC 3030, RFC 4954)."""

from __future__ import annotations

import base64
from collections.abc import Callable

from hypothesis import strategies as st

from mailflow.tests.dialogue_model import Model
from mailflow.tests.test_listener import plain

MAX_OCTETS = 3000  # of a message, for `STATES`


def always(code: int) -> Callable[[Model], int]:
    return lambda _model: code


def extended(code: int, by_account: int | None = None) -> Callable[[Model], int]:
    """Parameters need EHLO."""
    return lambda model: 555 if not model.is_extended else by_account if by_account and model.is_authenticated else code


def sender(code: int, by_account: int) -> Callable[[Model], int]:
    return lambda model: by_account if model.is_authenticated else code


# What each of these comes to where its time has come; `Model` knows when that is.
KNOWN: dict[bytes, Callable[[Model], int]] = {
    b"EHLO x": always(250),
    b"ehlo [127.0.0.1] and more": always(250),
    b"HELO x": always(250),
    b"EHLO -": always(501),
    b"EHLO [127.0.0]": always(501),
    b"MAIL FROM:<a@b.example>": sender(250, 553),
    b"mail from: <alice@example.com>": always(250),
    b"MAIL FROM:<>": always(250),
    b"MAIL FROM:<@r.example,@s.example:a@b.example>": sender(250, 553),
    b'MAIL FROM:<"a b"@[192.0.2.1]> SIZE=10 BODY=8BITMIME': extended(250, 553),
    b"MAIL FROM:<alice@example.com> BODY=BINARYMIME RET=HDRS ENVID=a+2Bb": extended(250),
    b"MAIL FROM:<> BODY=binarymime BY=3600;R": extended(250),
    "MAIL FROM:<é@b.example> SMTPUTF8".encode(): extended(250, 553),
    "MAIL FROM:<é@b.example>".encode(): always(550),
    b"MAIL FROM:<> SIZE=99999999": extended(552),
    b"MAIL FROM:<> SIZE=x": extended(501),
    b"MAIL FROM:<> BY=0;R": extended(501),
    b"MAIL FROM:<> SIZE=1 SIZE=1": always(501),
    b"MAIL FROM:<> FOO=1": extended(555),
    b"MAIL FROM:<a b@c.example>": always(553),
    b"MAIL FROM:a@b.example": always(501),
    b"MAIL FROM:": always(501),
    b"MAIL": always(501),
    b"RCPT TO:<alice@example.com>": always(250),
    b"RCPT TO:<Alice+tag@EXAMPLE.com> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;a+2Bb": extended(250),
    b"RCPT TO:<postmaster@example.com>": always(250),
    b"RCPT TO:<nobody@example.com>": always(550),
    b"RCPT TO:<a@foreign.example>": sender(550, 250),
    b"RCPT TO:<alice@example.com> NOTIFY=NEVER,DELAY": extended(501),
    b"RCPT TO:<alice@example.com> ORCPT=x": extended(501),
    b"RCPT TO:<alice@example.com> FOO": extended(555),
    b"RCPT TO:<>": always(501),
    b"RCPT TO:alice@example.com": always(501),
    b"RCPT": always(501),
}
OTHERS = [
    b"NOOP", b"noop with words", b"RSET", b"RSET x", b"HELP", b"HELP me", b"VRFY alice", b"VRFY", b"EXPN list", b"EHLO",
    b"STARTTLS", b"ATRN example.com", b"ETRN example.com", b"ETRN foreign.example", b"ETRN @example.com", b"ETRN",
    b"DATA", b"DATA now", b"QUIT", b"QUIT now", b"BDAT", b"BDAT x", b"BDAT -1", b"BDAT 1 FIRST", b"BDAT 1 LAST LAST",
    b"AUTH", b"AUTH CRAM-MD5", b"AUTH PLAIN", b"AUTH LOGIN", b"auth plain =", b"AUTH PLAIN *", b"*", b"=", b".", b"",
    "RCPT TO:<é@example.com>".encode(), b"RCPT TO:<\xff@example.com>", b"EHLO \xff", b"NOOP \xc3\xa9", b"NOOP\t",
    b"GET / HTTP/1.1", b"NOOP " + b"x" * 600, b"MAIL FROM:<" + b"x" * 3000 + b"@b.example>", b"x" * 13000,
    b"AUTH PLAIN " + b"AAAA" * 1000,
]  # fmt: skip
RIGHT, WRONG, OTHER = (
    plain("alice", "correct horse"),
    plain("alice", "wrong"),
    base64.b64encode(b"bob\0alice\0x").decode(),
)
BROKEN = [b"NOOP\n", b"NO\rOP", b"NOOP\0", b"NOOP\r", b"RCPT TO:<alice@example.com>\nRCPT TO:<alice@example.com>"]
EXCHANGES = [
    [f"AUTH PLAIN {RIGHT}"], ["AUTH PLAIN", RIGHT], [f"AUTH PLAIN {WRONG}"], ["AUTH PLAIN", OTHER], ["AUTH PLAIN", "*"],
    ["AUTH LOGIN", "YWxpY2U=", "Y29ycmVjdCBob3JzZQ=="], ["AUTH LOGIN YWxpY2U=", "Y29ycmVjdCBob3JzZQ=="],
    ["AUTH LOGIN", "YWxpY2U=", "*"], ["AUTH LOGIN", "*"], ["AUTH LOGIN", "YWxpY2U=", "AA=="], ["AUTH LOGIN", "/w=="],
    ["AUTH PLAIN", "!"], ["AUTH LOGIN", "YQBi", "="], ["AUTH LOGIN", "A" * 13000],
]  # fmt: skip

ends = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"x", b"\0"]), max_size=25).map(b"".join)
texts = st.lists(
    st.sampled_from([
        b"\r\n", b".\r\n", b"text\r\n", b"x" * 70 + b"\r\n", b"y" * 1500, b"\r\n.\r\n", b"\xff\r\n", b"QUIT\r\n",
        b"Subject: =?utf-8?q?caf=C3=A9?=\r\n", b"From: alice@example.com\r\n", b"From: <boss@b.example>\r\n",
        b"MAIL FROM:<smuggled@b.example>\r\n",
    ]), max_size=8,
).map(b"".join)  # fmt: skip
contents = st.one_of(ends, texts, texts)
commands = st.sampled_from([*KNOWN, *OTHERS]).map(lambda line: line + b"\r\n")
verbs = st.sampled_from([b"MAIL FROM:", b"RCPT TO:", b"AUTH ", b"BDAT ", b""])
noise = st.one_of(
    st.builds(bytes.__add__, verbs, st.binary(max_size=20)),
    st.text(max_size=20).map(lambda text: b"MAIL FROM:<a@b.example> " + text.encode("utf-8", "replace")),
    st.sampled_from(BROKEN),
).map(lambda line: line + b"\r\n")


@st.composite
def chunks(draw: st.DrawFn, contents: st.SearchStrategy[bytes] = contents) -> bytes:
    """A message by BDAT; now and then a size is wrong, so that what follows is content, or content is a command."""
    parts = draw(st.lists(contents, min_size=1, max_size=4))
    wrong = draw(st.sampled_from([0, 0, 0, 0, 0, 1, -1, 40]))
    last = len(parts) - 1 if draw(st.sampled_from([True, True, True, False])) else None
    return b"".join(
        b"BDAT %d%s\r\n" % (max(0, len(part) + (wrong if place == 0 else 0)), b" LAST" if place == last else b"") + part
        for place, part in enumerate(parts)
    )


def stuffed(octets: bytes) -> bytes:
    return (b"\r\n" + octets).replace(b"\r\n.", b"\r\n..")[2:]


def data_of(contents: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A message by DATA; where the dots are not doubled, or a line is not ended, it may come to something else."""
    writes = st.sampled_from([stuffed, stuffed, bytes])
    endings = st.sampled_from([b".\r\n", b"\r\n.\r\n", b"\r\n.\r\n"])
    return st.builds(lambda octets, write, ending: b"DATA\r\n" + write(octets) + ending, contents, writes, endings)


data = data_of(contents)
ALICE, FAR = b"RCPT TO:<alice@example.com>\r\n", b"RCPT TO:<a@foreign.example>\r\n"
transactions = st.sampled_from([
    b"RSET\r\nMAIL FROM:<>\r\n" + ALICE,
    b"EHLO x\r\nMAIL FROM:<a@b.example>\r\n" + ALICE + ALICE,
    b"HELO x\r\nMAIL FROM:<alice@example.com>\r\n" + FAR,
    b"RSET\r\nMAIL FROM:<> BODY=BINARYMIME\r\n" + ALICE,
    "EHLO x\r\nMAIL FROM:<é@b.example> SMTPUTF8\r\n".encode() + ALICE,
])  # fmt: skip
messages = st.tuples(transactions, st.one_of(data, chunks())).map(b"".join)
exchanges = st.sampled_from(EXCHANGES).map(lambda said: "".join(f"{line}\r\n" for line in said).encode())
scenes = st.sampled_from(
    [
        messages,
        messages,
        messages,
        commands,
        commands,
        commands,
        transactions,
        data,
        chunks(),
        exchanges,
        noise,
        contents,
    ]
).flatmap(lambda scene: scene)
openings = st.sampled_from(
    [b"EHLO x\r\n", b"EHLO x\r\n", b"HELO x\r\n", b"", f"EHLO x\r\nAUTH PLAIN {RIGHT}\r\n".encode()]
)
said = st.tuples(openings, st.lists(scenes, max_size=8).map(b"".join)).map(b"".join)
# How many octets go into a packet, and whether the client reads what it is owed before it goes on.
packets = st.lists(
    st.tuples(st.one_of(st.integers(1, 40), st.integers(1, 4000)), st.booleans()), min_size=1, max_size=30
)

# How far a dialogue may be when a command comes.
TO_ALICE = b"EHLO x\r\nMAIL FROM:<alice@example.com>\r\n" + ALICE
STATES = {
    "greeted": b"",
    "after HELO": b"HELO x\r\n",
    "after EHLO": b"EHLO x\r\n",
    "authenticated": f"EHLO x\r\nAUTH PLAIN {RIGHT}\r\n".encode(),
    "in the middle of AUTH": b"EHLO x\r\nAUTH LOGIN\r\n",
    "after MAIL": b"EHLO x\r\nMAIL FROM:<>\r\n",
    "after MAIL behind HELO": b"HELO x\r\nMAIL FROM:<>\r\n",
    "after RCPT": TO_ALICE,
    "for binary content": b"EHLO x\r\nMAIL FROM:<> BODY=BINARYMIME\r\n" + ALICE,
    "between chunks": TO_ALICE + b"BDAT 6\r\nA: b\r\n",
    "after a chunk too many": TO_ALICE + b"BDAT 3001\r\n" + b"x" * 3001,
    "in the middle of a chunk": TO_ALICE + b"BDAT 12\r\n",
    "in the middle of DATA": TO_ALICE + b"DATA\r\n",
}
