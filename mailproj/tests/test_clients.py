"""The clients people really use, each against the whole system as a user starts it: what they send arrives unchanged.

Whoever only hands in mail for a mailbox here needs no account (RFC 5321 §4.1); whoever sends elsewhere submits with one
(RFC 6409 §4.3). The demo's sandbox captures what goes elsewhere.
"""

from __future__ import annotations

import json
import smtplib
import ssl
import subprocess
import uuid
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from mailproj.tests.programs import find, node_environment, why_not
from mailproj.tests.whole_system import System, database_settings, plan, wait_until

pytestmark = pytest.mark.slow

HOST = "127.0.0.1"
LOCAL = "user@example.com"
SUBMITTER = "john@example.com"
BODY = (
    b"Hello.\r\n.\r\n..\r\n.one dot\r\n..two dots\r\n\r\n"
    b"trailing blanks  \r\nFrom the start of a line\r\nGr\xc3\xbc\xc3\x9fe\r\n" + b"x" * 990 + b"\r\n.\r\n\r\nEnd.\r\n"
)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    found = plan(tmp_path_factory.mktemp("clients"), SWEEP_INTERVAL_SECONDS="1", **database_settings())
    found.start()
    yield found
    assert found.stop() == 0


# --- what is sent, and what came of it --------------------------------------------------------------------------------


def fresh_sender() -> str:
    return f"{uuid.uuid4().hex}@source.example"


def fresh_recipient() -> str:
    return f"{uuid.uuid4().hex}@foreign.example"


def written(sender: str, recipient: str) -> bytes:
    """Return a whole message; its body is 8-bit, full of dots, and has a line of nearly the greatest length."""
    head = (
        f"From: {sender}\r\nTo: {recipient}\r\nSubject: From a real client\r\n"
        f"Date: Mon, 01 Jan 2024 12:00:00 +0000\r\nMessage-ID: <{uuid.uuid4().hex}@client.example>\r\n"
        "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    )
    return head.encode() + BODY


def arrived(system: System, count: int = 1, **envelope: str) -> list[dict[str, Any]]:
    """Wait until this many messages of the sender or recipient are delivered; there must be no more of them."""
    query = "&".join(f"{name}={quote(value)}" for name, value in envelope.items())

    def delivered() -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = system.as_admin("GET", f"/api/v1/messages?page_size=100&{query}").json["items"]
        return items if len(items) >= count and all(item["status"] == "delivered" for item in items) else []

    found: list[dict[str, Any]] = wait_until(delivered)
    assert len(found) == count
    return found


def raw_of(system: System, item: dict[str, Any]) -> bytes:
    return system.as_admin("GET", f"/api/v1/messages/{item['id']}/raw").octets


def assert_received(system: System, sender: str, sent: bytes) -> None:
    """Hold what lies in the mailbox against what was sent: only trace fields may stand above it."""
    (item,) = arrived(system, sender_email=sender)
    raw = raw_of(system, item)
    assert raw.endswith(b"\r\n" + sent)
    assert raw.startswith((b"Return-Path:", b"Received:"))
    assert [email for email in system.inbox("user") if email["id"] == item["id"]]


def assert_submitted(system: System, recipient: str, protocol: bytes = b"with ESMTPSA") -> None:
    (item,) = arrived(system, recipient=recipient)
    raw = raw_of(system, item)
    assert raw.partition(b"\r\n\r\n")[2] == BODY
    assert protocol in raw.partition(b"\r\n\r\n")[0]


def skip_without(program: str) -> None:
    if reason := why_not(program):
        pytest.skip(reason)


def run(*argv: str, typed: bytes = b"", environment: dict[str, str] | None = None) -> str:
    """Run a client to its end, which must be a good one; return what it printed."""
    program = find(argv[0])
    assert program is not None
    done = subprocess.run(
        [program, *argv[1:]], input=typed, capture_output=True, timeout=60, check=False, env=environment
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    return done.stdout.decode(errors="replace")


def certificate(system: System) -> str:
    return str(system.data / "tls" / "cert.pem")


def smtps_port(system: System) -> int:
    return int(system.variables["SMTPS_PORT"])


# --- swaks ------------------------------------------------------------------------------------------------------------


def swaks(system: System, *options: str, sender: str, recipient: str, port: int = 0) -> bytes:
    sent = written(sender, recipient)
    envelope = ["--from", sender, "--to", recipient, "--data", "-"]
    where = ["--server", HOST, "--port", str(port or system.smtp_port)]
    typed = sent.removesuffix(b"\r\n").replace(b"\r\n", b"\n")  # swaks ends the last line itself
    run("swaks", *where, *envelope, *options, typed=typed)
    return sent


def test_swaks_delivers_in_clear(system: System) -> None:
    skip_without("swaks")
    sender = fresh_sender()
    assert_received(system, sender, swaks(system, sender=sender, recipient=LOCAL))


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_swaks_submits_over_starttls(system: System, mechanism: str) -> None:
    skip_without("swaks with TLS")
    recipient = fresh_recipient()
    login = ["--auth", mechanism, "--auth-user", "john", "--auth-password", system.mailbox_password()]
    verified = ["--tls", "--tls-verify", "--tls-ca-path", certificate(system)]
    swaks(system, *verified, *login, sender=SUBMITTER, recipient=recipient)
    assert_submitted(system, recipient)


def test_swaks_submits_over_implicit_tls(system: System) -> None:
    skip_without("swaks with TLS")
    recipient = fresh_recipient()
    login = ["--auth", "PLAIN", "--auth-user", "john", "--auth-password", system.mailbox_password()]
    swaks(system, "--tls-on-connect", *login, sender=SUBMITTER, recipient=recipient, port=smtps_port(system))
    assert_submitted(system, recipient)


def test_swaks_delivers_pipelined(system: System) -> None:
    skip_without("swaks")
    sender = fresh_sender()
    assert_received(system, sender, swaks(system, "--pipeline", sender=sender, recipient=LOCAL))


# --- msmtp ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["plain", "login"])
@pytest.mark.parametrize("starttls", ["on", "off"])
def test_msmtp_submits(system: System, tmp_path: Path, mechanism: str, starttls: str) -> None:
    skip_without("msmtp with TLS")
    recipient = fresh_recipient()
    port = system.smtp_port if starttls == "on" else smtps_port(system)
    configuration = tmp_path / "msmtprc"
    configuration.write_text(
        f"account default\nhost {HOST}\nport {port}\nfrom {SUBMITTER}\n"
        f"tls on\ntls_starttls {starttls}\ntls_trust_file {certificate(system)}\n"
        f"auth {mechanism}\nuser john\npassword {system.mailbox_password()}\n"
    )
    configuration.chmod(0o600)
    run("msmtp", f"--file={configuration}", recipient, typed=written(SUBMITTER, recipient).replace(b"\r\n", b"\n"))
    assert_submitted(system, recipient)


def test_msmtp_says_why_a_recipient_was_refused(system: System, tmp_path: Path) -> None:
    skip_without("msmtp")
    configuration = tmp_path / "msmtprc"
    configuration.write_text(f"account default\nhost {HOST}\nport {system.smtp_port}\nfrom a@source.example\n")
    configuration.chmod(0o600)
    done = subprocess.run(
        ["msmtp", f"--file={configuration}", "nobody@example.com"],
        input=b"Subject: x\n\nx\n",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 65  # EX_DATAERR
    assert b"550 5.1.1" in done.stderr


# --- curl -------------------------------------------------------------------------------------------------------------


def curl(url: str, *options: str, sender: str, recipient: str, folder: Path) -> bytes:
    sent = written(sender, recipient)
    (folder / "message").write_bytes(sent)
    envelope = ["--mail-from", sender, "--mail-rcpt", recipient, "--upload-file", str(folder / "message")]
    run("curl", "--silent", "--show-error", url, *options, *envelope)
    return sent


def test_curl_delivers_in_clear(system: System, tmp_path: Path) -> None:
    skip_without("curl with SMTP")
    sender = fresh_sender()
    url = f"smtp://{HOST}:{system.smtp_port}"
    assert_received(system, sender, curl(url, sender=sender, recipient=LOCAL, folder=tmp_path))


@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_curl_submits(system: System, tmp_path: Path, scheme: str, mechanism: str) -> None:
    skip_without("curl with SMTP")
    recipient = fresh_recipient()
    url = f"{scheme}://{HOST}:{system.smtp_port if scheme == 'smtp' else smtps_port(system)}"
    login = ["--user", f"john:{system.mailbox_password()}", "--login-options", f"AUTH={mechanism}"]
    verified = ["--ssl-reqd", "--cacert", certificate(system)]
    curl(url, *verified, *login, sender=SUBMITTER, recipient=recipient, folder=tmp_path)
    assert_submitted(system, recipient)


# --- smtplib ----------------------------------------------------------------------------------------------------------


def submission(system: System) -> smtplib.SMTP:
    client = smtplib.SMTP(HOST, system.smtp_port, timeout=30)
    client.starttls(context=ssl.create_default_context(cafile=certificate(system)))
    client.login("john", system.mailbox_password())
    return client


def test_smtplib_sends_messages_one_after_the_other(system: System) -> None:
    recipients = [fresh_recipient() for _ in range(5)]
    with submission(system) as client:
        for recipient in recipients:
            message = EmailMessage()
            message["From"], message["To"], message["Subject"] = SUBMITTER, recipient, "Grüße"
            message.set_content("Zwölf Boxkämpfer\n.\njagen Viktor.\n", cte="8bit")
            assert client.send_message(message) == {}
    for recipient in recipients:
        (item,) = arrived(system, recipient=recipient)
        assert item["subject"] == "Grüße"
        assert "Zwölf Boxkämpfer\r\n.\r\njagen Viktor.\r\n".encode() in raw_of(system, item)


def test_smtplib_declares_size_and_8bit(system: System) -> None:
    sender = fresh_sender()
    sent = written(sender, LOCAL)
    with smtplib.SMTP(HOST, system.smtp_port, timeout=30) as client:
        client.ehlo()
        assert client.has_extn("8bitmime")
        assert client.has_extn("size")
        client.sendmail(sender, [LOCAL], sent, mail_options=["BODY=8BITMIME"])
    assert_received(system, sender, sent)


def test_smtplib_is_told_who_was_refused_and_the_others_get_it(system: System) -> None:
    sender = fresh_sender()
    with smtplib.SMTP(HOST, system.smtp_port, timeout=30) as client:
        refused = client.sendmail(sender, [LOCAL, "nobody@example.com"], written(sender, LOCAL), ["BODY=8BITMIME"])
    assert list(refused) == ["nobody@example.com"]
    assert refused["nobody@example.com"][0] == 550
    arrived(system, sender_email=sender)


def test_smtplib_sends_to_an_address_in_utf_8(system: System) -> None:
    local_part = f"grüße-{uuid.uuid4().hex}"
    with submission(system) as client:
        assert client.has_extn("smtputf8")
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = SUBMITTER, f"{local_part}@bücher.example", "Über"
        message.set_content("Hallo\n")
        assert client.send_message(message) == {}
    (item,) = arrived(system, recipient=f"{local_part}@xn--bcher-kva.example")  # domains are kept as A-labels
    assert item["subject"] == "Über"


def test_smtplib_asks_for_a_success_report(system: System) -> None:
    sender = fresh_sender()
    sent = written(sender, LOCAL)
    with smtplib.SMTP(HOST, system.smtp_port, timeout=30) as client:
        client.ehlo()
        assert client.has_extn("dsn")
        asked = {"mail_options": ["BODY=8BITMIME", "RET=HDRS", "ENVID=QQ314159"], "rcpt_options": ["NOTIFY=SUCCESS"]}
        client.sendmail(sender, [LOCAL], sent, **asked)
    assert_received(system, sender, sent)


# --- nodemailer -------------------------------------------------------------------------------------------------------

NODEMAILER = """
const plan = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const transport = require('nodemailer').createTransport(plan.transport);
Promise.all(plan.messages.map((message) => transport.sendMail(message)))
  .then((sent) => { console.log(JSON.stringify(sent.map((each) => each.response))); transport.close(); })
  .catch((error) => { console.error(error); process.exit(1); });
"""


def nodemailer(system: System, messages: list[dict[str, Any]], **transport: Any) -> list[str]:
    """Send all at once; return the reply to each."""
    options = {
        "host": HOST,
        "port": system.smtp_port,
        "requireTLS": True,
        "tls": {"ca": Path(certificate(system)).read_text(), "servername": "localhost"},
        "auth": {"user": "john", "pass": system.mailbox_password()},
        **transport,
    }
    typed = json.dumps({"transport": options, "messages": messages}).encode()
    replies: list[str] = json.loads(run("node", "-e", NODEMAILER, typed=typed, environment=node_environment()))
    return replies


def as_written(recipient: str) -> dict[str, Any]:
    return {
        "envelope": {"from": SUBMITTER, "to": [recipient], "use8BitMime": True},
        "raw": written(SUBMITTER, recipient).decode(),
    }


@pytest.mark.parametrize("secure", [False, True])
def test_nodemailer_submits(system: System, secure: bool) -> None:
    skip_without("nodemailer")
    recipient = fresh_recipient()
    port = smtps_port(system) if secure else system.smtp_port
    nodemailer(system, [as_written(recipient)], port=port, secure=secure)
    assert_submitted(system, recipient)


def test_nodemailer_sends_many_over_pooled_connections(system: System) -> None:
    skip_without("nodemailer")
    recipients = [fresh_recipient() for _ in range(20)]
    replies = nodemailer(
        system, [as_written(recipient) for recipient in recipients], pool=True, maxConnections=3, maxMessages=5
    )
    assert all(reply.startswith("250 2.0.0") for reply in replies)
    assert len(set(replies)) == len(recipients)
    for recipient in recipients:
        assert_submitted(system, recipient)


def test_nodemailer_sends_to_an_address_in_utf_8(system: System) -> None:
    skip_without("nodemailer")
    recipient = f"адрес-{uuid.uuid4().hex}@foreign.example"
    nodemailer(system, [{"from": SUBMITTER, "to": recipient, "subject": "Привет", "text": "Привет.\n"}])
    (item,) = arrived(system, recipient=recipient)
    assert item["subject"] == "Привет"


# --- smtp-source ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [(), ("-d",)], ids=["a connection a message", "kept connections"])
def test_smtp_source_delivers_from_many_sessions_at_once(system: System, kept: tuple[str, ...]) -> None:
    skip_without("smtp-source")
    sender = fresh_sender()
    load = ["-s", "20", "-m", "100", "-l", "5000"]
    run("smtp-source", *kept, *load, "-f", sender, "-t", LOCAL, f"{HOST}:{system.smtp_port}")
    for item in arrived(system, count=100, sender_email=sender):
        assert item["size_bytes"] > 5000


# --- all of them ------------------------------------------------------------------------------------------------------


def test_clients_of_every_kind_at_once_do_not_get_into_each_others_way(system: System, tmp_path: Path) -> None:
    skip_without("curl with SMTP")
    senders = [fresh_sender() for _ in range(12)]
    started = []
    for number, sender in enumerate(senders):
        (tmp_path / str(number)).write_bytes(written(sender, LOCAL))
        url = f"smtp://{HOST}:{system.smtp_port}" if number % 2 else f"smtps://{HOST}:{smtps_port(system)}"
        envelope = ["--mail-from", sender, "--mail-rcpt", LOCAL, "--upload-file", str(tmp_path / str(number))]
        argv = ["curl", "--silent", "--show-error", "--cacert", certificate(system), url, *envelope]
        started.append(subprocess.Popen(argv))
    assert [client.wait(60) for client in started] == [0] * len(senders)
    for number, sender in enumerate(senders):
        assert_received(system, sender, (tmp_path / str(number)).read_bytes())
