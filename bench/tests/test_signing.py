"""The cost of a signature is measured, as small as it gets."""

from __future__ import annotations

import pytest

from bench import signing


def test_both_signers_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signing, "LARGE_OCTETS", 100_000)
    said: list[str] = []
    table = signing.measure(rounds=1, messages=1, say=said.append)
    for arm in ("| RSA 2048 ", "| Ed25519 ", "| both "):
        assert table.count(arm) == 2
    assert "A message of 0.1 MB" in table
    assert said == ["dkim: round 1 of 1"]
