from __future__ import annotations

import datetime as dt
import hashlib

import pytest

from accounts.dns.base import Tlsa
from queue.dane import DaneMismatch, check, usable
from queue.tests.authority import Issued, root, self_signed

HOST = "mx.example.test"
AUTHORITY = root()
MIDDLE = AUTHORITY.issue(common_name="between", is_authority=True)
LEAF = MIDDLE.issue(HOST)
CHAIN = [LEAF.der, MIDDLE.der, AUTHORITY.der]


def record(usage: int, issued: Issued, selector: int = 1, matching: int = 1) -> Tlsa:
    octets = issued.spki if selector else issued.der
    data = {0: octets, 1: hashlib.sha256(octets).digest(), 2: hashlib.sha512(octets).digest()}[matching]
    return Tlsa(usage, selector, matching, data)


def result(chain: list[bytes], *records: Tlsa, names: tuple[str, ...] = (HOST,)) -> str:
    """Return the result type, empty where the chain is accepted."""
    counting = usable(records)
    assert counting
    try:
        check(chain, counting, names, dt.datetime.now(dt.UTC))
    except DaneMismatch as error:
        return error.result if str(error) else "without a word"
    return ""


@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
@pytest.mark.parametrize(("usage", "issued"), [(3, LEAF), (2, MIDDLE), (2, AUTHORITY)])
def test_a_chain_matches_by_any_usage_selector_and_matching_type(
    usage: int, issued: Issued, selector: int, matching: int
) -> None:
    assert result(CHAIN, record(usage, issued, selector, matching)) == ""
    assert result(CHAIN, record(usage, root(), selector, matching)) == "certificate-not-trusted"


def test_one_matching_record_among_others_is_enough() -> None:
    assert result(CHAIN, record(3, root()), record(3, LEAF), record(2, root())) == ""


def test_dane_ee_asks_for_neither_names_nor_dates_nor_issuers() -> None:
    """RFC 7672 §3.1.1."""
    lonely = self_signed("quite.another.test", days=(-3, -2))
    assert result([lonely.der], record(3, lonely)) == ""


def test_dane_ta_asks_for_names_and_dates() -> None:
    """RFC 7672 §3.2.2: the TLSA base domain or the domain that the mail is for."""
    assert result(CHAIN, record(2, AUTHORITY), names=("other.test",)) == "certificate-host-mismatch"
    assert result(CHAIN, record(2, AUTHORITY), names=("other.test", HOST.upper())) == ""
    expired = AUTHORITY.issue(HOST, days=(-1.5, -1))
    assert result([expired.der, AUTHORITY.der], record(2, AUTHORITY)) == "certificate-expired"
    early = AUTHORITY.issue(HOST, days=(1, 2))
    assert result([early.der, AUTHORITY.der], record(2, AUTHORITY)) == "certificate-not-trusted"


@pytest.mark.parametrize(
    ("names", "reference", "is_match"),
    [
        (("*.example.test",), HOST, True),
        (("*.example.test",), "example.test", False),
        (("*.test",), HOST, False),
        (("m*.example.test",), HOST, False),
        (("*.example.test",), "a.b.example.test", False),
    ],
)
def test_a_wildcard_is_one_whole_label(names: tuple[str, ...], reference: str, is_match: bool) -> None:
    leaf = AUTHORITY.issue(*names)
    assert (result([leaf.der, AUTHORITY.der], record(2, AUTHORITY), names=(reference,)) == "") is is_match


def test_the_common_name_counts_where_there_is_no_other() -> None:
    """RFC 7672 §3.2.3."""
    plain = AUTHORITY.issue(common_name=HOST)
    named = AUTHORITY.issue("other.test", common_name=HOST)
    assert result([plain.der, AUTHORITY.der], record(2, AUTHORITY)) == ""
    assert result([named.der, AUTHORITY.der], record(2, AUTHORITY)) == "certificate-host-mismatch"


def test_an_issuer_that_dns_holds_whole_need_not_be_shown() -> None:
    leaf = AUTHORITY.issue(HOST)
    assert result([leaf.der], record(2, AUTHORITY, selector=0, matching=0)) == ""
    assert result([leaf.der], record(2, AUTHORITY)) == "certificate-not-trusted"  # only a digest of it


def test_a_chain_that_the_named_issuer_did_not_sign_is_refused() -> None:
    """The digest of an issuer is no secret: an attacker may show the issuer beside a certificate of his own."""
    forged = root().issue(HOST)
    assert result([forged.der, AUTHORITY.der], record(2, AUTHORITY)) == "certificate-not-trusted"
    no_authority = AUTHORITY.issue("someone.test")
    by_nobody = no_authority.issue(HOST)
    assert result([by_nobody.der, no_authority.der, AUTHORITY.der], record(2, AUTHORITY)) == "certificate-not-trusted"


def test_the_path_length_of_the_anchor_holds() -> None:
    short = root("short.test", path_length=0)
    middle = short.issue(common_name="too deep", is_authority=True)
    leaf = middle.issue(HOST)
    assert result([leaf.der, middle.der, short.der], record(2, short, selector=0)) == "certificate-not-trusted"
    assert result([short.issue(HOST).der, short.der], record(2, short, selector=0)) == ""


def test_of_several_digests_the_strongest_counts() -> None:
    """RFC 7671 §9: a forged SHA-256 beside a true SHA-512 must not help."""
    true, false = record(3, LEAF, matching=2), record(3, root(), matching=1)
    assert usable([true, false]) == (true,)
    assert usable([record(3, LEAF, matching=1), record(3, LEAF, matching=0)])[0].matching == 0


@pytest.mark.parametrize(
    "bad",
    [
        Tlsa(0, 1, 1, b"x" * 32),
        Tlsa(1, 1, 1, b"x" * 32),
        Tlsa(4, 1, 1, b"x" * 32),
        Tlsa(255, 255, 255, b""),
        Tlsa(3, 2, 1, b"x" * 32),
        Tlsa(3, 1, 3, b"x" * 32),
        Tlsa(3, 1, 1, b"x" * 31),
        Tlsa(3, 1, 2, b"x" * 32),
        Tlsa(3, 1, 0, b""),
        Tlsa(2, 0, 0, b"no certificate"),
    ],
)
def test_a_record_that_nobody_can_use_does_not_count(bad: Tlsa) -> None:
    assert usable([bad]) == ()


@pytest.mark.parametrize("chain", [[], [b"no certificate"]])
def test_what_is_no_chain_is_refused(chain: list[bytes]) -> None:
    assert result(chain, record(3, LEAF)) == "validation-failure"
