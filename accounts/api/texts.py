"""Texts for people in API answers: English, or R1's and R2's Czech with `Accept-Language: cs` (contract §1.2)."""

from __future__ import annotations

from django.http import HttpRequest
from django.utils.translation import get_language_from_request

_CZECH = {
    "Emails fetched successfully": "E-maily úspěšně staženy",
    "Email queued for delivery": "E-mail byl úspěšně přidán do fronty",
    "Message queued for immediate retry": "Zpráva byla zařazena k okamžitému opakování",
    "User deleted successfully": "Uživatel byl úspěšně smazán",
    "Message removed from queue": "Zpráva byla odstraněna z fronty",
}


def text(request: HttpRequest, english: str) -> str:
    if get_language_from_request(request) == "cs":
        return _CZECH.get(english, english)
    return english
