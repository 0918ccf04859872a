"""A restart that cuts as few sessions as can be: OpenSMTPD takes no new clients until those it has are served.

`smtpctl pause smtp` leaves the ports open. The kernel takes as many clients as the daemon's backlog has room for (5 per
port), and the restart resets them. It drops the first packet of all others, which comes again after 1, 3 and 7 s. The
daemon forgets the pause when it ends. Local submission (`sendmail`) is refused during the pause (seen with 7.4.0p1), so
it is kept short.

A separate process pauses the daemon, and resumes it as soon as certagent closes a pipe or is killed. If both are
killed, certagent makes the restart that is due when it runs again, and that ends the pause.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager

from certagent.errors import Error
from certagent.host.programs import beside, program

_HOLDER = """
trap '' HUP INT TERM PIPE
exec 2>/dev/null
"$0" pause smtp >&2
"$0" show relays >&2
while read -r _; do echo "$("$0" show stats | sed -n 's/^smtp\\.session=//p')"; done
"$0" resume smtp >&2
"""
"""Pauses the daemon, prints the number of sessions for each line of its input, and resumes it at the end of its input.
Nothing else ends it, not even that nobody reads what it prints.

The daemon's control process answers before the process that accepts clients has got the pause. That process takes its
messages in order, and `show relays` is the next: after its answer the number of sessions only falls.
"""

PRIVILEGES = ("CAP_SETGID",)
"""To be of the group as which smtpctl runs: a service with NoNewPrivileges= does not become it by running it."""

_RESUME_S = 5.0
"""A daemon that works needs milliseconds; one that hangs must not delay certagent."""

_POLL_S = 0.02
"""Between two questions: a session that ended ends the pause at once."""


@contextmanager
def paused(limit_s: float) -> Generator[None]:
    """Inside it no session is in progress, or `limit_s` have passed. It does not wait if the pause fails."""
    with ExitStack() as stack:
        if limit_s > 0:
            deadline = time.monotonic() + limit_s
            try:
                smtpctl = program("smtpctl")
                # It is setgid, which has no effect for a service with NoNewPrivileges, and insists on that group.
                group = os.stat(smtpctl).st_gid
                sessions = stack.enter_context(beside(["/bin/sh", "-c", _HOLDER, smtpctl], _RESUME_S, group=group))
            except (Error, OSError):
                pass
            else:
                # an empty answer: it was killed, and nothing is paused for longer than until the restart
                while sessions(max(0.0, deadline - time.monotonic())) not in {b"", b"0"}:
                    time.sleep(_POLL_S)
        yield
