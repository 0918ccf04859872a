"""Sendmail: the files that ServerCertFile and ServerKeyFile of sendmail.cf name, which may be one combined file, and
may be two of each, separated by a comma: RSA and ECDSA. And CACertFile, which holds the issuers.

What the daemon does (seen with 8.17.1.9):

- Of ServerCertFile it takes the leaf only. What it sends after that, it looks up in CACertFile and CACertPath, a root
  included. So certagent writes the issuers of all key types into one file for CACertFile, and CACertPath
  has to be a directory without certificates; with /etc/ssl/certs the root is sent, too.
- It reads the files when it starts. SIGHUP makes it execute itself anew, with another pid; sessions in progress, and
  handshakes that were begun, go on in separate processes. Its ports are closed until it has started (0.03 s to
  0.06 s in the laboratory, 0.2 s under load); a client that only the kernel had accepted is reset.
- Whatever it does not like, it goes on without TLS, and says so in the mail log only: STARTTLS is no longer offered,
  port 465 closes at once. So it does with a missing file, a key that does not fit, a key that the group may read
  (unless DontBlameSendmail has GroupReadableKeyFile), a key of another user, a directory on the way into which group
  or others may write (the sticky bit does not help), and without CACertPath or CACertFile.
- `sendmail -bt` tests sendmail.cf, not TLS. A hangup with a broken sendmail.cf ends it, and so does one where it was
  started without a full path. Both are looked for first.
- There is no SNI for servers.

Settings are read from sendmail.cf, never written; operators change sendmail.mc. Source: Sendmail Installation and
Operation Guide, section 5.6; cf/README.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from certagent.errors import Error, Misconfigured, Transient
from certagent.host import privileges, processes, replace, sockets
from certagent.host.files import read_file, remove_file
from certagent.host.programs import Result, program
from certagent.mta import pemfile
from certagent.mta.access import Access
from certagent.mta.claims import Claim, Identity
from certagent.mta.files import Files
from certagent.mta.layout import Layout
from certagent.mta.reference import Pair, Words, compare, pair_of, shown, to_come
from certagent.mta.sendmail import sendmailcf
from certagent.mta.sendmail.sendmailcf import Settings
from certagent.mta.server import Advice, Capabilities, Found, Stop
from certagent.pki.credential import Credential
from certagent.secret import Secret

_RELOAD_S = 90.0
"""Until the new one listens: where the host has no full name, it sleeps for 60 s first."""

_GONE_S = 1.0
"""While it begins anew, none of its processes may be seen for a moment; one that ended does not come back."""
_POLL_S = 0.02
"""Between two tries to connect after a reload."""

_WORDS = Words("name", "names", ": no TLS at all", "a second key of the same algorithm, or half of ours")


class Options(Access, frozen=True, forbid_unknown_fields=True):
    """Sendmail. Its keys must belong to root and be closed to everybody else."""

    files: dict[str, str | Files]
    """By key type: a combined file, or `fullchain` and `key`."""
    issuers: str
    """The file for CACertFile: the issuers of every key type."""
    config: str = str(sendmailcf.CONFIG)
    """Its configuration file."""


class Sendmail:
    """A `certagent.mta.server.Server`."""

    Options = Options
    directory = sendmailcf.DIRECTORY
    privileges = ("CAP_SETGID",)
    programs = ("sendmail", "sendmail-mta")

    def __init__(self, name: str, options: Options) -> None:
        """One Sendmail, as configured.

        Raises:
            Misconfigured: `mta.config`: For files that Sendmail cannot use, and as `Layout`.
        """
        self._name = name
        self._options = options
        self._access = options
        self._layout = Layout(f"sendmail {name}", options.files, options)
        self._issuers = Path(options.issuers)
        if not self._issuers.is_absolute() or self._issuers in self._layout.paths():
            raise self._wrong(f"issuers: {self._issuers} is relative or used twice", "give it its own absolute path")
        for kind in options.files:
            if not all(pair_of(self._layout.of(kind))):
                raise self._wrong(f"files.{kind}: sendmail.cf takes a certificate and a key", "use combined, or both")

    @staticmethod
    def discover(shared: Collection[Identity] = ()) -> list[Found]:
        """See `Found`."""
        return sendmailcf.discover(shared)

    @property
    def capabilities(self) -> Capabilities:
        """See `Server`."""
        return Capabilities(both_key_types=True, sni=False, keeps_ports=False, one_step=not self._layout.split)

    @property
    def reload_command(self) -> str:
        """See `Server`."""
        return _HUP

    @property
    def connection_limits(self) -> str:
        """See `Server`."""
        return (
            "raise confCONNECTION_RATE_THROTTLE or confMAX_DAEMON_CHILDREN; for ratecontrol and conncontrol, "
            "ClientRate and ClientConn of its address in the access map"
        )

    def claims(self) -> tuple[Claim, ...]:
        """See `Server`."""
        return (*self._layout.claims(), Claim(str(self._issuers)))

    def check(self, key_types: frozenset[str]) -> None:
        """See `Server`; also when Sendmail is not running.

        Files that were never installed need not be named yet: with one that is missing there is no TLS at all.

        Raises:
            Misconfigured: `mta.config`: `sendmail -bt` fails; ServerCertFile and ServerKeyFile do not name an installed
                file, or name one that stops all TLS or is never renewed; a CA is not set; every port is without TLS.
            Misconfigured: `mta.files`: What Sendmail would refuse: see above.
        """
        privileges.check(f"sendmail {self._name}", self.privileges, "its own check gives up root")
        self._layout.check()
        with pemfile.in_its_words():
            replace.replaceable(self._issuers)
        tested = self._test()
        if tested.code != 0 or not sendmailcf.version(tested):
            raise self._wrong(f"sendmail -bt refuses it: {_said(tested)}", f"run: {self._command()}")
        settings = self._read()
        self._check_named(key_types, settings, stale=True)
        self._check_authorities(settings)
        self._check_safe(settings)
        if not any(port.mode for port in settings.ports):
            raise self._wrong("every port has M=S: no STARTTLS", self._to_make("remove S from its DAEMON_OPTIONS"))

    def advice(self, key_types: frozenset[str]) -> tuple[Advice, ...]:
        """See `Server`: files that are not there yet, and not named."""
        settings = self._read()
        new, keep = to_come(settings.pairs, self._needed(key_types))
        if not new:
            return ()
        what = f"{self._options.config} does not name {shown(new)} yet: the first run installs it and stops there"
        return (Stop(what, self._to_define(keep)),)

    def install(self, credentials: Mapping[str, Credential]) -> None:
        """See `Server`; nothing reads the files before the reload.

        Raises:
            Misconfigured: `mta.config`: Also if the files are in their places, but sendmail.cf does not name them, see
                `check`.
        """
        with (
            pemfile.in_its_words(),
            replace.prepared(self._issuers, self._all_issuers(credentials), mode=0o644) as place,
            self._layout.together(),
        ):
            self._layout.install(credentials)
            place()
        settings = self._read()
        self._check_named(credentials, settings)
        self._check_authorities(settings)

    def installed(self) -> Mapping[str, bytes]:
        """See `Server`."""
        return self._layout.installed()

    def saved(self) -> Mapping[str, Secret[bytes]]:
        """See `Server`."""
        with pemfile.in_its_words():
            issuers = read_file(self._issuers)
        return self._layout.saved() | ({str(self._issuers): Secret(issuers)} if issuers is not None else {})

    def restore(self, saved: Mapping[str, Secret[bytes]]) -> None:
        """See `Server`."""
        issuers = saved.get(str(self._issuers))
        self._layout.restore({path: content for path, content in saved.items() if path != str(self._issuers)})
        with pemfile.in_its_words():
            if issuers is None:
                remove_file(self._issuers)
            else:
                replace.write(self._issuers, issuers.reveal(), mode=0o644)

    def reload(self) -> None:
        """See `Server`: SIGHUP, and returns when the new daemon listens. Sessions in progress go on with the old key.

        It is not done with a sendmail.cf that would end it.
        """
        start = "run: systemctl restart sendmail; it explains itself in the mail log"
        tested = self._test()
        if tested.code != 0:
            what = f"sendmail {self._name} goes on with the old files: sendmail -bt refuses: {_said(tested)}"
            raise Transient("mta.reload", what, f"run: {self._command()}")
        settings = self._read()
        old, argv = self._daemon(settings)
        ports = [port.port for port in settings.ports]
        before = sockets.at(ports)
        if old is None:
            raise Transient("mta.down", f"sendmail {self._name} is not running", start)
        if not argv.startswith("/"):
            what = f"sendmail {self._name} was started without its full path: a hangup would end it"
            raise Transient("mta.reload", what, f"stop it, and start it as {self._program()} -bd -q10m")
        try:
            os.kill(old, signal.SIGHUP)
        except ProcessLookupError:
            raise Transient("mta.down", f"sendmail {self._name} is not running", start) from None
        except PermissionError as error:
            raise Transient("mta.reload", f"no signal may be sent to {old}", "run certagent as root") from error
        seen = time.monotonic()
        deadline = seen + _RELOAD_S
        while self._daemon(settings)[0] in {None, old} or not sockets.renewed(before, sockets.at(ports)):
            now = time.monotonic()
            if processes.running(self._program()):
                seen = now
            if now >= min(deadline, seen + _GONE_S):
                raise Transient("mta.down", f"sendmail {self._name} does not listen after its reload", start)
            time.sleep(_POLL_S)

    # -- what check looks at -------------------------------------------------------------------------------------------

    def _check_named(self, key_types: Iterable[str], settings: Settings, *, stale: bool = False) -> None:
        needed = self._needed(key_types)
        compared = compare(settings.pairs, needed, self._needed(self._options.files).values(), stale=stale)
        if found := compared.problems(_WORDS):
            raise self._wrong(f"ServerCertFile {'; it '.join(found)}", self._to_define(compared.keep))
        if settings.odd:
            raise self._wrong("ServerCertFile and ServerKeyFile are not as many", self._to_define(needed.values()))

    def _check_authorities(self, settings: Settings) -> None:
        """What it sends after the leaf comes from there, and without both there is no TLS."""
        problem = ""
        if settings.ca_file != str(self._issuers) and self._issuers.exists():
            problem = f"CACertFile is not {self._issuers}, where the issuers are that it has to send"
        elif settings.ca_file != str(self._issuers) and not os.path.exists(settings.ca_file):
            problem = f"CACertFile is {settings.ca_file or 'not set'}, or missing: no TLS at all"
        elif not settings.ca_path:
            problem = "CACertPath is not set: no TLS at all"
        elif self._issuers.exists() and sendmailcf.has_certificates(settings.ca_path):
            problem = f"CACertPath is {settings.ca_path}: it sends the root from there, too"
        if problem:
            raise self._wrong(problem, self._to_define(settings.pairs))

    def _check_safe(self, settings: Settings) -> None:
        """Layout checks the directory itself; Sendmail checks all above it, too."""
        if int(self._access.mode, 8) & 0o070 and "groupreadablekeyfile" not in settings.dont_blame:
            what = f"sendmail {self._name}: with mode {self._access.mode} it refuses the key: Group readable file"
            hint = "set the mode to 0600, or add GroupReadableKeyFile to confDONT_BLAME_SENDMAIL in sendmail.mc"
            raise Misconfigured("mta.files", what, hint)
        if self._access.owner not in {None, "root"}:
            what = f"sendmail {self._name}: it refuses a key of {self._access.owner}: Permission denied"
            raise Misconfigured("mta.files", what, "remove `owner`")
        for path in (*self._layout.paths(), self._issuers):
            for directory in {*path.parents, *Path(os.path.realpath(path)).parents}:
                mode = directory.stat().st_mode
                if mode & 0o022:
                    who = "others" if mode & 0o002 else "its group"
                    what = f"sendmail {self._name}: it refuses {path}, since {who} may write into {directory}"
                    hint = "let the files be in a directory of root's, such as /etc/mail/tls"
                    raise Misconfigured("mta.files", what, hint)

    def _all_issuers(self, credentials: Mapping[str, Credential]) -> bytes:
        """Those of the new files, and of the key types whose files stay; where none has any, the leaves: with an empty
        CACertFile there is no TLS at all (seen with 8.17).
        """
        found = [credential.issuers for credential in credentials.values()]
        new = {pair.cert for pair in self._needed(credentials).values()}
        stay = {pair.cert for pair in self._needed(self._options.files).values()} - new
        found += [sendmailcf.issuers(read_file(Path(cert)) or b"") for cert in sorted(stay)]
        return b"".join(dict.fromkeys(found)) or b"".join(one.leaf for one in credentials.values())

    def _needed(self, key_types: Iterable[str]) -> dict[str, Pair]:
        """By key type, in an order that does not change."""
        return {key_type: pair_of(self._layout.of(key_type)) for key_type in sorted(key_types)}

    # -- hints ---------------------------------------------------------------------------------------------------------

    def _to_define(self, pairs: Iterable[Pair]) -> str:
        """How to make it name exactly these."""
        return self._to_make(sendmailcf.defines(list(pairs), str(self._issuers)))

    def _to_make(self, lines: str) -> str:
        source = Path(self._options.config).with_suffix(".mc")
        lines = lines.replace("dnl\n", "")  # a hint is one line, of which m4 reads nothing after a dnl
        return f"write {lines} into {source} above its MAILER lines, then: make -C {source.parent} && {_HUP}"

    def _command(self) -> str:
        return shlex.join(["sendmail", "-C", self._options.config, "-bt"]) + " </dev/null"

    def _wrong(self, what: str, hint: str) -> Misconfigured:
        return Misconfigured("mta.config", f"sendmail {self._name}: {what}", hint)

    # -- its programs --------------------------------------------------------------------------------------------------

    def _program(self) -> str:
        return os.path.realpath(program("sendmail", "mta.config"))

    def _daemon(self, settings: Settings) -> tuple[int | None, str]:
        """The daemon's pid, and how it was started, from its pid file; None if that is not its process."""
        try:
            found = processes.pid_file(Path(settings.pid_file))
        except Error:
            return None, ""
        return found if found and processes.runs(found.pid, self._program()) else (None, "")

    def _test(self) -> Result:
        try:
            return sendmailcf.tested(self._options.config, "mta.config")
        except Transient as error:  # in the words of `Server`
            raise Transient("mta.reload", error.detail, error.hint) from error

    def _read(self) -> Settings:
        try:
            return sendmailcf.read(Path(self._options.config))
        except Error as error:
            raise self._wrong(f"cannot read {error.detail}", error.hint) from error


_HUP = "systemctl reload sendmail"


def _said(result: Result) -> str:
    """What it complained of first, or how it ended."""
    lines = [line.strip()[:200] for line in result.err.splitlines() if line.strip()]
    return lines[0] if lines else f"exit status {result.code}"
