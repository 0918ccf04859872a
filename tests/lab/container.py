"""What a container does with the files that it is given: it has them, and nothing else of where they are."""

from __future__ import annotations

import shlex
from pathlib import Path


def alone(*paths: Path) -> list[str]:
    """In front of a command: it has these files or directories as mounts of their own, and their directories are
    other ones than the host's.
    """
    directories = {shlex.quote(str(path.parent)) for path in paths}
    script = ["outside=$(mktemp -d)", "mount --rbind / $outside"]
    script += [f"mount -t tmpfs -o mode=755 lab {directory}" for directory in directories]
    for path in paths:
        quoted, make = shlex.quote(str(path)), "mkdir" if path.is_dir() else "touch"
        script.append(f"{make} {quoted} && mount --bind $outside{quoted} {quoted}")
    script += ["umount --recursive --lazy $outside", "rmdir $outside", 'exec "$@"']
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", "\n".join(script), "sh"]
