"""Runs Python as the shipped systemd unit would, without systemd: in a sandbox made from the unit file itself.

It has CapabilityBoundingSet=, NoNewPrivileges=, UMask=, ProtectProc= (a /proc of its own with hidepid) and
ProtectSystem=strict (every file system read-only but for some directories, /dev, /proc and /sys).
It lacks what filters system calls (SystemCallFilter= and the Restrict…= and Lock…= beside it: seccomp takes more than
util-linux), and what would hide the lab and Python from it (PrivateTmp=, ProtectHome=) or concerns devices and the
kernel, which nobody here touches. (With all of it, under systemd 252, the five servers were renewed as well: tried by
hand on 2026-12-01.)

Inside it runs as a bare file, like namespace.py, and imports nothing of the project.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

FILE = Path(__file__).resolve().parents[2] / "packaging" / "systemd" / "certagent.service"

_UNTOUCHED = ("/dev", "/proc", "/sys")
"""By ProtectSystem=strict, systemd.exec(5)."""


def settings() -> dict[str, str]:
    """The unit's settings by their names; of several lines of one name all the words."""
    found: dict[str, str] = {}
    for line in FILE.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", "[")):
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def capabilities() -> frozenset[str]:
    """As setpriv(1) calls them."""
    return frozenset(map(short, settings()["CapabilityBoundingSet"].split()))


def short(capability: str) -> str:
    """`CAP_CHOWN` is `chown` there."""
    return capability.removeprefix("CAP_").lower()


def confined(program: Path, writable: Iterable[Path], *, also: Iterable[str] = ()) -> Path:
    """Writes `program`, which is Python inside the sandbox.

    `writable`: what stands for ReadWritePaths= and StateDirectory=; they must be there. `also`: capabilities that a
    drop-in gives.
    """
    unit = settings()
    assert (unit["NoNewPrivileges"], unit["ProtectSystem"], unit["ProtectProc"]) == ("yes", "strict", "invisible")
    kept = ",".join(["-all", *(f"+{name}" for name in sorted(capabilities().union(map(short, also))))])
    plan = json.dumps({"writable": [str(path) for path in writable], "umask": unit["UMask"], "capabilities": kept})
    argv = ["unshare", "--mount", "--propagation", "private", sys.executable, "-I", "-S", __file__, plan]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(argv)} {shlex.quote(sys.executable)} "$@"\n')
    program.chmod(0o755)
    return program


@contextmanager
def manager(program: Path, script: Path) -> Generator[None]:
    """Makes `program` do what `systemctl restart` does: whoever calls it, `script` is run out here, and waited for."""
    asked, answered = (program.with_suffix(suffix) for suffix in (".asked", ".answered"))
    for fifo in (asked, answered):
        os.mkfifo(fifo, 0o600)
    program.write_text(f"#!/bin/sh\nprintf r >{asked}\nread -r code <{answered}\nexit $code\n")
    program.chmod(0o755)
    # for reading and writing: then nothing here waits for the other side
    with asked.open("r+b", buffering=0) as asks, answered.open("r+b", buffering=0) as answers:

        def serve() -> None:
            while asks.read(1) == b"r":
                answers.write(f"{subprocess.run([script], check=False).returncode}\n".encode())

        with ThreadPoolExecutor(1) as pool:
            pool.submit(serve)
            try:
                yield
            finally:
                asks.write(b".")


# ---- inside --------------------------------------------------------------------------------------------------------


def _enter(plan: dict[str, str], writable: list[str], argv: list[str]) -> NoReturn:
    for path in writable:
        subprocess.run(["mount", "--rbind", path, path], check=True)
    for point in _mount_points():
        if os.path.ismount(point) and not _below(point, (*writable, *_UNTOUCHED)):
            subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
    subprocess.run(["mount", "-t", "proc", "-o", "hidepid=invisible", "proc", "/proc"], check=True)
    os.umask(int(plan["umask"], 8))
    limits = ["--bounding-set", plan["capabilities"], "--inh-caps", "-all", "--no-new-privs"]
    os.execvp("setpriv", ["setpriv", *limits, *argv])


def _mount_points() -> list[str]:
    rows = Path("/proc/self/mountinfo").read_text().splitlines()
    return [row.split()[4].encode().decode("unicode_escape") for row in rows]


def _below(point: str, directories: Iterable[str]) -> bool:
    return any(point == directory or point.startswith(f"{directory}/") for directory in directories)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    _enter(given, given.pop("writable"), sys.argv[2:])
