"""nginx as a web server on a mail host: it has port 80 for good."""

from __future__ import annotations

import socket
from pathlib import Path

from tests.lab.process import Server
from tests.lab.wait import until

TREE = Path(__file__).resolve().parents[2] / ".lab" / "nginx"
CONFIG = """\
daemon off;
master_process off;
pid {place}/nginx.pid;
error_log stderr;
events {{}}
http {{
  access_log {place}/access.log;
  client_body_temp_path {place}/body;
  proxy_temp_path {place}/proxy;
  fastcgi_temp_path {place}/fastcgi;
  uwsgi_temp_path {place}/uwsgi;
  scgi_temp_path {place}/scgi;
  server {{
    listen 80;
    server_name _;
    {server}
  }}
}}
"""


def missing() -> str:
    """Why it cannot be run here; "" where it can."""
    return "" if (TREE / ".complete").exists() else "nginx is not unpacked: run tests/setup/unpack.sh nginx"


class Nginx:
    """At port 80 of every IPv4 address. `server`: what stands in its `server` block."""

    def __init__(self, place: Path, server: str) -> None:
        place.mkdir()
        (place / "nginx.conf").write_text(CONFIG.format(place=place, server=server))
        self._place = place
        self._server: Server | None = None

    def __enter__(self) -> Nginx:
        argv = [TREE / "usr/sbin/nginx", "-e", "stderr", "-p", self._place, "-c", self._place / "nginx.conf"]
        self._server = Server(self._place / "nginx.log", *argv)
        until(self._answers, 10, "nginx answers")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server
        self._server.stop()

    @property
    def requests(self) -> list[str]:
        """What was asked for."""
        return (self._place / "access.log").read_text().splitlines()

    def _answers(self) -> bool:
        assert self._server
        self._server.alive()
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", 80)) == 0
