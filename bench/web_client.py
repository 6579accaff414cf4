"""A person's look at the web: the API with a password, the admin with a session; every answer is timed."""

from __future__ import annotations

import base64
import json
import secrets
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.cookiejar import CookieJar
from typing import Any

from bench.processes import BenchError, run

ADMIN = "admin"
SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Page:
    """One answer; `seconds` until its last octet."""

    path: str
    status: int
    seconds: float
    octets: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.octets)


class Web:
    """An administrator, made for this run, at the web process of a system."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        password = secrets.token_urlsafe(16)
        argv = [sys.executable, "manage.py", "createsuperuser", "--no-input", "--username", ADMIN]
        run(
            [*argv, "--email", "admin@example.com"],
            {**environment, "DJANGO_SUPERUSER_PASSWORD": password},
        )
        self._root = f"http://127.0.0.1:{environment['HTTP_PORT']}"
        self._basic = "Basic " + base64.b64encode(f"{ADMIN}:{password}".encode()).decode()
        self._cookies = CookieJar()
        self._session = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self._cookies))
        self._log_in(password)

    def _log_in(self, password: str) -> None:
        path = f"{self._root}/admin/login/"
        self._session.open(path, timeout=SECONDS).read()
        token = next((cookie.value for cookie in self._cookies if cookie.name == "csrftoken"), "") or ""
        form = {"username": ADMIN, "password": password, "csrfmiddlewaretoken": token, "next": "/admin/"}
        request = urllib.request.Request(path, urllib.parse.urlencode(form).encode(), {"Referer": path})  # noqa: S310
        self._session.open(request, timeout=SECONDS).read()
        if not any(cookie.name == "sessionid" for cookie in self._cookies):
            raise BenchError("The admin did not let its administrator in.")

    def get(self, path: str) -> Page:
        """Fetch a page; a refusal is a page too, and so is no answer at all (status 0)."""
        is_admin = path.startswith("/admin/")
        headers = {} if is_admin else {"Authorization": self._basic}
        request = urllib.request.Request(self._root + path, headers=headers)  # noqa: S310  (our own http:// address)
        opener = self._session if is_admin else urllib.request.build_opener()
        started = time.perf_counter()
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                status, octets = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, octets = error.code, error.read()
        except OSError as error:
            status, octets = 0, str(error).encode()
        return Page(path, status, time.perf_counter() - started, octets)
