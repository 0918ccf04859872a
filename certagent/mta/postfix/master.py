"""The master process of a Postfix instance, and the signal at which it reads its configuration and files again.

`postfix reload` sends the same. Before that it has the user postfix put back what is being delivered, which the queue
manager does by itself when it starts (seen with 3.7): so nobody has to be able to become that user.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from certagent.errors import Error, Transient
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
    try:
        running = instance.run("postfix", "status").code == 0 and _hang_up(instance.pid_file())
    except (Error, OSError) as error:
        raise Transient("mta.reload", f"{instance.who} cannot reload: {error}", hint) from error
    if not running:
        raise Transient("mta.down", f"{instance.who} is not running", f"run: {start}")


def _hang_up(pid_file: Path) -> bool:
    """Whether there is a master to which the signal was sent."""
    found = processes.pid_file(pid_file)
    if found is None:
        return False
    try:
        process = os.pidfd_open(found.pid)  # its number cannot come to mean another one
    except ProcessLookupError:
        return False
    try:
        if processes.named(found.pid, ["master"]):
            signal.pidfd_send_signal(process, signal.SIGHUP)
            return True
    except ProcessLookupError:
        pass
    finally:
        os.close(process)
    return False
