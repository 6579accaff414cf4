"""Internationalised domain labels (RFC 5891, with the tables and rules of RFC 5892 and RFC 5893); pure.

Python's own codec follows the IDNA of 2003, which takes `straße` for `strasse` and so would write to another domain.
The tables are not copied here: RFC 5892 §3 derives them from the Unicode data that Python brings.
"""

from __future__ import annotations

import functools
import unicodedata

A_LABEL_PREFIX = "xn--"
MAX_LABEL_OCTETS = 63

_FULL_STOP = "\u3002"  # the ideographic one, which RFC 5895 §2 reads as a dot
ZERO_WIDTH_NON_JOINER, ZERO_WIDTH_JOINER = "\u200c", "\u200d"
_VIRAMA = 9  # canonical combining class

# RFC 5892 §2.6, Exceptions; those with a rule of their own are in `_RULES`.
_ALWAYS_VALID = frozenset("\u00df\u03c2\u06fd\u06fe\u0f0b\u3007")
_NEVER_VALID = frozenset("\u0640\u07fa\u302e\u302f\u3031\u3032\u3033\u3034\u3035\u303b")
# RFC 5892 §2.3, Default_Ignorable_Code_Point: those that the other tests would let pass.
_IGNORABLE = frozenset(
    [
        0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x3164, 0xFFA0,
        *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0),
    ]
)  # fmt: skip
_BLOCKS_NEVER_VALID = (
    (0x20D0, 0x20FF), (0x1D100, 0x1D1FF), (0x1D200, 0x1D24F),  # §2.4, IgnorableBlocks
    (0x1100, 0x11FF), (0xA960, 0xA97F), (0xD7B0, 0xD7FF),  # §2.9, OldHangulJamo
)  # fmt: skip
_LETTERS_AND_DIGITS = frozenset(["Ll", "Lu", "Lo", "Nd", "Lm", "Mn", "Mc"])  # §2.1
_MARKS = frozenset(["Mn", "Mc", "Me"])
_ARABIC_DIGITS = frozenset(map(chr, range(0x0660, 0x066A)))
_EXTENDED_ARABIC_DIGITS = frozenset(map(chr, range(0x06F0, 0x06FA)))
_KANA_AND_HAN = ("HIRAGANA", "KATAKANA", "CJK UNIFIED", "CJK COMPATIBILITY", "IDEOGRAPHIC")

_RIGHT_TO_LEFT = frozenset(["R", "AL", "AN"])
_IN_RIGHT_TO_LEFT = frozenset(["R", "AL", "AN", "EN", "ES", "CS", "ET", "ON", "BN", "NSM"])


class InvalidLabel(ValueError):
    """A label that IDNA does not allow; the text says which rule, without quoting it."""


def mapped(name: str) -> str:
    """Return what a person means by a typed name: lower case, usual width, NFC, plain dots (RFC 5895 §2)."""
    usual = "".join(_usual_width(lowered) for character in name for lowered in _lowered(character))
    return unicodedata.normalize("NFC", usual).replace(_FULL_STOP, ".")


def to_a_label(label: str) -> str:
    """Return the A-label of a U-label that `mapped` has made ready; raise `InvalidLabel`."""
    if len(label) > MAX_LABEL_OCTETS:
        raise InvalidLabel("a label of the domain is too long")
    _check(label)
    encoded = A_LABEL_PREFIX + label.encode("punycode").decode("ascii")
    if len(encoded) > MAX_LABEL_OCTETS:
        raise InvalidLabel("a label of the domain is too long")
    return encoded


def to_u_label(label: str) -> str:
    """Return the U-label of an A-label, for people; any other label, and an A-label that stands for none, as it is."""
    if not label.startswith(A_LABEL_PREFIX):
        return label
    try:
        decoded = label.removeprefix(A_LABEL_PREFIX).encode("ascii").decode("punycode")
        return decoded if not decoded.isascii() and to_a_label(decoded) == label else label
    except (UnicodeError, InvalidLabel):
        return label


def joiner_may_stand(text: str, position: int) -> bool:
    """Whether the zero-width (non-)joiner there shapes its neighbours, as scripts need it (RFC 5892, A.1, A.2)."""
    if position and unicodedata.combining(text[position - 1]) == _VIRAMA:
        return True
    if text[position] == ZERO_WIDTH_JOINER:
        return False
    dual, right = _joining_letters()
    return _next_letter(text[:position][::-1]) in dual and _next_letter(text[position + 1 :]) in dual | right


def is_invisible(character: str) -> bool:
    """Whether it shows nothing by itself although it is a letter or a mark."""
    return ord(character) in _IGNORABLE


def is_mark(character: str) -> bool:
    return unicodedata.category(character) in _MARKS


def _lowered(character: str) -> str:
    """One character at a time: a capital sigma is no final one, and Cherokee's names are in its capitals."""
    return character if character.casefold() == character else character.lower()


def _usual_width(character: str) -> str:
    kind, _, code = unicodedata.decomposition(character).partition(" ")
    return chr(int(code, 16)) if kind in ("<wide>", "<narrow>") else character


def _check(label: str) -> None:
    """Raise `InvalidLabel` unless it is a U-label (RFC 5891 §5.4)."""
    if unicodedata.normalize("NFC", label) != label:
        raise InvalidLabel("a label of the domain is not in normal form C")
    if label.startswith("-") or label.endswith("-") or label[2:4] == "--":
        raise InvalidLabel("a label of the domain has a misplaced hyphen")
    if is_mark(label[0]):
        raise InvalidLabel("a label of the domain begins with a combining mark")
    for position, character in enumerate(label):
        rule = _RULES.get(character)
        if not (rule(label, position) if rule else _is_valid(character)):
            raise InvalidLabel("the domain holds a character that internationalised names may not have there")
    _check_direction(label)


def _is_valid(character: str) -> bool:
    """RFC 5892 §3, in its order."""
    if character in _ALWAYS_VALID:
        return True
    code = ord(character)
    if character in _NEVER_VALID:
        return False
    if code < 0x80:
        return character == "-" or character.isdigit() or "a" <= character <= "z"
    if code in _IGNORABLE or any(first <= code <= last for first, last in _BLOCKS_NEVER_VALID):
        return False
    return unicodedata.category(character) in _LETTERS_AND_DIGITS and _is_stable(character)


def _is_stable(character: str) -> bool:
    folded = unicodedata.normalize("NFKC", character).casefold()
    return unicodedata.normalize("NFKC", folded) == character


def _check_direction(label: str) -> None:
    """The Bidi rule for one label (RFC 5893 §2)."""
    directions = [unicodedata.bidirectional(character) for character in label]
    if not _RIGHT_TO_LEFT.intersection(directions):
        return
    last = next((direction for direction in reversed(directions) if direction != "NSM"), "")
    is_fine = (
        directions[0] in ("R", "AL")
        and _IN_RIGHT_TO_LEFT.issuperset(directions)
        and last in ("R", "AL", "EN", "AN")
        and not ("EN" in directions and "AN" in directions)
    )
    if not is_fine:
        raise InvalidLabel("a label of the domain mixes directions of writing")


def _name(character: str) -> str:
    return unicodedata.name(character, "")


def _between_l(label: str, position: int) -> bool:
    return label[max(0, position - 1) : position + 2] == "l\u00b7l"


def _before_greek(label: str, position: int) -> bool:
    return _name(label[position + 1 : position + 2] or " ").startswith("GREEK")


def _after_hebrew(label: str, position: int) -> bool:
    return position > 0 and _name(label[position - 1]).startswith("HEBREW")


def _beside_kana_or_han(label: str, _position: int) -> bool:
    return any(_name(character).startswith(_KANA_AND_HAN) for character in label if character != "\u30fb")


def _without_extended_digits(label: str, _position: int) -> bool:
    return _EXTENDED_ARABIC_DIGITS.isdisjoint(label)


def _without_arabic_digits(label: str, _position: int) -> bool:
    return _ARABIC_DIGITS.isdisjoint(label)


# RFC 5892 appendix A
_RULES = {
    ZERO_WIDTH_NON_JOINER: joiner_may_stand,
    ZERO_WIDTH_JOINER: joiner_may_stand,
    "\u00b7": _between_l,
    "\u0375": _before_greek,
    "\u05f3": _after_hebrew,
    "\u05f4": _after_hebrew,
    "\u30fb": _beside_kana_or_han,
    **dict.fromkeys(_ARABIC_DIGITS, _without_extended_digits),
    **dict.fromkeys(_EXTENDED_ARABIC_DIGITS, _without_arabic_digits),
}


def _next_letter(text: str) -> str:
    return next((character for character in text if unicodedata.category(character) not in ("Mn", "Cf")), "")


@functools.cache
def _joining_letters() -> tuple[frozenset[str], frozenset[str]]:
    """Return the Arabic letters that join on both sides, and those that join to the right alone.

    Python has no Joining_Type; which contextual shapes a letter has tells the same.
    """
    both, final = set(), set()
    for code in (*range(0xFB50, 0xFE00), *range(0xFE70, 0xFF00)):
        kind, *letters = unicodedata.decomposition(chr(code)).split() or [""]
        if len(letters) == 1:
            if kind in ("<initial>", "<medial>"):
                both.add(chr(int(letters[0], 16)))
            elif kind == "<final>":
                final.add(chr(int(letters[0], 16)))
    return frozenset(both), frozenset(final - both)
