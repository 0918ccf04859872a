"""What root may not do here: the unit of the service takes most of its capabilities away, see capabilities(7)."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from certagent.errors import Misconfigured
from certagent.host.processes import status

_NUMBERS = {"CAP_CHOWN": 0, "CAP_FOWNER": 3, "CAP_KILL": 5, "CAP_SETGID": 6, "CAP_SETUID": 7}
"""Source: linux/capability.h."""

OWNERS = ("CAP_CHOWN", "CAP_FOWNER")
"""To give files to another user or group, and to set the mode of such a file."""

PORT = "CAP_NET_BIND_SERVICE"
"""To answer a CA at port 80 or 443."""

DROP_IN = Path("/etc/systemd/system/certagent.service.d/init.conf")


def check(who: str, names: Iterable[str], why: str) -> None:
    """Refuse to begin where root lacks one of these. For another user the kernel judges each file and process.

    Raises:
        Misconfigured: `mta.config`: It does, with the drop-in for the unit.
    """
    lacking = sorted(set(names) - _held())
    if lacking and os.geteuid() == 0:
        what = f"{who}: certagent runs without {' '.join(lacking)}: {why}"
        raise Misconfigured("mta.config", what, f"{drop_in(names=names)} && systemctl restart certagent")


def drop_in(directories: Iterable[str] = (), names: Iterable[str] = ()) -> str:
    """The command that lets the service write there, and gives it these capabilities.

    The "-" before a directory: one that is gone some day must not keep the service from starting.
    """
    lines = ["[Service]"]
    if writable := " ".join(f'"-{path}"' if " " in path else f"-{path}" for path in directories):
        lines.append(f"ReadWritePaths={writable}")
    if capabilities := " ".join(sorted(set(names))):
        lines.append(f"CapabilityBoundingSet={capabilities}")
    return f"install -d {DROP_IN.parent} && printf '%s\\n' {shlex.join(lines)} > {DROP_IN} && systemctl daemon-reload"


def _held() -> set[str]:
    """Of those named above."""
    [mask] = (int(word, 16) for word in status("self")["CapEff"])
    return {name for name, number in _NUMBERS.items() if mask >> number & 1}
