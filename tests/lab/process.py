"""Programs and servers; what they print goes to a file, never to a pipe that a server would keep open."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.lab.wait import until


def run(log: Path, *argv: str | Path) -> None:
    """Runs a program to its end; RuntimeError with the end of `log` when it fails."""
    with log.open("ab") as file:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=30, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {log.read_text()[-2000:]}")


class Server:
    """A server that stays in the foreground."""

    def __init__(self, log: Path, *argv: str | Path, env: Mapping[str, str] | None = None) -> None:
        self.log = log
        self.name = str(argv[0])
        self._paused = False
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env={**os.environ, **(env or {})}
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        """True; RuntimeError with the end of the log when it has ended by itself."""
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}: {self.log.read_text()[-2000:]}")
        return True

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def pause(self) -> None:
        """Stops it where it is: the kernel accepts connections for it, and nothing is answered."""
        if not self._paused:
            self.signal(signal.SIGSTOP)
            # a thread on another processor may go on for a moment: wait until all have stopped
            until(lambda: os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WNOHANG), 5, f"{self.name} stops")
            self._paused = True

    def resume(self) -> None:
        """Lets it go on; it then carries out what it received meanwhile."""
        self.signal(signal.SIGCONT)
        self._paused = False

    def stop(self) -> None:
        """Ends it and waits; harmless when it has ended."""
        self.resume()
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
