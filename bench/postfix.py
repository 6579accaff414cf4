"""Private Postfix instances: in a folder of their own, on loopback, with nothing of the machine's Postfix touched.

`hold` accepts only: every message goes on hold in its queue, so that no delivery competes for the cores. `tuned`
delivers: relay.test to a sink, example.com into a Maildir. Both are set up to be fast: the honest peers.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.processes import BenchError, Child, Children, run

MAIL_USER_ID = 5000  # owns the Maildir; Postfix refuses to deliver as root
_PROGRAMS = ("postfix", "postconf", "smtp-source", "smtp-sink")
_SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"

_COMMON = """\
compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
setgid_group = postdrop
myhostname = bench.localhost
mydestination = localhost
alias_maps =
alias_database =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtpd_client_connection_count_limit = 0
smtp_tls_security_level = none
disable_dns_lookups = yes
biff = no
append_dot_mydomain = no
in_flow_delay = 0
default_process_limit = 200
max_use = 10000
virtual_mailbox_domains = example.com
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:box/
virtual_uid_maps = static:{user_id}
virtual_gid_maps = static:{user_id}
"""
_HOLD = "smtpd_recipient_restrictions = check_recipient_access static:HOLD, permit\n"
_TUNED = """\
smtpd_error_sleep_time = 0
hash_queue_names = deferred
default_destination_concurrency_limit = 100
initial_destination_concurrency = 50
default_destination_recipient_limit = 50
smtp_destination_concurrency_limit = 50
virtual_destination_concurrency_limit = 50
transport_maps = inline:{{ {{ relay.test = smtp:[127.0.0.1]:{sink} }} }}
"""
# Service, type, private, unprivileged, chroot, wakeup, limit, command: Postfix's own table, without chroots.
_SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


def program(name: str) -> str:
    """Return the path of one of Postfix's programs; raises `BenchError` where it is missing."""
    found = shutil.which(name, path=_SEARCH_PATH)
    if found is None:
        raise BenchError(f"{name} is missing (make test-deps installs it)")
    return found


def unavailable() -> str:
    """Return why Postfix cannot be measured here, or nothing."""
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_SEARCH_PATH) is None]
    if missing:
        return f"{', '.join(missing)} not found; `make test-deps` installs Postfix"
    if os.geteuid() != 0:
        return "Postfix starts as root only; run it as root"
    try:
        pwd.getpwnam("postfix")
    except KeyError:
        return "the user postfix is missing; `make test-deps` installs Postfix"
    return ""


@dataclass(frozen=True, slots=True)
class Postfix:
    """A running instance."""

    name: str
    port: int
    maildir: Path
    children: Sequence[Child]
    configuration: Path

    def roots(self) -> list[int]:
        return [child.pid for child in self.children]

    def filed(self) -> int:
        """Count what has been delivered into the Maildir."""
        try:
            return len(os.listdir(self.maildir / "new"))  # noqa: PTH208  (a Path for each of thousands of names is slow)
        except FileNotFoundError:
            return 0

    def queued(self, queue_id: str, part: str) -> bytes:
        """Return what `postcat` tells of a message in the queue: with `-e` its envelope, with `-bh` all else of it."""
        argv = [program("postcat"), "-c", str(self.configuration), part, "-q", queue_id]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout

    def empty_maildir(self) -> None:
        shutil.rmtree(self.maildir, ignore_errors=True)


def start(
    children: Children, folder: Path, *, name: str, port: int, sink_port: int = 0, more: Sequence[str] = ()
) -> Postfix:
    """Start an instance in `folder`: `tuned` with a `sink_port`, else `hold`; `more` are further lines of `main.cf`."""
    configuration = folder / "etc"
    for part in ("etc", "queue", "data", "mail"):
        (folder / part).mkdir(parents=True)
    shutil.chown(folder / "data", "postfix")
    os.chown(folder / "mail", MAIL_USER_ID, MAIL_USER_ID)
    main = _COMMON.format(folder=folder, user_id=MAIL_USER_ID) + (_TUNED.format(sink=sink_port) if sink_port else _HOLD)
    (configuration / "main.cf").write_text(main + "".join(f"{line}\n" for line in more))
    (configuration / "master.cf").write_text(_SERVICES.format(port=port))
    # Makes the queue's folders with the owners that Postfix wants, and says what is wrong with the files above.
    run([program("postfix"), "-c", str(configuration), "check"])
    master = run([program("postconf"), "-d", "-h", "daemon_directory"]).strip() + "/master"
    # -d: stay in the foreground. `postfix start` would leave a process that nobody holds by its id.
    child = children.start(name, [master, "-c", str(configuration), "-d"], port=port)
    return Postfix(name, port, folder / "mail" / "box", [child], configuration)
