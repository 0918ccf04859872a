"""OpenSMTPD: the files that `pki NAME cert` and `pki NAME key` of smtpd.conf name; both may be one combined file.

What the daemon does (seen with 6.8.0p2 and 7.4.0p1):

- It reads the files when it starts, and never again. There is no reload: SIGHUP ends it. So a swap is a restart, which
  cuts sessions in progress, unless they are waited for first (`pause.py`). Every port is closed for a moment (in the
  laboratory 0.06 s, under load up to 0.5 s), nearly all of it its own start, and it refuses to be started beside an old
  one. Senders come again, and none meets a wrong certificate; the files may be replaced one after the other, since
  nothing reads them in between.
- `smtpd -n` refuses a file that is missing, not root's, or wider than 0740 (a key) or 0755 (a certificate). It does not
  notice a key that does not fit: 7.4 then starts, and dies of the first client that begins TLS. The rehearsal before
  the swap stands against that.
- It serves one key type for a name. 6.8 takes one `pki` a listener; 7.4 takes several, but chooses by the names in
  the certificates: of RSA and ECDSA for one name it serves one to who asks by SNI, the other to who does not.
- SNI: 6.8 finds any `pki` whose NAME is asked for; 7.4 those of the listener, by the names in their certificates.
- 6.8 with OpenSSL 3, as in Debian 12, fails every TLS handshake ("missing private key", its issue 1171); the package of
  bookworm-backports does not.

Source: smtpd.conf(5), smtpd(8).
"""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from certagent.errors import Error, Misconfigured, Transient
from certagent.facts.duration import Duration, limit_s
from certagent.host import privileges, processes, sockets
from certagent.host.files import read_file
from certagent.host.programs import Result, program, run
from certagent.mta.access import Access
from certagent.mta.claims import Claim, Identity
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.opensmtpd import discovery, smtpdconf
from certagent.mta.opensmtpd.pause import PRIVILEGES, paused
from certagent.mta.opensmtpd.smtpdconf import Conf
from certagent.mta.reference import Pair, pair_of
from certagent.mta.server import Advice, Capabilities, Found, Stop
from certagent.pki.credential import Credential
from certagent.pki.keytypes import algorithm
from certagent.secret import Secret

_TIMEOUT_S = 30.0
"""For its own check: milliseconds, but it may look up the names of listeners in DNS."""

_RESTART_S = 90.0
"""As systemd waits for a service to end (DefaultTimeoutStopSec)."""

_LISTENS_S = 20.0
"""After the restart: it loads its queue first, which takes long if that is large."""

_PROGRAM_BYTES = 64 << 20
"""OpenSMTPD's has one MiB."""

_POLL_S = 0.02
"""Between two tries to connect after a restart."""

LONGEST_PAUSE = "20s"

_SYSTEMD = ("systemctl", "restart", "opensmtpd")


class Options(Access, frozen=True, forbid_unknown_fields=True):
    """OpenSMTPD. Its files must belong to root."""

    files: dict[str, str | Files]
    """By key type, of which it has one: a combined file, or `fullchain` and `key`."""
    config: str = str(discovery.CONFIG)
    """Its configuration file."""
    restart: tuple[str, ...] | None = None
    """What restarts it, a full path with its arguments; without it `systemctl restart opensmtpd`."""
    pause: Duration = "0s"
    """Before a restart it takes no new clients until its sessions are over, for at most so long. 0s: those are cut, and
    their senders come again. Mail that a program of this host sends in the pause is lost. Most sessions are
    over in 5 s. At most 20 s: a sender that waits gives up after 30 s (Postfix's smtp_connect_timeout)."""

    def __post_init__(self) -> None:
        limit_s(self.pause, LONGEST_PAUSE, zero=True)


class OpenSmtpd:
    """A `certagent.mta.server.Server`."""

    Options = Options
    directory = discovery.DIRECTORY
    programs = ("smtpd",)

    def __init__(self, name: str, options: Options) -> None:
        """One OpenSMTPD, as configured.

        Raises:
            Misconfigured: `mta.config`: For files that OpenSMTPD cannot use, and as `Layout`.
        """
        self._name = name
        self._options = options
        self._layout = Layout(f"opensmtpd {name}", options.files, options)
        self._ended_here = False
        """A restart from here has not brought it back: it may be started, where nobody else has stopped it."""
        for kind in options.files:
            if not all(self._pair(kind)):
                raise self._wrong(f"files.{kind}: smtpd.conf takes a certificate and a key", "use combined, or both")
        if options.owner not in {None, "root"}:
            raise self._wrong("it refuses files that are not root's", "remove `owner`")

    @staticmethod
    def discover(shared: Collection[Identity] = ()) -> list[Found]:
        """See `Found`; one for each certificate that smtpd.conf names."""
        return discovery.discover(shared)

    @property
    def capabilities(self) -> Capabilities:
        """See `Server`."""
        return Capabilities(both_key_types=False, sni=True, keeps_ports=False, one_step=not self._layout.split)

    @property
    def reload_command(self) -> str:
        """See `Server`."""
        return shlex.join(self._options.restart or _SYSTEMD)

    @property
    def connection_limits(self) -> str:
        """See `Server`."""
        return "raise the number of files that smtpd may open (ulimit -n): it has no limit for one client"

    def claims(self) -> tuple[Claim, ...]:
        """See `Server`."""
        return self._layout.claims()

    def check(self, key_types: frozenset[str]) -> None:
        """See `Server`; also when OpenSMTPD is not running.

        Files that were never installed need not be named yet; the daemon does not start with one that is missing.

        Raises:
            Misconfigured: `mta.config`: Several key types; it cannot serve TLS with its OpenSSL; `smtpd -n` fails; no
                `pki` names exactly the files of a key type, or no listener uses it; nothing is there to restart it.
        """
        if len({algorithm(key_type) for key_type in key_types}) > 1:
            hint = "leave one in `keys` of the certificate: rsa-2048 is understood by everyone"
            raise self._wrong("OpenSMTPD serves one key type for a name, not RSA and ECDSA", hint)
        self._restart()
        if limit_s(self._options.pause, LONGEST_PAUSE, zero=True):
            privileges.check(f"opensmtpd {self._name}", PRIVILEGES, "`pause` runs smtpctl, which is a group's")
        version = self._version()
        if version < (7,) and _links_openssl_3(program("smtpd", "mta.config")):
            hint = "install 7.4 or later, on Debian 12: apt install -t bookworm-backports opensmtpd"
            raise self._wrong("OpenSMTPD 6 with OpenSSL 3 fails every TLS handshake (its issue 1171)", hint)
        self._layout.check()
        tested, conf = self._test(), self._read()
        self._check_named(key_types, conf, version)
        waits = not all(self._pair(key_type).exists for key_type in key_types)
        if tested.code != 0 and not (waits and _only_files(tested) and not self._missing(conf)):
            raise self._wrong(f"smtpd -n refuses it: {_said(tested)[0]}", f"run: {self._command()}")

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """See `Server`: files that are not there yet, and not named."""
        conf = self._read()
        return tuple(
            Stop(f"{self._options.config} does not name {cert} yet: the first run installs it and stops there", hint)
            for key_type in sorted(key_types)
            for cert, key in [self._pair(key_type)]
            if not any((pki.cert, pki.key) == (cert, key) for pki in conf.pkis) and not os.path.exists(cert)
            for hint in [self._to_write(cert, key)]
        )

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Server`; nothing reads the files before the restart.

        Raises:
            Misconfigured: `mta.config`: Also if the files are in their places, but smtpd.conf does not name them, see
                `check`.
        """
        self._layout.install(credentials)
        self._check_named(credentials, self._read(), self._version())

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
        """See `Server`: restarts it, and returns when the new one listens. Sessions in progress are cut, or waited for
        (`pause`).

        A configuration that it would refuse is not restarted into; one that is not running is not started, but for one
        that did not come back from a restart of ours.
        """
        tested = self._test()
        if tested.code != 0:
            what = f"opensmtpd {self._name} goes on unrestarted: smtpd -n refuses it: {_said(tested)[0]}"
            raise Transient("mta.reload", what, f"run: {self._command()}")
        binary, argv = os.path.realpath(program("smtpd", "mta.config")), self._restart()
        hint = f"run: {shlex.join(argv)}; it explains itself in the mail log"
        old = processes.running(binary)
        if not old and not self._ended_here:
            raise Transient("mta.down", f"opensmtpd {self._name} is not running", hint)
        self._ended_here = True
        ports = [listener.port for listener in self._read().listeners]
        before = sockets.at(ports)
        with paused(limit_s(self._options.pause, LONGEST_PAUSE, zero=True)):
            result = run(argv, _RESTART_S, code="mta.reload")
        deadline = time.monotonic() + (_LISTENS_S if result.code == 0 else 0)
        while not (new := processes.running(binary)) or new & old or not sockets.renewed(before, sockets.at(ports)):
            if time.monotonic() >= deadline:
                why = _said(result)[-1] if result.code != 0 or result.err else f"nothing after {_LISTENS_S:g} s"
                if new & old:
                    what = f"opensmtpd {self._name} goes on unrestarted: {why}"
                    raise Transient("mta.reload", what, hint)
                raise Transient("mta.down", f"opensmtpd {self._name} does not listen after its restart: {why}", hint)
            time.sleep(_POLL_S)
        self._ended_here = False

    # -- what check looks at -------------------------------------------------------------------------------------------

    def _check_named(self, key_types: Iterable[str], conf: Conf, version: tuple[int, ...]) -> None:
        for key_type in key_types:
            cert, key = self._pair(key_type)
            named = {pki.name for pki in conf.pkis if (pki.cert, pki.key) == (cert, key)}
            mixed = [pki.name for pki in conf.pkis if pki.name not in named and {pki.cert, pki.key} & {cert, key}]
            there = os.path.exists(cert)
            if mixed:
                what = f"pki {mixed[0]} has only one of the certificate {cert} and the key {key}"
                raise self._wrong(what, self._to_write(cert, key, mixed[0]))
            if not named and there:
                raise self._wrong(f"no pki names {cert}, which is installed", self._to_write(cert, key))
            listeners = [one for one in conf.listeners if one.mode]
            by_sni = version < (7,)
            if named and not any(by_sni or not one.pkis or named.intersection(one.pkis) for one in listeners):
                hint = f"write `tls pki {min(named)}` into its listen lines, then: {shlex.join(self._restart())}"
                raise self._wrong(f"no listener offers TLS with pki {', '.join(sorted(named))}", hint)

    def _missing(self, conf: Conf) -> list[str]:
        """Files it names that are not there and not ours to bring."""
        ours = {str(path) for path in self._layout.paths()}
        named = {file for pki in conf.pkis for file in (pki.cert, pki.key)}
        return [file for file in sorted(named - ours) if file and not os.path.exists(file)]

    def _to_write(self, cert: str, key: str, name: str = "NAME") -> str:
        """What the operator has to do, so that it uses the files."""
        lines = f'pki {name} cert "{cert}" and pki {name} key "{key}"'
        listen = "" if name != "NAME" else ", with its host name for NAME, and `tls pki NAME` into its listen lines"
        return f"write {lines} into {self._options.config}{listen}, then: {shlex.join(self._restart())}"

    def _pair(self, key_type: str) -> Pair:
        return pair_of(self._layout.of(key_type))

    # -- its programs --------------------------------------------------------------------------------------------------

    def _restart(self) -> list[str]:
        if self._options.restart:
            if not os.path.isabs(self._options.restart[0]):
                raise self._wrong("restart: the program has no full path", "write it with its full path")
            return list(self._options.restart)
        if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
            raise self._wrong("nothing is known to restart it: no systemd", "set restart: [/full/path, argument]")
        return [program(_SYSTEMD[0], "mta.config"), *_SYSTEMD[1:]]

    def _version(self) -> tuple[int, ...]:
        """The version of `smtpd`.

        Raises:
            Misconfigured: `mta.config`: `smtpd` is another one.
        """
        found = discovery.version(self._run("-h"))
        if found is None:
            raise self._wrong("smtpd is not OpenSMTPD", "install opensmtpd, or remove this mail server from the config")
        return found

    def _test(self) -> Result:
        return self._run("-n", "-f", self._options.config)

    def _read(self) -> Conf:
        try:
            return smtpdconf.read(Path(self._options.config))
        except Error as error:
            raise self._wrong(f"cannot read {error.detail}", error.hint) from error

    def _run(self, *arguments: str) -> Result:
        try:
            return run([program("smtpd", "mta.config"), *arguments], _TIMEOUT_S, code="mta.config")
        except Transient as error:  # in the words of `Server`
            raise Transient("mta.reload", error.detail, error.hint) from error

    def _command(self) -> str:
        return shlex.join(["smtpd", "-n", "-f", self._options.config])

    def _wrong(self, what: str, hint: str) -> Misconfigured:
        return Misconfigured("mta.config", f"opensmtpd {self._name}: {what}", hint)


def _only_files(tested: Result) -> bool:
    """Whether it complains of nothing but certificates and keys."""
    return all(re.search(r"load_pki|^warn: ", line) for line in tested.err.splitlines())


def _links_openssl_3(path: str) -> bool:
    return b"\0libssl.so.3\0" in (read_file(Path(path), _PROGRAM_BYTES, links=True) or b"")


def _said(result: Result) -> list[str]:
    """What it said, or how it ended."""
    lines = [line.strip()[:200] for line in (result.err or result.out).splitlines() if line.strip()]
    return lines or [f"exit status {result.code}"]
