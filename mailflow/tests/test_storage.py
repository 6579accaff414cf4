from __future__ import annotations

import datetime as dt
import errno
import itertools
import mailbox
import os
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from accounts.models import User
from mailflow.errors import Unavailable
from mailflow.ids import new_message_id
from mailflow.models import ContentChunk, FiledMessage, Mailbox, Message
from mailflow.storage import maildir_names, registry
from mailflow.storage.base import Copy, CopyMissing, Storage
from mailflow.storage.database import DatabaseStorage
from mailflow.storage.maildir import MaildirStorage
from mailflow.storage.memory import MemoryStorage

RECEIVED_AT = dt.datetime(2025, 3, 1, 12, 30, 45, 123456, tzinfo=dt.UTC)
OCTETS = b"Received: here\r\nSubject: =?utf-8?q?=C3=A9?=\r\n\r\nFrom nobody\r\n.\r\nbare\nand\r\0\xff\r\n"
_numbers = itertools.count(7_000_000_001)


def new_copy(content: bytes = OCTETS, *, folder: str = "INBOX", seen: bool = False) -> Copy:
    return Copy(str(next(_numbers)), new_message_id(), "user@example.com", folder, RECEIVED_AT, content, seen)


@pytest.fixture
def maildir(tmp_path: Path) -> MaildirStorage:
    return MaildirStorage(tmp_path / "mail", "mx.example.com")


@pytest.fixture(params=["database", "maildir", "memory"])
def storage(request: pytest.FixtureRequest, db: None, maildir: MaildirStorage) -> Storage:
    backends: dict[str, Storage] = {"database": DatabaseStorage(), "maildir": maildir, "memory": MemoryStorage()}
    return backends[request.param]


# --- the contract, on every backend ----------------------------------------------------------------------------------


def test_what_is_read_back_is_what_was_stored(storage: Storage) -> None:
    assert storage.read(storage.put(new_copy())) == OCTETS


def test_a_message_of_several_megabytes_comes_back_whole(storage: Storage) -> None:
    octets = os.urandom(3 * 1024 * 1024 + 17)
    assert storage.read(storage.put(new_copy(octets))) == octets


def test_an_empty_message_can_be_kept(storage: Storage) -> None:
    assert storage.read(storage.put(new_copy(b""))) == b""


def test_storing_a_copy_twice_gives_the_same_key(storage: Storage) -> None:
    copy = new_copy()
    key = storage.put(copy)
    assert storage.put(copy) == key
    assert storage.read(key) == OCTETS


def test_copies_of_two_messages_do_not_meet(storage: Storage) -> None:
    one, other = storage.put(new_copy(b"one")), storage.put(new_copy(b"other"))
    assert (storage.read(one), storage.read(other)) == (b"one", b"other")


def test_a_key_fits_its_column(storage: Storage) -> None:
    longest = replace(new_copy(), user_address="/" * 64 + "@" + "d" * 189, folder="é" * 255)
    key = storage.put(longest)
    assert len(key) <= 500
    assert storage.read(key) == OCTETS


def test_a_deleted_copy_is_missing(storage: Storage) -> None:
    key = storage.put(new_copy())
    storage.delete(key)
    with pytest.raises(CopyMissing):
        storage.read(key)


def test_a_copy_can_be_deleted_twice(storage: Storage) -> None:
    key = storage.put(new_copy())
    storage.delete(key)
    storage.delete(key)


def test_an_unknown_key_is_missing(storage: Storage) -> None:
    with pytest.raises(CopyMissing):
        storage.read("user@example.com/123.M1P1.nowhere")


# --- maildir ---------------------------------------------------------------------------------------------------------


def inbox(tmp_path: Path) -> Path:
    return tmp_path / "mail" / "user@example.com"


def files(maildir: Path) -> list[str]:
    return sorted(str(path.relative_to(maildir)) for path in maildir.rglob("*") if path.is_file())


def test_a_maildir_file_bears_the_documented_name(maildir: MaildirStorage, tmp_path: Path) -> None:
    copy = replace(new_copy(), copy_id="456")
    assert maildir.put(copy) == "user@example.com/1740832245.M123456P456.mx.example.com"
    assert files(inbox(tmp_path)) == ["new/1740832245.M123456P456.mx.example.com"]


def test_a_copy_filed_as_seen_lies_in_cur(maildir: MaildirStorage, tmp_path: Path) -> None:
    key = maildir.put(replace(new_copy(), copy_id="9", seen=True))
    assert files(inbox(tmp_path)) == ["cur/1740832245.M123456P9.mx.example.com:2,S"]
    assert maildir.read(key) == OCTETS


def test_the_mailbox_module_of_python_lists_what_was_written(maildir: MaildirStorage, tmp_path: Path) -> None:
    maildir.put(new_copy())
    maildir.put(new_copy(seen=True))
    maildir.put(new_copy(folder="Sent"))
    maildir.put(new_copy(folder="Archive/2026.Q4"))
    opened = mailbox.Maildir(inbox(tmp_path), create=False)
    assert sorted(message.get_flags() for message in opened) == ["", "S"]
    assert {message.get_date() for message in opened} == {int(RECEIVED_AT.timestamp()) + 0.123456}
    assert sorted(opened.list_folders()) == ["Archive.2026%2EQ4", "Sent"]
    assert [message["Received"] for message in opened.get_folder("Sent")] == ["here"]


def test_a_message_is_found_after_another_program_moved_and_marked_it(maildir: MaildirStorage, tmp_path: Path) -> None:
    copy = new_copy()
    key = maildir.put(copy)
    opened = mailbox.Maildir(inbox(tmp_path), create=False)
    for flags in ("S", "FRS", "DFPRST"):
        (name,) = opened.keys()
        message = opened[name]
        message.set_subdir("cur")
        message.set_flags(flags)
        opened[name] = message
        assert maildir.put(copy) == key
        assert len(files(inbox(tmp_path))) == 1


def test_a_cur_that_nobody_touched_since_is_not_searched_and_a_new_copy_is_stored(
    maildir: MaildirStorage, tmp_path: Path
) -> None:
    maildir.put(new_copy(seen=True))
    long_ago = RECEIVED_AT.timestamp() - 3600
    os.utime(inbox(tmp_path) / "cur", (long_ago, long_ago))
    copy = new_copy()
    assert maildir.put(copy) == maildir.put(copy)
    assert len(files(inbox(tmp_path))) == 2


def test_flags_that_only_another_program_knows_do_not_hide_a_message(maildir: MaildirStorage, tmp_path: Path) -> None:
    key = maildir.put(new_copy())
    base = Path(key).name
    (inbox(tmp_path) / "new" / base).rename(inbox(tmp_path) / "cur" / f"{base}:2,RSabz")
    assert maildir.read(key) == OCTETS
    maildir.delete(key)
    assert files(inbox(tmp_path)) == []


def test_a_copy_stored_again_after_a_crash_is_not_doubled(maildir: MaildirStorage, tmp_path: Path) -> None:
    copy = new_copy()
    key = maildir.put(copy)
    after_the_crash = MaildirStorage(tmp_path / "mail", "mx.example.com")
    assert after_the_crash.put(copy) == key
    assert len(files(inbox(tmp_path))) == 1


def test_a_copy_that_is_new_is_not_looked_for(
    maildir: MaildirStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(*_places: object) -> None:
        raise AssertionError("it looked")

    monkeypatch.setattr("mailflow.storage.maildir._stored_before", look)
    copy = new_copy()
    assert maildir.read(maildir.put(replace(copy, is_new=True))) == copy.content
    with pytest.raises(AssertionError):
        maildir.put(copy)


def test_a_leftover_in_tmp_harms_nobody(maildir: MaildirStorage, tmp_path: Path) -> None:
    copy = new_copy()
    key = maildir.put(copy)
    maildir.delete(key)
    (inbox(tmp_path) / "tmp" / Path(key).name).write_bytes(b"half a mess")
    with pytest.raises(CopyMissing):
        maildir.read(key)
    assert maildir.put(copy) == key
    assert maildir.read(key) == OCTETS
    assert len(mailbox.Maildir(inbox(tmp_path), create=False)) == 1


def test_nobody_else_may_read_the_mail(maildir: MaildirStorage, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        maildir.put(new_copy(folder="Sent"))
    finally:
        os.umask(before)
    for path in [tmp_path / "mail", *(tmp_path / "mail").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@contextmanager
def file_size_limit(octets: int) -> Iterator[None]:
    """Let the kernel refuse larger files: the nearest thing to a full disk that needs no disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (octets, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def test_a_disk_that_takes_no_more_is_a_452_that_names_no_path(maildir: MaildirStorage, tmp_path: Path) -> None:
    copy = new_copy(b"x" * 100_000)
    with file_size_limit(4096), pytest.raises(Unavailable) as caught:
        maildir.put(copy)
    assert str(caught.value.reply).startswith("452 4.3.1 ")
    assert "/" not in str(caught.value.reply)
    assert os.strerror(errno.EFBIG) in caught.value.cause
    assert files(inbox(tmp_path)) == []
    assert maildir.read(maildir.put(copy)) == copy.content


def test_a_root_that_is_no_directory_is_a_452(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable):
        MaildirStorage(tmp_path / "file", "mx.example.com").put(new_copy())


def test_two_processes_that_store_the_same_copy_leave_one(tmp_path: Path) -> None:
    program = """
import datetime as dt, sys
from pathlib import Path
from mailflow.storage.base import Copy
from mailflow.storage.maildir import MaildirStorage
storage = MaildirStorage(Path(sys.argv[1]), "mx.example.com")
for number in range(200):
    when = dt.datetime(2025, 3, 1, tzinfo=dt.UTC)
    storage.put(Copy(str(number), "msg_x", "user@example.com", "INBOX", when, b"\\r\\n" + b"%d" % number * 5000))
"""
    command = [sys.executable, "-c", program, str(tmp_path / "mail")]
    root = Path(__file__).resolve().parents[2]
    rivals = [subprocess.Popen(command, cwd=root) for _ in range(2)]
    assert [rival.wait() for rival in rivals] == [0, 0]
    opened = mailbox.Maildir(inbox(tmp_path), create=False)
    bodies = sorted(str(message.get_payload()) for message in opened)
    assert bodies == sorted(str(number) * 5000 for number in range(200))
    assert list((inbox(tmp_path) / "tmp").iterdir()) == []


@given(st.text(max_size=300))
def test_no_address_or_folder_climbs_out_of_the_tree(name: str) -> None:
    for component in (maildir_names.user_directory(name), maildir_names.folder_directory(name)):
        assert "/" not in component
        assert "\0" not in component
        assert component not in (".", "..")
        assert component.isascii()
        assert len(component) <= 200
    assert not maildir_names.user_directory(name).startswith(".")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_the_directory_of_a_user_can_be_read_back(address: str) -> None:
    assert unquote(maildir_names.user_directory(address)) == address


@given(st.lists(st.text("ab/.%~é ", max_size=8), min_size=2, max_size=2, unique=True))
def test_two_folders_never_share_a_directory(names: list[str]) -> None:
    assert maildir_names.folder_directory(names[0]) != maildir_names.folder_directory(names[1])


@pytest.mark.parametrize(
    ("folder", "directory"),
    [
        ("INBOX", ""),
        ("inbox", ""),
        ("Sent", ".Sent"),
        ("Archive/2026", ".Archive.2026"),
        ("../../etc", ".%2E%2E.%2E%2E.etc"),
        ("", ".%%"),
        ("/", ".%%.%%"),
        ("a.b", ".a%2Eb"),
        ("Entwürfe", ".Entw%C3%BCrfe"),
    ],
)
def test_a_folder_is_a_directory_of_maildir_plus_plus(folder: str, directory: str) -> None:
    assert maildir_names.folder_directory(folder) == directory


def test_a_copy_id_of_letters_gets_a_number_that_stays() -> None:
    names = {maildir_names.base_name(text, RECEIVED_AT, "a/b:c") for text in ("append-1", "append-1", "0456", "456")}
    assert len(names) == 3
    assert all(name.endswith(".a%2Fb%3Ac") for name in names)


# --- database --------------------------------------------------------------------------------------------------------


def spooled(copy: Copy) -> Message:
    """Put a message into the spool as the accept leg leaves it."""
    ContentChunk.objects.create(message_id=copy.message_id, ordinal=0, octets=copy.content)
    return Message.objects.create(
        id=copy.message_id, created_at=RECEIVED_AT, source="reception", recipients=[], recipient_count=0,
        size_octets=len(copy.content), digest="", protocol="ESMTP", trace_id="t",
    )  # fmt: skip


def filed(copy: Copy, uid: int) -> FiledMessage:
    user, _ = User.objects.get_or_create(username="user", email="user@example.com")
    box, _ = Mailbox.objects.get_or_create(user=user, name="INBOX", defaults={"uid_validity": 1})
    return FiledMessage.objects.create(
        mailbox=box, uid=uid, modseq=1, message_id=copy.message_id, recipient="user@example.com",
        internal_date=RECEIVED_AT, size_octets=0, digest="", storage="database", storage_key=f"db:{copy.message_id}",
    )  # fmt: skip


@pytest.mark.django_db
def test_the_spool_is_the_copy_and_nothing_is_written_twice() -> None:
    copy = new_copy()
    spooled(copy)
    key = DatabaseStorage().put(copy)
    assert key == f"db:{copy.message_id}"
    assert ContentChunk.objects.filter(message_id=copy.message_id).count() == 1


@pytest.mark.django_db
def test_octets_stay_while_the_message_or_another_mailbox_needs_them() -> None:
    storage, copy = DatabaseStorage(), new_copy()
    message, first, second = spooled(copy), filed(copy, 1), filed(copy, 2)
    key = storage.put(copy)
    storage.delete(key)
    for row in (first, message):
        row.delete()
        storage.delete(key)
        assert storage.read(key).endswith(OCTETS)
    second.delete()
    storage.delete(key)
    with pytest.raises(CopyMissing):
        storage.read(key)


# --- registry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["database", "maildir", "memory"])
def test_the_setting_names_the_backend_that_is_kept_for_the_process(settings: Settings, name: str) -> None:
    settings.SMTP_STORAGE_TYPE = name
    assert registry.current().name == name
    assert registry.current() is registry.by_name(name)


def test_a_maildir_is_bound_to_its_place(settings: Settings, tmp_path: Path) -> None:
    settings.SMTP_STORAGE_PATH = tmp_path / "one"
    one = registry.by_name("maildir")
    settings.SMTP_STORAGE_PATH = tmp_path / "two"
    assert registry.by_name("maildir") is not one


def test_an_unknown_backend_is_named() -> None:
    with pytest.raises(registry.UnknownStorage, match="floppy"):
        registry.by_name("floppy")
