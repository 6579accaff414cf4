"""Names in a Maildir tree: users, folders and messages as path components (contract §4, Maildir++); pure.

Any address and any folder name becomes one component that cannot climb out of the tree, and can be read back: letters,
digits and a few marks stay, everything else is percent-encoded. The lengths are bounded so that user, folder and
message name together fit `FiledMessage.storage_key`, and each fits a file system's 255 octets; a longer name keeps its
head and ends in a digest, and only those cannot be read back.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import itertools
from functools import lru_cache
from urllib.parse import quote

INBOX = "INBOX"
MAX_USER = 200
MAX_FOLDER = 150
MAX_HOSTNAME = 100
_DIGEST = 32  # hex digits
_MARK = "%%"  # never comes out of percent-encoding

# Every combination of the flags in use (the reference's S R F T D, and Passed), likeliest first: 64 names that can be
# tried without listing a folder of a hundred thousand messages.
FLAG_SUFFIXES = tuple(":2," + "".join(flags) for count in range(7) for flags in itertools.combinations("DFPRST", count))
SEEN = ":2,S"


@lru_cache(maxsize=4096)
def user_directory(address: str) -> str:
    """Return the directory of a user: the address itself, unless it holds something odd."""
    return _bounded(_hide_leading_dot(quote(address, safe="@+=", errors="surrogatepass")) or _MARK, MAX_USER)


def folder_directory(folder: str) -> str:
    """Return the directory of a folder within the user's: empty for INBOX, `.Archive.2026` for `Archive/2026`."""
    if folder.upper() == INBOX:
        return ""
    # an empty level must not become "." or ".."
    return _bounded("." + ".".join(_level(level) or _MARK for level in folder.split("/")), MAX_FOLDER)


def base_name(copy_id: str, received_at: dt.datetime, hostname: str) -> str:
    """Return `<seconds>.M<microseconds>P<number>.<hostname>`: the same name whenever the same copy is stored.

    Where other programs put their process id stands the number of the copy: it is unique without asking anybody.
    """
    whole = received_at.replace(microsecond=0)
    return f"{int(whole.timestamp())}.M{received_at.microsecond}P{_number(copy_id)}.{_host(hostname)}"


@lru_cache(maxsize=16)
def _host(hostname: str) -> str:
    return quote(hostname, safe="")[:MAX_HOSTNAME] or "localhost"


def _number(copy_id: str) -> int:
    if copy_id.isascii() and copy_id.isdigit() and len(copy_id) < 20 and str(int(copy_id)) == copy_id:
        return int(copy_id)
    return int.from_bytes(hashlib.sha256(copy_id.encode("utf-8", "surrogatepass")).digest()[:8])


def _level(level: str) -> str:
    return quote(level, safe="@+= ", errors="surrogatepass").replace(".", "%2E")


def _hide_leading_dot(name: str) -> str:
    return "%2E" + name[1:] if name.startswith(".") else name


def _bounded(name: str, limit: int) -> str:
    if len(name) <= limit:
        return name
    digest = hashlib.sha256(name.encode("ascii")).hexdigest()[:_DIGEST]
    return name[: limit - len(_MARK) - _DIGEST] + _MARK + digest
