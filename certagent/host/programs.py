"""Runs a program within bounds: no shell, a time limit for it and all it starts, an output that cannot fill the memory.

A program gets a small fixed environment, never the agent's own: that may hold the tokens of DNS providers.
"""

from __future__ import annotations

import os
import selectors
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from certagent.errors import Misconfigured, Transient

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""As systemd gives it to services: an agent started from a shell or cron must behave no differently."""

_OUTPUT_LIMIT_BYTES = 64 << 10
"""Hundreds of lines, more than anyone reads; the rest is thrown away, so that the program need not wait."""


class Result(NamedTuple):
    """How a program ended; `code` is negative when a signal ended it."""

    code: int
    out: str
    err: str


def program(name: str, code: str = "run.failed") -> str:
    """The absolute path of an installed program.

    Raises:
        run.failed: (Misconfigured; or the `code` given) It is not installed.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise Misconfigured(code, f"{name} is not installed in {_PATH}", f"install {name}, or remove what needs it")
    return found


def run(
    argv: Sequence[str],
    timeout_s: float,
    *,
    env: Mapping[str, str] | None = None,
    code: str = "run.failed",
    text: str = "",
    limit_bytes: int = _OUTPUT_LIMIT_BYTES,
) -> Result:
    """Runs `argv` to its end; when the time is up, it and every process of its group are killed.

    Whether it did its work is then unknown. A daemon that it leaves behind is not waited for, even if it holds the
    output open. `env` is added to the small environment; `text` is its standard input; `limit_bytes` of its output are
    kept.

    Raises:
        run.failed: (or the `code` given) Misconfigured: it is not there or may not be run; Transient: the time is up,
            or the system has no room for another process.
    """
    shown = shlex.join(argv)
    if not os.path.isabs(argv[0]):
        raise Misconfigured(code, f"{shown}: not an absolute path", "write the program with its full path")
    given = os.memfd_create("stdin") if text else os.open(os.devnull, os.O_RDONLY)
    try:
        if text:
            os.write(given, text.encode())
            os.lseek(given, 0, os.SEEK_SET)
        process = subprocess.Popen(
            argv,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env={"PATH": _PATH, "LC_ALL": "C", **(env or {})},
            start_new_session=True,
        )
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        raise Misconfigured(code, f"{shown}: {error.strerror}", f"look at it: ls -l {argv[0]}") from error
    except OSError as error:
        raise Transient(code, f"{shown}: {error.strerror}") from error
    finally:
        os.close(given)
    with process:
        try:
            out, err = _collect(process, time.monotonic() + timeout_s, limit_bytes)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, TimeoutError):
                raise Transient(code, f"{shown}: no end after {timeout_s:g} s", f"try it by hand: {shown}") from error
            raise
    return Result(process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


def _collect(process: subprocess.Popen[bytes], deadline: float, limit_bytes: int) -> tuple[bytes, bytes]:
    """What it printed until it ended; TimeoutError at the deadline."""
    assert process.stdout is not None
    assert process.stderr is not None
    kept = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            for fd in kept:
                os.set_blocking(fd, False)
                selector.register(fd, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
                if not ready and time.monotonic() >= deadline:
                    raise TimeoutError
                for fd in ready - {ended}:
                    if not _read(fd, kept[fd], limit_bytes):
                        selector.unregister(fd)
                if ended in ready:
                    break
        for fd, output in kept.items():
            _read(fd, output, limit_bytes)  # a pipe holds no more than this reads at once
    finally:
        os.close(ended)
    process.wait()
    out, err = kept.values()
    return bytes(out), bytes(err)


def _read(fd: int, output: bytearray, limit_bytes: int) -> bool:
    """Takes what is there now, once: a program that never stops printing must still meet its deadline."""
    try:
        chunk = os.read(fd, _OUTPUT_LIMIT_BYTES)
    except BlockingIOError:
        return True
    output += chunk[: limit_bytes - len(output)]
    return bool(chunk)
