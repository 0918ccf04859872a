"""The sections of the configuration file as types, and the whole of it as the commands use it.

`yaml` reads the file, `load` checks it against these types. A key that no type has is refused. The options of DNS
providers and mail servers are typed by their plug-ins (`Options`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from certagent.config.yaml import Reader, Section
from certagent.errors import Usage
from certagent.facts.challenge import DNS_01, TYPES
from certagent.facts.duration import PATTERN, Duration
from certagent.facts.tls import Mode
from certagent.lifecycle.spec import Spec
from certagent.pki.tlsa import DANE_EE_SPKI_SHA256, MadeParameters

STATE_DIR = "/var/lib/certagent"

T = TypeVar("T")

Rotation = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^(every_renewal|never|{PATTERN})$",
        title="every_renewal, never, or a duration",
        description="such as 90d: keys older than that are rolled",
    ),
]
Name = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$(?!\n)",
        title="a name of at most 63 characters",
        description="lower-case letters, digits, dot, hyphen, underscore: it becomes the name of a file",
    ),
]


# -- the sections ------------------------------------------------------------------------------------------------------


class Keys(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all sections: a key that is not known is refused."""


class Ca(Keys, frozen=True):
    """A certificate authority with an ACME directory (RFC 8555)."""

    directory: str
    """The URL of its directory."""
    staging: str | None = None
    """The directory that `renew --dry-run` uses."""
    test: bool = False
    """`directory` is a test CA itself: dry runs may use it."""
    agree_tos: bool = False
    """Agree to the terms of service when the account is made."""
    contact: tuple[str, ...] = ()
    """Addresses for the account, such as `mailto:postmaster@example.org`."""
    ca_bundle: str | None = None
    """PEM file with the CA of the directory's own HTTPS, for private CAs."""
    proxy: str | None = None
    """The HTTP proxy that leads to the CA, `http://proxy.example.org:3128`. No other is used: variables such
    as https_proxy count for nothing."""
    eab_kid: str | None = None
    """Key identifier of an external account (RFC 8555 section 7.3.4)."""
    eab_key_file: str | None = None
    """File with the MAC key of that account, base64url."""


class Dns(Keys, frozen=True):
    """How DNS is read, and which providers may change it."""

    resolvers: tuple[str, ...] = ()
    """Addresses of the recursive resolvers, with a port if it is not 53: `127.0.0.1`, `192.0.2.1:5353`, `[::1]:5353`;
    none: those of /etc/resolv.conf."""
    trust_ad: bool | None = None
    """Whether their AD bit is believed; by default only if all of them are on this host."""
    validator: Literal["delv", "none"] | None = None
    """`delv` (Debian: bind9-dnsutils) validates on this host, beside a resolver that does: if they disagree, nothing is
    begun. Without this it validates where no believed resolver does, if it is installed; `none`: not even then."""
    trust_anchor: str | None = None
    """File with the root's trust anchor for it, as `trust-anchors` of named.conf; without it BIND's own."""
    public_view: bool = False
    """What this host is shown is what the world is shown: "no TLSA records" counts also if nobody validates it."""
    ipv6: bool | None = None
    """Whether this host can ask name servers by IPv6; without it that is found out by its routes. `false`: the way is
    broken farther away."""
    providers: dict[Name, dict[str, Any]] = {}
    """Each has a `type` and the options of that type."""


class ServiceKeys(Keys, frozen=True):
    """One host and port at which clients get the certificate."""

    host: str
    """Its name, which clients look up and verify."""
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]
    """Its TCP port."""
    mode: Mode
    """How TLS begins: by STARTTLS in a protocol, or `tls` at the first byte."""
    addresses: tuple[str, ...] = ()
    """Where to connect; none: every A and AAAA record of the host."""
    sni: tuple[str, ...] = ()
    """Names that clients ask for in TLS; `none` stands for clients that ask for none; empty: the host alone."""
    tlsa: bool = False
    """Keep TLSA records for this host and port."""
    ehlo: str | None = None
    """The name that certagent gives in EHLO; without it this host's, or its address."""
    source: tuple[str, ...] = ()
    """Addresses of this host to connect from: one for IPv4, one for IPv6; without one the system chooses."""
    timeout: Duration | None = None
    """How long one connection may take, without it 30 s; a greeting may come after minutes (RFC 5321 section
    4.5.3.2.1)."""
    proxy: Literal["none", "v2"] = "none"
    """The version of the PROXY protocol that it wants to hear first, as behind a load balancer."""


class Dane(Keys, frozen=True):
    """How TLSA records are kept."""

    records: tuple[MadeParameters, ...] = (DANE_EE_SPKI_SHA256,)
    """The TLSA parameters that are published (RFC 7672 section 3.1)."""
    ttl: Duration = "1h"
    """The TTL of the records."""
    safety_margin: Duration = "15m"
    """Added to a TTL for clocks that differ and for caches inside senders."""


class ChallengeKeys(Keys, frozen=True):
    """How a certificate shows the CA that this host controls its names (RFC 8555 section 8)."""

    type: Annotated[str, msgspec.Meta(title=", ".join(f"`{name}`" for name in TYPES))] = DNS_01.type
    """What the CA looks for: a TXT record, which a DNS provider writes, or a response of this host itself."""
    webroot: str | None = None
    """`http-01`: the directory whose files a web server of this host gives at port 80 of every name, absolute.
    Responses are placed in `.well-known/acme-challenge/` below it, and removed."""
    listen: tuple[str, ...] = ()
    """Where certagent itself answers while the CA looks: addresses, with a port if it is not 80 (`http-01`) or 443
    (`tls-alpn-01`), `127.0.0.1:8402`; none: every address of this host. An own address or port is for a web server
    in front, which passes the path on."""


class Certificate(Keys, frozen=True):
    """One certificate, its keys, and the mail servers that serve it."""

    ca: Name | tuple[Name, ...]
    """The CA that issues it, by its name under `ca`, or a list with that one name."""
    names: tuple[str, ...] = ()
    """The host names in it; none: the name of the entry."""
    drop_names: tuple[str, ...] = ()
    """Names of the certificate served before certagent that the new one may lack; without, its swap is refused."""
    keys: tuple[str, ...] = ("ecdsa-p256",)
    """The key types: at most one ECDSA and one RSA."""
    rotate_key: Rotation = "every_renewal"
    """When a renewal takes new keys."""
    standby: bool = True
    """Keep the next keys published, ready for a compromise of those in service."""
    profile: str | None = None
    """The CA's certificate profile (draft-ietf-acme-profiles)."""
    challenge: Any = {}
    """See `ChallengeKeys`."""
    dane: Any = {}
    """See `Dane`."""
    drain: Duration = "5m"
    """How long old processes of a mail server may live on after a reload."""
    check_interval: Duration = "6h"
    """How often DNS and the servers are observed while nothing is due."""
    mail_servers: dict[Name, dict[str, Any]] = {}
    """Each has a `type`, the `services` that present the certificate, and the options of that type."""


class File(Keys, frozen=True, kw_only=True):
    """The whole file."""

    state_dir: str = STATE_DIR
    """Where keys, certificates and the journal are kept."""
    ca: dict[Name, Any]
    """Certificate authorities by name."""
    dns: Any = {}
    """See `Dns`."""
    certificates: dict[Name, Any]
    """Certificates by name."""


# -- what was read -----------------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True):
    """One certificate: its `Spec` for the planner, and what its wiring needs."""

    spec: Spec
    cas: tuple[str, ...]
    """Names under `ca`, in the order of `spec.cas`."""
    mail_servers: dict[str, Section]


class Certificates(Mapping[str, Entry]):
    """The entries by name. Each is kept as a few hundred bytes and decoded when it is asked for: most are idle."""

    def __init__(self, encoded: Mapping[str, msgspec.Raw | bytes]) -> None:
        self.encoded = encoded

    def __getitem__(self, name: str) -> Entry:
        return _ENTRY.decode(self.encoded[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.encoded)

    def __len__(self) -> int:
        return len(self.encoded)


_ENTRY = msgspec.msgpack.Decoder(Entry)


class Config(msgspec.Struct, frozen=True):
    """A file that was found right."""

    path: Path
    state_dir: Path
    cas: dict[str, Ca]
    dns: Dns
    providers: dict[str, Section]
    certificates: Certificates

    def options(self, section: Section, type_: type[T]) -> T:
        """The options of a plug-in, checked like everything else in the file.

        Raises:
            Usage: `config.key`, `config.value`: With file, line and key.
        """
        return Reader(self.path).convert(section.options, type_, section.place)

    def wrong(self, place: tuple[str, ...], detail: str, hint: str) -> Usage:
        """An error at a place in the file."""
        return Reader(self.path).wrong("config.value", place, detail, hint)
