"""The commands that show something, where nothing can be written: a full disk, and a read-only file system."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from certagent.lifecycle import events as ev
from tests.store.opened import opened
from tests.words import ROOT

NAME = "mx1.example.org"
CONFIG = """
state_dir: {state}
ca: {{ca: {{directory: "https://ca.example/dir", agree_tos: true}}}}
certificates:
  mx1.example.org: {{ca: ca, challenge: {{type: http-01}}}}
"""
READ_ONLY = "mount --bind {state} {state}; mount -o remount,bind,ro {state}"
FULL = (
    "cp -a {state} {state}.kept; mount -t tmpfs -o size=1M,mode=700 none {state}; cp -a {state}.kept/. {state}; "
    "cat /dev/zero >{state}/rest 2>/dev/null || true"
)
COMMANDS = ("status", "plan", f"history {NAME}", "check", "tlsa")
LEFT = {"closed": (), "killed": ("-wal", "-shm"), "killed, without the index": ("-wal",)}
"""What stands beside the journal, by how the last process ended."""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes mount namespaces")


@pytest.fixture
def state(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A state directory that a process left like that."""
    path = tmp_path / "config.yaml"
    path.touch(0o600)
    state = tmp_path / "state"
    path.write_text(CONFIG.format(state=state))
    state.mkdir(0o700)
    begun = tmp_path / "journal.db"
    journal = opened(begun)
    journal.append(NAME, ev.KeysMade(keys="k1", spki={}))
    journal.append(NAME, ev.Requested(what="renew"))
    if not LEFT[request.param]:
        journal.close()
    for end in ("", *LEFT[request.param]):
        shutil.copy(f"{begun}{end}", state / f"journal.db{end}")
        (state / f"journal.db{end}").chmod(0o600)
    journal.close()
    return state


@pytest.mark.parametrize("mounted", [READ_ONLY, FULL], ids=["read-only", "full"])
@pytest.mark.parametrize("state", LEFT, indirect=True)
def test_what_only_reads_works(state: Path, mounted: str) -> None:
    """Each as on a disk with room: the same words, the same exit status."""
    with_room = state.with_name("with-room")
    shutil.copytree(state, with_room)
    for command in COMMANDS:
        there = run(f"mount --bind {with_room} {state}", state, command)
        here = run(mounted.format(state=state), state, command)
        assert there.stdout or command == "tlsa"  # it has no records yet
        assert (command, plain(here.stdout), here.stderr, here.returncode) == (
            (command, plain(there.stdout), there.stderr, there.returncode)
        )


def plain(text: str) -> str:
    """Without the times."""
    return re.sub(r"\d\d:\d\d(?::\d\d)?", "", text)


def run(options: str, state: Path, command: str) -> subprocess.CompletedProcess[str]:
    script = f'set -e; {options}; cd {ROOT}; exec "$0" -m certagent {command}'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CERTAGENT_CONFIG": str(state.parent / "config.yaml")}
    return subprocess.run(argv, check=False, capture_output=True, text=True, env=environment)
