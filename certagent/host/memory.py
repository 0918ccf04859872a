"""Keys in memory do not reach the disk or another process.

Source: PR_SET_DUMPABLE(2const), core(5), ptrace(2) "Ptrace access mode checking".
"""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4


def no_core_dumps() -> None:
    """A crash of this process leaves no core file, and only root may look into its memory.

    The limit is inherited by the programs that are started; the mark is not, so they behave as they always do.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # the limit does not hold for a core that is piped to a program, such as systemd-coredump
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
