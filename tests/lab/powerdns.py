"""PowerDNS with an HTTP API and one signed zone, pdns.example; `Dns.adopt` puts it below example."""

from __future__ import annotations

import base64
import http.client
import json
import os
import secrets
from pathlib import Path

from tests.lab.process import Server, run
from tests.lab.wait import until

ADDRESS = "127.0.0.4"
API_PORT = 8081
PDNS_ZONE = "pdns.example"
KEY = "update-key"
SCHEMA = Path("/usr/share/pdns-backend-sqlite3/schema/schema.sqlite3.sql")

CONFIG = """\
config-dir={directory}
socket-dir={directory}
launch=gsqlite3
gsqlite3-database={directory}/pdns.sqlite3
gsqlite3-dnssec=yes
local-address={address}
daemon=no
guardian=no
setuid=
setgid=
api=yes
api-key={key}
webserver=yes
webserver-address={address}
webserver-port={port}
webserver-allow-from=127.0.0.0/8
security-poll-suffix=
# its caches would delay a change by up to 60 s
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
zone-cache-refresh-interval=0
dnsupdate=yes
"""


class PowerDns:
    """The server."""

    def __init__(self, directory: Path) -> None:
        self.api_key = secrets.token_urlsafe(16)
        self.tsig_secret = base64.b64encode(os.urandom(32)).decode()
        self._directory = directory

    def start(self) -> None:
        """On return the API answers and the zone is there."""
        self._directory.mkdir(parents=True)
        values = {"directory": self._directory, "address": ADDRESS, "port": API_PORT, "key": self.api_key}
        (self._directory / "pdns.conf").write_text(CONFIG.format(**values))
        log = self._directory / "pdns.log"
        run(log, "sqlite3", self._directory / "pdns.sqlite3", f".read {SCHEMA}")
        self._server = Server(log, "pdns_server", f"--config-dir={self._directory}")
        until(self._answers, 10, "the API answers")
        name = f"{PDNS_ZONE}."
        zone = {"name": name, "kind": "Native", "dnssec": True, "api_rectify": True, "nameservers": [f"ns1.{name}"]}
        if (status := self.api("POST", "/zones", zone)) != 201:
            self.stop()
            raise RuntimeError(f"the zone cannot be made: {status}")
        key = {"name": KEY, "algorithm": "hmac-sha256", "key": self.tsig_secret}
        statuses = [
            self.put(f"ns1.{name}", "A", ADDRESS),
            self.api("POST", "/tsigkeys", key),
            self.api("POST", f"/zones/{name}/metadata", {"kind": "TSIG-ALLOW-DNSUPDATE", "metadata": [KEY]}),
            self.api("PUT", f"/zones/{name}/metadata/SOA-EDIT-DNSUPDATE", {"metadata": ["INCREASE"]}),
        ]
        if any(status >= 300 for status in statuses):
            self.stop()
            raise RuntimeError(f"updates cannot be allowed: {statuses}")

    def stop(self) -> None:
        self._server.stop()

    def pause(self) -> None:
        """From now on nothing is answered."""
        self._server.pause()

    def resume(self) -> None:
        self._server.resume()

    @property
    def url(self) -> str:
        """Where the API is."""
        return f"http://{ADDRESS}:{API_PORT}"

    @property
    def config_dir(self) -> str:
        """The option of pdnsutil that finds its configuration."""
        return f"--config-dir={self._directory}"

    def token(self, path: Path) -> Path:
        """A file with the key of the API."""
        path.touch(0o600)
        path.write_text(self.api_key)
        return path

    def keyfile(self, path: Path) -> Path:
        """A file with the key that may update the zone."""
        path.touch(0o600)
        path.write_text(f'key "{KEY}" {{ algorithm hmac-sha256; secret "{self.tsig_secret}"; }};\n')
        return path

    def api(self, method: str, path: str, body: object = None) -> int:
        """Calls the API; the HTTP status."""
        connection = http.client.HTTPConnection(ADDRESS, API_PORT, timeout=5)
        headers = {"X-API-Key": self.api_key, "Content-Type": "application/json"}
        try:
            connection.request(method, f"/api/v1/servers/localhost{path}", json.dumps(body) if body else None, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def put(self, name: str, rdtype: str, content: str) -> int:
        """Makes it the one record of that name and type; the HTTP status."""
        rrset = {"name": name, "type": rdtype, "ttl": 5, "changetype": "REPLACE", "records": [{"content": content}]}
        return self.api("PATCH", f"/zones/{PDNS_ZONE}.", {"rrsets": [rrset]})

    def _answers(self) -> bool:
        self._server.alive()
        try:
            return self.api("GET", "") == 200
        except OSError:
            return False
