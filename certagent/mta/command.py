"""Any other service: its files in a declared layout, its check and reload by declared commands.

Commands are lists of arguments, the program with its absolute path; no shell reads them. They run as certagent's user
within the bounds of `host/programs.py`, and only if nobody besides root and that user may change them. They get neither
key nor password: those are in the files only.

An exit status is believed only if it says no. That the service serves the new certificate is shown by a handshake
(`mta/probe.py`), as for every server.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Mapping
from typing import Annotated

from msgspec import Meta

from certagent.errors import Error, Misconfigured, Transient
from certagent.facts.duration import Duration, limit_s
from certagent.host.programs import Result, check, run
from certagent.mta.access import Access
from certagent.mta.claims import Claim, Identity
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.server import Advice, Capabilities, Found
from certagent.pki.credential import Credential
from certagent.secret import Secret

LONGEST = "10m"
Argv = Annotated[tuple[str, ...], Meta(min_length=1)]


class Options(Access, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A service that has programs to check and reload it."""

    files: dict[str, str | Files]
    """By key type, `ecdsa` and `rsa` (or in full, `ecdsa-p256`): a combined file, or a section with several."""
    check: Argv | None = None
    """Exits 0 if the service's own configuration is sound; a full path with its arguments, run without a shell."""
    reload: Argv
    """Makes the service read its files again and exits 0; for one that cannot, what restarts it."""
    restart: Argv | None = None
    """Run if `reload` fails and `check` does not: a restart with a broken configuration would end a service that still
    serves."""
    timeout: Duration = "30s"
    """The limit for each program. Daemons reload in moments and restart in a few seconds; appliances take longer. Ten
    minutes at most: the certificate's next step waits for it."""

    def __post_init__(self) -> None:
        limit_s(self.timeout, LONGEST)


class Command:
    """A `certagent.mta.server.Server`."""

    Options = Options
    directory = ""
    programs = ()

    def __init__(self, name: str, options: Options) -> None:
        """The commands and files of one server, as configured.

        Raises:
            Misconfigured: `mta.config`: For a command without an absolute path.
            Error: What `Layout` raises.
        """
        self._who = f"service {name}"
        self._options = options
        self._layout = Layout(self._who, options.files, options)
        for setting, argv in self._commands():
            if not os.path.isabs(argv[0]):
                raise self._wrong(f"{setting}: {argv[0]} is no absolute path", "write the program with its full path")

    @staticmethod
    def discover(shared: Collection[Identity] = ()) -> list[Found]:  # noqa: ARG004 -- part of the protocol
        """Nothing: what kind of service it is, only the operator knows."""
        return []

    @property
    def capabilities(self) -> Capabilities:
        """See `Server`."""
        return Capabilities(both_key_types=None, sni=None, keeps_ports=None, one_step=not self._layout.split)

    @property
    def reload_command(self) -> str:
        """See `Server`."""
        return shlex.join(self._options.reload)

    @property
    def connection_limits(self) -> str:
        """See `Server`."""
        return ""

    def claims(self) -> tuple[Claim, ...]:
        """See `Server`."""
        return self._layout.claims()

    def check(self, key_types: frozenset[str]) -> None:
        """See `Server`; only a handshake shows whether the service reads the files installed here.

        While one of the files is not there yet, `check` is not run: a configuration that names it cannot be sound.

        Raises:
            Misconfigured: `mta.config`: A key type has no file; a program is missing, or others may write to it or
                exchange it; `check` exits with another status than 0 (the error has its last line).
            Misconfigured: `mta.files`: What `Layout.check` raises.
            Transient: `mta.reload`: `check` does not end in time.
        """
        files = self._layout.paths(key_types)
        self._layout.check()
        for setting, argv in self._commands():
            try:
                check(argv[0])
            except Misconfigured as error:
                raise self._wrong(f"{setting}: {error.detail}", error.hint) from error
        if self._options.check and all(map(os.path.exists, files)):
            result = self._run("check", self._options.check)
            if result.code != 0:
                raise self._wrong(f"its check fails: {_last_line(result)}", _by_hand(self._options.check))

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """See `Server`: files that are not there yet, and those that no single rename replaces."""
        new = [str(path) for path in self._layout.paths(key_types) if not os.path.lexists(path)]
        notes = [
            Advice(f"{path} is not there yet: the first run writes it", f"let the service read {path}") for path in new
        ]
        if self._layout.split:
            what = "key and certificate are in two files: for a moment between two renames they do not fit"
            notes.append(Advice(what, "if the service can read one file, use combined"))
        return tuple(notes)

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Layout.install`."""
        self._layout.install(credentials)

    def installed(self) -> Mapping[str, bytes]:
        """See `Layout.installed`."""
        return self._layout.installed()

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """See `Server`."""
        return self._layout.saved()

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server`."""
        self._layout.restore(saved)

    def reload(self) -> None:
        """See `Server`; where `reload` fails and `check` does not, `restart` is run.

        Raises:
            Transient: `mta.reload`: The command exits with another status than 0, or does not end in time.
            Misconfigured: `mta.config`: A program cannot be run, or others may write to it or exchange it.
        """
        try:
            self._succeed("reload", self._options.reload)
        except Transient:
            if not self._options.restart or not self._sound():
                raise
            self._succeed("restart", self._options.restart)

    def _succeed(self, setting: str, argv: Argv) -> None:
        result = self._run(setting, argv)
        if result.code != 0:
            what = f"{self._who}: {setting} fails: {_last_line(result)}"
            raise Transient("mta.reload", what, _by_hand(argv))

    def _sound(self) -> bool:
        try:
            return self._options.check is None or self._run("check", self._options.check).code == 0
        except Error:
            return False

    def _run(self, setting: str, argv: Argv) -> Result:
        try:
            return run(argv, limit_s(self._options.timeout, LONGEST))
        except Misconfigured as error:
            raise self._wrong(f"{setting}: {error.detail}", error.hint) from error
        except Transient as error:  # in the words of `Server`
            raise Transient("mta.reload", f"{self._who}: {error.detail}", error.hint) from error

    def _commands(self) -> list[tuple[str, Argv]]:
        options = self._options
        commands = {"check": options.check, "reload": options.reload, "restart": options.restart}
        return [(setting, argv) for setting, argv in commands.items() if argv]

    def _wrong(self, what: str, hint: str) -> Misconfigured:
        return Misconfigured("mta.config", f"{self._who}: {what}", hint)


def _by_hand(argv: Argv) -> str:
    return f"run: {shlex.join(argv)}"


def _last_line(result: Result) -> str:
    """What it said at the end, without control characters, or how it ended."""
    lines = (result.err.strip() or result.out.strip()).splitlines()
    if not lines:
        return f"exit status {result.code}"
    return "".join(c if c.isprintable() else " " for c in lines[-1])[:200]
