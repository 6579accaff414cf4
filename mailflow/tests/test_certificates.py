"""The demo's certificate: made once, for localhost, for its owner's eyes."""

from __future__ import annotations

import datetime as dt
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509

from mailflow.certificates import LIFETIME, ensure_self_signed

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "tls" / "cert.pem", tmp_path / "tls" / "key.pem"


def test_a_server_can_use_it(paths: tuple[Path, Path]) -> None:
    assert ensure_self_signed(*paths, "mail.example.com", NOW)
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(*paths)


def test_it_is_for_localhost_by_name_and_address(paths: tuple[Path, Path]) -> None:
    ensure_self_signed(*paths, "mail.example.com", NOW)
    certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "mail.example.com"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_only_the_owner_can_read_it(paths: tuple[Path, Path]) -> None:
    ensure_self_signed(*paths, "localhost", NOW)
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o600, 0o600]


def test_a_good_one_is_kept(paths: tuple[Path, Path]) -> None:
    ensure_self_signed(*paths, "localhost", NOW)
    before = paths[0].read_bytes()
    assert not ensure_self_signed(*paths, "localhost", NOW + dt.timedelta(days=1))
    assert paths[0].read_bytes() == before


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_text("no certificate")])
def test_a_missing_or_broken_one_is_made_anew(damage: object, paths: tuple[Path, Path]) -> None:
    ensure_self_signed(*paths, "localhost", NOW)
    assert callable(damage)
    damage(paths[0])
    assert ensure_self_signed(*paths, "localhost", NOW)


def test_one_that_expires_within_a_month_is_made_anew(paths: tuple[Path, Path]) -> None:
    ensure_self_signed(*paths, "localhost", NOW)
    assert ensure_self_signed(*paths, "localhost", NOW + LIFETIME - dt.timedelta(days=29))
