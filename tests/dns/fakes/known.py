"""Every provider with an HTTP API, beside its fake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from certagent.dns.providers.cloudflare import Cloudflare
from certagent.dns.providers.desec import Desec
from certagent.dns.providers.gandi import Gandi
from certagent.dns.providers.hetzner import Hetzner
from certagent.dns.providers.inwx import Inwx
from certagent.dns.providers.netcup import Netcup
from certagent.dns.providers.ovh import Ovh
from certagent.dns.providers.porkbun import Porkbun
from certagent.dns.providers.powerdns import PowerDns
from certagent.dns.providers.protocol import Provider
from certagent.dns.providers.route53 import Route53, Worker
from tests.dns.fakes import (
    cloudflare,
    desec,
    gandi,
    hetzner,
    inwx,
    lexicon,
    luadns,
    netcup,
    ovh,
    porkbun,
    powerdns,
    route53,
)
from tests.dns.fakes.service import Service

OTHERS = 200


class Known(NamedTuple):
    """How to make one."""

    name: str
    kind: Any
    fake: Callable[[Path], Any]
    others: Callable[[Any], None]
    """Puts 200 records of other people into the zone, on more than one page where there are pages."""
    secret: str = "{}"
    """What the file with the token holds, around it."""
    front: Any = None
    """What the agent uses, if `kind` is made in a child process only."""

    def provider(self, fake: Service, token_file: Path, timeout: str, zone: str, *, front: bool = False) -> Provider:
        """For a fake and a file with its token; with the time limit, for the zone."""
        options = self.kind.Options(
            url=fake.url, zones=(zone,), token_file=str(token_file), timeout=timeout, ca_file=str(fake.ca_file)
        )
        return (self.front if front and self.front else self.kind)(options)


def _in_powerdns(fake: powerdns.PowerDns) -> None:
    fake.old = True
    for number in range(OTHERS):
        key = f"host{number}.example.org.", "TXT"
        fake.sets[key] = {"name": key[0], "type": "TXT", "ttl": 60, "records": [{"content": '"x"', "disabled": False}]}


def _in_cloudflare(fake: cloudflare.Cloudflare) -> None:
    """A service may pass over a filter that it does not know: then the list is of the whole zone."""
    for number in range(OTHERS):
        body = {"type": "TXT", "name": f"host{number}.example.org", "content": '"x"', "ttl": 60}
        fake.make(body)
    fake.unfiltered = True


def _in_porkbun(fake: porkbun.Porkbun) -> None:
    for number in range(OTHERS):
        record = {"id": str(number), "name": f"host{number}.example.org", "type": "TXT", "content": "x", "ttl": "600"}
        fake.records[str(number)] = record


def _in_ovh(fake: ovh.Ovh) -> None:
    for number in range(OTHERS):
        record = {"id": number, "zone": "example.org", "subDomain": f"host{number}", "fieldType": "TXT", "ttl": 0}
        fake.records[number] = {**record, "target": '"x"'}


def _in_inwx(fake: inwx.Inwx) -> None:
    for number in range(OTHERS):
        record = {"id": f"o{number}", "name": f"host{number}.example.org", "type": "TXT", "content": "x", "ttl": 300}
        fake.records[f"o{number}"] = {**record, "prio": 0}


def _in_netcup(fake: netcup.Netcup) -> None:
    for number in range(OTHERS):
        record = {"id": f"o{number}", "hostname": f"host{number}", "type": "TXT", "priority": "0", "destination": "x"}
        fake.records.append(record)


def _in_luadns(fake: luadns.LuaDns) -> None:
    for number in range(OTHERS):
        fake.make({"name": f"host{number}.example.org.", "type": "TXT", "content": "x", "ttl": 300})


def _in_route53(fake: route53.Route53) -> None:
    """Sets come in the order of their names, so others are before and after those that are asked for."""
    for number in range(OTHERS):
        fake.put(f"host{number}.{route53.ZONE}", "TXT", 300, '"x"')


def _elsewhere(fake: desec.Desec | hetzner.Hetzner | gandi.Gandi) -> None:
    """They are asked for single sets."""
    for number in range(OTHERS):
        fake.sets[f"host{number}", "TXT"] = {"records": [], "ttl": 3600}


ROUTE53_SECRET = f"aws_access_key_id = {route53.KEY_ID}\naws_secret_access_key = {{}}\n"

KNOWN: tuple[Known, ...] = (
    Known("powerdns", PowerDns, powerdns.PowerDns, _in_powerdns),
    Known("cloudflare", Cloudflare, cloudflare.Cloudflare, _in_cloudflare),
    Known("desec", Desec, desec.Desec, _elsewhere),
    Known("hetzner", Hetzner, hetzner.Hetzner, _elsewhere),
    Known("gandi", Gandi, gandi.Gandi, _elsewhere),
    Known(
        "ovh",
        Ovh,
        ovh.Ovh,
        _in_ovh,
        "application_key = application\napplication_secret = {}\nconsumer_key = consumer\n",
    ),
    Known("netcup", Netcup, netcup.Netcup, _in_netcup, "customernumber = 12345\napikey = key\napipassword = {}\n"),
    Known(
        "inwx",
        Inwx,
        inwx.Inwx,
        _in_inwx,
        f"username = user\npassword = {{}}\nsharedsecret = {inwx.SHARED_SECRET}\n",
    ),
    Known("porkbun", Porkbun, porkbun.Porkbun, _in_porkbun, "apikey = pk1_test\nsecretapikey = {}\n"),
    Known("route53", Worker, route53.Route53, _in_route53, ROUTE53_SECRET, Route53),
    Known(
        "lexicon-luadns",
        lexicon.LuaDnsWorker,
        luadns.LuaDns,
        _in_luadns,
        f"auth_username = {luadns.USER}\nauth_token = {{}}\n",
        lexicon.LuaDns,
    ),
    Known(  # which certagent has itself; its fake gets a second opinion
        "lexicon-porkbun",
        lexicon.PorkbunWorker,
        porkbun.Porkbun,
        _in_porkbun,
        "auth_key = pk1_test\nauth_secret = {}\n",
        lexicon.Porkbun,
    ),
)
"""In the order of the documentation."""
