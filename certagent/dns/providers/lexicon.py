"""The bridge to dns-lexicon, for DNS services that certagent itself has no provider for.

Source: dns-lexicon 3.25.2, whose drivers were read one by one. It runs in a child process (`child`), and its requests
are confined (`confined`). Its `Client` is passed by: it looks up the zone, by the public suffix list from the network
or by DNS, and keeps a cache in the home. A driver is made directly, for the zone and with the options from one private
file. No option comes from the environment, from another file or from the working directory.

Of a driver only three calls are used: list, create, and delete by identifier. Deleting by content compares spelling,
and without content it takes the whole set. An update deletes first in some drivers and forgets the TTL in others, so a
set that is there keeps its TTL. What was written is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct

from certagent.dns.message import one_of_zones
from certagent.dns.presentation import text_of
from certagent.dns.providers.about import About
from certagent.dns.providers.child import InChild
from certagent.dns.providers.confined import Seen, confined
from certagent.dns.providers.http import credentials
from certagent.dns.providers.program import printable
from certagent.dns.providers.protocol import Capabilities, RdType, Timed, Ttl, zones_of
from certagent.dns.providers.single import Record, RecordByRecord
from certagent.errors import Error, Misconfigured, Rejected, Transient, Usage
from certagent.facts.duration import Duration

T = TypeVar("T")


class Driver(Struct, frozen=True):
    """One of lexicon's, and what it wants to know."""

    title: str
    secrets: tuple[str, ...] = ("auth_token",)
    """Its options, as lexicon names them; all are needed, and no other is passed on."""
    in_base64: str = ""
    """The option that would name a file otherwise."""
    hashed: bool = False
    """The service has no identifiers: the driver makes them, of 28 bits. So they are checked before one is used."""


DRIVERS: Mapping[str, Driver] = {
    # What each does with a TLSA, by its source and by tests/dns/test_lexicon_drivers.py: list gives identifier, content
    # and TTL of every record; create sends type and content as they are; delete of an identifier takes that one alone.
    "dnsimple": Driver("DNSimple"),  # lists 30 values of a set at most; what is missing is found when it is read back
    "googleclouddns": Driver(  # one change of the exact old set to the new one
        "Google Cloud DNS", ("auth_service_account_info",), in_base64="auth_service_account_info", hashed=True
    ),
    "hostingde": Driver("hosting.de"),
    "httpnet": Driver("http.net"),
    "infomaniak": Driver("Infomaniak"),
    "luadns": Driver("LuaDNS", ("auth_username", "auth_token")),
    "rcodezero": Driver("RcodeZero", hashed=True),  # reads the set and writes it whole
    "transip": Driver("TransIP", ("auth_username", "auth_api_key"), in_base64="auth_api_key", hashed=True),
}
# Not among them, though the service has TLSA:
# azure, gehirn: fixed lists of types. cloudns: sends the content alone, the API wants its fields apart.
# mythicbeasts: one identifier for all records of a type, and its delete by identifier takes the whole set.
# nsone: identifiers are of sets. directadmin: deletes by position. joker: writes the whole zone.
# njalla, scaleway: take names relative to the zone only, and so cannot tell `a.ZONE.ZONE` from `a.ZONE`.

_OURS = frozenset(
    ("cloudflare", "desec", "gandi", "hetzner", "inwx", "netcup", "ovh", "porkbun", "powerdns", "route53")
)
"""Those of which certagent has its own; lexicon has the same names."""


class Options(Timed, frozen=True, kw_only=True):
    """The bridge to dns-lexicon. The token file has a line `name = value` for each option of lexicon's driver."""

    provider: str
    """The name of lexicon's driver, such as `luadns`; docs/reference/dns-providers.md lists those that may be used."""
    zones: tuple[str, ...]
    """The zones that this provider writes. A name is in the longest zone that ends it."""
    token_file: str
    """File with the driver's options; nobody but its owner (root or certagent's user) may read it."""
    timeout: Duration = "2m"
    """How long one call may take as a whole; it is some ten requests."""
    ca_file: str | None = None
    """PEM file with the CA of the API's own certificate; none: those of Python's package certifi."""


def _options_of_drivers() -> str:
    each = (f"`{name}` ({driver.title}: {', '.join(driver.secrets)})" for name, driver in DRIVERS.items())
    return ", ".join(each)


class Lexicon(InChild):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `InChild`.

    Raises:
        Usage: At construction: `secret.mode`, `secret.file`.
    """

    SERVICE = "lexicon"
    WORKER = f"{__name__}:Worker"
    LIBRARY = "lexicon"
    EXTRA = "lexicon"
    DRIVERS: ClassVar[Mapping[str, Driver]] = DRIVERS
    Options = Options
    capabilities = Capabilities(atomic=False, ttl_floor_s=300, ttl_scope="new", publish_lag_s=60)
    about = About(
        title="Others, by dns-lexicon",
        rights="What the service grants to a key at the least, so that it reads and changes records of these zones.",
        access=(
            "Install the extra: `/opt/certagent/bin/pip install 'certagent[lexicon]'`. Write the driver's options into"
            " the file, a line `name = value` for each. Drivers that may be used, with their options:"
            f" {_options_of_drivers()}. The options `auth_service_account_info` and `auth_api_key` are `base64::` and"
            " the file in base64 on the same line (`base64 --wrap=0`)."
        ),
        limits=(
            "Only drivers that write TLSA and delete single records may be used; they were read in the source of"
            " dns-lexicon 3.25.2, and not tried at the services, so run `certagent dns test` first. Records are changed"
            " one by one. A set keeps the TTL that it has; a new one begins at 300 s. Nothing but the service is asked:"
            " no public suffix list, no DNS. Neither the environment nor other files are read."
        ),
        example="type: lexicon\nprovider: luadns\ntoken_file: /etc/certagent/luadns.key\nzones: [example.org]",
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        _secrets(_driver(options, self.DRIVERS), options)  # before a child is needed


class _Found(Struct):
    """A record, as every driver gives it."""

    id: str | int
    name: str
    type: str
    content: str
    ttl: Ttl


class Worker(RecordByRecord):
    """The provider itself, in the child."""

    DRIVERS: ClassVar[Mapping[str, Driver]] = DRIVERS
    Options = Options
    capabilities = Lexicon.capabilities

    def __init__(self, options: Options) -> None:
        self.zones = zones_of(options.zones)
        self._options = options
        self._driver = _driver(options, self.DRIVERS)
        self._made: dict[str, tuple[Mapping[str, str], Any, dict[str, Any]]] = {}
        _secrets(self._driver, options)

    def records(self, name: str, rdtype: RdType) -> list[Record]:
        """The filter of a driver is not relied on."""
        plain, made = name.rstrip("."), self._login(name)
        listed = self._listed(made, rtype=rdtype, name=plain)
        found = [one for one in listed if (one.name.lower().rstrip("."), one.type) == (plain, rdtype)]
        if len({one.id for one in found}) < len(found):
            raise self._ambiguous(name, rdtype)
        return [Record(str(one.id), name, rdtype, text_of(rdtype, one.content), one.ttl) for one in found]

    def create(self, name: str, rdtype: RdType, value: str, ttl_s: int) -> None:
        """See `RecordByRecord`."""
        made = self._login(name, ttl_s)
        done = self._ask("dns.unknown_outcome", lambda: made.create_record(rdtype, name.rstrip("."), value))
        if done is False:
            raise Transient("dns.unknown_outcome", self._said("it did not say that the record was made"))

    def retime(self, record: Record, ttl_s: int) -> None:
        """Never asked for: see `ttl_scope`."""
        raise NotImplementedError

    def delete(self, record: Record) -> None:
        """See `RecordByRecord`."""
        made = self._login(record.name)
        if self._driver.hashed:
            every = self._listed(made)
            if sum(str(one.id) == record.id for one in every) > 1:
                raise self._ambiguous(record.name, record.rdtype)
        if self._ask("dns.unknown_outcome", lambda: made.delete_record(record.id), may_be_gone=True) is False:
            raise Transient("dns.unknown_outcome", self._said("it did not say that the record is gone"))

    def make(self, config: Any) -> Any:
        """The driver for this configuration."""
        module: Any = import_module(f"lexicon._private.providers.{self._options.provider}")
        return module.Provider(config)

    def _login(self, name: str, ttl_s: int = 0) -> Any:
        """The driver of the name's zone, logged in; made anew if the options have changed."""
        zone, secrets = one_of_zones(name, self.zones), _secrets(self._driver, self._options)
        known = self._made.get(zone)
        if known is None or known[0] != secrets:
            general: dict[str, Any] = {"provider_name": self._options.provider, "domain": zone.rstrip(".")}
            lexicon: Any = import_module("lexicon.config")
            config = lexicon.ConfigResolver().with_dict(general).with_dict({self._options.provider: secrets})
            made = self._ask("dns.unreachable", lambda: self._logged_in(config), login=True)
            self._made[zone] = known = secrets, made, general
        known[2]["ttl"] = ttl_s or None
        return known[1]

    def _listed(self, made: Any, **filters: str) -> list[_Found]:
        listed = self._ask("dns.unreachable", lambda: made.list_records(**filters))
        try:
            return msgspec.convert(listed, list[_Found], strict=False)
        except msgspec.ValidationError:
            raise Transient("dns.unreachable", self._said("a list of records that is not understood")) from None

    def _logged_in(self, config: Any) -> Any:
        made = self.make(config)
        made.authenticate()
        return made

    def _ask(self, lost: str, do: Callable[[], T], *, login: bool = False, may_be_gone: bool = False) -> T | None:
        """What the driver says. `lost` is the code if nothing is known of it."""
        rights = f"at {self._driver.title}: a key that may read and change the records of this zone"
        with confined(self._said(""), lost, rights, self._options.timeout_s, self._options.ca_file) as seen:
            try:
                said = do()
            except Error:
                raise
            except Exception as error:  # noqa: BLE001 -- drivers raise many kinds, with the answer in their words
                if may_be_gone and seen.status == 404:
                    return None
                raise self._translated(error, seen, lost, rights if login else "") from None
        if seen.final:  # and the driver passed over it
            raise seen.final
        return said

    def _translated(self, error: Exception, seen: Seen, lost: str, login: str) -> Error:
        """`login` is the hint if key or zone are asked for, and empty otherwise."""
        if refusal := seen.final or seen.refusal:
            rejected = login and isinstance(refusal, Rejected)
            return Misconfigured("dns.refused", refusal.detail, login) if rejected else refusal
        known: Any = import_module("lexicon.exceptions")
        if login and (isinstance(error, known.LexiconError) or type(error) is Exception):
            detail = "the service refuses the login, or has no such zone in this account"
            return Misconfigured("dns.refused", self._said(detail), login)
        return Transient(lost, self._said(f"no answer that is understood ({type(error).__name__})"))

    def _ambiguous(self, name: str, rdtype: RdType) -> Rejected:
        detail = self._said(f"{name} {rdtype}: two records have one identifier, so neither can be removed alone")
        return Rejected("dns.rejected", detail, "remove one of them at the service")

    def _said(self, words: str) -> str:
        return printable(f"{self._driver.title} (lexicon){f': {words}' if words else ''}")


def _driver(options: Options, drivers: Mapping[str, Driver]) -> Driver:
    if driver := drivers.get(options.provider):
        return driver
    detail = f"lexicon: the driver {printable(options.provider)!r} may not be used"
    if options.provider in _OURS:
        raise Misconfigured("dns.options", detail, f"certagent has its own: type: {options.provider}")
    raise Misconfigured("dns.options", detail, f"one of {', '.join(drivers)}; for other services, `type: command`")


def _secrets(driver: Driver, options: Options) -> dict[str, str]:
    """Read anew for each login, so that a new token needs no restart."""
    found = credentials(options.token_file, *driver.secrets)
    if driver.in_base64 and not found[driver.in_base64].startswith("base64::"):
        detail = f"{options.token_file}: {driver.in_base64} is not in base64"
        raise Usage("secret.file", detail, f"write {driver.in_base64} = base64::… with the file as base64 --wrap=0")
    return found
