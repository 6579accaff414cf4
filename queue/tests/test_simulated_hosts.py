"""The simulated hosts, by the real SMTP client, and by hand; nothing of it leaves the process."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from queue.outcome import Kind, Outcome
from queue.simulation import personas
from queue.simulation.certificate import contexts
from queue.simulation.host import Conversation
from queue.simulation.internet import HOPS, NETWORK, SimulatedTransport, host_of
from queue.simulation.personas import PERSONAS, Act, Host
from queue.tests.outbound import Run, deliver_over, job, on_both_loops
from queue.tests.peers import Peer
from queue.transports.base import Job, Route
from queue.transports.options import SmtpOptions
from queue.transports.smtp import SmtpTransport
from queue.transports.tls import TlsPolicy

LARGE = (
    b"Subject: large\r\n\r\n" + b"0123456789abcdef" * 4 + b"\r\n" + (b".dotted line\r\n" + b"x" * 70 + b"\r\n") * 40_000
)


async def sent(message: Job, **arguments: Any) -> Mapping[str, Outcome]:
    async def at_once(_seconds: float) -> None: ...

    transport = SimulatedTransport(**{"pause": at_once, "impatience": 0.2, **arguments})
    try:
        return await transport.deliver(message, Route(()))
    finally:
        await transport.close()


def to(local: str, attempt: int = 1, **fields: Any) -> Job:
    address = f"{local}@sim.test"
    return job(address, attempts={address: attempt}, **fields)


@pytest.mark.parametrize(
    ("local", "attempt", "kind", "code", "enhanced"),
    [
        ("ok", 1, Kind.DELIVERED, 250, "2.0.0"),
        ("OK+anything", 1, Kind.DELIVERED, 250, "2.0.0"),
        ("bounced", 1, Kind.FAILED, 550, "5.1.1"),
        ("bounced+5.1.1", 9, Kind.FAILED, 550, "5.1.1"),
        ("bounced+5.2.2", 1, Kind.FAILED, 552, "5.2.2"),
        ("Bounced+4.2.2", 5, Kind.DEFERRED, 452, "4.2.2"),
        ("bounced+9", 1, Kind.FAILED, 550, "5.1.3"),
        ("rejected", 1, Kind.FAILED, 550, "5.7.1"),
        ("rejected+5.6.0", 1, Kind.FAILED, 550, "5.6.0"),
        ("defer", 1, Kind.DEFERRED, 451, "4.3.0"),
        ("defer", 2, Kind.DELIVERED, 250, "2.0.0"),
        ("defer+3", 3, Kind.DEFERRED, 451, "4.3.0"),
        ("defer+3", 4, Kind.DELIVERED, 250, "2.0.0"),
        ("defer+0", 1, Kind.DELIVERED, 250, "2.0.0"),
        ("greylist", 1, Kind.DEFERRED, 450, "4.7.1"),
        ("greylist", 2, Kind.DELIVERED, 250, "2.0.0"),
        ("full", 99, Kind.DEFERRED, 452, "4.2.2"),
        ("slow", 1, Kind.DELIVERED, 250, "2.0.0"),
        ("complained", 1, Kind.DELIVERED, 250, "2.0.0"),
        ("tls-broken", 1, Kind.DEFERRED, 451, "4.7.0"),
        ("no-tls", 1, Kind.DELIVERED, 250, "2.0.0"),
        ("disconnect", 1, Kind.DEFERRED, None, "4.4.2"),
        ("disconnect+1", 2, Kind.DELIVERED, 250, "2.0.0"),
        ("timeout", 1, Kind.DEFERRED, None, "4.4.2"),
        ("timeout+1", 2, Kind.DELIVERED, 250, "2.0.0"),
    ],
)
def test_an_address_behaves_as_it_is_named(
    local: str, attempt: int, kind: Kind, code: int | None, enhanced: str
) -> None:
    (outcome,) = asyncio.run(sent(to(local, attempt))).values()
    assert (outcome.kind, outcome.code, outcome.enhanced_code) == (kind, code, enhanced)
    assert outcome.transport == "smtp"
    assert outcome.next_hop.partition("[")[0].endswith(".sim.test")


@on_both_loops
def test_the_line_is_encrypted_and_the_certificate_is_the_hosts(run: Run) -> None:
    async def with_verified_tls() -> Mapping[str, Outcome]:
        transport = SimulatedTransport()
        transport._patient._options = _required(transport._patient._options)
        try:
            return await transport.deliver(to("ok"), Route(()))
        finally:
            await transport.close()

    (outcome,) = run(with_verified_tls()).values()
    assert outcome.kind is Kind.DELIVERED and outcome.tls.startswith("TLSv1.3")


def _required(options: SmtpOptions) -> SmtpOptions:
    return SmtpOptions(
        options.own_name, default_tls=TlsPolicy.REQUIRED, allowed_networks=options.allowed_networks,
        connect=options.connect, verified_tls=contexts().client, timeouts=options.timeouts,
    )  # fmt: skip


@on_both_loops
def test_a_handshake_that_is_required_fails_at_the_host_with_broken_tls(run: Run) -> None:
    async def with_required_tls() -> Mapping[str, Outcome]:
        transport = SimulatedTransport()
        transport._patient._options = _required(transport._patient._options)
        try:
            return await transport.deliver(to("tls-broken"), Route(()))
        finally:
            await transport.close()

    (outcome,) = run(with_required_tls()).values()
    assert (outcome.kind, outcome.enhanced_code) == (Kind.DEFERRED, "4.7.5")
    assert "TLS handshake failed" in outcome.reply


def test_mail_that_requires_tls_goes_to_hosts_that_prove_who_they_are() -> None:
    found = asyncio.run(sent(to("ok", requires_tls=True)))["ok@sim.test"]
    assert (found.kind, found.is_verified) == (Kind.DELIVERED, True)
    assert asyncio.run(sent(to("no-tls", requires_tls=True)))["no-tls@sim.test"].kind is not Kind.DELIVERED
    assert asyncio.run(sent(to("tls-broken", requires_tls=True)))["tls-broken@sim.test"].kind is not Kind.DELIVERED


@on_both_loops
@pytest.mark.parametrize("content", [LARGE, b"", b"no header", b".\r\n", b"a: b\r\n\r\n.\r\n..\r\n"])
def test_contents_of_any_kind_are_taken_to_their_end(run: Run, content: bytes) -> None:
    async def twice() -> list[Outcome]:
        transport = SimulatedTransport()
        try:
            return [
                outcome
                for _ in range(2)
                for outcome in (await transport.deliver(to("ok", content=content), Route(()))).values()
            ]
        finally:
            await transport.close()

    assert [outcome.kind for outcome in run(twice())] == [Kind.DELIVERED] * 2


def test_recipients_of_one_transaction_hear_each_its_own_answer() -> None:
    names = ["ok", "bounced", "defer+3", "full"]
    addresses = [f"{name}@sim.test" for name in names]
    outcomes = asyncio.run(sent(job(*addresses, attempts=dict.fromkeys(addresses, 1))))
    kinds = [outcomes[address].kind for address in addresses]
    assert kinds == [Kind.DELIVERED, Kind.FAILED, Kind.DEFERRED, Kind.DEFERRED]


def test_the_slow_host_takes_its_time_at_every_answer() -> None:
    pauses: list[float] = []

    async def noted(seconds: float) -> None:
        pauses.append(seconds)

    asyncio.run(sent(to("slow"), pause=noted))
    assert len(pauses) >= 8 and set(pauses) == {1.0}


def test_every_behaviour_has_a_host_in_the_network_for_documentation() -> None:
    assert set(HOPS) == set(Host)
    assert {host_of(f"{name}@SIM.TEST") for name in PERSONAS} == set(Host)
    assert host_of("elsewhere@sim.test") is host_of("ok@example.org") is host_of("ok@mx.sim.test") is None
    assert len({hop.address for hop in HOPS.values()}) == len(Host)
    assert str(NETWORK) == "192.0.2.0/24"


def test_what_an_attempt_hears_depends_on_the_address_and_its_number_alone() -> None:
    assert personas.answers("timeout@sim.test", 7).rcpt is Act.SAY_NOTHING
    assert personas.answers("defer+x@sim.test", 1).rcpt == "451 4.3.0 Come back later (attempt 1 of 1 that is deferred)"
    assert personas.answers("unknown@sim.test", 1) == personas.TAKEN


def test_a_real_host_is_never_told_the_number_of_the_attempt() -> None:
    peer = Peer()
    peer.extensions = ["PIPELINING", "DSN"]

    async def deliver() -> None:
        async with peer.run():
            await deliver_over(peer, message=job(attempts={"rcpt@example.net": 3}))

    asyncio.run(deliver())
    assert [command for command in peer.commands if "XATTEMPT" in command] == []
    assert len(peer.messages) == 1


# --- by hand ---


async def dialogue(host: Host, *commands: str) -> list[str]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    talk = asyncio.create_task(Conversation(host, reader, writer, asyncio.sleep).hold())
    our_reader, our_writer = await asyncio.open_connection(sock=ours)
    said = [(await our_reader.readline()).decode().rstrip()]
    for command in commands:
        our_writer.write(f"{command}\r\n".encode())
        while (line := (await our_reader.readline()).decode().rstrip())[3:4] == "-":
            pass
        said.append(line)
    our_writer.close()
    await talk
    return [line[:3] for line in said]


def test_a_host_keeps_the_order_of_the_protocol() -> None:
    said = asyncio.run(
        dialogue(
            Host.MX, "RCPT TO:<ok@sim.test>", "DATA", "NOOP", "EHLO x", "BOO", "MAIL FROM:<a@b.example>", "DATA",
            "RCPT nonsense", "RCPT TO:<ok@sim.test> XATTEMPT=2 NOTIFY=NEVER", "RSET", "DATA", "QUIT",
        )
    )  # fmt: skip
    assert said == ["220", "503", "503", "250", "250", "500", "250", "554", "501", "250", "250", "503", "221"]


def test_a_line_without_an_end_ends_the_conversation() -> None:
    assert asyncio.run(dialogue(Host.MX, "A" * 100_000)) == ["220", ""]


# --- nothing leaves ---

_watched: list[tuple[str, object]] = []
_is_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _is_watching and event in {"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo"}:
        _watched.append((event, arguments[-1]))


@pytest.fixture
def connections() -> Callable[[], list[tuple[str, object]]]:
    """Note every connection, name look-up and listener of this process (PEP 578)."""
    global _is_watching
    _watched.clear()
    if not getattr(sys, "_sandbox_watch", False):
        sys.addaudithook(_watch)
        sys._sandbox_watch = True  # type: ignore[attr-defined]
    _is_watching = True

    def found() -> list[tuple[str, object]]:
        global _is_watching
        _is_watching = False
        return list(_watched)

    return found


def test_no_connection_is_opened_and_no_name_looked_up(connections: Callable[[], list[tuple[str, object]]]) -> None:
    for name in PERSONAS:
        asyncio.run(sent(to(name)))
    assert connections() == []


def test_the_watch_would_see_one(connections: Callable[[], list[tuple[str, object]]]) -> None:
    async def connect() -> None:
        transport = SmtpTransport(SmtpOptions("x", allowed_networks=[NETWORK]))
        listener = socket.create_server(("127.0.0.1", 0))
        with listener:
            _, writer = await asyncio.open_connection(*listener.getsockname()[:2])
            writer.close()
        await transport.close()

    asyncio.run(connect())
    assert "socket.connect" in {event for event, _ in connections()}
