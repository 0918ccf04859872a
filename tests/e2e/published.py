"""A mail host as it is published (tests/e2e/hosts), on the real daemons; `certagent init` is followed to the letter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from certagent.facts.tls import Chain, Service
from certagent.pki.names import covers
from certagent.probe.handshake import probe
from tests.e2e.site import BOTH_SERVERS, ROOT, Site
from tests.lab import certificates, exim, opensmtpd, sendmail
from tests.lab.addresses import ALIAS_ZONE, MX1, MX2, PRIMARY, ZONE
from tests.lab.dovecot import Dovecot
from tests.lab.exim import TRUSTED, Exim
from tests.lab.postfix import Receiver
from tests.mta import chains

HOSTS = ROOT / "tests" / "e2e" / "hosts"
CONFIG = Path("/etc/certagent/config.yaml")
_OVERLAID = ("postfix", "exim4", "dovecot", "smtpd", "certagent", "letsencrypt", "ssl", "nginx", "acme.sh", "yunohost")
_KINDS = {"ecdsa": "ecdsa-p256", "rsa": "rsa-2048"}


class Client(NamedTuple):
    """Who connects to the host: `25 smtp mx1.corp.example`."""

    port: int
    mode: Any
    name: str

    @classmethod
    def read(cls, text: str) -> Client:
        port, mode, name = text.split()
        return cls(int(port), mode, name)


class Row(NamedTuple):
    """One line of the table."""

    host: str
    before: str
    after: str
    verdict: str


class Postfix(Receiver):
    """The default instance, in /etc/postfix; its queue is the lab's."""

    def __init__(self, directory: Path, main: str, master: str) -> None:
        super().__init__(directory, chain_files=[])
        self.config_dir = Path("/etc/postfix")
        self._main_cf, self._master_cf = main, master

    def configure(self, name: str, text: str) -> None:
        super().configure(name, text.replace(f"{self._directory}/etc", str(self.config_dir)))

    def _own_settings(self, common: Mapping[str, object]) -> str:
        kept = [line for line in super()._own_settings(common).splitlines() if not line.startswith(("smtpd_tls", "my"))]
        return "\n".join([*kept, self._main_cf])

    def _services(self) -> list[str]:
        return self._master_cf.splitlines()


class Published(Site):
    """A host of tests/e2e/hosts."""

    def __init__(self, place: Path, dns: Any, pebble: Any, host: dict[str, Any]) -> None:
        super().__init__(place, dns, pebble)
        self.host = host
        self.clients = [Client.read(text) for text in host["clients"]]
        self.dns_names = [name.split() for name in host.get("dns", {})]
        self.reloads: dict[str, Callable[[], object]] = {}

    # ---- the host ----------------------------------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Generator[None]:
        """As it is published, with its records in DNS; all is put back."""
        with ExitStack() as stack:
            stack.enter_context(_etc(self.place))
            stack.enter_context(_home())
            Path("/etc/postfix/main.cf").unlink(missing_ok=True)
            self._records(stack)
            for server in (self._sendmail, self._debian_exim):
                server(stack)
            for one in () if {"sendmail", "debian_exim"} & self.host.keys() else self.host.get("certificates", ()):
                _certificate(one)
            for path, text in self.host.get("files", {}).items():
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                Path(path).write_text(text)
            for server in (self._postfix, self._dovecot, self._exim, self._smtpd):
                server(stack)
            for command in self.host.get("run", ()):
                subprocess.run(["sh", "-ec", command], check=True)
            for path, owner in self.host.get("owners", {}).items():
                subprocess.run(["chown", "-R", owner, path], check=True)
            for text in self.host.get("tlsa", ()):
                port, name = text.split()
                client = next(one for one in self.everybody() if (str(one.port), one.name) == (port, name))
                values = sorted({f"3 1 1 {chain.spki}" for chain in self.met(client)})
                self.dns.update(f"_{port}._tcp.{name}", "TLSA", values, ttl=2)
            self.dns.settle()
            yield

    def _records(self, stack: ExitStack) -> None:
        for record, values in sorted(self.host.get("dns", {}).items(), key=lambda one: one[0].endswith(" MX")):
            name, rdtype = record.split()
            old = self.dns.values(PRIMARY, name, rdtype)
            stack.callback(self.dns.update, name, rdtype, old)
            self.dns.update(name, rdtype, values)
        names = {client.name for client in self.everybody()}
        for zone in (ZONE, ALIAS_ZONE):
            below = {
                name.removeprefix("*.") for one in self.host.get("certificates", ()) for name in one["names"]
            } | names
            for name in sorted(name for name in below if name.endswith(f".{zone}") or name == zone):
                self.names += [f"_{port}._tcp.{name}" for port in (25, 465, 587, 993)] + [f"_acme-challenge.{name}"]
        stack.callback(self.dns.settle)
        stack.callback(self._clear)

    def _postfix(self, stack: ExitStack) -> None:
        if "main" in self.host:
            server = Postfix(self.place / "mx1", self.host["main"], self.host["master"])
            server.start()
            stack.callback(server.stop)

    def _dovecot(self, stack: ExitStack) -> None:
        if "dovecot" in self.host:
            address = MX1 if "main" in self.host else MX2
            server = Dovecot(self.place / "dovecot", "2.3", address, Path("/etc/dovecot/dovecot.conf"))
            server.configure(self.host["dovecot"])
            server.start()
            stack.callback(server.stop)

    def _exim(self, stack: ExitStack) -> None:
        if "exim" not in self.host:
            return
        server = Exim(self.place / "exim", {})
        first_in_path = Path("/usr/local/sbin")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "lab", first_in_path], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", first_in_path], check=True)
        (first_in_path / "exim4").symlink_to(server.program)
        server.config = Path("/etc/exim4/exim4.conf")
        TRUSTED.write_text(f"{server.config}\n")
        server.configure({}, self.host["exim"])
        server.start()
        stack.callback(server.stop)

    def _debian_exim(self, stack: ExitStack) -> None:
        if found := self.host.get("debian_exim"):
            split = "true" if found["split"] else "false"
            stack.enter_context(exim.debian(self.place, use_split_config=split, local_interfaces=MX2))
            file = "conf.d/main/000_localmacros" if found["split"] else "exim4.conf.localmacros"
            Path("/etc/exim4", file).write_text(found["macros"])
            for one in self.host.get("certificates", ()):
                _certificate(one)
            subprocess.run(["update-exim4.conf"], check=True)
            stack.enter_context(exim.daemon(self.place))

    def _smtpd(self, stack: ExitStack) -> None:
        if "smtpd" in self.host:
            server = opensmtpd.OpenSmtpd(self.place / "smtpd", {})
            server.text = lambda: self.host["smtpd"]
            stack.callback(server.stop)
            server.start()
            server.run_by_systemd()

    def _sendmail(self, stack: ExitStack) -> None:
        if "sendmail" in self.host:
            server = sendmail.Sendmail([])
            server.prepare()
            stack.callback(server.stop)
            for one in self.host["certificates"]:
                _certificate(one)
            server.configure(self.host["sendmail"])
            server.install_makefile()
            server.launch()

    # ---- who looks at it ---------------------------------------------------------------------------------------------

    def everybody(self) -> list[Client]:
        """The clients, and the senders that look for TLSA records."""
        senders = (text.split() for text in self.host.get("tlsa", ()))
        mode = {25: "smtp", 587: "smtp", 465: "tls", 993: "tls"}
        return list(dict.fromkeys([*self.clients, *(Client(int(p), mode[int(p)], name) for p, name in senders)]))

    def met(self, client: Client) -> list[Chain]:
        """What the client meets, by each key type."""
        service = Service(client.name, client.port, client.mode)
        [address] = self.dns.values(PRIMARY, client.name, "A") or [MX1]
        seen = (probe(service, address, kind, 10).chain for kind in _KINDS.values())
        return [chain for chain in seen if isinstance(chain, Chain)]

    def all_met(self) -> dict[Client, list[Chain]]:
        return {client: self.met(client) for client in self.everybody()}

    def unmatched(self) -> list[str]:
        """What a sender that looks for TLSA records would not verify."""
        return [
            f"{client.port} {client.name}"
            for client in self.everybody()
            for server in BOTH_SERVERS
            if (values := self.dns.values(server, f"_{client.port}._tcp.{client.name}", "TLSA"))
            for chain in self.met(client)
            if f"3 1 1 {chain.spki}" not in values
        ]

    # ---- what init says ----------------------------------------------------------------------------------------------

    def follow(self, report: Any) -> None:
        """Every step, in its order, as it is printed; what only the operator knows is the lab's."""
        for step in report["next"]:
            command: str = step["command"]
            if command.startswith("grep -n TODO"):
                self._fill_in()
            elif command.startswith(("systemctl enable", "install -m 644 packaging", "install -d /etc/systemd")):
                continue  # no systemd runs here
            elif step["what"].startswith("by hand"):
                raise AssertionError(f"a person is needed: {step}")
            else:
                self._do(command, step["what"])

    def _do(self, command: str, what: str) -> None:
        done = subprocess.run(
            ["sh", "-ec", command],
            env=self.environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=180,
            check=False,
        )
        expected = (3,) if "ends with an error" in what else (0,)
        assert done.returncode in expected, f"{command} -> {done.returncode}\n{done.stdout}{done.stderr}"

    @property
    def environment(self) -> dict[str, str]:
        """Of a shell in which `certagent` is this one, with its configuration where it is by default."""
        bin_ = self.place / "bin"
        bin_.mkdir(exist_ok=True)
        program = bin_ / "certagent"
        if not program.exists():
            program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m certagent "$@"\n')
            program.chmod(0o755)
        systemctl = bin_ / "systemctl"  # there is no systemd here; the daemons that have no command of their own
        pids = f"{self.place}/exim/exim.pid /run/exim4/exim.pid"
        systemctl.write_text(
            '#!/bin/sh\ncase "$*" in\n'
            f'"reload exim4") for f in {pids}; do [ ! -e "$f" ] || exec kill -HUP "$(cat "$f")"; done;;\n'
            '"reload sendmail") exec kill -HUP "$(head -n 1 /etc/mail/sendmail.pid)";;\n'
            '*) exec /usr/local/sbin/systemctl "$@";;\nesac\n'
        )
        systemctl.chmod(0o755)
        path = f"{bin_}:{os.environ['PATH']}"
        found = {**super().environment, "PATH": path}
        found.pop("CERTAGENT_CONFIG", None)
        return found

    def _fill_in(self) -> None:
        config = yaml.safe_load(CONFIG.read_text())
        config["state_dir"] = str(self.state_dir)
        config["ca"]["letsencrypt"] = self.ca
        for provider in config["dns"]["providers"].values():
            provider["key_file"] = str(self.dns.keyfile("dane-key"))
        for certificate in config["certificates"].values():
            certificate["drain"] = "0s"
            if "dane" in certificate:
                certificate["dane"] |= {"ttl": "1s", "safety_margin": "0s"}
        CONFIG.write_text(yaml.safe_dump(config, sort_keys=False))


def check(host: Published) -> Row:
    """Sets it up, follows what `init` says, and judges what clients and senders meet; the row of the table."""
    with host.running():
        before = host.all_met()
        assert all(before.values()), before
        argv = ["certagent", "init", "--json"]
        proposed = subprocess.run(argv, env=host.environment, capture_output=True, text=True, timeout=120, check=False)
        said = proposed.stdout + proposed.stderr
        shown = " ".join(said.replace("\\n", " ").replace("#", " ").split())
        for words in host.host.get("says", ()):
            assert words in shown, shown
        what = host.host["what"]
        if refused := host.host.get("refused"):
            assert proposed.returncode != 0 or refused in shown, said
            assert refused in shown, shown
            assert host.all_met() == before
            return Row(what, _shown(before), "as it was", f"refused: {refused}")
        assert proposed.returncode == 0, said
        host.follow(json.loads(proposed.stdout))
        after = host.all_met()
        for client, chains in after.items():
            assert chains, f"{client}: no certificate is met"
            for chain in chains:
                assert any(covers(name, client.name) for name in chain.names), (client, chain.names)
                assert chain not in before[client], f"{client} meets what it met before"
        assert host.unmatched() == []
        return Row(what, _shown(before), _shown(after), "right")


def _shown(met: Mapping[Client, list[Chain]]) -> str:
    return ", ".join(f"{client.port} {'/'.join(one.spki[:6] for one in chains)}" for client, chains in met.items())


def hosts(*, quick: bool = False) -> dict[str, dict[str, Any]]:
    """All of them, or those that `make test` does."""
    found = {path.stem: yaml.safe_load(path.read_text()) for path in sorted(HOSTS.glob("*.yaml"))}
    return {name: host for name, host in found.items() if host.get("quick") or not quick}


# ---- the machine -----------------------------------------------------------------------------------------------------


@contextmanager
def _etc(place: Path) -> Generator[None]:
    """What is in /etc is as it was before when it is over: the lab's own /etc is for all of its tests."""
    saved = place / "saved"
    for name in _OVERLAID:
        if (Path("/etc") / name).exists():
            shutil.copytree(Path("/etc") / name, saved / name, symlinks=True)
    try:
        yield
    finally:
        for name in _OVERLAID:
            shutil.rmtree(Path("/etc") / name, ignore_errors=True)
            if (saved / name).exists():
                shutil.copytree(saved / name, Path("/etc") / name, symlinks=True)
        for name in ("dms",):
            shutil.rmtree(Path("/etc") / name, ignore_errors=True)


@contextmanager
def _home() -> Generator[None]:
    """/home and /usr/local are the lab's own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "lab", "/home"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", "/home"], check=True)


def _certificate(one: dict[str, Any]) -> None:
    """The files of a certificate, with their owner and mode; with links, as certbot has them."""
    if one.get("self_signed"):
        alone = certificates.make(one["names"])
        key, leaf, issuer = alone.key_pem, alone.certificate_pem, b""
    else:
        made = chains.make(_KINDS[one["kind"]], *one["names"])
        key, leaf, issuer = made.key, made.leaf, made.issuer
    contents = {one["key"]: key} | ({one["chain"]: issuer} if "chain" in one else {})
    contents[one["cert"]] = contents.get(one["cert"], b"") + leaf + (b"" if "chain" in one else issuer)
    for path, content in contents.items():
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        if one.get("links"):
            real = file.parent / "archive" / file.name
            real.parent.mkdir(exist_ok=True)
            file.unlink(missing_ok=True)
            file.symlink_to(real)
            file = real
        file.touch(0o600)
        file.write_bytes(content)
        user, _, group = one.get("owner", "root:root").partition(":")
        if subprocess.run(["getent", "group", group], capture_output=True, check=False).returncode:
            subprocess.run(["groupadd", "--system", group], check=True)
        shutil.chown(file, user, group)
        file.chmod(int(one.get("mode", "0600"), 8) if b"PRIVATE KEY" in content else 0o644)
