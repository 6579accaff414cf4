"""One mail transaction, in lockstep or pipelined, by DATA or BDAT (RFC 5321 §3.3, RFC 2920 §3.1, RFC 3030 §2)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from queue.outcome import Outcome
from queue.transports.line import Line, LineLost
from queue.transports.options import Timeouts
from queue.transports.replies import PeerReply
from queue.transports.verdicts import Verdicts

DATA = "DATA\r\n"


@dataclass(frozen=True, slots=True)
class Envelope:
    """What to say: whole commands with their line ends. `reset` is empty where the session has nothing to forget.

    `parameters` are those of RCPT, each with a space before it, for the recipients that have any.
    """

    reset: str
    mail_from: str
    recipients: Sequence[str]
    parameters: Mapping[str, str] = field(default_factory=dict)


class Transaction:
    """Runs once. Its results stand in the attributes, also after `LineLost`, which ends the session.

    `outcomes` are the recipients decided so far; `answered` and `content_sent` say how far it came; `needs_reset` says
    whether the peer must be told to forget it.
    """

    def __init__(self, line: Line, verdicts: Verdicts, timeouts: Timeouts, *, pipelining: bool) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.answered = False
        self.content_sent = False
        self.needs_reset = False
        self._line = line
        self._verdicts = verdicts
        self._timeouts = timeouts
        self._pipelining = pipelining
        self._until = asyncio.get_running_loop().time() + timeouts.envelope

    async def run(self, envelope: Envelope, octets: bytes | bytearray, *, by_chunk: bool = False) -> None:
        """Send the envelope and, where anybody is to get it, the content: `octets`, dot-stuffed, with the final dot.

        `by_chunk`: they are the content as it is, and go as one chunk. That begins when somebody is known to get it,
        and not in the pipeline: a peer that refused everybody and forgot to skip the chunk would take it for commands.
        """
        parameters = envelope.parameters
        commands = [f"RCPT TO:<{recipient}>{parameters.get(recipient, '')}\r\n" for recipient in envelope.recipients]
        if self._pipelining:
            everything = [envelope.reset, envelope.mail_from, *commands, "" if by_chunk else DATA]
            self._line.send("".join(everything).encode())
        if envelope.reset and not (await self._ask(envelope.reset, self._timeouts.command)).is_positive:
            raise LineLost("the peer refused RSET")
        reply = await self._ask(envelope.mail_from, self._timeouts.mail)
        if not reply.is_positive:
            self.outcomes |= dict.fromkeys(envelope.recipients, self._verdicts.of(reply))
            await self._after_refused_mail([*commands, *([] if by_chunk else [DATA])])
            return
        self.needs_reset = True
        accepted = await self._offer(envelope.recipients, commands)
        if by_chunk:
            if accepted:
                self._line.send(f"BDAT {len(octets)} LAST\r\n".encode())
                await self._send(accepted, octets)
        elif accepted or self._pipelining:
            await self._data(accepted, octets)

    async def _ask(self, command: str, seconds: float) -> PeerReply:
        """Return the reply to a command, which in a pipeline has been sent already."""
        if not self._pipelining:
            self._line.send(command.encode())
        reply = await self._line.reply(command[:4], seconds, until=self._until)
        self.answered = True
        if 300 <= reply.code < 400 and command != DATA:
            raise LineLost(f"the peer answered {command[:4]} with {reply.code}")
        return reply

    async def _after_refused_mail(self, commands: Sequence[str]) -> None:
        """Take the answers to the rest of the pipeline. A peer that goes on all the same is left: to it, a lone dot
        might be an empty message."""
        if not self._pipelining:
            return
        for command in commands:
            if (await self._ask(command, self._timeouts.rcpt)).code == 354:
                raise LineLost("the peer refused MAIL and went on")

    async def _offer(self, recipients: Sequence[str], commands: Sequence[str]) -> list[str]:
        """Name the recipients; those refused are decided, those accepted returned."""
        accepted: list[str] = []
        for recipient, command in zip(recipients, commands, strict=True):
            reply = await self._ask(command, self._timeouts.rcpt)
            if reply.is_positive:
                accepted.append(recipient)
            else:
                self.outcomes[recipient] = self._verdicts.of_recipient(reply, others_accepted=bool(accepted))
        return accepted

    async def _data(self, accepted: Sequence[str], octets: bytes | bytearray) -> None:
        reply = await self._ask(DATA, self._timeouts.data_initiation)
        if reply.code == 354 and accepted:
            await self._send(accepted, octets)
        elif reply.code == 354:
            # It awaits content although it refused every recipient: there is none (RFC 2920 §3.1).
            self._line.send(b".\r\n")
            await self._line.reply("the lone dot", self._timeouts.data_termination)
            self.needs_reset = False
        elif reply.code < 400:
            raise LineLost(f"the peer answered DATA with {reply.code}")
        else:
            self.outcomes |= dict.fromkeys(accepted, self._verdicts.of(reply))

    async def _send(self, accepted: Sequence[str], octets: bytes | bytearray) -> None:
        """Send the content. From here on a lost line leaves open whether the peer has it."""
        self.content_sent = True
        seconds = self._timeouts.data_block + len(octets) / self._timeouts.lowest_rate
        is_complete = await self._line.send_content(octets, seconds)
        reply = await self._line.reply("the end of the content", self._timeouts.data_termination)
        if 300 <= reply.code < 400 or (reply.is_positive and not is_complete):
            raise LineLost(f"the peer answered {reply.code} to content that it did not have yet")
        self.outcomes |= dict.fromkeys(accepted, self._verdicts.of(reply))
        self.needs_reset = False
        if not is_complete:
            raise LineLost("the peer refused the content half-way")
