"""Who else on this host has to do with the mail servers' certificates: programs that read the same files, renew them,
or write the servers' configuration; and containers, in which a server may be.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from certagent.errors import Error
from certagent.host.files import read_file

_NO_READERS = ("certagent", "ssl", "letsencrypt")
"""What the names of directories in /etc begin with in which no reader of a certificate has its settings."""

_LIMIT_BYTES = 256 << 10
"""Of a file that is searched: a configuration written by people is some kB."""

_LIMIT_FILES = 20_000
"""Of those that are searched: /etc has two thousand; it takes a second."""

CONTAINERS = frozenset(
    {"docker-proxy", "rootlessport", "slirp4netns", "pasta", "pasta.avx2", "conmon", "containerd-sh"}
)
"""What listens on a host in place of a server that is in a container, as the kernel calls it."""


class Renewer(NamedTuple):
    """A program that renews certificates, or manages the whole host."""

    name: str
    places: tuple[str, ...]
    """Where it keeps certificates and what it knows."""
    remedy: str
    """How it is made to leave a file alone."""


_ELSEWHERE = "take this host's mail out of it, or see that it writes these files no more"
_PANEL = "it may write files and settings of the mail servers anew: look whether it can leave them alone"

RENEWERS = (
    Renewer("certbot", ("/etc/letsencrypt",), "certbot certificates, certbot delete --cert-name NAME"),
    Renewer("acme.sh", ("/root/.acme.sh", "/etc/acme.sh", "/usr/local/acme.sh"), "acme.sh --list, acme.sh --remove -d"),
    Renewer("lego", ("/root/.lego", "/etc/lego", "/var/lib/lego"), _ELSEWHERE),
    Renewer("dehydrated", ("/etc/dehydrated", "/var/lib/dehydrated"), "its domains.txt and its hook"),
    Renewer("getssl", ("/root/.getssl", "/etc/getssl"), _ELSEWHERE),
    Renewer("uacme", ("/etc/uacme", "/etc/ssl/uacme"), _ELSEWHERE),
    Renewer("the ACME client that keeps /var/lib/acme", ("/var/lib/acme",), _ELSEWHERE),
    Renewer("Caddy", ("/var/lib/caddy", "/etc/caddy"), _ELSEWHERE),
    Renewer("Mail-in-a-Box", ("/home/user-data", "/root/mailinabox"), _PANEL),
    Renewer("YunoHost", ("/etc/yunohost",), _PANEL),
    Renewer("ISPConfig", ("/usr/local/ispconfig",), _PANEL),
    Renewer("Plesk", ("/opt/psa", "/usr/local/psa"), _PANEL),
    Renewer("cPanel", ("/var/cpanel", "/usr/local/cpanel"), _PANEL),
    Renewer("DirectAdmin", ("/usr/local/directadmin",), _PANEL),
    Renewer("HestiaCP", ("/usr/local/hestia",), _PANEL),
    Renewer("VestaCP", ("/usr/local/vesta",), _PANEL),
    Renewer("CyberPanel", ("/usr/local/CyberCP",), _PANEL),
    Renewer("Webmin", ("/etc/webmin",), _PANEL),
    Renewer("Ajenti", ("/etc/ajenti",), _PANEL),
    Renewer("Froxlor", ("/etc/froxlor", "/var/www/froxlor", "/var/www/html/froxlor"), _PANEL),
    Renewer("KeyHelp", ("/etc/keyhelp", "/etc/ssl/keyhelp"), _PANEL),
    Renewer("aaPanel", ("/www/server/panel",), _PANEL),
    Renewer("Modoboa", ("/srv/modoboa",), _PANEL),
    Renewer("Proxmox Mail Gateway", ("/etc/pmg",), _PANEL),
    Renewer("Zimbra", ("/opt/zimbra",), _PANEL),
)


def renewers(files: Iterable[str], mentions: Iterable[str]) -> list[Renewer]:
    """Those that keep one of these files, or a file that names one; and the panels that are installed."""
    known = {place for file in (*files, *mentions) for place in (file, os.path.realpath(file))}
    return [
        one
        for one in RENEWERS
        if any(known_path.startswith(f"{place}/") for known_path in known for place in one.places)
        or (one.remedy == _PANEL and any(map(os.path.isdir, one.places)))
    ]


def mentions(files: Iterable[str], but: Iterable[str]) -> dict[str, str]:
    """By file, another program's configuration that names it: any text in /etc, or of a program that renews.

    `but`: directories in /etc of the mail servers, which were asked themselves.
    """
    own = (*_NO_READERS, *(Path(directory).parts[2] for directory in but if directory.startswith("/etc/")))
    wanted = {
        file: re.compile(re.escape(os.fsencode(file)) + rb"(?![\w./-])") for file in files if file.startswith("/")
    }
    found: dict[str, str] = {}
    for number, path in enumerate(_texts(own)):
        left = wanted.keys() - found.keys()
        if not left or number >= _LIMIT_FILES:
            break
        text = _read(path)
        found |= {file: str(path) for file in left if wanted[file].search(text)}
    return found


def _texts(but: tuple[str, ...]) -> Iterator[Path]:
    for place in ("/etc", *(place for one in RENEWERS for place in one.places if not place.startswith("/etc/"))):
        for directory, below, names in os.walk(place):
            own = [name for name in (*below, *names) if directory == "/etc" and name.startswith(but)]
            below[:] = sorted(set(below) - set(own))
            yield from (Path(directory, name) for name in sorted(set(names) - set(own)))


def _read(path: Path) -> bytes:
    try:
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and 0 < status.st_size <= _LIMIT_BYTES:
            return read_file(path, _LIMIT_BYTES) or b""
    except (OSError, Error):
        pass
    return b""
