"""The command line without a server: help, versions, and that a mistake is told before anything is touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import certagent

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("renew", "plan", "status", "history", "check", "tlsa", "abort", "run")
GOOD = """\
state_dir: {place}/state
ca:
  test: {{directory: "https://ca.example/dir", test: true, agree_tos: true}}
dns:
  providers:
    corp: {{type: rfc2136, server: 127.0.0.1, zones: [example.org], key_file: {place}/tsig.conf}}
certificates:
  mx1.example.org:
    ca: test
    mail_servers:
      postfix:
        type: postfix
        config_dir: {place}/postfix
        chain_files: {{ecdsa: {place}/chain.pem}}
        services:
          - {{host: mx1.example.org, port: 25, mode: smtp, tlsa: true}}
"""
SECRET = "c2VjcmV0IHNlY3JldCBzZWNyZXQ="


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A sound configuration; every file that it names is there."""
    key = tmp_path / "tsig.conf"
    key.touch(0o600)
    key.write_text(f'key "k" {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n')
    path = tmp_path / "certagent.yaml"
    path.touch(0o600)
    path.write_text(GOOD.format(place=tmp_path))
    return path


def run(*args: str, config: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if config:
        environment["CERTAGENT_CONFIG"] = str(config)
    ended = subprocess.run(
        [sys.executable, "-m", "certagent", *args],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in ended.stderr + ended.stdout, ended
    assert SECRET not in ended.stderr + ended.stdout
    return ended


def refused(config: Path, *args: str) -> tuple[str, str]:
    """Exit 2, nothing on standard output, no state directory; the error and its hint."""
    ended = run(*args, config=config)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert not (config.parent / "state").exists()
    error, hint = ended.stderr.splitlines()
    assert error.startswith("certagent: error: ")
    assert hint.startswith("hint: ")
    assert len(hint) > len("hint: ")
    return error.removeprefix("certagent: error: "), hint.removeprefix("hint: ")


def test_version() -> None:
    """One line, for people and for package managers."""
    ended = run("--version")
    assert (ended.returncode, ended.stdout) == (0, f"certagent {certagent.__version__}\n")


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_names_every_command_and_the_exit_codes(flag: str) -> None:
    """Help explains itself, without a configuration."""
    ended = run(flag)
    assert ended.returncode == 0
    assert all(f"\n  {command} " in ended.stdout for command in ("init", "schema", "dns", *COMMANDS))
    assert "Exit codes: 0 done" in ended.stdout


@pytest.mark.parametrize("command", [(), ("dns",)])
def test_without_a_command_the_help_is_printed(command: tuple[str, ...]) -> None:
    """As `--help` prints it, on standard error: it is wrong usage all the same."""
    ended = run(*command)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.split() == run(*command, "--help").stdout.split()
    assert "\n\nCommands:\n" in ended.stderr


@pytest.mark.parametrize("command", ["init", "schema", "dns providers", "dns test", *COMMANDS])
def test_help_of_every_command(command: str) -> None:
    """Each command says what it does, and every option what it is for."""
    ended = run(*command.split(), "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    usage, _, options = ended.stdout.partition("Options:")
    assert usage.startswith("Usage: ")
    assert len(usage.split("\n\n")[1]) > 40
    for line in options.strip().splitlines():
        if line.startswith("  -"):
            assert len(line.split("  ")) >= 3 or line.startswith("  --config"), f"no word about it: {line}"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["fly"], "No such command 'fly'"),
        (["renew", "--frce"], "No such option"),
        (["renew", "--accept-deferrals"], "--accept-deferrals goes with --compromised"),
        (["history"], "Missing argument 'NAME'"),
        (["history", "mx1.example.org", "--after", "x"], "'x' is not a valid integer"),
    ],
)
def test_wrong_usage_exits_2_and_says_what(config: Path, args: list[str], said: str) -> None:
    """A mistyped command line is told in one line, and touches nothing."""
    ended = run(*args, config=config)
    assert ended.returncode == 2
    assert said.lower() in ended.stderr.lower().replace('"', "'")
    assert ended.stdout == ""
    assert not (config.parent / "state").exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_a_broken_configuration(config: Path, command: str) -> None:
    """The same two lines from each command, and no state directory made."""
    config.write_text(config.read_text().replace("ca: test", "ca: tset"))
    names = ["mx1.example.org"] if command in ("history", "abort") else []
    error, hint = refused(config, command, *names)
    assert error.startswith(f"{config}:9: certificates.mx1.example.org.ca: there is no CA 'tset' [config.")
    assert hint == "one of: test"


def test_a_name_that_is_not_configured(config: Path) -> None:
    """Told with those that are."""
    error, hint = refused(config, "status", "mx9.example.org")
    assert "there is no certificate 'mx9.example.org'" in error
    assert hint == "choose one that is configured: mx1.example.org"


def test_a_missing_configuration(tmp_path: Path) -> None:
    """Told with its path, and where to begin."""
    error, hint = refused(tmp_path / "none.yaml", "status")
    assert error.startswith(f"{tmp_path}/none.yaml: No such file or directory")
    assert "config.example.yaml" in hint


@pytest.mark.parametrize("command", ["renew", "check", "run"])
@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_key_file_that_others_may_read(config: Path, command: str, mode: int) -> None:
    """A secret in the open is refused with the command that closes it; the key is not shown."""
    key = config.parent / "tsig.conf"
    key.chmod(mode)
    error, hint = refused(config, command)
    assert str(key) in error
    assert f"chmod 600 {key}" in hint


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_configuration_that_others_may_write(config: Path, mode: int) -> None:
    """It names programs that run as root."""
    config.chmod(mode)
    error, hint = refused(config, "renew")
    assert error.startswith(f"others may write into {config}: ")
    assert hint == f"chmod go-w {config}"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("type: rfc2136", "type: rfc2163", "unknown type 'rfc2163'"),
        ("type: postfix", "type: courier", "unknown type 'courier'"),
        ("server: 127.0.0.1", "sever: 127.0.0.1", "unknown key"),
        ("config_dir:", "confdir:", "unknown key"),
        ("chain.pem}", "chain.pem, dsa: /x.pem}", "dsa"),
        ("ecdsa: ", "ecdsa: relative/", "relative"),
    ],
)
def test_mistakes_in_the_options_of_a_plug_in(config: Path, before: str, after: str, said: str) -> None:
    """Checked like everything else in the file, before anything is done."""
    text = config.read_text()
    assert before in text
    config.write_text(text.replace(before, after))
    error, _ = refused(config, "renew")
    assert said in error


def test_a_state_directory_whose_parent_is_missing_is_reported(config: Path) -> None:
    """A mistyped path is not made."""
    config.write_text(config.read_text().replace("/state\n", "/no/such/state\n"))
    ended = run("status", config=config)
    assert ended.returncode in (2, 3)
    assert f"{config.parent}/no" in ended.stderr
    assert "\nhint: " in ended.stderr
    assert not (config.parent / "no").exists()


def test_a_pipe_that_closes_is_no_error(config: Path) -> None:
    """`certagent … | head -1`: no traceback, no noise."""
    command = f"{sys.executable} -m certagent plan --json | head -1; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CERTAGENT_CONFIG": str(config)}
    ended = subprocess.run(
        ["bash", "-c", command], env=environment, capture_output=True, text=True, check=False, timeout=30
    )
    assert ended.stderr == ""
    assert ended.stdout in ("{\n", "[\n")


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_signal_in_the_middle_of_an_import_is_an_interruption_too(tmp_path: Path, number: str) -> None:
    """Exit code 130, and not death by SIGINT, which is what `python -m` makes of a KeyboardInterrupt in an exec()."""
    import_ = f"import os, signal, time; os.kill(os.getpid(), signal.{number}); time.sleep(10)"
    program = f"""
from certagent.cli import errors, main
main.cli.main = lambda **_: (errors.guard_signals(), exec({import_!r}))
main.main()
"""
    (tmp_path / "program.py").write_text(program)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    # whoever runs the tests in the background may ignore SIGINT, and so would all that they start
    argv = ["env", "--default-signal=INT", sys.executable, "-m", "program"]
    ended = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.startswith("certagent: interrupted; ")


def test_a_damaged_journal_is_reported_and_left_as_it_is(config: Path) -> None:
    """Exit 3, where it is, and to keep a copy; the file is not touched."""
    run("status", config=config)
    journal = config.parent / "state" / "journal.db"
    for path in journal.parent.glob("journal.db-*"):
        path.unlink()
    journal.write_bytes(b"not a database " * 400)
    ended = run("status", config=config)
    assert ended.returncode == 3, ended
    assert f"{journal}: " in ended.stderr
    assert "[journal.damaged]" in ended.stderr
    assert "keep a copy" in ended.stderr
    assert journal.read_bytes() == b"not a database " * 400
