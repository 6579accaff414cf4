"""Copies as files in a Maildir per user, which mutt, Dovecot and Python's `mailbox` read too (contract §4, `maildir`).

A message is written in `tmp`, synced, renamed into `new` (or `cur`, when it is filed as seen), and the directory
synced: whoever looks sees the whole message or none, and a crash leaves at most a file in `tmp` that other programs
sweep away. The name comes from the copy, so a copy stored again after a crash is found and not doubled. The key holds
neither `new`, `cur` nor flags: other programs may change these at any time.

Paths are texts here: to make a `Path` of one takes as long as the system call that it is for.
"""

from __future__ import annotations

import datetime as dt
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from mailflow.errors import Unavailable
from mailflow.smtp.reply import Reply
from mailflow.storage.base import Copy, CopyMissing
from mailflow.storage.maildir_names import FLAG_SUFFIXES, SEEN, base_name, folder_directory, user_directory

NAME = "maildir"
_CANNOT_STORE = Reply(452, "3.1", "The mail store cannot take the message just now")
_CANNOT_READ = Reply(451, "3.0", "The mail store cannot be read just now")
_FOLLOW_ATTEMPTS = 3
_CLOCK_SKEW_SECONDS = 10  # between machines that share a tree


class MaildirStorage:
    """One tree `<root>/<user@address>/{tmp,new,cur}`, other folders beside them as `.Folder/{tmp,new,cur}`."""

    name = NAME

    def __init__(self, root: Path, hostname: str) -> None:
        self._root = root
        self._hostname = hostname

    def put(self, copy: Copy) -> str:
        """Store durably. Raises `Unavailable` where the disk is full or refuses."""
        key = os.path.join(  # an empty folder leaves no trace
            user_directory(copy.user_address),
            folder_directory(copy.folder),
            base_name(copy.copy_id, copy.received_at, self._hostname),
        )
        path = f"{self._root}/{key}"
        try:
            found = None if copy.is_new else _stored_before(path, copy.received_at)
            if found is None:
                found = self._write(path, copy)
            # Also for a file found: who put it there may have died before this.
            _sync_directory(os.path.dirname(found))
        except OSError as error:
            raise Unavailable(_CANNOT_STORE, f"maildir: {error}") from error
        return key

    def read(self, key: str) -> bytes:
        """Return the octets. Raises `CopyMissing`, or `Unavailable` where the disk refuses."""
        try:
            for path in _places(f"{self._root}/{key}"):
                with suppress(FileNotFoundError):  # moved between the look and the reading: the next look finds it
                    return Path(path).read_bytes()
        except OSError as error:
            raise Unavailable(_CANNOT_READ, f"maildir: {error}") from error
        raise CopyMissing(f"maildir holds no file {key}")

    def delete(self, key: str) -> None:
        try:
            for path in _places(f"{self._root}/{key}"):
                with suppress(FileNotFoundError):
                    os.unlink(path)
                    return
        except OSError as error:
            raise Unavailable(_CANNOT_STORE, f"maildir: {error}") from error

    def delete_many(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)
        try:
            for folder in {os.path.dirname(f"{self._root}/{key}") for key in keys}:
                for part in ("new", "cur"):
                    with suppress(FileNotFoundError):
                        _sync_directory(f"{folder}/{part}")
        except OSError as error:
            raise Unavailable(_CANNOT_STORE, f"maildir: {error}") from error

    def _write(self, path: str, copy: Copy) -> str:
        folder, name = os.path.split(path)
        # The name in tmp is nobody else's: a worker that takes over from one believed dead must not share its file.
        temporary = f"{folder}/tmp/{name}.{secrets.token_hex(6)}"  # noqa: S108  (the Maildir's own)
        try:
            handle = _create(temporary)
        except FileNotFoundError:
            self._make_folder(Path(folder))
            handle = _create(temporary)
        target = f"{folder}/cur/{name}{SEEN}" if copy.seen else f"{folder}/new/{name}"
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(copy.content)
                file.flush()
                received_at = copy.received_at.timestamp()
                os.utime(handle, (received_at, received_at))  # what other programs show as the date of arrival
                os.fsync(handle)
            os.rename(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return target

    def _make_folder(self, folder: Path) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        user = self._root / folder.relative_to(self._root).parts[0]
        made = [user] if folder == user else [user, folder]  # the user's directory is the INBOX, and a Maildir itself
        for maildir in made:
            maildir.mkdir(exist_ok=True, mode=0o700)
            for part in ("tmp", "new", "cur"):
                (maildir / part).mkdir(exist_ok=True, mode=0o700)
            _sync_directory(maildir)
        if folder != user:
            (folder / "maildirfolder").touch(mode=0o600)  # Maildir++: part of the Maildir above it
            _sync_directory(user)
        _sync_directory(self._root)


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _stored_before(path: str, received_at: dt.datetime) -> str | None:
    """Return where an earlier `put` left the copy, if one did; two system calls in the usual case."""
    folder, name = os.path.split(path)
    new = f"{folder}/new/{name}"
    if os.path.lexists(new):
        return new
    try:
        changed_at = os.stat(f"{folder}/cur").st_mtime
    except FileNotFoundError:
        return None
    if changed_at < received_at.timestamp() - _CLOCK_SKEW_SECONDS:
        return None  # nothing was moved into cur since the message came
    return next(_likely_places(path), None)


def _likely_places(path: str) -> Iterator[str]:
    """Yield where the message is, trying the names it may have rather than listing its folder."""
    folder, name = os.path.split(path)
    new = f"{folder}/new/{name}"
    if os.path.lexists(new):
        yield new
    current = f"{folder}/cur/{name}"
    for suffix in FLAG_SUFFIXES:
        if os.path.lexists(current + suffix):
            yield current + suffix


def _places(path: str) -> Iterator[str]:
    """Yield where the message is, whatever another program made of its flags, and again if it moves meanwhile."""
    for _ in range(_FOLLOW_ATTEMPTS):
        yield from _likely_places(path)
        yield from _listed_places(path)


def _listed_places(path: str) -> Iterator[str]:
    folder, name = os.path.split(path)
    for part in ("new", "cur"):
        with suppress(FileNotFoundError), os.scandir(f"{folder}/{part}") as entries:
            yield from [entry.path for entry in entries if entry.name.partition(":")[0] == name]


def _sync_directory(path: str | Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
