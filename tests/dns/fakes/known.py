"""Every provider with an HTTP API, beside its fake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from certagent.dns.providers.acmedns import AcmeDns
from certagent.dns.providers.cloudflare import Cloudflare
from certagent.dns.providers.desec import Desec
from certagent.dns.providers.gandi import Gandi
from certagent.dns.providers.hetzner import Hetzner
from certagent.dns.providers.inwx import Inwx
from certagent.dns.providers.netcup import Netcup
from certagent.dns.providers.ovh import Ovh
from certagent.dns.providers.porkbun import Porkbun
from certagent.dns.providers.powerdns import PowerDns
from certagent.dns.providers.protocol import Provider, RdType
from certagent.dns.providers.route53 import Route53, Worker
from tests.dns.fakes import (
    acmedns,
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
ZONE = "example.org."
A, B, C = (f"3 1 1 {digit * 64}" for digit in "abc")


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
    zone: str = ZONE
    set: tuple[str, RdType] = (f"_25._tcp.mx1.{ZONE}", "TLSA")
    """Name and type of what a test writes."""
    values: tuple[str, str, str] = (A, B, C)

    def provider(self, fake: Service, token_file: Path, timeout: str, *zones: str, front: bool = False) -> Provider:
        """For a fake and a file with its token; with the time limit, for the zones."""
        options = self.kind.Options(
            url=fake.url, zones=zones, token_file=str(token_file), timeout=timeout, ca_file=str(fake.ca_file)
        )
        return (self.front if front and self.front else self.kind)(options)


def _in(fake: Service) -> None:
    """Sets come in the order of their names, so others are before and after those that are asked for."""
    for number in range(OTHERS):
        fake.put(f"host{number}.example.org.", "TXT", 3600, '"x"' if not isinstance(fake, inwx.Inwx) else "x")


def _in_powerdns(fake: powerdns.PowerDns) -> None:
    fake.old = True
    _in(fake)


def _in_cloudflare(fake: cloudflare.Cloudflare) -> None:
    """A service may pass over a filter that it does not know: then the list is of the whole zone."""
    _in(fake)
    fake.unfiltered = True


def _none(fake: acmedns.AcmeDns) -> None:
    """An account is alone."""


ROUTE53_SECRET = f"aws_access_key_id = {route53.KEY_ID}\naws_secret_access_key = {{}}\n"

KNOWN: tuple[Known, ...] = (
    Known("powerdns", PowerDns, powerdns.PowerDns, _in_powerdns),
    Known("cloudflare", Cloudflare, cloudflare.Cloudflare, _in_cloudflare),
    Known("desec", Desec, desec.Desec, _in),
    Known("hetzner", Hetzner, hetzner.Hetzner, _in),
    Known("gandi", Gandi, gandi.Gandi, _in),
    Known(
        "ovh",
        Ovh,
        ovh.Ovh,
        _in,
        "application_key = application\napplication_secret = {}\nconsumer_key = consumer\n",
    ),
    Known("netcup", Netcup, netcup.Netcup, _in, "customernumber = 12345\napikey = key\napipassword = {}\n"),
    Known(
        "inwx",
        Inwx,
        inwx.Inwx,
        _in,
        f"username = user\npassword = {{}}\nsharedsecret = {inwx.SHARED_SECRET}\n",
    ),
    Known("porkbun", Porkbun, porkbun.Porkbun, _in, "apikey = pk1_test\nsecretapikey = {}\n"),
    Known("route53", Worker, route53.Route53, _in, ROUTE53_SECRET, Route53),
    Known(
        "lexicon-luadns",
        lexicon.LuaDnsWorker,
        luadns.LuaDns,
        _in,
        f"auth_username = {luadns.USER}\nauth_token = {{}}\n",
        lexicon.LuaDns,
    ),
    Known(  # which certagent has itself; its fake gets a second opinion
        "lexicon-porkbun",
        lexicon.PorkbunWorker,
        porkbun.Porkbun,
        _in,
        "auth_key = pk1_test\nauth_secret = {}\n",
        lexicon.Porkbun,
    ),
)
"""In the order of the documentation."""

ACME_DNS = Known(
    "acme-dns",
    AcmeDns,
    acmedns.AcmeDns,
    _none,
    json.dumps({"mx1.example.org": acmedns.ACCOUNT | {"password": "{}"}})
    .replace("{", "{{")
    .replace("}", "}}")
    .replace("{{}}", "{}"),
    zone=f"{acmedns.ZONE}.",
    set=(acmedns.NAME, "TXT"),
    values=("a" * 43, "b" * 43, "c" * 43),
)
"""It takes challenges only, and tells nothing; so it is not among the others."""
