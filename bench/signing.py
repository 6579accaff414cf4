"""What a DKIM signature costs: ours beside dkimpy's on the same message, and what a loop feels of a large one."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

import dkim
import uvloop
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import mailproj  # noqa: F401  (the queue graft)
from accounts.key_pairs import ED25519, RSA, SigningKey, generate, load_private
from bench.report import grid
from bench.rounds import rotated
from queue import signing

TITLE = "DKIM signatures (relaxed/relaxed)"
DOMAIN = "example.com"
LARGE_OCTETS = 10_000_000
_HEAD = (
    b"Received: from client.example ([192.0.2.1])\r\n\tby mail.example.com (mailproj) with ESMTPSA id msg_1;\r\n"
    b"\tThu, 26 Nov 2026 01:00:00 +0000\r\nFrom: Alice <alice@example.com>\r\nTo: b@x.example\r\nSubject: A measured"
    b" message\r\nDate: Thu, 26 Nov 2026 01:00:00 +0000\r\nMessage-ID: <1@example.com>\r\nMIME-Version: 1.0\r\n"
    b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
)
_LINE = b"The quick brown fox jumps over the lazy dog, and so on  and so on. \r\n"
_WORDS = {RSA: "RSA 2048", ED25519: "Ed25519"}


@dataclass(frozen=True, slots=True)
class Arm:
    name: str
    what: str
    sign: Callable[[], object]


def message(octets: int) -> bytes:
    return _HEAD + _LINE * ((octets - len(_HEAD)) // len(_LINE) + 1)


def measure(*, rounds: int, messages: int, say: Callable[[str], None]) -> str:
    """Return the table. Arms take turns; the time is the processor's, so that a busy machine does little harm."""
    content = message(10 << 10)
    keys = [_key(RSA), _key(ED25519)]
    arms = _arms(content, keys)
    costs: dict[Arm, list[float]] = {arm: [] for arm in arms}
    for number in range(rounds):
        for arm in rotated(arms, number):
            costs[arm].append(_cpu_seconds(arm.sign, messages))
        say(f"dkim: round {number + 1} of {rounds}")
    lines = [_line(arm, costs) for arm in arms]
    table = grid(("10 KiB, signed with", "by", "CPU µs a message", "lowest–highest", "dkimpy's ÷ ours"), lines)
    return f"{table}\n\n{_large(keys)}"


def _arms(content: bytes, keys: list[SigningKey]) -> list[Arm]:
    def ours(*chosen: SigningKey) -> Callable[[], object]:
        return lambda: signing.sign(content, chosen, int(time.time()))

    def theirs(*chosen: SigningKey) -> Callable[[], object]:
        private = [(key, _as_dkimpy_wants_it(key)) for key in chosen]
        return lambda: [_sign_with_dkimpy(content, key, octets) for key, octets in private]

    cases = [(_WORDS[key.algorithm], (key,)) for key in keys] + [("both", tuple(keys))]
    return [Arm(by, what, make(*chosen)) for what, chosen in cases for by, make in (("dkimpy", theirs), ("us", ours))]


def _sign_with_dkimpy(content: bytes, key: SigningKey, private: bytes) -> bytes:
    """The same fields, oversigned alike; dkimpy reads the key each time, as its callers let it."""
    names = [name for name in signing.OVERSIGNED for _ in range(1 + (name + b":" in _HEAD))]
    peer = dkim.DKIM(content, signature_algorithm=key.algorithm.encode())
    kinds = (b"relaxed", b"relaxed")
    field = peer.sign(key.selector.encode(), DOMAIN.encode(), private, canonicalize=kinds, include_headers=names)
    return bytes(field)


def _as_dkimpy_wants_it(key: SigningKey) -> bytes:
    if key.algorithm == RSA:
        return key.private_key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return base64.b64encode(key.private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))


def _key(algorithm: str) -> SigningKey:
    return SigningKey(DOMAIN, algorithm[0], algorithm, load_private(generate(algorithm).private_octets))


def _cpu_seconds(sign: Callable[[], object], messages: int) -> float:
    started = time.process_time()
    for _ in range(messages):
        sign()
    return (time.process_time() - started) / messages


def _line(arm: Arm, costs: dict[Arm, list[float]]) -> tuple[str, ...]:
    own = costs[arm]
    peer = next(values for other, values in costs.items() if other.what == arm.what and other.name == "dkimpy")
    ratio = "" if arm.name == "dkimpy" else f"{median(a / b for a, b in zip(peer, own, strict=True)):.1f}"
    return arm.what, arm.name, f"{median(own) * 1e6:.0f}", f"{min(own) * 1e6:.0f}–{max(own) * 1e6:.0f}", ratio


def _large(keys: list[SigningKey]) -> str:
    content = message(LARGE_OCTETS)
    seconds = _cpu_seconds(lambda: signing.sign(content, keys, 0), 3)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        idle, beside = runner.run(_pauses(content, keys))
    return (
        f"A message of {LARGE_OCTETS / 1e6:g} MB, both signatures: {seconds * 1e3:.0f} ms of processor time."
        f" Longest pause of an event loop while a thread makes them: {beside * 1e3:.1f} ms;"
        f" of the same loop with nothing beside it: {idle * 1e3:.1f} ms."
    )


async def _pauses(content: bytes, keys: list[SigningKey]) -> tuple[float, float]:
    """Return the longest pause of this loop while nothing runs and while a thread signs, again and again."""
    with ThreadPoolExecutor(1) as thread:
        idle = await _longest_pause(asyncio.sleep(1))
        work = asyncio.get_running_loop().run_in_executor(
            thread, lambda: [signing.sign(content, keys, 0) for _ in range(20)]
        )
        return idle, await _longest_pause(work)


async def _longest_pause(until: object) -> float:
    done = asyncio.ensure_future(until)  # type: ignore[call-overload]
    longest, last = 0.0, time.perf_counter()
    while not done.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest
