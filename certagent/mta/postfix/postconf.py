"""One Postfix instance: what it is configured to do, and the programs that come with it.

`postconf` itself reads main.cf and master.cf, so that their syntax is Postfix's business. Nothing is written: what must
change is put as a command.

Source: postconf(1), postconf(5), master(5).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from certagent.errors import Misconfigured, Transient
from certagent.host.programs import Result, program, run
from certagent.mta.reference import Pair

TIMEOUT_S = 30.0
"""For one of Postfix's programs: milliseconds, but they wait until main.cf is 2 s old, and a busy disk is slow."""

_OUTPUT_LIMIT_BYTES = 4 << 20
"""Sixty thousand settings of services in master.cf; what is longer comes without its end, and is not judged."""

CHAIN_FILES_SINCE = (3, 4)
"""The first version with smtpd_tls_chain_files and tls_server_sni_maps."""

SNI_MAPS = "tls_server_sni_maps"

PREFIXES = ("smtpd", "tlsproxy")
"""Programs that serve certificates: tlsproxy(8) does TLS for postscreen(8), by default with the settings of smtpd."""

SLOTS = ("cert", "dcert", "eccert")
"""RSA, DSA and ECDSA, but Postfix takes any key type in any of them."""

_TLS = (
    "chain_files",
    *(f"{slot}_file" for slot in SLOTS),
    *(f"{slot.replace('cert', 'key')}_file" for slot in SLOTS),
)
SWITCHES = ("smtpd_use_tls", "smtpd_enforce_tls", "smtpd_tls_wrappermode")
"""What counts if there is no level."""

LEVELS = ("smtpd_tls_security_level", "postscreen_tls_security_level", "tlsproxy_tls_security_level")
PROXY = {name: f"{name}_upstream_proxy_protocol" for name in ("smtpd", "postscreen")}
"""What makes a program that speaks SMTP wait for the PROXY protocol first."""
_NAMES = (
    *(f"{prefix}_tls_{name}" for prefix in PREFIXES for name in _TLS),
    *SWITCHES,
    *LEVELS,
    SNI_MAPS,
    *PROXY.values(),
)


Setting = tuple[str, str]
"""A place (`main.cf`, `submission/inet`) and a parameter there."""


class Place(Struct, frozen=True):
    """Where it is said which certificates are served: main.cf, or a service of master.cf (`submission/inet`)."""

    name: str
    prefix: str
    """`smtpd` or `tlsproxy`."""
    chain: tuple[str, ...]
    """The chain files in effect there."""
    slots: dict[str, Pair]
    """Certificate and key of each slot in use (`cert`, `eccert`); without effect where there are chain files."""
    sets: frozenset[str]
    """What this very place sets: `chain_files`, `cert_file` and so on."""

    @property
    def is_main(self) -> bool:
        """Whether it is what holds for every smtpd that says nothing else."""
        return (self.name, self.prefix) == ("main.cf", "smtpd")

    def setting(self, name: str) -> str:
        """The parameter's full name."""
        return f"{self.prefix}_tls_{name}"


class Settings(Struct, frozen=True):
    """The settings that matter here, expanded; those that are not set are missing."""

    version: str
    main: dict[str, str]
    services: dict[str, dict[str, str]]
    """What each service of master.cf (`submission/inet`) sets for itself."""

    def at_least(self, version: tuple[int, int]) -> bool:
        """Whether Postfix is that new; a version that cannot be read is not."""
        numbers = re.match(r"([0-9]{1,4})\.([0-9]{1,4})", self.version)
        return bool(numbers) and (int(numbers[1]), int(numbers[2])) >= version

    def effective(self, service: str) -> dict[str, str]:
        """What holds for a service, or for all that set nothing themselves (`main.cf`)."""
        return {**self.main, **self.services.get(service, {})}

    def places(self) -> list[Place]:
        """main.cf first, then every service that sets anything about certificates itself."""
        found: list[Place] = []
        for name in ("main.cf", *self.services):
            own = self.main if name == "main.cf" else self.services[name]
            for prefix in PREFIXES:
                sets = frozenset(tls for tls in _TLS if f"{prefix}_tls_{tls}" in own)
                place = _place(name, prefix, sets, self.effective(name))
                if sets or place.is_main:
                    found.append(place)
        return found


class Instance:
    """The instance with this configuration directory; None: the default one. `who` names it in errors."""

    def __init__(self, who: str, config_dir: str | None) -> None:
        self.who = who
        self._arguments = ["-c", config_dir] if config_dir else []

    def read(self) -> Settings:
        """What the configuration says now.

        Raises:
            Misconfigured: `mta.config`: Postconf cannot read it.
        """
        with ThreadPoolExecutor(max_workers=3) as pool:  # three programs that do not mind each other
            version = pool.submit(self.postconf, "-h", "mail_version")
            main = pool.submit(self.postconf, "-nx", *_NAMES)
            services = pool.submit(self.postconf, "-xP")
            found: dict[str, dict[str, str]] = {}
            for service, name, value in parse(services.result()):
                found.setdefault(service, {})[name] = value
            own = {name: value for _, name, value in parse(main.result())}
            return Settings(version.result().strip(), own, found)

    def postconf(self, *arguments: str) -> str:
        """What postconf prints.

        Raises:
            Misconfigured: `mta.config`.
        """
        result = self.run("postconf", *arguments)
        if result.code != 0:
            raise self.wrong(f"postconf fails: {last_line(result)}", f"run: {self.command('postconf')} -n")
        if len(result.out.encode()) >= _OUTPUT_LIMIT_BYTES:
            hint = "divide it between two instances, each with its own master.cf"
            raise self.wrong("its configuration is too long to be read", hint)
        return result.out

    def run(self, name: str, *arguments: str) -> Result:
        """Run one of Postfix's programs on this instance.

        Raises:
            Misconfigured: `mta.config`: It is not installed.
            Transient: `mta.reload`: It does not end.
        """
        argv = [program(name, "mta.config"), *self._arguments, *arguments]
        try:
            return run(argv, TIMEOUT_S, code="mta.config", limit_bytes=_OUTPUT_LIMIT_BYTES)
        except Transient as error:  # in the words of `Server`
            raise Transient("mta.reload", error.detail, error.hint) from error

    def tried(self) -> Result:
        """How the smallest of its programs ends, which reads main.cf as all of them do, and says what it dislikes.

        `postfix check` would make and give away directories of the queue.

        Raises:
            Error: As `run`.
        """
        return self.run("postmap", "-q", "any", "static:any")

    def pid_file(self) -> Path:
        """Of its master process.

        Raises:
            Misconfigured: `mta.config`.
        """
        return Path(*self.postconf("-xh", "queue_directory", "process_id_directory").split("\n")[:2], "master.pid")

    def command(self, *words: str) -> str:
        """For a hint: how to call a program for this instance."""
        return shlex.join([words[0], *self._arguments, *words[1:]])

    def set(self, values: Mapping[Setting, str | None]) -> str:
        """The command that makes these settings and has them read; None: removes it there."""
        commands = [self.command("postconf", *arguments) for arguments in edits(values)]
        return " && ".join([*commands, self.command("postfix", "reload")])

    def wrong(self, what: str, hint: str) -> Misconfigured:
        """`mta.config` of this instance."""
        return Misconfigured("mta.config", f"{self.who}: {what}", hint)


def edits(values: Mapping[Setting, str | None]) -> list[list[str]]:
    """The arguments of postconf, of each of its runs, that make these settings; None: removes it there."""
    options: dict[str, list[str]] = {"-e": [], "-X": [], "-P": [], "-PX": []}
    for (place, name), value in values.items():
        full, option = (name, "") if place == "main.cf" else (f"{place}/{name}", "P")
        if value is None:
            options[f"-{option}X"].append(full)
        else:
            options[f"-{option or 'e'}"].append(f"{full}={value}")
    return [[option, *rest] for option, rest in options.items() if rest]


def named(name: str) -> str:
    """How errors call the server of that name in the config: `postfix mx1`, and `postfix` where that is its name."""
    return name if name == "postfix" else f"postfix {name}"


def parse(lines: str) -> list[tuple[str, str, str]]:
    """Lines of postconf, `smtp/inet/name = value` or `name = value`: service, name, value."""
    found: list[tuple[str, str, str]] = []
    for line in lines.splitlines():
        place, equals, value = line.partition("=")
        if equals:
            service, _, name = place.strip().rpartition("/")
            found.append((service, name, value.strip()))
    return found


def words(value: str) -> list[str]:
    """The elements of a list in Postfix's syntax."""
    return [word for word in re.split(r"[,\s]+", value) if word]


def last_line(result: Result) -> str:
    """What it said at the end, or how it ended."""
    lines = (result.err or result.out).strip().splitlines()
    return lines[-1][:200] if lines else f"exit status {result.code}"


def _place(name: str, prefix: str, sets: frozenset[str], effective: Mapping[str, str]) -> Place:
    def value(tls: str) -> str:
        """With the defaults of Postfix: tlsproxy as smtpd, `none` as nothing."""
        found = effective.get(f"{prefix}_tls_{tls}", effective.get(f"smtpd_tls_{tls}", ""))
        return "" if found == "none" else found

    slots = {
        slot: Pair(certificate, value(f"{slot.replace('cert', 'key')}_file") or certificate)
        for slot in SLOTS
        if (certificate := value(f"{slot}_file"))
    }
    return Place(name, prefix, tuple(words(value("chain_files"))), slots, sets)
