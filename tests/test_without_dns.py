"""A host without a DNS provider: what works, and what is refused with the words that help."""

from __future__ import annotations

from pathlib import Path

import pytest

from certagent.agent.wiring import Wiring
from certagent.config.load import load
from certagent.errors import Misconfigured

TEXT = """\
state_dir: {place}/state
ca: {{test: {{directory: "https://ca.example/dir", agree_tos: true}}}}
certificates:
  mx1.example.org:
    ca: test
    {more}
    mail_servers:
      mta:
        type: postfix
        chain_files: {{ecdsa: {place}/chain.pem}}
        services: [{{host: mx1.example.org, port: 25, mode: smtp, tlsa: {tlsa}}}]
"""


def wiring(place: Path, more: str, *, tlsa: bool = False) -> Wiring:
    path = place / "certagent.yaml"
    path.touch(0o600)
    path.write_text(TEXT.format(place=place, more=more, tlsa=str(tlsa).lower()))
    return Wiring(load(path))


@pytest.mark.parametrize(
    ("more", "tlsa"),
    [
        ("challenge: {type: http-01}", False),
        ("challenge: {type: http-01, webroot: /var/www/html}", False),
        ("challenge: {type: http-01}\n    rotate_key: never\n    standby: false", True),
    ],
)
def test_no_provider_is_needed(tmp_path: Path, more: str, tlsa: bool) -> None:
    wiring(tmp_path, more, tlsa=tlsa).check()


@pytest.mark.parametrize("more", ["keys: [ecdsa-p256]", "challenge: {type: dns-01}"])
def test_a_record_for_challenges_needs_one(tmp_path: Path, more: str) -> None:
    with pytest.raises(Misconfigured, match="dns-01 needs a DNS provider, and there is none") as caught:
        wiring(tmp_path, more).check()
    assert "certificates.mx1.example.org" in caught.value.detail
    assert "certagent dns providers" in caught.value.hint
    assert "http-01" in caught.value.hint


@pytest.mark.parametrize("more", ["", "rotate_key: never", "standby: false", "rotate_key: 90d"])
def test_new_keys_where_senders_use_dane_need_one(tmp_path: Path, more: str) -> None:
    with pytest.raises(Misconfigured, match="with new keys needs a DNS provider") as caught:
        wiring(tmp_path, f"challenge: {{type: http-01}}\n    {more}", tlsa=True).check()
    assert "rotate_key: never, standby: false" in caught.value.hint
