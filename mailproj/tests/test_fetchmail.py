"""fetchmail, the client of dial-up hosts, against the whole system: ATRN and ETRN (RFC 2645, RFC 1985)."""

from __future__ import annotations

import os
import re
import smtplib
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mailproj.ports import free_port
from mailproj.tests.programs import find, why_not
from mailproj.tests.starting import run
from mailproj.tests.whole_system import System, database_settings, plan, wait_until
from queue.tests.peers import Peer

pytestmark = pytest.mark.slow

DOMAIN = "dialup.example"
CALLER = r"\S+\[127\.0\.0\.1\]:\d+"  # what it called itself, and where from
BODY = b"Subject: From afar\r\n\r\nHello.\r\n.\r\n..two\r\n" + b"x" * 990 + b"\r\nEnd.\r\n"


@dataclass
class DialUp:
    """A running system with one dial-up domain, whose secret and port for hosts these are."""

    system: System
    folder: Path
    odmr_port: int
    odmrs_port: int
    home: Peer  # the mail server there
    secret: str = ""

    @property
    def where(self) -> str:
        """What fetchmail is told of the domain and of the mail server at home."""
        return f"fetchdomains {DOMAIN} smtphost 127.0.0.1/{self.home.port}"

    @property
    def encrypted(self) -> str:
        """How it has openssl encrypt the line, and look at the certificate."""
        trusted = f"-CAfile {self.system.data}/tls/cert.pem -verify_hostname localhost -verify_return_error"
        return f'plugin "openssl s_client -quiet -verify_quiet {trusted} -connect %h:%p"'

    def arrived(self, recipients: list[str]) -> bool:
        return set(recipients) <= {one for message in self.home.messages for one in message.recipients}

    def accept(self, count: int) -> list[str]:
        """Hand in so many messages for the domain, as any sending server does; return their recipients."""
        recipients = [f"{uuid.uuid4().hex}@{DOMAIN}" for _ in range(count)]
        with smtplib.SMTP("127.0.0.1", self.system.smtp_port, timeout=30) as client:
            for recipient in recipients:
                client.sendmail("sender@source.example", [recipient], BODY)
        return recipients

    def waiting(self, recipients: list[str]) -> None:
        """Wait until all of them are listed as pending, with the reason."""
        wanted = {(one, "pending", "the domain's own host to fetch it (ATRN or ETRN)") for one in recipients}

        def listed() -> bool:
            items = self.system.as_admin("GET", "/api/v1/queue?page_size=100").json["items"]
            return wanted <= {(item["to"][0], item["status"], item["waiting_for"]) for item in items}

        wait_until(listed)

    def delivered(self, recipients: list[str], taker: str) -> None:
        """Wait until all of them are, and see in the timeline who took them; `taker` is an expression."""
        for recipient in recipients:

            def item(recipient: str = recipient) -> Any:
                items = self.system.as_admin("GET", f"/api/v1/messages?recipient={recipient}").json["items"]
                return items[0] if items and items[0]["status"] == "delivered" else None

            told = self.system.as_admin("GET", f"/api/v1/messages/{wait_until(item)['id']}/timeline").json
            assert re.search(rf"taken by {taker} at attempt 1\.", str(told))

    def fetchmail(self, line: str) -> subprocess.CompletedProcess[str]:
        """Run fetchmail once with this line as its configuration."""
        configuration = self.folder / "fetchmailrc"
        configuration.write_text(f"poll 127.0.0.1 {line}\n")
        configuration.chmod(0o600)
        program = find("fetchmail")
        assert program is not None
        return subprocess.run(
            [
                program,
                "-f",
                str(configuration),
                "--pidfile",
                str(self.folder / "pid"),
                "--nosyslog",
                "--nodetach",
                "-v",
            ],
            env={**os.environ, "FETCHMAILHOME": str(self.folder), "HOME": str(self.folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture(scope="module")
def dial_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DialUp]:
    if reason := why_not("fetchmail"):
        pytest.skip(reason)
    odmr_port, odmrs_port = free_port(), free_port()
    system = plan(
        tmp_path_factory.mktemp("fetchmail"),
        ODMR_PORT=str(odmr_port),
        ODMRS_PORT=str(odmrs_port),
        DELIVERY_MODE="live",
        OUTBOUND_ALLOWED_NETWORKS="127.0.0.0/8",
        SWEEP_INTERVAL_SECONDS="1",
        **database_settings(),
    )
    system.start()
    with Peer().in_thread() as home:
        found = DialUp(system, tmp_path_factory.mktemp("host"), odmr_port, odmrs_port, home)
        made = run(
            [
                "manage.py", "shell", "-c",
                "from accounts.models import Domain, Organization\n"
                f"Domain.objects.create(name={DOMAIN!r}, organization=Organization.objects.first(), is_trusted=True,"
                f" delivery='dial_up', next_hop='127.0.0.1:{home.port}')",
            ],
            system.variables,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        found.secret = run(["manage.py", "odmrsecret", DOMAIN], system.variables).stdout.splitlines()[-1]
        yield found
    assert system.stop() == 0


def test_fetchmail_fetches_by_odmr(dial_up: DialUp) -> None:
    line = f'protocol ODMR service {dial_up.odmr_port} username "{DOMAIN}" password "{dial_up.secret}" {dial_up.where}'
    recipients = dial_up.accept(3)
    dial_up.waiting(recipients)
    done = dial_up.fetchmail(line)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Turnaround now..." in done.stdout
    assert dial_up.arrived(recipients)
    assert all(message.content.endswith(b"\r\n" + BODY) for message in dial_up.home.messages)
    dial_up.delivered(recipients, CALLER)
    assert "You have no mail" in dial_up.fetchmail(line).stderr


def test_fetchmail_with_a_wrong_secret_gets_nothing(dial_up: DialUp) -> None:
    recipients = dial_up.accept(1)
    login = f'protocol ODMR service {dial_up.odmr_port} username "{DOMAIN}" password "wrong"'
    assert dial_up.fetchmail(f"{login} {dial_up.where}").returncode != 0
    assert not dial_up.arrived(recipients)
    dial_up.waiting(recipients)


def test_fetchmail_fetches_within_tls_by_way_of_openssl(dial_up: DialUp) -> None:
    """Its own TLS stands still in a turned session: it waits for the socket while octets lie in OpenSSL's buffer."""
    if reason := why_not("openssl"):
        pytest.skip(reason)
    recipients = dial_up.accept(2)
    dial_up.waiting(recipients)
    done = dial_up.fetchmail(
        f"protocol ODMR service {dial_up.odmrs_port} {dial_up.encrypted}"
        f' username "{DOMAIN}" password "{dial_up.secret}" {dial_up.where}'
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert dial_up.arrived(recipients)
    dial_up.delivered(recipients, CALLER)


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["in clear", "within TLS"])
def test_fetchmail_starts_the_queue_by_etrn(dial_up: DialUp, is_encrypted: bool) -> None:
    if reason := why_not("openssl"):
        pytest.skip(reason)
    recipients = dial_up.accept(2)
    dial_up.waiting(recipients)
    login = f'esmtpname "john" esmtppassword "{dial_up.system.mailbox_password()}"'
    port = dial_up.system.variables["SMTPS_PORT"] if is_encrypted else dial_up.system.smtp_port
    plugin = dial_up.encrypted if is_encrypted else ""
    done = dial_up.fetchmail(f"protocol ETRN service {port} {login} {plugin} fetchdomains {DOMAIN}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Queuing for {DOMAIN} started" in done.stdout
    wait_until(lambda: dial_up.arrived(recipients))
    dial_up.delivered(recipients, rf"127\.0\.0\.1:{dial_up.home.port}")
