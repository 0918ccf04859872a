"""The shipped systemd unit as a sandbox: in it, a certagent renews every real server, and says what it may not do.

What of the unit is reproduced, and what is not, is in tests/lab/unit.py. Its ReadWritePaths= stand for the lab's
directories here; that they name the real ones is tested by themselves.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from certagent.errors import Error
from certagent.host import privileges as privileges_of_root
from certagent.init import host
from certagent.init.steps import unit_writes
from certagent.pki.credential import Credential
from certagent.secret import Secret
from tests.e2e.site import NAME, Site
from tests.lab import dovecot, exim, handshake, opensmtpd, sendmail, unit
from tests.lab.addresses import IMAP, MX1, MX2, ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import Pebble
from tests.lab.postfix import Receiver
from tests.lab.wait import until
from tests.mta import chains

ROOT = Path(__file__).resolve().parents[2]
SERVERS = [f"docs/how-to/{server}.md" for server in ("postfix", "exim", "dovecot", "opensmtpd", "sendmail")]
PAGES = ("config.example.yaml", "docs/tutorial/first-certificate.md", "docs/reference/errors.md", *SERVERS)
ONLY_READ = {"/etc/certagent", "/etc/ssl"}
QUEUE = {"/var/spool/postfix", "/var/lib/postfix"}
HOST = f"mx2.{ZONE}"
KIND = "rsa-2048"
"""Of the keys here: OpenSMTPD has one kind."""

OLD, NEW = chains.make(KIND, HOST), chains.make(KIND, HOST)


class Lab(NamedTuple):
    """A running server with the old certificate, and how certagent is told of it."""

    kind: str
    options: dict[str, Any]
    file: Path
    address: str
    port: int = 25
    needs: tuple[Path, ...] = ()
    """What the unit lets be written, beside the directory of the file."""

    def served(self) -> str:
        """Its key, or why there was no handshake."""
        try:
            return handshake.served_tlsa(self.address, self.port, HOST).removeprefix("3 1 1 ")
        except OSError as error:
            return str(error)


def put(path: Path, user: str = "root") -> Path:
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(OLD.pem)
    shutil.chown(path, user)
    return path


def postfix_lab(place: Path, stack: ExitStack) -> Lab:
    file = put(place / "tls" / "rsa.pem")
    server = Receiver(place / "mx1", chain_files=[file])
    stack.callback(server.stop)
    server.start()
    options = {"chain_files": {"rsa": str(file)}, "config_dir": str(server.config_dir)}
    return Lab("postfix", options, file, MX1, needs=(place / "mx1" / "spool", place / "mx1" / "data"))


def exim_lab(place: Path, stack: ExitStack) -> Lab:
    exim.program()  # and Exim's user
    file = put(place / "tls" / "rsa.pem", exim.USER)
    server = exim.Exim(place / "mx2", {"tls_certificate": str(file)})
    stack.callback(server.stop)
    server.start()
    options = {"files": {"rsa": str(file)}, "config": str(server.config), "program": str(server.program)}
    return Lab("exim", options, file, MX2)


def dovecot_lab(place: Path, stack: ExitStack) -> Lab:
    """2.3: programs of the lab's 2.4 want CAP_SYS_CHROOT, since they are unpacked into a directory."""
    file = put(place / "tls" / "rsa.pem")
    server = dovecot.Dovecot(place / "imap", "2.3")
    server.configure(server.pair(file))
    stack.callback(server.stop)
    server.start()
    return Lab("dovecot", {"files": {"rsa": str(file)}, "config": str(server.config)}, file, IMAP, 993)


def opensmtpd_lab(place: Path, stack: ExitStack) -> Lab:
    if why := opensmtpd.missing():
        pytest.skip(why)
    file = put(place / "tls" / "rsa.pem")
    server = opensmtpd.OpenSmtpd(place / "smtpd", {opensmtpd.NAME: (file, file)})
    stack.callback(server.stop)
    server.start()
    restart = place / "restart"
    stack.enter_context(unit.manager(restart, server.restart_script))
    return Lab("opensmtpd", {"files": {"rsa": str(file)}, "restart": [str(restart)]}, file, opensmtpd.ADDRESS)


def sendmail_lab(place: Path, stack: ExitStack) -> Lab:
    file, issuers = sendmail.TLS / "rsa.pem", sendmail.TLS / "issuers.pem"
    server = sendmail.Sendmail([(file, file)])
    stack.callback(server.stop)
    server.prepare()
    put(file)
    issuers.write_bytes(OLD.issuer)
    server.start()
    return Lab("sendmail", {"files": {"rsa": str(file)}, "issuers": str(issuers)}, file, sendmail.ADDRESS)


LABS = {
    "postfix": postfix_lab,
    "exim": exim_lab,
    "dovecot": dovecot_lab,
    "opensmtpd": opensmtpd_lab,
    "sendmail": sendmail_lab,
}


@pytest.fixture
def lab(request: pytest.FixtureRequest, place: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        yield LABS[request.param](place, stack)


def each(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("lab", names or tuple(LABS), indirect=True)


def privileges(kind: str) -> tuple[str, ...]:
    """What `certagent init` has a drop-in give."""
    return getattr(host.plugins()[kind], "privileges", ())


def renewed(
    lab: Lab,
    place: Path,
    *,
    writable: Iterable[Path] | None = None,
    also: Iterable[str] | None = None,
    unchecked: bool = False,
) -> dict[str, str]:
    """What a renewal in the sandbox ended with: nothing, or the error."""
    if writable is None:
        writable = (lab.file.parent, *lab.needs)
    python = unit.confined(place / "python", writable, also=privileges(lab.kind) if also is None else also)
    parts = [NEW.key.decode(), NEW.leaf.decode(), NEW.issuer.decode()]
    given = {"kind": lab.kind, "options": lab.options, "credential": parts, "unchecked": unchecked}
    argv = [python, "-m", "tests.e2e.test_unit"]
    done = subprocess.run(argv, check=False, cwd=ROOT, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@each()
def test_every_server_is_renewed_in_the_sandbox(lab: Lab, place: Path) -> None:
    """Its configuration is checked, the file swapped, the server reloaded or restarted, and the new key is served."""
    assert lab.served() == OLD.spki
    assert renewed(lab, place) == {}
    until(lambda: lab.served() == NEW.spki, 5, "the new key")


def test_three_servers_need_no_more_than_the_unit_gives() -> None:
    assert {kind for kind in LABS if not privileges(kind)} == {"postfix", "dovecot", "opensmtpd"}


@each("exim", "sendmail")
def test_without_the_drop_in_nothing_is_changed_and_it_is_printed(lab: Lab, place: Path) -> None:
    error = renewed(lab, place, also=())
    assert (error["code"], lab.file.read_bytes()) == ("mta.config", OLD.pem)
    assert f"certagent runs without {' '.join(sorted(privileges(lab.kind)))}: " in error["detail"]
    assert shlex.quote(f"CapabilityBoundingSet={' '.join(sorted(privileges(lab.kind)))}") in error["hint"]


@pytest.mark.parametrize(
    ("lab", "lacking"), [(kind, one) for kind in ("exim", "sendmail") for one in privileges(kind)], indirect=["lab"]
)
def test_each_capability_of_the_drop_in_is_needed(lab: Lab, place: Path, lacking: str) -> None:
    """Without the check for it, the renewal itself fails."""
    others = [one for one in privileges(lab.kind) if one != lacking]
    assert renewed(lab, place, also=others, unchecked=True) != {}


@each("opensmtpd")
def test_the_pause_before_a_restart_works_in_the_sandbox(lab: Lab, place: Path) -> None:
    """A session is waited for; smtpctl, which is setgid, needs a group that NoNewPrivileges keeps it from taking."""
    lab.options["pause"] = "20s"
    assert "without CAP_SETGID: `pause`" in renewed(lab, place)["detail"]
    with opensmtpd.session() as client, ThreadPoolExecutor(1) as pool:
        renewal = pool.submit(renewed, lab, place, also=["CAP_SETGID"])
        until(opensmtpd.paused, 10, "it takes no new clients")
        assert not renewal.done()
        assert opensmtpd.asked(client, "QUIT").startswith("221 ")
        assert renewal.result() == {}
    assert lab.served() == NEW.spki


@each()
def test_a_directory_that_the_unit_does_not_name_is_reported_before_anything_is_changed(lab: Lab, place: Path) -> None:
    """By the server's check, with the setting that the unit lacks."""
    error = renewed(lab, place, writable=lab.needs)
    assert (error["code"], lab.file.read_bytes()) == ("mta.disk", OLD.pem)
    assert error["detail"].endswith("Read-only file system")
    assert f"ReadWritePaths={lab.file.parent} " in error["hint"]


def test_the_service_itself_works_in_the_sandbox(
    place: Path, lab_dns: Dns, pebble: Pebble, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`certagent run` gets the first certificate, has Postfix serve it and publishes its records."""
    with Site(place, lab_dns, pebble) as site:
        site.state_dir.mkdir(mode=0o700)  # StateDirectory=
        queue = (place / "mx1" / "spool", place / "mx1" / "data")
        monkeypatch.setattr(sys, "executable", str(unit.confined(place / "python", (site.tls, site.state_dir, *queue))))
        with site.daemon() as daemon:
            daemon.until(
                lambda w: w.get("event") == "wait" and w["certificate"] == NAME and int(w["for_s"]) > 3600, 20, "done"
            )
        site.assert_converged()


def test_the_sandbox_is_one(place: Path) -> None:
    """It has the unit's capabilities and no more, and only what it may write is not read-only."""
    (place / "open").mkdir()
    python = unit.confined(place / "python", [place / "open"])
    look = "import os, sys; print(open('/proc/self/status').read(), *(os.statvfs(p).f_flag & 1 for p in sys.argv[1:]))"
    argv = [python, "-c", look, "/", "/etc", "/run", place, place / "open"]
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert done.stdout.endswith(" 1 1 1 1 0\n")
    status = dict(line.split(":\t") for line in done.stdout.splitlines() if ":\t" in line)
    assert (status["NoNewPrivs"], status["Umask"]) == ("1", "0077")
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"]
    assert int(status["CapEff"], 16).bit_count() == len(unit.capabilities())


# -- the real paths --------------------------------------------------------------------------------------------------


def writable() -> set[str]:
    return {path.removeprefix("-") for path in unit.settings()["ReadWritePaths"].split()}


@pytest.mark.parametrize("page", PAGES)
def test_the_unit_names_the_directories_of_the_documentation(page: str) -> None:
    """Whoever follows example or docs needs no drop-in."""
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = {str(Path(path).parent) for path in re.findall(r"/etc/[\w./-]+\.(?:pem|list)\b", text)}
    assert shown
    assert shown - ONLY_READ <= writable()


def test_a_missing_directory_does_not_keep_the_service_from_starting() -> None:
    """A host has not all of these servers."""
    assert all(path.startswith("-/") for path in unit.settings()["ReadWritePaths"].split())


def test_init_knows_what_the_unit_lets_be_written() -> None:
    """It proposes a drop-in for every other directory."""
    assert writable() - QUEUE == unit_writes(host.plugins())


# -- what systemd thinks of it -----------------------------------------------------------------------------------------

GOOD_ENOUGH = 2.0
EXPLAINED = ROOT / "docs" / "explanation" / "security.md"
analysed = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def analysis(file: Path) -> tuple[float, set[tuple[str, str]]]:
    """The exposure, and each finding with its points."""
    argv = ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(file)]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("✗")]
    exposure = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    if exposure is None:
        pytest.skip(f"this systemd-analyze cannot do it: {done.stderr}")
    return float(exposure[1]), {(words[1], words[-1]) for words in lines}


def table(heading: str) -> list[list[str]]:
    """The rows of the table with this heading."""
    lines = EXPLAINED.read_text(encoding="utf-8").partition(f"\n| {heading} |")[2].partition("\n\n")[0].splitlines()
    return [[cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


@analysed
def test_what_systemd_finds_has_its_points_and_its_reason_in_the_docs() -> None:
    """A newer systemd may ask more."""
    exposure, findings = analysis(unit.FILE)
    rows = table("it finds")
    assert exposure <= GOOD_ENOUGH
    assert findings == {(name, points) for name, points, _ in rows}
    assert all(why for _, _, why in rows)


@analysed
def test_what_each_kind_of_server_adds_is_what_the_docs_say(place: Path) -> None:
    rows = table("on the host")
    for _, added, points in rows:
        file = place / "certagent.service"
        file.write_text(
            f"{unit.FILE.read_text()}\n[Service]\nCapabilityBoundingSet={added}\n" if added else unit.FILE.read_text()
        )
        assert analysis(file)[0] == float(points)
    shown = {server: added.split() for servers, added, _ in rows for server in re.findall(r"[A-Z]\w+", servers)}
    shown["OpenSMTPD"] = []  # the last row is with `pause`
    assert shown == {server: sorted(privileges(server.lower())) for server in shown}
    assert {server.lower() for server in shown} == LABS.keys()


# -- inside the sandbox ----------------------------------------------------------------------------------------------


def renew(kind: str, options: Mapping[str, Any], credential: list[str], *, unchecked: bool) -> None:
    """What certagent does to a server when it has a new certificate, but for the proof."""
    if unchecked:
        privileges_of_root.check = _unchecked
    plugin = host.plugins()[kind]
    server = plugin("lab", msgspec.convert(options, plugin.Options))
    server.check(frozenset({KIND}))
    key, leaf, issuers = (part.encode() for part in credential)
    server.install({KIND: Credential(Secret(key), leaf, issuers)})
    server.reload()


def _unchecked(*_: object) -> None:
    """In place of `privileges.check`."""


if __name__ == "__main__":
    try:
        renew(**json.load(sys.stdin))
        ended = {}
    except Error as error:
        ended = {"code": error.code, "detail": error.detail, "hint": error.hint}
    print(json.dumps(ended))
