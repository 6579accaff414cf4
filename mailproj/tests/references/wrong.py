"""What every refusal of the API has in common: the one shape, and nothing of ours in it (contract §1.2)."""

from __future__ import annotations

import re
from typing import Any

from mailproj.tests.references.example import ERROR, check

OURS = re.compile(rb'Traceback|File "|SELECT |site-packages|Error:')


def check_problem(answer: Any, status: int) -> dict[str, Any]:
    """Assert that an answer is a problem of this status; return its body. `answer` is `Answered` or `Answer`."""
    assert answer.status == status, answer
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert headers["content-type"] == "application/problem+json", answer
    body: dict[str, Any] = answer.json
    check(body, {**ERROR, "status": status})
    for error in body.get("errors", []):
        check(error, {"field": str, "message": str})
    assert not OURS.search(answer.octets), answer
    return body
