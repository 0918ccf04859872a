"""Postfix 3.4 and later: one combined file for each kind of key, named in smtpd_tls_chain_files.

Such a file is read once, by root, when a process starts (smtpd serves 100 connections or 100 idle seconds): a rename is
the cut-over for new processes, and the reload ends the old ones. Postfix accepts nearly everything: its own check does
not look at TLS, and a reload succeeds with a broken key. Settings that it would answer with 454 or with silence are
therefore looked for here, and the file is rehearsed before it is placed. Settings are read, never written.

Source: postconf(5) smtpd_tls_chain_files, smtpd_tls_security_level; TLS_README.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

from cryptography import x509
from msgspec import Struct

from certagent.errors import Error, Misconfigured, Transient
from certagent.mta import pemfile
from certagent.mta.run import Result, program, run
from certagent.pki.algorithms import family
from certagent.pki.keys import algorithm_of
from certagent.secret import Secret

_OLDEST = (3, 4)
"""The first with smtpd_tls_chain_files. Older ones open the file twice and may read two keys at a cut-over."""

_TIMEOUT_S = 30.0
"""For one of Postfix's programs: milliseconds, but they wait until main.cf is 2 s old, and a busy disk is slow."""

_CHAIN_FILES = "smtpd_tls_chain_files"

_LEVELS_ON = frozenset({"may", "encrypt", "verify", "secure", "fingerprint"})
"""smtpd takes the last three for `encrypt`, with a warning."""

_LEVELS_OFF = frozenset({"", "none"})

_SWITCHES = ("smtpd_use_tls", "smtpd_enforce_tls", "smtpd_tls_wrappermode")
"""What counts where there is no level."""


class Options(Struct, frozen=True, forbid_unknown_fields=True):
    """What the config says of one Postfix instance."""

    chain_files: dict[str, str]
    """By kind of key, `ecdsa` and `rsa` (or in full, `ecdsa-p256`): the absolute path of the file to write."""
    config_dir: str | None = None
    """As in `postfix -c`; None: the default instance."""
    other_services: tuple[str, ...] = ()
    """Services of master.cf (`submission/inet`) that are meant to use other certificates."""


class Postfix:
    """A `certagent.mta.server.Server`."""

    Options = Options

    def __init__(self, name: str, options: Options) -> None:
        """Raises `mta.config` for paths that are relative or used twice, `pem.algorithm` for an unknown kind of key."""
        self._name = name
        self._options = options
        self._files = {kind: Path(path) for kind, path in options.chain_files.items()}
        for kind, path in self._files.items():
            if kind not in {"ecdsa", "rsa"}:
                family(kind)
            if not path.is_absolute() or list(self._files.values()).count(path) > 1:
                raise self._wrong(f"chain_files: {path} is relative or used twice", "give each its own absolute path")

    def check(self, algorithms: frozenset[str]) -> None:
        """See `Server`; also when Postfix is not running.

        A file that was never installed must not be listed yet: one missing file, like a second key of one kind, makes
        Postfix refuse TLS with every key. So the operator is told to list it once it is there.

        Raises:
            mta.config: Too old; `postfix check` fails; smtpd_tls_chain_files of main.cf or of a service in master.cf
                does not list an installed file, or lists one that would never be renewed or breaks the others; no
                service offers TLS, or one has a level that kills smtpd.
        """
        with ThreadPoolExecutor(max_workers=3) as pool:  # three programs that do not mind each other
            checked = pool.submit(self._postfix, "check")
            settings, overrides = self._read(pool)
        self._check_version(settings.pop("mail_version", ""))
        if checked.result().code != 0:
            hint = f"run: {self._command('postfix')} check; it explains itself in the mail log"
            raise self._wrong(f"its own check fails: {_last_line(checked.result())}", hint)
        in_use = {self._file(algorithm) for algorithm in algorithms}
        stale = frozenset(str(path) for path in self._files.values() if path not in in_use)
        self._check_files(algorithms, settings, overrides, stale)
        self._check_level(settings, overrides)

    def ahead(self, algorithms: frozenset[str]) -> tuple[tuple[str, str], ...]:
        """See `Server`: files that are not there yet, and not listed."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            settings, overrides = self._read(pool)
        return tuple(
            (f"{place} does not list {', '.join(new)} yet: the first run installs it and stops there", hint)
            for place, own in {"main.cf": settings, **overrides}.items()
            if place not in self._options.other_services and _CHAIN_FILES in own
            for listed in [_words(own[_CHAIN_FILES])]
            if (new := [f for f in self._files_of(algorithms) if f not in listed and not os.path.exists(f)])
            for hint in [self._set(place, [f for f in listed if os.path.exists(f)] + new)]
        )

    def install(self, pems: Mapping[str, Secret[bytes]]) -> None:
        """See `Server`; all files are rehearsed before the first one is placed, each with mode 0600.

        Raises:
            mta.config: (also) The files are in their places, but Postfix is not told to use them, see `check`.
        """
        pemfile.install_all({self._file(algorithm): pem for algorithm, pem in pems.items()})
        with ThreadPoolExecutor(max_workers=2) as pool:
            self._check_files(pems, *self._read(pool))

    def installed(self) -> Mapping[str, bytes]:
        """See `Server`; a file that holds another kind of key than it is meant for is missing."""
        found: dict[str, bytes] = {}
        for kind, path in self._files.items():
            leaf = pemfile.leaf_der(path)
            algorithm = leaf and _algorithm(leaf)
            if leaf and algorithm and kind in {algorithm, family(algorithm)}:
                found[algorithm] = leaf
        return found

    def reload(self) -> None:
        """See `Server`; processes that serve a client finish with the old key, new clients meet the new one."""
        result = self._postfix("reload")
        if result.code == 0:
            return
        postfix = self._command("postfix")
        if self._postfix("status").code != 0 and self._postfix("check").code == 0:  # a broken main.cf fails all three
            raise Transient("mta.down", f"postfix {self._name} is not running", f"run: {postfix} start")
        hint = f"run: {postfix} check; {postfix} reload; it explains itself in the mail log"
        raise Transient("mta.reload", f"postfix {self._name} cannot reload: {_last_line(result)}", hint)

    # -- what check looks at -----------------------------------------------------------------------------------------

    def _check_version(self, version: str) -> None:
        numbers = re.match(r"(\d+)\.(\d+)", version)
        if not numbers or (int(numbers[1]), int(numbers[2])) < _OLDEST:
            raise self._wrong(f"its version is {version or 'unknown'}, smtpd_tls_chain_files needs 3.4", "upgrade it")

    def _check_files(
        self,
        algorithms: Iterable[str],
        settings: Mapping[str, str],
        overrides: Mapping[str, Mapping[str, str]],
        stale: frozenset[str] = frozenset(),
    ) -> None:
        """Of main.cf, and of each service that has a list of its own."""
        needed = self._files_of(algorithms)
        places = {"main.cf": settings, **overrides}
        for place, own in places.items():
            if place not in self._options.other_services and _CHAIN_FILES in own:
                self._check_list(place, _words(own[_CHAIN_FILES]), needed, stale)

    def _check_list(self, place: str, listed: list[str], needed: list[str], stale: frozenset[str]) -> None:
        lacks = [file for file in needed if file not in listed and os.path.exists(file)]
        kinds = {kind for file in needed if file in listed or file in lacks for kind in _kinds(file)}
        others = [file for file in listed if Path(file) not in self._files.values()]
        gone = [file for file in others if not os.path.exists(file)]
        twice = [file for file in others if not kinds.isdisjoint(_kinds(file))]
        keep = [file for file in listed if file not in {*stale, *gone, *twice}] + lacks
        unused = [file for file in listed if file in stale and keep]
        problems = [
            (lacks, "does not list", "which is installed"),
            (gone, "lists", "which is missing: no TLS at all"),
            (twice, "lists", "a second key of the same kind: no TLS at all"),
            (unused, "lists", "which nothing renews"),
        ]
        if found := [f"{verb} {', '.join(files)}, {why}" for files, verb, why in problems if files]:
            raise self._wrong(f"{place}: {_CHAIN_FILES} {'; it '.join(found)}", self._set(place, keep))

    def _set(self, place: str, files: list[str]) -> str:
        """The command that puts these files there."""
        option, prefix = ("-e", "") if place == "main.cf" else ("-P", f"{place}/")
        setting = f"{prefix}{_CHAIN_FILES}={','.join(files)}"
        return f"run: {self._command('postconf')} {option} {shlex.quote(setting)} && {self._command('postfix')} reload"

    def _check_level(self, settings: Mapping[str, str], overrides: Mapping[str, Mapping[str, str]]) -> None:
        offered = False
        for place in ("main.cf", *overrides):
            effective = {**settings, **overrides.get(place, {})}
            level = effective.get("smtpd_tls_security_level", "").lower()
            if level not in _LEVELS_ON | _LEVELS_OFF:
                what = f"{place}: smtpd_tls_security_level = {level} is unknown: smtpd dies of it, without a greeting"
                raise self._wrong(what, "use may for port 25, encrypt for submission; then stop and start Postfix")
            switched_on = any(effective.get(name) == "yes" for name in _SWITCHES)
            offered = offered or level in _LEVELS_ON or (not level and switched_on)
        if not offered:
            command = f"{self._command('postconf')} -e 'smtpd_tls_security_level = may'"
            hint = f"run: {command} && {self._command('postfix')} reload"
            raise self._wrong("no service offers STARTTLS: smtpd_tls_security_level is off", hint)

    # -- Postfix's programs ------------------------------------------------------------------------------------------

    def _read(self, pool: Executor) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
        """The settings of main.cf, and those of each service in master.cf."""
        overrides = pool.submit(self._overrides)
        return pool.submit(self._settings).result(), overrides.result()

    def _settings(self) -> dict[str, str]:
        """The settings of main.cf that matter here, expanded."""
        lines = self._postconf("-x", "mail_version", _CHAIN_FILES, "smtpd_tls_security_level", *_SWITCHES)
        return {name: value for _, name, value in _parse(lines)}

    def _overrides(self) -> dict[str, dict[str, str]]:
        """The settings of each service in master.cf (`smtp/inet`), expanded."""
        found: dict[str, dict[str, str]] = {}
        for service, name, value in _parse(self._postconf("-xP")):
            found.setdefault(service, {})[name] = value
        return found

    def _postconf(self, *arguments: str) -> str:
        result = self._run("postconf", *arguments)
        if result.code != 0:
            raise self._wrong(f"postconf fails: {_last_line(result)}", f"run: {self._command('postconf')} -n")
        return result.out

    def _postfix(self, command: str) -> Result:
        return self._run("postfix", command)

    def _run(self, name: str, *arguments: str) -> Result:
        argv = [program(name, "mta.config"), *self._instance(), *arguments]
        try:
            return run(argv, _TIMEOUT_S, code="mta.config")
        except Transient as error:  # in the words of `Server`
            raise Transient("mta.reload", error.detail, error.hint) from error

    def _instance(self) -> list[str]:
        return ["-c", self._options.config_dir] if self._options.config_dir else []

    def _command(self, name: str) -> str:
        """For a hint: how to call a program for this instance."""
        return shlex.join([name, *self._instance()])

    def _files_of(self, algorithms: Iterable[str]) -> list[str]:
        return [str(self._file(algorithm)) for algorithm in sorted(algorithms)]

    def _file(self, algorithm: str) -> Path:
        path = self._files.get(algorithm) or self._files.get(family(algorithm))
        if path is None:
            kind = family(algorithm)
            hint = f"add `{kind}: /etc/postfix/tls/{kind}.pem` to its chain_files"
            raise self._wrong(f"no file for {algorithm}", hint)
        return path

    def _wrong(self, what: str, hint: str) -> Misconfigured:
        return Misconfigured("mta.config", f"postfix {self._name}: {what}", hint)


def _parse(lines: str) -> list[tuple[str, str, str]]:
    """Lines of postconf, `smtp/inet/name = value` or `name = value`: service, name, value."""
    found: list[tuple[str, str, str]] = []
    for line in lines.splitlines():
        place, equals, value = line.partition("=")
        if equals:
            service, _, name = place.strip().rpartition("/")
            found.append((service, name, value.strip()))
    return found


def _words(value: str) -> list[str]:
    """The elements of a list in Postfix's syntax."""
    return [word for word in re.split(r"[,\s]+", value) if word]


def _last_line(result: Result) -> str:
    """What it said at the end, or how it ended."""
    lines = (result.err or result.out).strip().splitlines()
    return lines[-1][:200] if lines else f"exit status {result.code}"


def _kinds(file: str) -> set[str]:
    """Which family of keys it holds; nothing where that cannot be told, as for a key without its certificate."""
    leaf = pemfile.leaf_der(Path(file))
    algorithm = leaf and _algorithm(leaf)
    return {family(algorithm)} if algorithm else set()


def _algorithm(leaf: bytes) -> str | None:
    """The kind of key in a certificate; None where certagent would not have made it."""
    try:
        return algorithm_of(x509.load_der_x509_certificate(leaf).public_key())
    except (ValueError, Error):
        return None
