"""Dovecot 2.3 and 2.4: one combined file for each key type, named as certificate and as key, or two files.

Dovecot reads the files when it starts and when it is reloaded, as root, and serves what it read then: nothing new is
served before the reload, so two files may disagree for a moment (unless Dovecot is restarted in it). Seen with 2.3.19
and 2.4.1:

- A file is missing: it does not start; a reload says yes and changes nothing, and only its log says so.
- A file is empty, or the key is another one's: it starts, a reload says yes, and then every handshake fails.
- After a reload the old file is served for a few hundredths of a second more. Clients that are connected stay so.
- A reload sends its signal to whatever process has the number in master.pid, be it Dovecot or not.

So the files are rehearsed before they are placed, and before a reload Dovecot is asked whether it would take its
configuration, and whether it is there. Settings are read, never written.

Source: doveadm(1), doc.dovecot.org (SSL configuration).
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from certagent.errors import Transient
from certagent.mta.access import Access
from certagent.mta.claims import Claim, Identity, for_all
from certagent.mta.dovecot import discovery
from certagent.mta.dovecot.doveconf import NO_FILE, SLOTS, Block, Doveconf, Settings, conflicts, lines, place
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.reference import Pair, Words, compare, pair_of, shown, to_come
from certagent.mta.server import Advice, Capabilities, Found, Stop
from certagent.pki.credential import Credential
from certagent.secret import Secret

_DOWN = 75
"""EX_TEMPFAIL: what doveadm ends with where Dovecot does not run."""

_WORDS = Words(
    "name",
    "names",
    ": Dovecot does not start, and a reload changes nothing",
    "another certificate of the same algorithm: which is served depends on the order",
)


class Options(Access, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One Dovecot. It reads its files as root."""

    files: dict[str, str | Files]
    """By key type, `ecdsa` and `rsa` (or in full, `ecdsa-p256`): a combined file, or `fullchain` and `key`."""
    config: str | None = None
    """As in `dovecot -c`; without it the one it is built for."""
    top_level: bool = True
    """The files are served to clients that ask for any other name, or none; `false`: only under `local_name`."""
    local_name: tuple[str, ...] = ()
    """Names of SNI under which the files are served too, each in a block `local_name NAME { … }`."""
    other_blocks: tuple[str, ...] = ()
    """Blocks that are meant to use other certificates, such as `protocol pop3` or `local 192.0.2.1 / protocol imap`.
    Those of a `local_name` that is not listed above are always left alone."""


class Dovecot:
    """A `certagent.mta.server.Server`."""

    Options = Options
    directory = "/etc/dovecot/tls"
    programs = ("dovecot", "imap-login", "pop3-login", "anvil", "log", "config", "stats")

    def __init__(self, name: str, options: Options) -> None:
        """One Dovecot, as configured.

        Raises:
            Misconfigured: `mta.config`: For files that Dovecot cannot use.
            Misconfigured: `pem.key_type`: For an unknown key type.
        """
        self._who = f"dovecot {name}"
        self._options = options
        self._conf = Doveconf(self._who, options.config)
        self._layout = Layout(self._who, options.files, options)
        if not options.top_level and not options.local_name:
            raise self._conf.wrong("served to nobody: no top_level, no local_name", "give one of the two")
        self._pairs = {kind: self._pair(kind, files) for kind, files in options.files.items()}

    @staticmethod
    def discover(shared: Collection[Identity] = ()) -> list[Found]:
        """See `Found`.

        Raises:
            Misconfigured: `mta.config`: There is a configuration that Dovecot refuses.
        """
        return discovery.discover(shared)

    @property
    def capabilities(self) -> Capabilities:
        """See `Server`."""
        return Capabilities(both_key_types=True, sni=True, keeps_ports=True, one_step=not self._layout.split)

    @property
    def reload_command(self) -> str:
        """See `Server`."""
        return f"{self._conf.command('doveadm')} reload"

    @property
    def connection_limits(self) -> str:
        """See `Server`."""
        return "raise process_limit and client_limit of its login services (doveconf service)"

    def claims(self) -> tuple[Claim, ...]:
        """See `Server`."""
        config = self._options.config or "/etc/dovecot/dovecot.conf"
        return (*self._layout.claims(), *for_all(config, self._layout.kinds if self._options.top_level else ()))

    def check(self, key_types: frozenset[str]) -> None:
        """See `Server`; also when Dovecot is not running.

        A file that was never installed need not be named yet: Dovecot does not start if a named file is missing.
        `advice` says when to name it. One that is named already may be missing: the first run puts it there.

        Raises:
            Misconfigured: `mta.config`: Too old; doveconf refuses the configuration, or Dovecot would at the next start
                or reload; `ssl` is off; the top level or a block that is ours does not name an installed file, or names
                one that is missing, would never be renewed, or hides another; with 2.3, two blocks contradict each
                other.
            Misconfigured: `mta.files`: See `Layout.check`.
        """
        self._layout.check()
        settings = self._conf.read()
        if settings.ssl == "no":
            hint = self._append(settings, ["ssl = required"])
            raise self._conf.wrong("ssl = no: it offers TLS at no port", hint)
        needed = self._needed(key_types)
        self._check_named(settings, needed, stale=True)
        self._check_missing(settings, needed)
        self._check_conflicts(settings)
        awaited = [path for pair in needed.values() for path in pair if not os.path.exists(path)]
        if not awaited and (why := self._conf.refused()):
            hint = f"run: {self._conf.command('doveconf')} -x ssl"
            raise self._conf.wrong(f"it would not start or reload: {why}", hint)

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """See `Server`: files that are not there yet, and those that are served but not renewed here."""
        settings, needed = self._conf.read(), self._needed(key_types)
        found: list[Advice] = []
        ours = self._ours(settings)
        for block in ours:
            new, keep = to_come(block.pairs, needed)
            if new:
                what = f"{block.name} does not name {shown(new)} yet: the first run installs it and stops there"
                found.append(Stop(what, self._set(settings, block, keep)))
            if named := [pair for pair in needed.values() if pair in block.pairs and not pair.exists]:
                what = f"{block.name} names {shown(named)}, which the first run installs; until then Dovecot does not "
                hint = "let it run until then, or start it after"
                found.append(Advice(f"{what}start, and a reload changes nothing", hint))
        for block in settings.blocks:
            pairs = block.pairs if block in ours else tuple(pair for pair in block.pairs if block.own)
            if others := [pair for pair in pairs if pair not in self._pairs.values()]:
                what = f"{block.name} names {shown(others)}, which is not renewed here"
                found.append(Advice(what, "see that something else renews it; it is left alone"))
        return tuple(found)

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Server` and `Layout.install`.

        Raises:
            Misconfigured: `mta.config`: Also if the files are in their places, but Dovecot's settings do not name them,
                see `check`.
        """
        self._layout.install(credentials)
        self._check_named(self._conf.read(), self._needed(credentials))

    def installed(self) -> Mapping[str, bytes]:
        """See `Server`."""
        return self._layout.installed()

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """See `Server`."""
        return self._layout.saved()

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server`."""
        self._layout.restore(saved)

    def reload(self) -> None:
        """See `Server`. Nothing is sent where Dovecot would refuse its configuration: it would go on with the old one
        and not say so.
        """
        doveadm = self._conf.command("doveadm")
        if why := self._conf.refused():
            hint = f"run: {self._conf.command('doveconf')} -x ssl; it says where; then {doveadm} reload"
            raise Transient("mta.reload", f"{self._who} would not take its configuration: {why}", hint)
        # It connects to Dovecot, while a reload only trusts the number in master.pid.
        if self._conf.run("doveadm", "service", "status", "anvil").code != _DOWN:
            result = self._conf.run("doveadm", "reload")
            if result.code == 0:
                return
            if result.code != _DOWN:
                raise Transient("mta.reload", f"{self._who} cannot reload: {place(result)}", f"run: {doveadm} reload")
        start = self._conf.command("dovecot") if self._options.config else "systemctl start dovecot"
        raise Transient("mta.down", f"{self._who} is not running", f"run: {start}")

    # -- what check looks at -------------------------------------------------------------------------------------------

    def _ours(self, settings: Settings) -> list[Block]:
        """The top level and the blocks that have to name our files."""
        names = frozenset(self._options.local_name)
        blocks = [
            block
            for block in settings.blocks
            if block.name not in self._options.other_blocks
            if (self._options.top_level if not block.server_names else block.server_names & names)
        ]
        found = {name for block in blocks if len(block.where) == 1 for name in block.server_names}
        return blocks + [settings.block((f"local_name {name}",)) for name in sorted(names - found)]

    def _check_named(self, settings: Settings, needed: Mapping[str, Pair], *, stale: bool = False) -> None:
        for block in self._ours(settings):
            compared = compare(block.pairs, needed, self._pairs.values(), stale=stale)
            if found := compared.problems(_WORDS):
                missing = {path for pair in compared.gone for path in pair if not os.path.exists(path)}
                hint = self._set(settings, block, list(compared.keep), missing)
                raise self._conf.wrong(f"{block.name} {'; it '.join(found)}", hint)

    def _check_missing(self, settings: Settings, needed: Mapping[str, Pair]) -> None:
        """One missing file in any block, and Dovecot does not start."""
        awaited = {path for pair in needed.values() for path in pair}
        for block in settings.blocks:
            for slot, path in block.own.items():
                if path.startswith("/") and path not in awaited and not os.path.exists(path):
                    what = f"{block.name}: {settings.setting(slot)} names {path}, which is missing"
                    out = " && ".join(_commented_out(settings, block, {path})) or settings.file
                    hint = f"put it back, or take out what names it: {out}"
                    raise self._conf.wrong(f"{what}: Dovecot does not start", hint)

    def _check_conflicts(self, settings: Settings) -> None:
        if settings.newer:
            return
        ours = self._ours(settings)
        for one, other in conflicts(settings.blocks):
            if one in ours or other in ours:
                what = f"{one.name} and {other.name} both set certificates: clients that both are for get no TLS"
                raise self._conf.wrong(what, f"take the certificates out of one of them, see {settings.file}")

    def _needed(self, key_types: Iterable[str]) -> dict[str, Pair]:
        return {key_type: self._pair(key_type, self._layout.of(key_type)) for key_type in sorted(key_types)}

    def _pair(self, kind: str, files: str | Files) -> Pair:
        """Dovecot names its paths in their shortest form."""
        cert, key = pair_of(Files(combined=files) if isinstance(files, str) else files)
        if not cert or not key:
            raise self._conf.wrong(f"files.{kind}: Dovecot wants key and chain", "use combined, or fullchain and key")
        return Pair(os.path.normpath(cert), os.path.normpath(key))

    # -- what the operator is to do ------------------------------------------------------------------------------------

    def _set(self, settings: Settings, block: Block, pairs: list[Pair], gone: Iterable[str] = ()) -> str:
        """The command that has a block name these files. What stands last in Dovecot's configuration counts; but 2.3
        wants to open `gone` files also if a later line names others.
        """
        # There is room for two: ours go before one of somebody else.
        paths = [path for pair in sorted(pairs, key=lambda pair: pair not in self._pairs.values()) for path in pair]
        paths += [""] * (2 * len(block.pairs) - len(paths))
        new = [settings.line(slot, path) for slot, path in zip(SLOTS, paths, strict=False)]
        for where in reversed(block.where):
            kind, _, value = where.partition(" ")
            quoted = f'"{value}"' if " " in value else value
            new = [f"{kind} {quoted} {{", *(f"  {line}" for line in new), "}"]
        return self._append(settings, new, _commented_out(settings, block, gone))

    def _append(self, settings: Settings, new: list[str], before: Iterable[str] = ()) -> str:
        # The empty line: the last one may lack its end.
        append = f"printf '%s\\n' {shlex.join(['', *new])} >> {shlex.quote(settings.file)}"
        reload = f"{self._conf.command('doveadm')} reload"
        return f"run: {' && '.join([*before, append, reload])}"


def _commented_out(settings: Settings, block: Block, paths: Iterable[str]) -> list[str]:
    """Commands that take out the lines that name these files, or in this block no file; none if none is found."""
    by_file: dict[Path, list[str]] = {}
    for line in lines(settings) if paths else []:
        if line.path and line.path in paths and (line.path != NO_FILE or line.where == block.where):
            by_file.setdefault(line.file, []).append(f"{line.number}s/^/#/")
    return [f"sed -i {shlex.quote(';'.join(edits))} {shlex.quote(str(file))}" for file, edits in by_file.items()]
