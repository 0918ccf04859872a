"""Runs a command alone with its own network, processes and /etc; nothing of it is left afterwards.

Inside, every port of 127.0.0.1 to 127.0.0.31 is free, 127.0.0.1 is the name server, nothing else can be reached,
and CERTAGENT_LAB names a fresh directory for the state of servers. Several labs can run side by side.
It all ends with the command, or when this process is killed in whatever way. Only after SIGKILL does the directory
stay; the next lab removes it. CERTAGENT_LAB_KEEP=1 keeps it for good.

Uses the standard library only and imports nothing of the project: it runs as a bare file, in isolated mode.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

PARENT = Path("/var/tmp")  # Postfix drops privileges: every directory above its own must be searchable by everyone
PREFIX = "certagent-lab-"
LAST_ADDRESS = 31
UNSHARE = ["unshare", "--net", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]
SELF = [sys.executable, "-I", "-S", __file__]
SI_KERNEL = 0x80  # the terminal's Ctrl-C reaches the command as well; another process's SIGINT may not have


def enter(argv: list[str]) -> NoReturn:
    """Replaces this process by `argv` inside a new lab; the exit status is that of `argv`."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [*SELF, *argv])


def inside() -> bool:
    """Whether this process is in a lab. An environment that leaked from one does not count."""
    try:
        return (directory() / "network").read_text() == _network()
    except (KeyError, OSError):
        return False


def directory() -> Path:
    """The lab's own directory."""
    return Path(os.environ["CERTAGENT_LAB"])


def _network() -> str:
    return os.readlink("/proc/self/ns/net")


# ---- outside -------------------------------------------------------------------------------------------------------


def _supervise(argv: list[str]) -> int:
    _check_permission()
    signals = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    _remove_stale()
    lab, lock = _new_directory()
    # With setpriv, unshare dies when this process does; with --kill-child, so does everything inside.
    command = ["setpriv", "--pdeathsig", "KILL", *UNSHARE, *SELF, "--init", str(lab), *argv]
    child = subprocess.Popen(command, pass_fds=[lock], env=_environment(lab))
    status = None
    while child.poll() is None:
        got = signal.sigwaitinfo(signals)
        from_terminal = got.si_signo == signal.SIGINT and got.si_code == SI_KERNEL
        if got.si_signo != signal.SIGCHLD and not from_terminal:
            status = 128 + got.si_signo
            _kill(child)
    if os.environ.get("CERTAGENT_LAB_KEEP") == "1":
        (lab / "keep").touch()
        print(f"the lab's files are kept in {lab}", file=sys.stderr)
    else:
        shutil.rmtree(lab, ignore_errors=True)
    if status is None:
        status = child.returncode if child.returncode >= 0 else 128 - child.returncode
    return status


def _check_permission() -> None:
    if os.geteuid() != 0:
        sys.exit("needs root: real servers are run in namespaces of their own")
    try:
        subprocess.run([*UNSHARE, "true"], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        sys.exit("needs unshare (util-linux)")
    except subprocess.CalledProcessError as error:
        sys.exit(f"needs root: namespaces are not permitted here ({error.stderr.strip()})")


def _remove_stale() -> None:
    """Removes directories that no living lab holds the lock of."""
    for path in PARENT.glob(f"{PREFIX}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or not a directory
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_uid == os.geteuid() and not (path / "keep").exists():
                shutil.rmtree(path, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(lock)


def _new_directory() -> tuple[Path, int]:
    """A directory and the descriptor that keeps it locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT))
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            path.chmod(0o755)
            return path, lock
        except FileNotFoundError:
            continue  # taken for a stale one before it was locked


def _environment(lab: Path) -> dict[str, str]:
    # A proxy outside cannot be reached, and would catch HTTPS on loopback.
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return kept | {"CERTAGENT_LAB": str(lab), "TMPDIR": str(lab / "tmp")}


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kills unshare, and with it the lab; waits until the last process inside is gone."""
    try:
        first = os.pidfd_open(int(Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text()))
    except (ValueError, OSError):  # nothing was started inside yet
        child.kill()
        return
    child.kill()
    select.select([first], [], [], 10)
    os.close(first)


# ---- inside, as process 1 ------------------------------------------------------------------------------------------


def _init(lab: Path, argv: list[str]) -> int:
    # The kernel gives process 1 no signal whose action is the default: Ctrl-C is for the command alone.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    try:
        _prepare(lab)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"needs root: cannot prepare the lab ({error})")
    try:
        command = subprocess.Popen(argv)
    except OSError as error:
        sys.exit(f"{argv[0]}: {error.strerror}")
    while True:  # without this, dead servers would stay zombies and look alive
        pid, status = os.wait()
        if pid == command.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _prepare(lab: Path) -> None:
    (lab / "network").write_text(_network())
    (lab / "tmp").mkdir()
    (lab / "tmp").chmod(0o1777)
    # BIND and Postfix use only addresses that an interface has; that all of 127/8 is routed is not enough.
    addresses = "".join(f"addr add 127.0.0.{n}/8 dev lo\n" for n in range(2, LAST_ADDRESS + 1))
    subprocess.run(["ip", "-batch", "-"], input=f"link set lo up\n{addresses}", text=True, check=True)
    Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").write_text("0")
    # An overlay: a bind mount of one file vanishes when someone outside replaces that file by a rename.
    etc = lab / "etc"
    etc.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "lab", etc], check=True)
    upper, work = etc / "upper", etc / "work"
    upper.mkdir()
    work.mkdir()
    options = f"lowerdir=/etc,upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "lab", "-o", options, "/etc"], check=True)
    resolv = Path("/etc/resolv.conf")
    resolv.unlink(missing_ok=True)
    resolv.write_text("nameserver 127.0.0.1\noptions edns0 trust-ad timeout:2 attempts:2\n")


def main(argv: list[str]) -> int:
    if argv[:1] == ["--init"]:
        return _init(Path(argv[1]), argv[2:])
    if not argv:
        sys.exit("usage: python -m tests.lab.namespace COMMAND [ARGUMENT...]")
    return _supervise(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
