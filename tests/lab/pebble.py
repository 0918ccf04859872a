"""Pebble, a small ACME certificate authority. It keeps everything in memory: a restart forgets accounts and keys."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from pathlib import Path

from tests.lab import certificates
from tests.lab.addresses import ACME, PRIMARY, ZONE
from tests.lab.process import Server
from tests.lab.templates import render
from tests.lab.wait import until

EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


NEWER = Path(__file__).resolve().parents[2] / ".lab" / "pebble2"
"""2.10 and later, which has dns-persist-01."""


def missing() -> str:
    """Why that cannot be run here; "" where it can."""
    return "" if (NEWER / ".complete").exists() else "Pebble 2.10 is not unpacked: run tests/setup/unpack.sh pebble2"


class Pebble:
    """The lab's certificate authority; it checks dns-01 challenges at `dns_server`."""

    directory = f"https://{ACME}:14000/dir"

    def __init__(self, directory: Path, dns_server: str = PRIMARY, program: Path = Path("pebble")) -> None:
        self.https_ca = directory / "https-ca.pem"
        """The CA of Pebble's own HTTPS endpoint; not the one that signs what Pebble issues, which is root()."""
        self._directory = directory
        self._dns_server = dns_server
        self._program = program
        self._environment: dict[str, str] = {}
        self._server: Server | None = None

    def start(
        self,
        *,
        validation_sleep: bool = False,
        nonce_reject: int = 0,
        authz_reuse: int = 0,
        alternate_roots: int = 0,
        chain_length: int = 1,
        validity_seconds: int = 90 * 86400,
        eab_required: bool = False,
    ) -> None:
        """Starts it.

        Args:
            validation_sleep: wait some seconds before each validation, as Pebble does by itself.
            nonce_reject: per cent of good nonces that are refused.
            authz_reuse: per cent of orders that get a valid authorization, without a challenge.
            alternate_roots: chains to other roots that are offered beside the first.
            chain_length: number of intermediates.
            validity_seconds: of the certificates.
            eab_required: new accounts need EAB_KID and EAB_KEY.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_https()
        config = render(
            "pebble.json",
            DIR=self._directory,
            VALIDITY=validity_seconds,
            EAB_REQUIRED=str(eab_required).lower(),
            EAB_KID=EAB_KID,
            EAB_KEY=EAB_KEY,
        )
        (self._directory / "pebble.json").write_text(config)
        self._environment = {
            "PEBBLE_VA_NOSLEEP": "0" if validation_sleep else "1",
            "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
            "PEBBLE_AUTHZREUSE": str(authz_reuse),
            "PEBBLE_ALTERNATE_ROOTS": str(alternate_roots),
            "PEBBLE_CHAIN_LENGTH": str(chain_length),
        }
        self._start()

    def stop(self) -> None:
        """Ends it: connections are refused."""
        if self._server:
            self._server.stop()
            self._server = None

    def restart(self) -> None:
        """Starts it again with the same options: it knows no account, and has a new root."""
        self.stop()
        self._start()

    def pause(self) -> None:
        """From now on connections are accepted and never answered."""
        assert self._server
        self._server.pause()

    def resume(self) -> None:
        assert self._server
        self._server.resume()

    def root(self) -> bytes:
        """The root certificate of what it issues now, in PEM."""
        return self._get(f"https://{ACME}:15000/roots/0")

    @property
    def log(self) -> str:
        return (self._directory / "pebble.log").read_text()

    def _start(self) -> None:
        config = self._directory / "pebble.json"
        argv = [self._program, "-config", config, "-dnsserver", f"{self._dns_server}:53"]
        self._server = Server(self._directory / "pebble.log", *argv, env=self._environment)
        until(self._answers, 20, "Pebble answers")

    def _answers(self) -> bool:
        assert self._server
        self._server.alive()
        try:
            return bool(self._get(self.directory))
        except urllib.error.URLError:
            return False

    def _get(self, url: str) -> bytes:
        context = ssl.create_default_context(cafile=self.https_ca)
        with urllib.request.urlopen(url, context=context, timeout=5) as answer:
            return answer.read()

    def _write_https(self) -> None:
        """Debian's package has no certificate for the endpoint."""
        ca = certificates.make(["lab https CA"], ca=True)
        leaf = certificates.make([f"acme.{ZONE}", "localhost"], [ACME], ca)
        self.https_ca.write_bytes(ca.certificate_pem)
        (self._directory / "https.crt").write_bytes(leaf.certificate_pem)
        (self._directory / "https.key").write_bytes(leaf.key_pem)
