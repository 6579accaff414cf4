"""A real Postfix as the next hop: what its smtpd has in its queue is what the SMTP transport was given."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from bench import postfix
from bench.postfix import Postfix
from bench.processes import Children
from mailproj.ports import free_port
from queue.outcome import Kind, Outcome
from queue.tests.authority import Issued, self_signed
from queue.tests.outbound import Run, job, on_both_loops, options
from queue.transports.base import DsnRequest, Job, NextHop, Route
from queue.transports.line import Line
from queue.transports.smtp import SmtpTransport
from queue.transports.tls import REQUIRED

pytestmark = on_both_loops

NAME = "postfix.test"
ODD = (
    b"Subject: odd lines\r\nX-Dots: .\r\n\r\n.\r\n..\r\n.dot\r\n\r\n \t\r\nGr\xc3\xbc\xc3\x9fe\r\n"
    b"latin \xe9 \x7f \x01\r\n%s\r\n\r\n.\r\n" % (b"x" * 998)
)
LARGE = b"Subject: large\r\n\r\n" + b"".join(b".%07d %s\r\n" % (number, b"y" * 60) for number in range(40_000))
TRACE = re.compile(rb"Received: from mail\.example\.org .*\n(?:[ \t].*\n)+")


@dataclass(frozen=True)
class NextDoor:
    """A Postfix that keeps all mail on hold, its certificate, and what carries content there: `DATA` or `BDAT`."""

    instance: Postfix
    certificate: Issued
    by: str


@pytest.fixture(scope="module", params=["DATA", "BDAT"])
def next_door(request: pytest.FixtureRequest) -> Iterator[NextDoor]:
    if reason := postfix.unavailable():
        pytest.skip(reason)
    certificate = self_signed(NAME)
    # Not pytest's own folder, which is its user's alone: Postfix has a user of its own.
    with tempfile.TemporaryDirectory() as name, Children(Path(name)) as children:
        folder = Path(name)
        folder.chmod(0o755)
        private = certificate.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (folder / "chain.pem").write_bytes(private + certificate.pem)
        more = [
            "smtpd_tls_security_level = may",
            f"smtpd_tls_chain_files = {folder / 'chain.pem'}",
            "local_header_rewrite_clients =",  # it adds to nobody's header but its own trace field
        ]
        if request.param == "BDAT":  # in lockstep a message goes as one chunk
            more.append("smtpd_discard_ehlo_keywords = pipelining")
        instance = postfix.start(children, folder / "next-door", name="Postfix", port=free_port(), more=more)
        yield NextDoor(instance, certificate, request.param)


def deliver(run: Run, to: NextDoor, *messages: Job) -> tuple[list[Outcome], bytes]:
    """Deliver one after the other by a session with STARTTLS; return the outcomes, and all that was said to Postfix."""
    said: list[bytes] = []

    class Overheard(Line):
        def send(self, octets: bytes | memoryview) -> None:
            said.append(bytes(octets))
            super().send(octets)

    async def connect(address: str, port: int, _seconds: float) -> Line:
        _, line = await asyncio.get_running_loop().create_connection(Overheard, address, port)
        return line

    async def body() -> list[Outcome]:
        transport = SmtpTransport(options(connect=connect, verified_tls=to.certificate.trusting()))
        route = Route([NextHop(NAME, "127.0.0.1", to.instance.port, REQUIRED)])
        outcomes = [outcome for one in messages for outcome in (await transport.deliver(one, route)).values()]
        await transport.close()
        return outcomes

    return run(body()), b"".join(said)


def test_each_octet_arrives_below_the_trace_field(run: Run, next_door: NextDoor) -> None:
    contents = [ODD, LARGE, b"Subject: small\r\n\r\n", ODD[:-2]]
    outcomes, said = deliver(run, next_door, *(job(content=one, body_type="8BITMIME") for one in contents))
    for outcome, content in zip(outcomes, contents, strict=True):
        assert (outcome.kind, outcome.code, outcome.is_verified) == (Kind.DELIVERED, 250, True), outcome
        assert outcome.tls.startswith("TLSv1.3 ")
        queued = next_door.instance.queued(outcome.reply.split()[-1], "-bh")
        field = TRACE.match(queued)
        assert field is not None and b"with ESMTPS" in field[0]
        whole = content if content.endswith(b"\r\n") else content + b"\r\n"
        assert queued[field.end() :] == whole.replace(b"\r\n", b"\n")
    assert (said.count(b"EHLO "), said.count(b"STARTTLS\r\n")) == (2, 1)  # one session for all
    assert said.count(b"DATA\r\n" if next_door.by == "DATA" else b" LAST\r\n") == len(contents)


def test_the_envelope_arrives_with_all_that_its_sender_asked_for(run: Run, next_door: NextDoor) -> None:
    message = job(
        "a@example.com",
        "b@example.com",
        content=ODD,
        body_type="8BITMIME",
        envelope_id="QQ+314=159",
        dsn_return="HDRS",
        dsn_requests={"a@example.com": DsnRequest("SUCCESS,FAILURE", "rfc822;A+b@Origin.example")},
    )
    outcomes, said = deliver(run, next_door, message)
    assert [outcome.kind for outcome in outcomes] == [Kind.DELIVERED] * 2
    assert all("DSN" in outcome.announced for outcome in outcomes)
    assert b" SIZE=%d BODY=8BITMIME RET=HDRS ENVID=QQ+2B314+3D159\r\n" % len(ODD) in said
    told = next_door.instance.queued(outcomes[0].reply.split()[-1], "-e").decode()
    for line in (
        "sender: from@example.org",
        "named_attribute: encoding=8bit",
        "named_attribute: envelope_id=QQ+314=159",  # it has read the xtext
        "named_attribute: ret_flags=2",  # HDRS
        "named_attribute: notify_flags=6",  # SUCCESS and FAILURE
        "named_attribute: dsn_orig_rcpt=rfc822;A+b@Origin.example",
        "recipient: a@example.com",
        "recipient: b@example.com",
    ):
        assert f"\n{line}\n" in told, line


def test_a_certificate_that_it_cannot_prove_itself_with_keeps_the_mail_here(run: Run, next_door: NextDoor) -> None:
    stranger = NextDoor(next_door.instance, self_signed(NAME), next_door.by)
    (outcome,), said = deliver(run, stranger, job())
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert b"MAIL FROM" not in said
