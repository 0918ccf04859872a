"""Runs a program within bounds, and nothing else in the package starts one.

- Nobody besides root and this user may change it, or what is on the way to it (see `trust`), nor its interpreter.
- No shell. A small environment; the agent's may hold tokens of DNS providers. No descriptor of the agent's; nothing to
  read but what it is given; the working directory is /.
- A time limit for the whole run. At its end the program and its process group are killed.
- A bounded output: what is beyond is thrown away, so that the program need not wait.
- It has ended when its process has ended, whatever its children hold open. A daemon that it leaves is left alone.
- Death by a signal is a separate kind of error (`Killed`): it says nothing about what the program was asked.
"""

from __future__ import annotations

import errno
import os
import selectors
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from certagent.errors import Misconfigured, Transient
from certagent.host import deadline, trust
from certagent.host.oserrors import translated

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As systemd gives it to services. An agent that is started from a shell or cron behaves no differently."""

_OUTPUT_LIMIT_BYTES = 64 << 10
"""Hundreds of lines, more than anyone reads."""

_READ_BYTES = 64 << 10
"""What a pipe holds. Source: pipe(7)."""

_LINE_BYTES = 4096
"""Of an answer; more is none."""

_KILL_S = 1.0
"""To end after SIGKILL: milliseconds."""

_NOT_RUNNABLE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ELOOP}
"""Trying again does not help."""

_INTERPRETERS = 4
"""An interpreter may be a script itself, so deep. Source: execve(2)."""

_SHEBANG_BYTES = 256
"""Of the first line of a script. Source: execve(2)."""


class Result(NamedTuple):
    """How a program ended: its exit status, the beginning of its output, the end of its error output."""

    code: int
    out: str
    err: str


class Killed(Transient):
    """A signal ended the program: the memory ran out, somebody stopped it. What it was asked is still open."""


def program(name: str, code: str = "run.failed") -> str:
    """The absolute path of an installed program.

    Raises:
        Misconfigured: `run.failed`, or the `code` given: It is not installed.
    """
    found = shutil.which(name, path=PATH)
    if found is None:
        raise Misconfigured(code, f"{name} is not installed in {PATH}", f"install {name}, or remove what needs it")
    return found


def check(path: str, code: str = "run.failed") -> None:
    """Whether `run` would run this program.

    Raises:
        Misconfigured: `run.failed`, or the `code` given: It is missing, not executable, not given with its full path,
            or somebody else may change it, its interpreter, or what is on the way to them.
    """
    for _ in range(_INTERPRETERS):
        if not os.path.isabs(path):
            raise Misconfigured(code, f"{path}: not an absolute path", "write the program with its full path")
        try:
            with trust.walked(Path(path)) as end, translated(Path(path)):
                if end.status is None:
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                if not stat.S_ISREG(end.status.st_mode) or not os.access(end.real, os.X_OK):
                    raise Misconfigured(code, f"{path} is no executable program", f"look at it: ls -lL {path}")
                interpreter = _interpreter(end)
        except trust.Untrusted as error:
            raise Misconfigured(code, f"{error.detail}; certagent would run it", error.hint) from None
        except Misconfigured as error:
            raise Misconfigured(code, error.detail, error.hint) from None
        if interpreter is None:
            return
        path = interpreter


def run(
    argv: Sequence[str],
    timeout_s: float,
    *,
    env: Mapping[str, str] | None = None,
    code: str = "run.failed",
    text: str = "",
    limit_bytes: int = _OUTPUT_LIMIT_BYTES,
) -> Result:
    """Runs `argv` to its end. `env` is added to the small environment, `text` is its standard input.

    Of the output the first `limit_bytes` are kept, of the error output the last. Whether the program did its work is
    unknown after a Transient.

    Raises:
        Misconfigured: `run.failed`, or the `code` given: As `check`.
        Transient: `run.failed`, or the `code` given: The time is up, or the system has no room for another process.
        Killed: `run.failed`, or the `code` given: A signal ended it.
        Overdue: `step.overdue`: Nothing is left of the step; it was not started.
    """
    shown = shlex.join(argv)
    check(argv[0], code)
    timeout_s = deadline.left(timeout_s)
    given = os.memfd_create("stdin") if text else os.open(os.devnull, os.O_RDONLY)  # a file: nobody waits to write it
    try:
        if text:
            os.write(given, text.encode())
            os.lseek(given, 0, os.SEEK_SET)
        started = _started(argv, given, subprocess.PIPE, env, code)
    finally:
        os.close(given)
    with started as process:
        _running.add(process)
        try:
            out, err = _collect(process, time.monotonic() + timeout_s, limit_bytes)
        except TimeoutError as error:
            raise Transient(code, f"{shown}: no end after {timeout_s:g} s", f"try it by hand: {shown}") from error
        finally:
            _running.discard(process)
    if process.returncode < 0:
        name = signal.strsignal(-process.returncode) or "unknown"
        hint = "look at the kernel's log (out of memory?): journalctl -k; it is tried again by itself"
        raise Killed(code, f"{shown}: ended by signal {-process.returncode} ({name})", hint)
    return Result(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


@contextmanager
def beside(
    argv: Sequence[str], end_s: float, *, env: Mapping[str, str] | None = None, group: int | None = None
) -> Generator[Callable[[float], bytes]]:
    """Runs a program during the block. What it yields sends an empty line, and returns the line that answers it.

    The answer is empty if there is none within the given seconds, or the program has ended. At the end of the block its
    standard input is closed, and it is killed `end_s` later. `group` is its group id.

    Raises:
        Error: As `run`, before the block.
    """
    check(argv[0])
    with _started(argv, subprocess.PIPE, subprocess.DEVNULL, env, "run.failed", group) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        given, out = process.stdin, process.stdout

        def ask(timeout_s: float) -> bytes:
            with suppress(BrokenPipeError):
                given.write(b"\n")
                return _line(out.fileno(), time.monotonic() + timeout_s)
            return b""

        try:
            yield ask
        finally:
            given.close()
            with suppress(subprocess.TimeoutExpired):
                process.wait(end_s)


def end_all() -> None:
    """Kills every program that a `run` waits for now, with its process group. That `run` raises `Killed`.

    May be called from a signal handler and from any thread. One of `beside` goes on to the end of its block.
    """
    for process in list(_running):
        _kill(process)


_running: set[subprocess.Popen[bytes]] = set()
"""Adding, removing and copying are atomic: a signal handler could not wait for a lock."""


def _started(
    argv: Sequence[str],
    stdin: int,
    stderr: int,
    env: Mapping[str, str] | None,
    code: str,
    group: int | None = None,
) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Starts it now. At the end of the block it has ended, or is killed."""
    shown = shlex.join(argv)
    try:
        process = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd="/",
            env={"PATH": PATH, "LC_ALL": "C", **(env or {})},
            group=group,
            start_new_session=True,
        )
    except ValueError:
        raise Misconfigured(code, f"{shown!r}: an argument or variable holds a NUL", "remove it") from None
    except OSError as error:
        if error.errno in _NOT_RUNNABLE:
            hint = f"look at it, and at its first line: ls -lL {argv[0]}"
            raise Misconfigured(code, f"{shown}: {error.strerror}", hint) from error
        raise Transient(code, f"{shown}: {error.strerror}") from error
    return _ended(process)


@contextmanager
def _ended(process: subprocess.Popen[bytes]) -> Generator[subprocess.Popen[bytes]]:
    try:
        yield process
    finally:
        if process.poll() is None:
            _kill(process)
            with suppress(subprocess.TimeoutExpired):  # the kernel may hold it: then nothing can end it
                process.wait(_KILL_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With its group, unless it was waited for: its number may be another's then."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _interpreter(end: trust.End) -> str | None:
    """What the kernel runs for a script; None if it is no script. Source: execve(2)."""
    try:
        fd = os.open(end.real.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=end.directory)
    except PermissionError:  # then its interpreter could not read it either
        return None
    try:
        first = os.read(fd, _SHEBANG_BYTES)
    finally:
        os.close(fd)
    words = first[2:].partition(b"\n")[0].split() if first.startswith(b"#!") else []
    return os.fsdecode(words[0]) if words else None


def _line(fd: int, deadline: float) -> bytes:
    """What is there until the end of a line; empty at the deadline and at the end of the output."""
    line = b""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        while not line.endswith(b"\n"):
            if not selector.select(max(0.0, deadline - time.monotonic())) or len(line) > _LINE_BYTES:
                return b""
            if not (chunk := os.read(fd, _LINE_BYTES)):
                return b""
            line += chunk
    return line.strip()


def _collect(process: subprocess.Popen[bytes], deadline: float, limit_bytes: int) -> tuple[bytes, bytes]:
    """What it printed until it ended.

    Raises:
        TimeoutError: At the deadline.
    """
    assert process.stdout is not None
    assert process.stderr is not None
    out, err = process.stdout.fileno(), process.stderr.fileno()
    kept = {out: bytearray(), err: bytearray()}
    ended = os.pidfd_open(process.pid)

    def take(fd: int) -> bool:
        """Once: a program that never stops printing must still meet its deadline. False at the end."""
        try:
            chunk = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return True
        if fd == out:
            kept[out].extend(chunk[: limit_bytes - len(kept[out])])
        else:
            kept[err].extend(chunk)
            del kept[err][:-limit_bytes]
        return bool(chunk)

    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            for fd in kept:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            ready: set[int] = set()
            while ended not in ready:
                ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
                if time.monotonic() >= deadline and ended not in ready:
                    raise TimeoutError
                for fd in ready - {ended}:
                    if not take(fd):
                        selector.unregister(fd)
        for fd in kept:
            take(fd)  # a pipe holds no more than this reads at once
    finally:
        os.close(ended)
    process.wait()
    return bytes(kept[out]), bytes(kept[err])
