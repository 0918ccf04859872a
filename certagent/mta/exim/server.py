"""Exim 4.96 and later: combined files, or a list of certificates with a list of keys, that Exim's own user can read.

Seen with 4.96 of Debian, which is built with GnuTLS, and with a build of its source with OpenSSL 3.0.

- Without `$` in its settings the daemon reads the files when it starts, as Exim's user, and watches their directories:
  a new file is served 5 s after the last change there, or at once after SIGHUP. With `$` each connection reads them;
  with OpenSSL also if tls_verify_certificates is empty or has a `$`.
- A connection that reads them reads certificate and key one after the other (0.2 ms apart with GnuTLS, 2 ms with
  OpenSSL), also of a combined file: with a rename in between it fails. The daemon, which reads 5 s later, does not.
  Without tls_privatekey one expansion of tls_certificate serves for both: what a connection reads the names from, it
  reads once (listed.py).
- One listed file that is missing, unreadable for Exim's user, or with another's key: STARTTLS is offered and then
  answered with 454, whatever else is listed. It heals by itself when the file is there.
- A list of keys that is shorter, or in another order than the certificates: 454 with GnuTLS. OpenSSL finds for each key
  its certificate, and only the one that has none fails, by an alert. `check` asks for one order with both.
- Certificate and key in two files: should only one be new when the 5 s are over, TLS ends until both are. With GnuTLS
  the first connections after that may still meet a mixture; SIGHUP ends it.
- No tls_certificate: a self-signed one is served. Two certificates of one kind: with GnuTLS the first is; with OpenSSL
  STARTTLS is answered with 454.
- SIGHUP: the daemon closes its sockets, executes itself, reads its configuration and listens again, with the same pid.
  For about 20 ms new connections are refused, which does not happen when it is left to its watch. If its configuration
  is broken it ends, without a word in its log; so that is checked before. `exim -bV` does not look at ports: with an
  unknown one the daemon ends, with an address that the host does not have it is deaf for minutes.
- An expression that fails or gives nothing for a name, or a broken file (with `fail` and GnuTLS the process of the
  connection even crashes): handshakes for that name fail. What it gives for no name is read first, for every name: if
  that is broken, STARTTLS is answered with 454 whatever the client asks for.

Source: the Exim specification, chapters 14 (tls_certificate, tls_privatekey) and 43.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shlex
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from certagent.errors import Misconfigured, Transient
from certagent.host import attributes, privileges
from certagent.host.files import file_status
from certagent.host.privileges import OWNERS
from certagent.mta import pemfile
from certagent.mta.access import Access
from certagent.mta.claims import Claim, Identity
from certagent.mta.exim import discovery, eximconf
from certagent.mta.exim.eximconf import Instance, View
from certagent.mta.exim.eximdaemon import Daemon, started_per_connection
from certagent.mta.exim.listed import Listed, reading
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.reference import Pair, Words, compare, pair_of, shown, to_come
from certagent.mta.server import Advice, Capabilities, Found, Stop
from certagent.pki import names
from certagent.pki.credential import Credential
from certagent.secret import Secret

_OLDEST = (4, 96)
"""The oldest that was tried; from 4.95 on it watches the files."""

_WATCH_S = 6.0
"""Exim loads its files 5 s after the last change in their directories; one more to do it."""

_WORDS = Words("lead to", "leads to", ": no TLS at all", "a second certificate of the same algorithm")


class Options(Access, frozen=True, forbid_unknown_fields=True):
    """One Exim. Its files belong to the user as which it reads them, unless `owner` says otherwise."""

    files: dict[str, str | Files]
    """By key type, `ecdsa` and `rsa`: a combined file, or `fullchain` and `key`."""
    config: str | None = None
    """As in `exim -C`; without it the default one."""
    program: str | None = None
    """Its absolute path; without it exim4 or exim is found."""
    pid_file: str | None = None
    """For a daemon that was started with -oP; without it as its settings say."""
    sni: tuple[str, ...] = ("",)
    """If tls_certificate depends on $tls_in_sni: the names for which it gives these files; `""` for no name."""
    list: str | None = None
    """The file with the names of those in use, which `tls_certificate` reads."""
    hangup: bool = True
    """`false`: no SIGHUP, so that no connection is refused. Exim sees new files without it, 5 s later."""


class Exim:
    """A `certagent.mta.server.Server`."""

    Options = Options
    directory = "/etc/exim4/tls"
    programs = ("exim4", "exim")
    privileges = ("CAP_SETUID", "CAP_SETGID", "CAP_KILL", *OWNERS)

    def __init__(self, name: str, options: Options) -> None:
        """One Exim, as configured.

        Raises:
            Error: See `Layout`; `mta.config` also for files that Exim cannot read: certificate and issuers apart.
        """
        self._options = options
        self._exim = Instance(name, options.config, options.program)
        self._who = f"exim {name}"
        self._layout = self._made(options.owner)
        self._listed = self._layout if isinstance(self._layout, Listed) else None
        for kind, one in options.files.items():
            if isinstance(one, Files) and not one.combined and not one.fullchain:
                hint = f"files.{kind}: a path, or fullchain and key"
                raise self._exim.wrong("Exim reads the issuers in the certificate's file", hint)
        for asked in options.sni:
            if asked:
                names.hostname(asked)

    @property
    def capabilities(self) -> Capabilities:
        """See `Server`."""
        return Capabilities(
            both_key_types=True, sni=True, keeps_ports=not self._options.hangup, one_step=not self._layout.split
        )

    @property
    def reload_command(self) -> str:
        """See `Server`."""
        pid_file = self._options.pid_file
        if self._options.config and not pid_file:
            pid_file = self._exim.pid_file(self._exim.settings())
        if pid_file:
            return f"kill -HUP $(cat {shlex.quote(pid_file)})"
        return f"systemctl reload {os.path.basename(self._exim.command())}"

    @property
    def connection_limits(self) -> str:
        """See `Server`."""
        return "raise smtp_accept_max_per_host or smtp_accept_max, or except its address from the ACL that says so"

    def claims(self) -> tuple[Claim, ...]:
        """See `Server`."""
        return self._layout.claims()

    def check(self, key_types: frozenset[str]) -> None:
        """See `Server`; also when Exim is not running.

        A file that was never installed must not be listed yet: one missing file ends TLS with every key.

        Raises:
            Misconfigured: `mta.config`: Too old; `exim -bV` fails; no port offers TLS; tls_certificate and
                tls_privatekey do not lead to an installed file, or to one that would never be renewed or breaks the
                others.
            Misconfigured: `mta.files`: See `Layout.check`; also a directory that is closed to Exim's user.
        """
        privileges.check(self._who, self.privileges, "its programs, daemon and files are its own user's")
        self._check_version(self._exim.build())
        settings = self._exim.settings()
        self._check_readable(settings)
        self._owned(settings).check()
        if not settings["tls_advertise_hosts"] and not settings["tls_on_connect_ports"]:
            macro = "MAIN_TLS_ADVERTISE_HOSTS" if eximconf.is_generated(settings) else "tls_advertise_hosts"
            hint = str(self._exim.write(settings, {macro: "*"}))
            raise self._exim.wrong("tls_advertise_hosts is empty: nobody is offered STARTTLS", hint)
        self._check_files(key_types, settings, stale=True)

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """See `Server`: files that are not there yet, and not listed; what the settings alone do not show."""
        settings = self._exim.settings()
        needed = self._needed(key_types)
        found: list[Advice] = []
        unknown = eximconf.variables(settings)
        listed = self._listed
        if listed and not listed.exists():
            if not listed.named_in(settings["tls_certificate"]):
                what = (
                    f"tls_certificate does not read {self._options.list} yet: the first run writes it and stops there"
                )
                found.append(Stop(what, self._set_later(settings, [])))
            return tuple(found)
        for view in [] if unknown else self._exim.views(settings, self._options.sni):
            new, keep = to_come(view.pairs, needed)
            if new:
                what = f"{view.where} does not lead to {shown(new)} yet: the first run installs it and stops there"
                found.append(Stop(what, self._set_later(settings, keep)))
        if unknown:
            what = (
                f"tls_certificate depends on ${', $'.join(unknown)}: only a handshake can tell which files it leads to"
            )
            found.append(Advice(what, "run: certagent check; list every port and SNI name under its services"))
        if "$" in settings["tls_certificate"] and not unknown and not listed:
            what = "each connection reads certificate and key one after the other, and fails if a swap is in between"
            path = f"{os.path.dirname(next(iter(needed.values())).cert)}/{self._exim.name}.list"
            found.append(
                Advice(what, f"set `list: {path}` in its config; then name it in place of the files: {reading(path)}")
            )
        if self._layout.split:
            what = "certificate and key are two files, which no rename replaces together: a crash between ends TLS"
            found.append(
                Advice(what, "give it one file: `ecdsa: /etc/exim4/tls/ecdsa.pem` in its files, and no tls_privatekey")
            )
        return tuple(found)

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Server`; each file belongs to the user as which Exim reads it.

        Raises:
            Misconfigured: `mta.config`: Also if the files are in their places, but Exim's settings do not name them,
                see `check`; or its configuration cannot be read and nothing was changed.
        """
        settings = self._exim.settings()
        self._check_readable(settings)
        self._owned(settings).install(credentials)
        self._check_files(credentials, settings)

    def installed(self) -> Mapping[str, bytes]:
        """See `Server`."""
        return self._layout.installed()

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """See `Server`."""
        return self._layout.saved()

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server`; also with a configuration that is broken, then for the user that Exim was built with."""
        try:
            settings = self._exim.settings()
        except Misconfigured:
            settings = Instance(self._exim.name, "/dev/null", self._options.program).settings()
        self._owned(settings).restore(saved)

    def reload(self) -> None:
        """See `Server`; on return the daemon listens again, if that can be seen, or its watch had the time it takes.

        No signal is sent with a configuration that Exim would not read: the daemon would end of it. Nor to a process
        that is not this Exim's daemon, whatever the pid file says. Nor where inetd or systemd listens in its place and
        starts a process for each connection, which reads the new files.
        """
        try:
            self._exim.build()
            settings = self._exim.settings()
            pid_file = self._options.pid_file or self._exim.pid_file(settings)
        except Misconfigured as error:
            what = f"{error.detail} (no SIGHUP was sent: the daemon would end of it)"
            raise Transient("mta.reload", what, error.hint) from error
        paths = ("exim", "exim4", settings["exim_path"], os.path.realpath(self._options.program or "exim"))
        daemon = Daemon(
            self._who,
            pid_file,
            programs=frozenset(os.path.basename(path) for path in paths),
            configs=frozenset({settings["config_file"], self._options.config or settings["config_file"]}),
            start=self._start(),
        )
        ports = eximconf.ports(settings["daemon_smtp_ports"]) or [25]
        if started_per_connection([*ports, *eximconf.ports(settings["tls_on_connect_ports"])]):
            return
        if self._options.hangup:
            daemon.hang_up(ports)
        else:
            daemon.verify()
            if "$" not in settings["tls_certificate"] + settings["tls_privatekey"]:
                self._await_watch()

    @staticmethod
    def discover(shared: Collection[Identity] = ()) -> list[Found]:
        """See `Found`; the default instance, whose daemon need not run."""
        return discovery.discover(shared)

    # -- what check looks at -------------------------------------------------------------------------------------------

    def _check_version(self, build: str) -> None:
        numbers = re.search(r"Exim version ([0-9]{1,4})\.([0-9]{1,4})", build)
        if not numbers or (int(numbers[1]), int(numbers[2])) < _OLDEST:
            version = numbers[0] if numbers else "unknown"
            raise self._exim.wrong(f"too old: {version}, 4.96 is the oldest that was tried", "upgrade it")

    def _check_readable(self, settings: Mapping[str, str]) -> None:
        """Exim's user can read what is written, and get there."""
        user = settings["exim_user"]
        owner, mode = self._options.owner or user, int(self._options.mode, 8)
        by_group = mode & 0o040 and (self._options.group or owner) == settings["exim_group"]
        if owner != user and not by_group:
            hint = f'remove owner, group and mode from its config; or group: {settings["exim_group"]}, mode: "0640"'
            raise self._exim.wrong(
                f"files of {owner} with mode {self._options.mode} are closed to its user {user}", hint
            )
        for closed in _closed(self._layout.paths(), user, settings["exim_group"]):
            hint = f"run: chmod o+x {shlex.quote(str(closed))}  # or have the files elsewhere, as in /etc/exim4/tls"
            raise Misconfigured("mta.files", f"{self._who}: {closed} is closed to its user {user}", hint)

    def _check_files(self, key_types: Iterable[str], settings: Mapping[str, str], *, stale: bool = False) -> None:
        needed = self._needed(key_types)
        listed = self._listed
        if listed and not listed.exists():
            return  # an expression that reads it fails, and heals when it is there
        if unknown := eximconf.variables(settings):
            text = settings["tls_certificate"] + settings["tls_privatekey"]
            if listed and listed.named_in(text):
                return
            if absent := [pair for pair in needed.values() if pair.exists and not all(file in text for file in pair)]:
                what = f"tls_certificate does not name {shown(absent)}, which is installed"
                hint = f"name it in the expression with ${unknown[0]} in {eximconf.source(settings)}"
                raise self._exim.wrong(what, hint)
            return
        for view in self._exim.views(settings, self._options.sni):
            self._check_view(view, needed, settings, stale=stale)

    def _check_view(self, view: View, needed: dict[str, Pair], settings: Mapping[str, str], *, stale: bool) -> None:
        compared = compare(view.pairs, needed, self._needed(self._options.files).values(), stale=stale)
        found = compared.problems(_WORDS)
        if view.keys and view.keys != view.certificates:
            found.append(f"names {view.certificates} files and tls_privatekey {view.keys}: each file needs its key")
        if found and not view.certificates:
            found.append("is empty: Exim serves a certificate signed by itself, or none")
        if found:
            raise self._exim.wrong(
                f"{view.where} {'; it '.join(found)}", self._set(settings, list(compared.keep or needed.values()))
            )

    def _set(self, settings: Mapping[str, str], pairs: list[Pair]) -> str:
        """What the operator has to write."""
        if self._listed:
            ours, expression = self._needed(self._options.files).values(), self._listed.expression
            pairs = [*(pair for pair in pairs if pair not in ours), Pair(expression, expression)]
        if "$" not in settings["tls_certificate"] + settings["tls_privatekey"]:
            return str(self._exim.remedy(settings, pairs))
        wanted = self._exim.remedy(settings, pairs)
        values = ", ".join(f"`{value}`" for name, value in wanted.settings.items() if value and "ENABLE" not in name)
        return f"change the expression in {wanted.file} so that it gives {values} there; then run: {wanted.command}"

    def _set_later(self, settings: Mapping[str, str], pairs: list[Pair]) -> str:
        """A file that is named before it is there ends TLS."""
        return f"once it is there: {self._set(settings, pairs)}"

    def _needed(self, key_types: Iterable[str]) -> dict[str, Pair]:
        """By key type, in an order that does not change."""
        return {key_type: pair_of(self._layout.of(key_type)) for key_type in sorted(key_types)}

    def _access(self, owner: str | None) -> Access:
        options = self._options
        return Access(owner=owner, group=options.group, mode=options.mode, follow_links=options.follow_links)

    def _owned(self, settings: Mapping[str, str]) -> Layout | Listed:
        """The layout, with the owner that Exim's configuration says."""
        return self._made(self._options.owner or settings["exim_user"])

    def _made(self, owner: str | None) -> Layout | Listed:
        files, access = self._options.files, self._access(owner)
        path = self._options.list
        return Layout(self._who, files, access) if path is None else Listed(self._who, files, access, path)

    def _await_watch(self) -> None:
        """Until _WATCH_S after the last file was placed: the rename is the last change of its inode."""
        placed = [os.stat(path).st_ctime for path in self._layout.paths() if path.exists()]
        time.sleep(min(max(0.0, max(placed, default=0.0) + _WATCH_S - time.time()), _WATCH_S))

    def _start(self) -> str:
        service = os.path.basename(self._exim.command())
        return f"run: {self._exim.command('-bd')}" if self._options.config else f"run: systemctl start {service}"


def _closed(files: Iterable[Path], user: str, group: str) -> list[Path]:
    """The directories above these files that the user may not enter; where an ACL says more, it is not judged."""
    try:
        uid, gid = pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid
    except KeyError:
        return []  # the layout reports it
    found: list[Path] = []
    for directory in {above for file in files for above in Path(os.path.realpath(file.parent), "x").parents}:
        with pemfile.in_its_words():
            status = file_status(directory)
            if status is None or attributes.has_acl(directory):
                continue
        bit = 0o100 if status.st_uid == uid else 0o010 if status.st_gid == gid else 0o001
        if not status.st_mode & bit:
            found.append(directory)
    return sorted(found)
