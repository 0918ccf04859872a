"""The ACME clients that certagent is measured beside. Each does the same work: an account where it has none, an order,
one dns-01 challenge by an RFC 2136 update, an ECDSA P-256 certificate in files. None has to wait for anything but
what it waits for by itself.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import Lab
from tests.lab.addresses import PRIMARY, ZONE

NAME = f"mx1.{ZONE}"
CERTBOT = Path(sys.prefix) / "bench"
"""certbot's own virtual environment; `make clean` removes it."""
CERTBOT_PACKAGES = ("certbot", "certbot-dns-rfc2136")

HOOK = """\
#!/bin/sh
# uacme calls: METHOD TYPE IDENTIFIER TOKEN VALUE
[ "$2" = dns-01 ] || exit 1
case $1 in begin) do="add _acme-challenge.$3. 60 TXT $5" ;; *) do="delete _acme-challenge.$3. TXT" ;; esac
printf 'server %s\\n%s\\nsend\\n' {server} "$do" | nsupdate -v -k {key}
"""


@dataclass(frozen=True)
class Peer:
    """A client: how it makes an account and a first certificate, and how it renews. `{}` is its fresh directory."""

    name: str
    version: str
    first: Sequence[str]
    again: Sequence[str]
    result: str
    """the certificate's file in its directory"""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])


def make_certbot() -> None:
    """Installs certbot's newest release; outside the lab, where there is a network. Nothing is done where it is."""
    if (CERTBOT / "bin" / "certbot").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", CERTBOT], check=True)
    subprocess.run([CERTBOT / "bin" / "pip", "install", "-qq", *CERTBOT_PACKAGES], check=True)


def peers(lab: Lab, directory: Path) -> tuple[list[Peer], dict[str, str]]:
    """Those that can be run here, and why the others cannot."""
    found: list[Peer] = []
    missing: dict[str, str] = {}
    for name, make in (("certbot", _certbot), ("lego", _lego), ("uacme", _uacme)):
        try:
            found.append(make(lab, directory))
        except (OSError, subprocess.CalledProcessError) as error:
            missing[name] = f"not run: {error}"
    return found, missing


def _version(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    match = re.search(r"\d+(\.\d+)+", done.stdout + done.stderr)
    return match[0] if match else "unknown"


def _debian_version(package: str) -> str:
    return _version("dpkg-query", "--show", "--showformat=${source:Upstream-Version}", package)


def _certbot(lab: Lab, directory: Path) -> Peer:
    program = str(CERTBOT / "bin" / "certbot")
    credentials = directory / "certbot.ini"
    credentials.touch(0o600)
    credentials.write_text(
        f"dns_rfc2136_server = {PRIMARY}\ndns_rfc2136_name = dane-key\ndns_rfc2136_secret = {lab.dns.tsig_secret}\n"
        "dns_rfc2136_algorithm = HMAC-SHA256\n"
    )
    common = [
        *(program, "certonly", "--non-interactive", "--quiet", "--agree-tos", "--register-unsafely-without-email"),
        *("--server", lab.pebble.directory, "--config-dir", "{}/c", "--work-dir", "{}/w", "--logs-dir", "{}/l"),
        *("--dns-rfc2136", "--dns-rfc2136-credentials", str(credentials), "--dns-rfc2136-propagation-seconds", "0"),
        *("--key-type", "ecdsa", "--elliptic-curve", "secp256r1", "--domain", NAME),
    ]
    environment = {"REQUESTS_CA_BUNDLE": str(lab.pebble.https_ca)}
    version = _version(program, "--version")
    return Peer("certbot", version, common, [*common, "--force-renewal"], f"c/live/{NAME}/fullchain.pem", environment)


def _lego(lab: Lab, _directory: Path) -> Peer:
    program = shutil.which("lego")
    if not program:
        raise FileNotFoundError("the Debian package lego is not installed")
    common = [
        *(program, "--path", "{}", "--accept-tos", "--email", f"a@{ZONE}", "--server", lab.pebble.directory),
        *("--key-type", "ec256", "--dns", "rfc2136", "--domains", NAME),
    ]
    environment = {
        "LEGO_CA_CERTIFICATES": str(lab.pebble.https_ca),
        "RFC2136_NAMESERVER": f"{PRIMARY}:53",
        "RFC2136_TSIG_ALGORITHM": "hmac-sha256.",
        "RFC2136_TSIG_KEY": "dane-key",
        "RFC2136_TSIG_SECRET": lab.dns.tsig_secret,
        "RFC2136_POLLING_INTERVAL": "1",  # the smallest
        "RFC2136_TTL": "60",
    }
    again = [*common, "renew", "--days", "999", "--no-random-sleep"]
    version = _debian_version("lego")
    return Peer("lego", version, [*common, "run"], again, f"certificates/{NAME}.crt", environment)


def _uacme(lab: Lab, directory: Path) -> Peer:
    program = shutil.which("uacme")
    if not program:
        raise FileNotFoundError("the Debian package uacme is not installed")
    hook = directory / "uacme-hook"
    hook.write_text(HOOK.format(server=PRIMARY, key=shlex.quote(str(lab.dns.keyfile("dane-key")))))
    hook.chmod(0o755)
    # it asks the system's certificates; in the lab, /etc can be written without a trace
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    bundle.parent.mkdir(parents=True, exist_ok=True)
    system = bundle.read_bytes() if bundle.exists() else b""
    bundle.unlink(missing_ok=True)
    bundle.write_bytes(system + lab.pebble.https_ca.read_bytes())
    common = [program, "-a", lab.pebble.directory, "-c", "{}", "-t", "EC", "-y"]
    issue = [*common, "-f", "-h", str(hook), "issue", NAME]
    both = f"{shlex.join([*common, 'new'])} && exec {shlex.join(issue)}"
    return Peer("uacme", _debian_version("uacme"), ["sh", "-c", both], issue, f"{NAME}/cert.pem")
