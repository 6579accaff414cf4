"""The clients of a chaos run: they send numbered messages by SMTP and HTTP and note what they were answered.

Only a 250 or 202 that was seen makes a message accepted. Where the connection broke after the content had left, it is
in doubt: it may arrive or not, and the client goes on with a new number.
"""

from __future__ import annotations

import enum
import http.client
import itertools
import json
import random
import smtplib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from chaos import letters
from chaos.sink import HARD

SENDER = "john@example.com"
MAILBOXES = ("user@example.com", "recipient@example.com", "to@example.com", "test@example.com")
_TIMEOUT = 45.0  # seconds; a listener may wait 30 s for the database before it answers 451
_SMTP_CLIENTS, _HTTP_CLIENTS = 5, 3


class Answer(enum.StrEnum):
    """How the sending ended, as the client saw it."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    IN_DOUBT = "in doubt"


@dataclass(frozen=True, slots=True)
class Sent:
    """One message that a client tried to send; `at` is when its answer came (wall clock)."""

    number: int
    door: str
    recipients: tuple[str, ...]
    digest: str
    answer: Answer
    message_id: str
    at: float


class Load:
    """Starts its clients at once; `stop()` ends them and waits for their last answers."""

    def __init__(self, *, smtp_port: int, http_port: int, api_key: str, seed: int) -> None:
        self.sent: list[Sent] = []  # appended to by all clients
        self._smtp_port, self._http_port, self._api_key = smtp_port, http_port, api_key
        self._numbers = itertools.count(1)
        self._stopping = threading.Event()
        work: Sequence[Callable[[random.Random], None]] = [self._by_smtp] * _SMTP_CLIENTS + [
            self._by_http
        ] * _HTTP_CLIENTS
        self._threads = [
            threading.Thread(target=self._client, args=(burst, random.Random(f"{seed}/{index}")), daemon=True)
            for index, burst in enumerate(work)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def accepted(self) -> int:
        return sum(sent.answer is Answer.ACCEPTED for sent in list(self.sent))

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(_TIMEOUT * 2)

    def _client(self, burst: Callable[[random.Random], None], random_source: random.Random) -> None:
        """Send bursts with pauses between them; a door that is closed is tried again in a moment."""
        while not self._stopping.wait(random_source.uniform(0.1, 1.0)):
            try:
                burst(random_source)
            except (OSError, smtplib.SMTPException, http.client.HTTPException):
                self._stopping.wait(0.3)

    def _note(
        self, number: int, door: str, recipients: tuple[str, ...], mark: str, answer: Answer, message_id: str = ""
    ) -> None:
        self.sent.append(Sent(number, door, recipients, mark.split()[-1], answer, message_id, time.time()))

    # --- SMTP

    def _by_smtp(self, random_source: random.Random) -> None:
        with smtplib.SMTP("127.0.0.1", self._smtp_port, local_hostname="client.test", timeout=_TIMEOUT) as client:
            client.ehlo()
            for _ in range(random_source.randrange(1, 8)):
                self._send_by_smtp(client, random_source)

    def _send_by_smtp(self, client: smtplib.SMTP, random_source: random.Random) -> None:
        number, recipients = next(self._numbers), draw_recipients(random_source)
        content = letters.for_smtp(number, SENDER, recipients, letters.hostile_body(random_source))
        digest = content[: content.index(b"\r\n")].decode("ascii")
        answer, message_id = Answer.REFUSED, ""
        try:
            replies = [client.mail(SENDER, ["BODY=8BITMIME"]), *(client.rcpt(recipient) for recipient in recipients)]
            if any(code != 250 for code, _ in replies):
                client.rset()
                return
            answer = Answer.IN_DOUBT
            code, text = client.data(content)
            answer = Answer.ACCEPTED if code == 250 else Answer.REFUSED
            message_id = text.decode("ascii", "replace").rpartition(" ")[2]
        except smtplib.SMTPDataError:  # DATA itself was refused
            answer = Answer.REFUSED
        finally:
            self._note(number, "smtp", recipients, digest, answer, message_id if answer is Answer.ACCEPTED else "")

    # --- HTTP

    def _by_http(self, random_source: random.Random) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._http_port, timeout=_TIMEOUT)
        client.connect()  # what fails here has sent nothing
        try:
            for _ in range(random_source.randrange(1, 8)):
                self._send_by_http(client, random_source)
        finally:
            client.close()

    def _send_by_http(self, client: http.client.HTTPConnection, random_source: random.Random) -> None:
        number, recipients = next(self._numbers), draw_recipients(random_source)
        text = letters.plain_text(random_source)
        mark = letters.mark(number, "body", text.replace("\n", "\r\n").encode("ascii"))
        body = {
            "sender": SENDER,
            "to": list(recipients),
            "subject": f"chaos {number}",
            "text_body": text,
            "headers": {"X-Chaos": mark},
        }
        answer, message_id = Answer.IN_DOUBT, ""
        try:
            headers = {"X-API-Key": self._api_key, "Content-Type": "application/json"}
            client.request("POST", "/api/v1/send", json.dumps(body), headers)
            response = client.getresponse()
            content = response.read()
            if response.status == 202:
                answer, message_id = Answer.ACCEPTED, json.loads(content)["email_id"]
            elif response.status < 500:
                answer = Answer.REFUSED
        finally:
            self._note(number, "http", recipients, mark, answer, message_id)


def draw_recipients(random_source: random.Random) -> tuple[str, ...]:
    """Choose who gets a message: strangers, our own mailboxes, both, or somebody whom the next hop does not know."""
    stranger = f"r{random_source.randrange(10**9)}@d{random_source.randrange(8)}.test"
    second = f"s{random_source.randrange(10**9)}@{stranger.partition('@')[2]}"
    ours = random_source.choice(MAILBOXES)
    kinds = (
        (0.5, (stranger,)),
        (0.1, (stranger, second)),
        (0.2, (ours,)),
        (0.1, (stranger, ours)),
        (0.1, (HARD + stranger,)),
    )
    return random_source.choices([who for _, who in kinds], [share for share, _ in kinds])[0]
