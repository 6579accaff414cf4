"""Secrets at rest: what is sealed opens at its place only, and old keys open what new ones seal again."""

from __future__ import annotations

import base64
import os
from typing import Any

import pytest

from accounts.sealed import CannotOpen, is_current, open_sealed, seal

OLD, NEW = os.urandom(32), os.urandom(32)


def test_what_is_sealed_opens_at_its_place_and_shows_nothing() -> None:
    sealed = seal(b"hush", "dkim:example.com:s1")
    assert open_sealed(sealed, "dkim:example.com:s1") == b"hush"
    assert b"hush" not in base64.b64decode(sealed)
    assert seal(b"hush", "dkim:example.com:s1") != sealed


def test_it_opens_at_no_other_place() -> None:
    with pytest.raises(CannotOpen):
        open_sealed(seal(b"hush", "dkim:a.test:s1"), "dkim:b.test:s1")


@pytest.mark.parametrize("text", ["", "not base64!", "aGVsbG8=", base64.b64encode(b"\x02" + bytes(60)).decode()])
def test_what_was_never_sealed_is_told_as_such(text: str) -> None:
    with pytest.raises(CannotOpen):
        open_sealed(text, "x")
    assert not is_current(text)


def test_a_changed_octet_is_noticed() -> None:
    octets = bytearray(base64.b64decode(seal(b"hush", "x")))
    octets[-1] ^= 1
    with pytest.raises(CannotOpen):
        open_sealed(base64.b64encode(octets).decode(), "x")


def test_an_older_key_opens_until_it_goes(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = [OLD]
    sealed = seal(b"hush", "x")
    assert is_current(sealed)
    settings.ENCRYPTION_KEYS = [NEW, OLD]
    assert open_sealed(sealed, "x") == b"hush"
    assert not is_current(sealed)
    settings.ENCRYPTION_KEYS = [NEW]
    with pytest.raises(CannotOpen):
        open_sealed(sealed, "x")


def test_without_keys_of_its_own_the_secret_key_and_its_fallbacks_serve(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = []
    settings.SECRET_KEY = "first"
    sealed = seal(b"hush", "x")
    settings.SECRET_KEY, settings.SECRET_KEY_FALLBACKS = "second", ["first"]
    assert open_sealed(sealed, "x") == b"hush"
    assert not is_current(sealed)


def test_what_the_secret_key_sealed_still_opens_once_there_are_keys_of_its_own(settings: Any) -> None:
    settings.ENCRYPTION_KEYS = []
    sealed = seal(b"hush", "x")
    settings.ENCRYPTION_KEYS = [NEW]
    assert open_sealed(sealed, "x") == b"hush"
    assert not is_current(sealed)
    assert is_current(seal(b"hush", "x"))
