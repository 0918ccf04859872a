"""No secret of a DNS provider is printed, logged, journaled, or given to a process, whatever the service answers.

Of every provider that has a fake, in one place: a new one is a line in tests/dns/fakes/known.py. The rolls of tests/e2e
and the hooks look for theirs in the same way.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.dns.fakes.known import KNOWN, Known
from tests.dns.fakes.service import TOKEN, Fault, private

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
state_dir: {place}/state
ca: {{test: {{directory: "https://ca.example/dir", agree_tos: true}}}}
dns:
  providers:
    one: {{type: tested, url: "{url}", zones: [example.org], token_file: {place}/token, ca_file: {ca}, timeout: 20s}}
certificates:
  mx1.example.org:
    ca: test
    mail_servers:
      mta:
        type: postfix
        chain_files: {{ecdsa: {place}/chain.pem}}
        services: [{{host: mx1.example.org, port: 25, mode: smtp}}]
"""
SAYS = f"the token {TOKEN} is not good"
ECHOES = (
    {"message": SAYS, "error": SAYS, "detail": SAYS, "longmessage": SAYS, "msg": SAYS, "status": "ERROR"},
    {"error": {"code": "invalid_input", "message": SAYS}, "errors": [{"code": 1, "message": SAYS}], "success": False},
    {"status": "error", "statuscode": 4999, "longmessage": SAYS, "responsedata": "", "code": 2400, "msg": SAYS},
)
FAULTS = (
    *(Fault(status, json.dumps(echo).encode()) for echo in ECHOES for status in (400, 200)),
    Fault(401, json.dumps(ECHOES[0]).encode()),
    Fault(500, f"<html>{SAYS}</html>".encode()),
    Fault(done=True),
)
"""A service, or something before it, may say what it was sent."""


def secrets_of(text: str) -> set[bytes]:
    """The values of a token file; a short one is no secret, and may be in any word: `12345`, `application`."""
    values = (line.rpartition("=")[2].strip() for line in text.splitlines())
    return {value.encode() for value in values if len(value) >= 12}


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_no_secret_is_told(known: Known, tmp_path: Path) -> None:
    """In what is printed, in the journal and all else in its directory, in arguments and environments."""
    fake: Any = known.fake(tmp_path)
    fake.tfa = False  # INWX takes one code in 30 s; the secret behind the codes is in the file all the same
    token = known.secret.format(TOKEN) + "\n"
    private(tmp_path / "token", token)
    config = private(tmp_path / "certagent.yaml", CONFIG.format(place=tmp_path, url=fake.url, ca=fake.ca_file))
    kind, log = known.front or known.kind, tmp_path / "log"
    fake.faults += FAULTS
    argv = [sys.executable, "-m", "tests.dns.audited", log, f"{kind.__module__}:{kind.__qualname__}", config]
    try:
        ended = subprocess.run(
            [*map(str, argv), str(len(FAULTS) + 1)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            timeout=600,
            check=False,
        )
    finally:
        fake.stop()
    assert ended.returncode == 0, ended
    told = [ended.stdout, ended.stderr, log.read_bytes()]
    told += [path.read_bytes() for path in (tmp_path / "state").rglob("*") if path.is_file()]
    secrets = secrets_of(token)
    assert TOKEN.encode() in secrets
    assert {secret for secret in secrets for text in told if secret in text} == set()
    # and it could have been told: the service was shown it, and said it; failures are journaled; a child was started
    assert fake.faults == []
    assert b"nothing has happened yet" not in ended.stdout
    assert b"every authoritative server gave it" in ended.stdout
    assert b"ERROR" in ended.stdout
    assert (b"subprocess.Popen" in told[2]) == bool(known.front)
