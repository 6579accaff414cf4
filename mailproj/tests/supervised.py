"""A program for test_supervisor: runs stand-in services under the real supervisor, everything said on one pipe.

Usage: `python -m mailproj.tests.supervised RUN_DIR STOP_LIMIT STAGES`, the stages as JSON lists of `[name, behaviour,
stop_seconds, alone_seconds]`, without the last or the last two where they do not matter. Where RUN_DIR has a folder
`work` the services run in it, where it has a folder `log` what they say goes there.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mailproj.supervisor import Service, StartFailed, Supervisor, only_one

STAND_IN = """
import os, signal, sys
name, behaviour = sys.argv[1:]
def say(text): os.write(1, f"{name} {text}\\n".encode())
def end(*_):
    say("ends")
    sys.exit(0)
signal.signal(signal.SIGTERM, (lambda *_: say("refuses")) if behaviour == "stubborn" else end)
if behaviour == "failing":
    sys.exit(3)
say(f"is up as {os.getpid()}" + sys.stdin.read())
while True:
    signal.pause()
"""


def _service(name: str, behaviour: str, stop_seconds: float = 20.0, alone_seconds: float | None = None) -> Service:
    given = b" having read" if behaviour == "reader" else b""
    argv = [sys.executable, "-c", STAND_IN, name, behaviour]
    return Service(name, argv, lambda: behaviour != "failing", given, stop_seconds, alone_seconds)


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main(run_dir: Path, stop_limit: float, stages: list[list[tuple[str, str]]]) -> int:
    work, logs = run_dir / "work", run_dir / "log"
    supervisor = Supervisor(
        [[_service(*each) for each in stage] for stage in stages],
        run_dir=run_dir,
        log_dir=logs if logs.exists() else None,
        folder=work if work.exists() else Path("/"),
        environment=os.environ,
        say=_say,
        stop_limit=stop_limit,
    )
    try:
        with only_one(run_dir / "runall.pid"):
            supervisor.run(announce=lambda: _say("announced"))
    except StartFailed as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]), json.loads(sys.argv[3])))
