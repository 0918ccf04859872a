"""Postfix: files for each key type, and tables of names for SNI.

From 3.4 on by smtpd_tls_chain_files: one combined file per kind. It is read once, by root, when a process starts (smtpd
serves 100 connections or 100 idle seconds): a rename is the cut-over for new processes, and the reload ends the old
ones. Older versions, and configurations of their style, name certificate and key apart; two files cannot be replaced
together, and versions before 3.4 open even a combined one twice.

Postfix accepts nearly everything: its own check does not look at TLS, and a reload succeeds with a broken key. Settings
that it would answer with 454 or with silence are therefore looked for here, and the files are rehearsed before they are
placed. Settings are read, never written.

Source: postconf(5) smtpd_tls_chain_files, smtpd_tls_security_level, tls_server_sni_maps; TLS_README.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from certagent.mta.access import Access
from certagent.mta.claims import Claim, Identity, for_all
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.postfix import discovery, master, smtpdtls
from certagent.mta.postfix.postconf import (
    CHAIN_FILES_SINCE,
    LEVELS,
    SNI_MAPS,
    SWITCHES,
    Instance,
    Place,
    Setting,
    Settings,
    last_line,
    named,
    words,
)
from certagent.mta.postfix.smtpdtls import Problem
from certagent.mta.postfix.snimap import TABLES, SniMap
from certagent.mta.reference import Pair, pair_of
from certagent.mta.server import Advice, Capabilities, Found, Stop
from certagent.pki.credential import Credential
from certagent.pki.names import hostname
from certagent.secret import Secret

_LEVELS_OFF = frozenset({"", "none"})
_LEVELS_ON = frozenset({"may", "encrypt", "verify", "secure", "fingerprint"})
"""smtpd takes the last three for `encrypt`, with a warning."""


class Sni(Struct, frozen=True, forbid_unknown_fields=True):
    """Names for which clients get the files of this entry when they ask for them (RFC 6066 section 3)."""

    map: str
    """The source, an absolute path; other entries may share it, and it may hold lines of the operator."""
    names: tuple[str, ...]
    """`mail.example.org`, or `.example.net` for every name below it."""
    type: str = "hash"
    """The type of the table, as in tls_server_sni_maps: hash, btree, lmdb, cdb or texthash."""
    only: bool = False
    """Clients get the files by these names alone, and another certificate by other names."""


class Options(Access, frozen=True, forbid_unknown_fields=True):
    """One Postfix instance. It reads its files as root. Give `chain_files` or `cert_files`, not both."""

    chain_files: dict[str, str] | None = None
    """By key type, `ecdsa` and `rsa` (or in full, `ecdsa-p256`): the absolute path of the file to write, as in
    smtpd_tls_chain_files."""
    config_dir: str | None = None
    """As in `postfix -c`; without it the default instance."""
    other_services: tuple[str, ...] = ()
    """Services of master.cf (`submission/inet`) that are meant to use other certificates."""
    cert_files: dict[str, str | Files] | None = None
    """By key type: `fullchain` and `key`, as in smtpd_tls_cert_file and smtpd_tls_key_file (smtpd_tls_eccert_file
    and smtpd_tls_eckey_file), or the path of one file that both name."""
    sni: Sni | None = None
    """Names of SNI in tls_server_sni_maps."""


class Postfix:
    """A `certagent.mta.server.Server`."""

    Options = Options
    directory = "/etc/postfix/tls"
    programs = ("master", "smtpd", "postscreen")

    def __init__(self, name: str, options: Options) -> None:
        """One Postfix, as configured.

        Raises:
            Misconfigured: `mta.config`: For options that make no sense.
            Misconfigured: `pem.key_type`: For an unknown key type.
        """
        self._options = options
        self._instance = Instance(named(name), options.config_dir)
        if bool(options.chain_files) == bool(options.cert_files):
            hint = "chain_files for Postfix 3.4 and later, cert_files where smtpd_tls_cert_file is in use"
            raise self._instance.wrong("one of chain_files and cert_files must be there", hint)
        for kind, files in (options.cert_files or {}).items():
            if isinstance(files, Files) and not (files.combined or files.fullchain):
                hint = f"write {kind}: {{fullchain: …, key: …}}, or one path for both"
                raise self._instance.wrong(f"cert_files.{kind}: Postfix reads leaf and issuers from one file", hint)
        self._layout = Layout(self._instance.who, options.chain_files or options.cert_files or {}, options)
        self._sni = self._sni_map(options.sni) if options.sni else None

    @staticmethod
    def discover(shared: Collection[Identity] = ()) -> list[Found]:
        """See `Found`: every instance that `postmulti -l` lists, or the one there is."""
        return discovery.discover(shared)

    @property
    def capabilities(self) -> Capabilities:
        """See `Server`."""
        return Capabilities(
            both_key_types=True,
            sni=self._options.chain_files is not None,
            keeps_ports=True,
            one_step=not self._layout.split,
        )

    @property
    def reload_command(self) -> str:
        """See `Server`."""
        return self._instance.command("postfix", "reload")

    @property
    def connection_limits(self) -> str:
        """See `Server`."""
        return (
            "add its address to smtpd_client_event_limit_exceptions (smtpd_client_connection_rate_limit, "
            "smtpd_client_connection_count_limit, postscreen_client_connection_count_limit)"
        )

    def claims(self) -> tuple[Claim, ...]:
        """See `Server`."""
        kinds = () if self._only or "main.cf" in self._options.other_services else self._layout.kinds
        alone = for_all(f"{self._options.config_dir or '/etc/postfix'}/main.cf", kinds)
        return (*self._layout.claims(), *(self._sni.claims() if self._sni else ()), *alone)

    def check(self, key_types: frozenset[str]) -> None:
        """See `Server`; also when Postfix is not running.

        A file that was never installed must not be named yet: one missing file, like a second key of one kind, makes
        Postfix refuse TLS with every key. `advice` says when to name it.

        Raises:
            Misconfigured: `mta.config`: Too old; its programs do not start; main.cf or a service in
                master.cf does not name an installed file or SNI table, or names one that would never be renewed or
                breaks the others; no service offers TLS, or one has a level that kills smtpd.
            Misconfigured: `mta.files`: As `Layout.check`, also for the SNI map.
            Transient: `mta.disk`: As `Layout.check`, also for the SNI map.
        """
        with ThreadPoolExecutor(max_workers=1) as pool:
            tried = pool.submit(self._instance.tried)
            settings = self._instance.read()
        self._check_version(settings)
        if tried.result().code != 0:
            hint = f"run: {self._instance.command('postfix', 'check')}; it explains itself in the mail log"
            raise self._instance.wrong(f"its programs do not start: {last_line(tried.result())}", hint)
        self._check_served(key_types, settings, stale=True)
        self._check_level(settings)
        self._layout.check()
        if self._sni:
            self._sni.check()

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """See `Server`: files that are not there yet, and not named; two files in place of one; files of others."""
        settings = self._instance.read()
        return (
            *(one for place in settings.places() for one in self._place_advice(place, key_types)),
            *self._two_files(settings),
            *self._sni_advice(key_types, settings),
        )

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Server`; the SNI map is locked, and its table made and compared, before the first file is placed.

        Raises:
            Misconfigured: `mta.config`: No SNI table can be made. Also if the files are in their places, but Postfix's
                settings do not name them, see `check`.
            Transient: `lock.busy`: Another process edits the SNI map for too long.
        """
        if self._sni is None:
            self._layout.install(credentials)
        else:
            paths = self._layout.paths(sorted(credentials))
            with (
                self._sni.locked(),
                self._layout.prepared(credentials) as new,
                self._sni.prepared(paths, new.files) as place_map,
                self._layout.together(),
            ):
                new.place()
                place_map()
        self._check_served(credentials, self._instance.read())

    def installed(self) -> Mapping[str, bytes]:
        """See `Server`; a file that holds another key type than it is meant for is missing, and so is one that the
        SNI table does not give for all its names.
        """
        found = self._layout.installed()
        tables = self._sni.leaves().values() if self._sni and found else ()
        return {key_type: leaf for key_type, leaf in found.items() if all(leaf in table for table in tables)}

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """See `Server`; of the SNI map its source: the table is made of it."""
        return {**self._layout.saved(), **(self._sni.saved() if self._sni else {})}

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server`; lines of the SNI map that belong to others are left as they are now."""
        source = str(self._sni.path) if self._sni else None
        self._layout.restore({path: content for path, content in saved.items() if path != source})
        if self._sni:
            self._sni.restore(saved.get(str(self._sni.path)))

    def reload(self) -> None:
        """See `Server`; processes that serve a client finish with the old key, new clients meet the new one."""
        master.reload(self._instance)

    # -- what check looks at -------------------------------------------------------------------------------------------

    def _check_version(self, settings: Settings) -> None:
        if self._options.chain_files is not None and not settings.at_least(CHAIN_FILES_SINCE):
            hint = "write cert_files in place of chain_files, see config.example.yaml; or upgrade it"
            version = settings.version or "unknown"
            raise self._instance.wrong(f"its version is {version}, smtpd_tls_chain_files needs 3.4", hint)

    def _check_served(self, key_types: Iterable[str], settings: Settings, *, stale: bool = False) -> None:
        """Of main.cf, and of each service that sets anything itself."""
        for place in filter(self._judged, settings.places()):
            if problem := self._problem(place, sorted(key_types), stale=stale):
                raise self._instance.wrong(problem.what, self._run(problem.remedy))
        self._check_sni(settings)

    def _problem(self, place: Place, key_types: Sequence[str], *, stale: bool) -> Problem | None:
        if self._options.chain_files is not None:
            return smtpdtls.chain_problem(place, self._listed(key_types), self._names(), stale=stale)
        pairs = {key_type: pair_of(self._layout.of(key_type)) for key_type in key_types}
        return smtpdtls.slot_problem(place, pairs, self._pairs().values(), stale=stale)

    def _judged(self, place: Place) -> bool:
        """Whether the place is to serve our files; beside a list of chain files the older settings do not count."""
        if self._others(place):
            return False
        return place.is_main or self._options.chain_files is None or "chain_files" in place.sets

    def _others(self, place: Place) -> bool:
        """Whether the place is meant to use certificates that this entry does not install."""
        return place.name in self._options.other_services or self._only

    def _check_level(self, settings: Settings) -> None:
        offered = False
        for place in ("main.cf", *settings.services):
            effective = settings.effective(place)
            for name in LEVELS:
                level = effective.get(name, "").lower()
                if level not in _LEVELS_ON | _LEVELS_OFF:
                    what = f"{place}: {name} = {level} is unknown: {name.split('_')[0]} dies of it, without a greeting"
                    hint = "use may for port 25, encrypt for submission; then stop and start Postfix"
                    raise self._instance.wrong(what, hint)
            level = effective.get("smtpd_tls_security_level", "").lower()
            switched_on = any(effective.get(name) == "yes" for name in SWITCHES)
            offered = offered or level in _LEVELS_ON or (not level and switched_on)
        if not offered:
            hint = self._run({("main.cf", "smtpd_tls_security_level"): "may"})
            raise self._instance.wrong("no service offers STARTTLS: smtpd_tls_security_level is off", hint)

    # -- what the operator should know ---------------------------------------------------------------------------------

    def _place_advice(self, place: Place, key_types: Iterable[str]) -> Iterator[Advice]:
        if self._options.chain_files is not None and not self._others(place):
            if self._judged(place) and (coming := smtpdtls.chain_advice(place, self._listed(sorted(key_types)))):
                yield Stop(coming.what, self._run_later(coming.remedy))
            if idle := smtpdtls.without_effect(place):
                yield Advice(idle.what, self._run(idle.remedy))
        if not self._only and (others := smtpdtls.files_of_others(place, self._layout.paths())):
            yield Advice(f"{place.name} names {', '.join(others)}, which this entry does not look after", "")

    def _two_files(self, settings: Settings) -> Iterator[Advice]:
        """What separate files cannot do, and the way out."""
        pairs = self._pairs()
        if pairs and not settings.at_least(CHAIN_FILES_SINCE):
            what = f"Postfix {settings.version} opens the file of a key apart, and may find another than fits"
            yield Advice(f"{what}, for an instant at each swap", "upgrade it to 3.4 or later, then use chain_files")
            return
        if not pairs or not self._layout.split:
            return
        directory = f"{self._options.config_dir or '/etc/postfix'}/tls"
        files = {kind: c if c == k else f"{directory}/{kind}.pem" for kind, (c, k) in pairs.items()}
        chains = ", ".join(f"{kind}: {file}" for kind, file in files.items())
        what = (
            "certificate and key are two files, which no rename replaces together: for an instant a new process may "
            f"find a key that does not fit. Run this, then write chain_files: {{{chains}}} in place of cert_files"
        )
        both = [
            f"cat {shlex.quote(key)} {shlex.quote(certificate)} > {shlex.quote(files[kind])}"
            for kind, (certificate, key) in pairs.items()
            if certificate != key
        ]
        changes = smtpdtls.chain_instead([p for p in settings.places() if self._judged(p)], list(files.values()))
        yield Advice(
            what,
            f"run: install -d -m 700 {shlex.quote(directory)} && (umask 077; {' && '.join(both)}) && "
            f"{self._instance.set(changes)}",
        )

    # -- SNI -----------------------------------------------------------------------------------------------------------

    def _sni_map(self, options: Sni) -> SniMap:
        """The SNI map, as configured.

        Raises:
            Misconfigured: `mta.config`, `name.invalid`.
        """
        wrong = self._instance.wrong
        if self._options.chain_files is None:
            raise wrong("sni needs combined files", "write chain_files in place of cert_files")
        if options.type not in TABLES:
            raise wrong(f"sni.type {options.type} is not known here", f"use one of {', '.join(TABLES)}")
        if not os.path.isabs(options.map) or not options.names:
            raise wrong("sni.map is relative, or sni.names is empty", "sni: {map: /etc/postfix/sni, names: [...]}")
        names = [f".{hostname(n[1:])}" if n.startswith(".") else hostname(n) for n in options.names]
        return SniMap(self._instance, options.type, Path(options.map), names)

    @property
    def _only(self) -> bool:
        return self._options.sni is not None and self._options.sni.only

    def _check_sni(self, settings: Settings) -> None:
        if self._sni is None:
            return
        kind = self._options.sni.type if self._options.sni else ""
        if kind not in self._instance.postconf("-m").split():
            hint = f"use another sni.type, or install it: apt install postfix-{kind}"
            raise self._instance.wrong(f"it has no tables of type {kind}", hint)
        for missing in self._sni_missing(settings) if self._sni.ready else ():
            raise self._instance.wrong(f"{missing.what}, which is installed", self._run(missing.remedy))

    def _sni_missing(self, settings: Settings) -> Iterator[Problem]:
        """Places that do not name the map, and the setting that lets it be asked first."""
        for place, own in {"main.cf": settings.main, **settings.services}.items():
            if place in self._options.other_services or (place != "main.cf" and SNI_MAPS not in own):
                continue
            listed = own.get(SNI_MAPS, "")
            if self._sni and str(self._sni) not in words(listed):
                others = [one for one in words(listed) if not one.endswith(f":{self._sni.path}")]
                value = ", ".join([str(self._sni), *others])
                yield Problem(f"{place}: {SNI_MAPS} does not name {self._sni}", {(place, SNI_MAPS): value})

    def _sni_advice(self, key_types: Iterable[str], settings: Settings) -> Iterator[Advice]:
        if self._sni is None:
            return
        missing = list(self._sni_missing(settings))
        if not self._sni.ready:
            for one in missing:
                yield Stop(f"{one.what} yet: the first run makes it and stops there", self._run_later(one.remedy))
            if not missing:
                yield Advice(
                    f"{self._sni} is not there: clients that ask for a name get no TLS until the first run", ""
                )
        wanted = self._names(sorted(key_types))
        for name, files in self._sni.files().items():
            if files != wanted:
                yield Advice(f"{self._sni.path}: {name} leads to {' '.join(files)}; the next run changes that", "")

    # -- names of files ------------------------------------------------------------------------------------------------

    def _names(self, key_types: Iterable[str] | None = None) -> list[str]:
        """The files of these key types, or all."""
        return [str(path) for path in self._layout.paths(key_types)]

    def _listed(self, key_types: Iterable[str]) -> dict[str, str]:
        """The chain file of each key type."""
        return {key_type: file for key_type in key_types for file in self._names([key_type])}

    def _pairs(self) -> dict[str, Pair]:
        """Certificate and key of each kind in cert_files."""
        return {kind: pair_of(self._layout.of(kind)) for kind in self._options.cert_files or {}}

    def _run(self, remedy: Mapping[Setting, str | None]) -> str:
        return f"run: {self._instance.set(remedy)}"

    def _run_later(self, remedy: Mapping[Setting, str | None]) -> str:
        """A file that is named before it is there ends TLS."""
        return f"once it is there: {self._instance.set(remedy)}"
