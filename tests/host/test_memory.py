"""Keys in memory do not reach the disk or another process."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from certagent.cli import main
from certagent.host import memory
from certagent.secret import Secret

ROOT = Path(main.__file__).parents[2]
SCRIPT = """
import ctypes, os, resource, sys
from pathlib import Path
from certagent.host import attributes
from certagent.host.files import read_private
from certagent.host.memory import no_core_dumps
from certagent.host.programs import run
if len(sys.argv) > 2:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
no_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
print(run(["/bin/sh", "-c", "ulimit -c"], 5).out.strip())
fd = os.open(sys.argv[1], os.O_PATH)
print(attributes.named(fd, 0o7), read_private(Path(sys.argv[1])))
"""
CONFIG = """
state_dir: {0}/state
ca: {{ca: {{directory: "https://ca.example/dir", eab_kid: kid, eab_key_file: {0}/eab.key}}}}
dns: {{providers: {{zone: {{type: rfc2136, server: 192.0.2.1, zones: [example.org], key_file: {0}/tsig.key}}}}}}
certificates:
  mx1.example.org:
    ca: ca
    mail_servers:
      postfix:
        type: postfix
        chain_files: {{ecdsa: /etc/postfix/mx1.pem}}
        services: [{{host: mx1.example.org, port: 25, mode: smtp, tlsa: true}}]
"""


def said(*arguments: str | Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(argv, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def test_no_core_file_and_no_look_from_outside(tmp_path: Path) -> None:
    """The limit goes on to the programs that are started; what /proc/self shows goes on to work."""
    (tmp_path / "key").write_bytes(b"secret")
    (tmp_path / "key").chmod(0o600)
    assert said(tmp_path / "key") == ["(0, 0) 0", "0", "[] b'secret'"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_also_of_a_user_that_is_not_root() -> None:
    with tempfile.TemporaryDirectory() as directory:  # one that others may enter, unlike pytest's
        Path(directory).chmod(0o755)
        key = Path(directory) / "key"
        key.write_bytes(b"secret")
        key.chmod(0o600)
        os.chown(key, 65534, 65534)
        assert said(key, "nobody") == ["(0, 0) 0", "0", "[] b'secret'"]


@pytest.mark.parametrize("command", main.COMMANDS)
def test_every_command_that_may_read_a_key_begins_with_it(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(memory, "no_core_dumps", lambda: called.append(True))
    assert CliRunner().invoke(main.cli, [command, "--help"]).exit_code == 0
    assert called == [True] * (command not in main.NO_SECRET)


@pytest.mark.parametrize("command", sorted(main.NO_SECRET - {"explain", "schema"}))
def test_the_other_commands_read_no_secret(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(Secret, "__init__", read)
    config = tmp_path / "config.yaml"
    config.touch(0o600)
    config.write_text(CONFIG.format(tmp_path))
    done = CliRunner().invoke(main.cli, [command, "--config", str(config), "mx1.example.org"])
    assert done.exit_code == (command == "status"), done.output  # no daemon runs
