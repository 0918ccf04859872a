"""The master process of a Postfix instance, and the signal at which it reads its configuration and files again.

`postfix reload` sends the same. Before that it has the user postfix put back what is being delivered, which the queue
manager does by itself when it starts (seen with 3.7): so nobody has to be able to become that user.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from certagent.errors import Misconfigured, Transient
from certagent.host import processes
from certagent.mta.postfix.postconf import Instance, last_line


def reload(instance: Instance) -> None:
    """Make it read its files again. No signal is sent with a main.cf of which the master would end.

    Raises:
        Transient: `mta.reload`: It cannot.
        Transient: `mta.down`: It is not running.
    """
    start, check, again = (instance.command("postfix", word) for word in ("start", "check", "reload"))
    hint = f"run: {check}; {again}; it explains itself in the mail log"
    tried = instance.tried()
    if tried.code != 0:
        raise Transient("mta.reload", f"{instance.who} cannot reload: {last_line(tried)}", hint)
    status = instance.run("postfix", "status")
    try:
        with _master(instance.pid_file()) as process:
            if process is None:
                raise Transient("mta.down", f"{instance.who} is not running", f"run: {start}")
            if status.code != 0:  # it runs, but a setting is broken that only some of its programs read
                raise Transient("mta.reload", f"{instance.who} cannot reload: {last_line(status)}", hint)
            signal.pidfd_send_signal(process, signal.SIGHUP)
    except (Misconfigured, OSError) as error:
        raise Transient("mta.reload", f"{instance.who} cannot reload: {error}", hint) from error


@contextmanager
def _master(pid_file: Path) -> Generator[int | None]:
    """The process (a pidfd: its number cannot come to mean another one); None if it is not running."""
    found = processes.pid_file(pid_file)
    with ExitStack() as stack:
        process = None
        if found and processes.named(found.pid, ["master"]):
            with suppress(ProcessLookupError):
                process = os.pidfd_open(found.pid)
                stack.callback(os.close, process)
        yield process if found and processes.named(found.pid, ["master"]) else None
