"""The exchange of the listener's certificate while it runs: real files, real handshakes (RFC 3207 §4)."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from mailflow.certificates import LIFETIME, ensure_self_signed
from mailflow.listener.certificate import CertificateError, CertificateSource
from mailflow.tests.wire import until

NOW = dt.datetime.now(dt.UTC).replace(microsecond=0)


class Pair:
    """A certificate with its key in a folder of their own, under certbot's names."""

    def __init__(self, folder: Path, now: dt.datetime = NOW) -> None:
        self.folder = folder
        self.certificate, self.key = folder / "fullchain.pem", folder / "privkey.pem"
        if not self.certificate.exists():
            ensure_self_signed(self.certificate, self.key, "mail.example.com", now)

    @property
    def der(self) -> bytes:
        return self._parsed().public_bytes(Encoding.DER)

    @property
    def expires_at(self) -> dt.datetime:
        return self._parsed().not_valid_after_utc

    def _parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes())


@pytest.fixture
def old(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "old")


@pytest.fixture
def new(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "new", NOW + dt.timedelta(minutes=10))


@pytest.fixture
def live(tmp_path: Path, old: Pair) -> Pair:
    """What the listener is pointed at: a copy of the old pair."""
    shutil.copytree(old.folder, tmp_path / "live")
    return Pair(tmp_path / "live")


@pytest.fixture
def source(live: Pair) -> CertificateSource:
    return CertificateSource(live.certificate, live.key)


def replace(target: Path, by: Path) -> None:
    """Put a copy in the place of a file, in one step."""
    fresh = target.with_name(f"{target.name}.new")
    shutil.copy(by, fresh)
    fresh.replace(target)


def shown_by(source: CertificateSource) -> bytes:
    """Shake hands and return the certificate that the server showed."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        server = threading.Thread(target=_serve_one, args=(source.context, theirs))
        server.start()
        with _client_context().wrap_socket(ours) as client:
            shown = client.getpeercert(binary_form=True)
            assert client.version() in ("TLSv1.2", "TLSv1.3")
        server.join(60)
        assert shown is not None
        return shown


def _serve_one(context: ssl.SSLContext, connection: socket.socket) -> None:
    with context.wrap_socket(connection, server_side=True) as tls:
        tls.recv(1)


def _client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def echoing(source: CertificateSource) -> Iterator[int]:
    """A server that reads `source.context` for each handshake and gives back each line; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(source, listening), daemon=True).start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)


def _accept(source: CertificateSource, listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_echo, args=(source.context, connection), daemon=True).start()


def _echo(context: ssl.SSLContext, connection: socket.socket) -> None:
    with context.wrap_socket(connection, server_side=True) as tls:
        while data := tls.recv(100):
            tls.sendall(data)


def connected(port: int) -> ssl.SSLSocket:
    return _client_context().wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=30))


def test_files_that_did_not_change_are_not_read_again(source: CertificateSource, old: Pair) -> None:
    before = source.context
    assert not source.refresh()
    assert source.context is before
    assert shown_by(source) == old.der


def test_a_pair_that_was_renamed_into_place_is_shown_to_new_connections(
    source: CertificateSource, live: Pair, old: Pair, new: Pair
) -> None:
    assert shown_by(source) == old.der
    replace(live.certificate, new.certificate)
    replace(live.key, new.key)
    assert source.refresh()
    assert shown_by(source) == new.der
    assert not source.refresh()


def test_a_pair_that_was_written_in_place_is_taken(source: CertificateSource, live: Pair, new: Pair) -> None:
    live.key.write_bytes(new.key.read_bytes())
    live.certificate.write_bytes(new.certificate.read_bytes())
    assert source.refresh()
    assert shown_by(source) == new.der


def test_connections_go_on_with_the_certificate_of_their_handshake(
    source: CertificateSource, live: Pair, old: Pair, new: Pair
) -> None:
    with echoing(source) as port, connected(port) as early:
        replace(live.certificate, new.certificate)
        replace(live.key, new.key)
        assert source.refresh()
        with connected(port) as late:
            for client, pair in ((early, old), (late, new)):
                client.sendall(b"NOOP\r\n")
                assert client.recv(100) == b"NOOP\r\n"
                assert client.getpeercert(binary_form=True) == pair.der


def test_a_link_that_is_switched_as_certbot_does_is_followed(tmp_path: Path, old: Pair, new: Pair) -> None:
    links = tmp_path / "links"
    links.mkdir()
    certificate, key = links / "fullchain.pem", links / "privkey.pem"
    certificate.symlink_to(old.certificate)
    key.symlink_to(old.key)
    source = CertificateSource(certificate, key)
    for link, target in ((key, new.key), (certificate, new.certificate)):
        assert shown_by(source) == old.der
        assert not source.refresh()  # after the first one the two do not match
        fresh = links / "fresh"
        fresh.symlink_to(target)
        fresh.replace(link)
    assert source.refresh()
    assert shown_by(source) == new.der


def test_a_folder_that_is_switched_by_one_link_is_followed(tmp_path: Path, old: Pair, new: Pair) -> None:
    current = tmp_path / "current"
    current.symlink_to(old.folder)
    source = CertificateSource(current / "fullchain.pem", current / "privkey.pem")
    fresh = tmp_path / "fresh"
    fresh.symlink_to(new.folder)
    fresh.replace(current)
    assert source.refresh()
    assert shown_by(source) == new.der


def test_a_copy_that_kept_size_and_times_is_noticed(source: CertificateSource, live: Pair, new: Pair) -> None:
    times = {path: path.stat().st_mtime_ns for path in (live.certificate, live.key)}
    for path, by in ((live.certificate, new.certificate), (live.key, new.key)):
        path.write_bytes(by.read_bytes())
        os.utime(path, ns=(times[path], times[path]))
    assert source.refresh()
    assert shown_by(source) == new.der


@pytest.mark.parametrize("kept", [0, 1, 300, -30])
def test_a_half_written_certificate_leaves_the_old_one_in_use_until_it_is_whole(
    source: CertificateSource, live: Pair, old: Pair, new: Pair, kept: int
) -> None:
    live.key.write_bytes(new.key.read_bytes())
    whole = new.certificate.read_bytes()
    live.certificate.write_bytes(whole[:kept])
    before = source.context
    assert not source.refresh()
    assert not source.refresh()
    assert source.context is before
    assert shown_by(source) == old.der
    live.certificate.write_bytes(whole)
    assert source.refresh()
    assert shown_by(source) == new.der
    assert source.fault == ""


def test_a_half_written_chain_is_not_taken(source: CertificateSource, live: Pair, old: Pair, new: Pair) -> None:
    live.key.write_bytes(new.key.read_bytes())
    live.certificate.write_bytes(new.certificate.read_bytes() + old.certificate.read_bytes()[:200])
    assert not source.refresh()
    assert shown_by(source) == old.der


def test_a_key_that_does_not_match_is_reported_once_and_the_old_pair_stays(
    source: CertificateSource, live: Pair, old: Pair, new: Pair
) -> None:
    replace(live.key, new.key)
    with structlog.testing.capture_logs() as logs:
        assert not source.refresh()
        assert logs == []  # it may be a renewal under way
        for _ in range(5):
            assert not source.refresh()
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("tls.certificate_rejected", "error")]
    assert str(live.key) in logs[0]["cause"]
    assert "mismatch" in logs[0]["cause"].lower()
    assert source.fault == logs[0]["cause"]
    assert "PRIVATE KEY" not in str(logs)
    assert shown_by(source) == old.der


def test_a_missing_file_is_reported_and_its_return_ends_the_fault(
    source: CertificateSource, live: Pair, old: Pair
) -> None:
    away = live.certificate.with_name("away")
    live.certificate.rename(away)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            assert not source.refresh()
    assert len(logs) == 1
    assert "No such file" in source.fault
    shutil.copy(away, live.certificate)
    assert source.refresh()
    assert source.fault == ""
    assert shown_by(source) == old.der


def test_an_encrypted_key_asks_nobody_for_a_password(source: CertificateSource, live: Pair) -> None:
    key = load_pem_private_key(live.key.read_bytes(), None)
    live.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    assert not source.refresh()
    assert not source.refresh()
    assert "encrypted" in source.fault


@pytest.mark.parametrize(
    "damage", ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_there_is_no_start_without_a_certificate_that_serves(live: Pair, damage: str) -> None:
    live.certificate.write_text(damage)
    with pytest.raises(CertificateError, match=r"live/fullchain\.pem with key .*live/privkey\.pem cannot be used"):
        CertificateSource(live.certificate, live.key)
    live.certificate.unlink()
    with pytest.raises(CertificateError, match="No such file"):
        CertificateSource(live.certificate, live.key)


def test_the_days_that_are_left_are_those_of_the_certificate_in_use(
    source: CertificateSource, live: Pair, new: Pair
) -> None:
    assert source.expires_at == NOW + LIFETIME
    assert source.days_left(NOW) == LIFETIME.days
    assert source.days_left(NOW + LIFETIME + dt.timedelta(seconds=1)) == -1
    replace(live.key, new.key)
    source.refresh()
    assert source.expires_at == NOW + LIFETIME
    replace(live.certificate, new.certificate)
    assert source.refresh()
    assert source.expires_at == NOW + dt.timedelta(minutes=10) + LIFETIME


def test_a_certificate_that_has_expired_is_served_with_a_warning(tmp_path: Path) -> None:
    expired = Pair(tmp_path / "expired", NOW - LIFETIME - dt.timedelta(hours=36))
    with structlog.testing.capture_logs() as logs:
        source = CertificateSource(expired.certificate, expired.key)
    assert [(entry["log_level"], entry["days_left"]) for entry in logs] == [("warning", -2)]
    assert shown_by(source) == expired.der


def test_every_handshake_during_many_renewals_succeeds(
    source: CertificateSource, live: Pair, old: Pair, new: Pair
) -> None:
    shown: set[bytes] = set()
    failures: list[OSError] = []
    done = threading.Event()

    def shake_hands() -> None:
        try:
            while not done.is_set():
                shown.add(shown_by(source))
        except OSError as error:  # an SSLError is one
            failures.append(error)

    def keep_fresh() -> None:
        while not done.is_set():
            source.refresh()

    threads = [threading.Thread(target=work) for work in (shake_hands, shake_hands, keep_fresh, keep_fresh)]
    for thread in threads:
        thread.start()
    try:
        for pair in (new, old) * 10:
            live.key.write_bytes(pair.key.read_bytes())
            replace(live.certificate, pair.certificate)
            until(lambda wanted=pair.expires_at: source.expires_at == wanted)  # type: ignore[misc]
    finally:
        done.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert shown <= {old.der, new.der}
    assert shown_by(source) == old.der
