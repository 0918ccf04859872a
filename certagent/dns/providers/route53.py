"""Amazon Route 53, by botocore, which only a child process loads; see `child`.

Source: https://docs.aws.amazon.com/Route53/latest/APIReference/API_ChangeResourceRecordSets.html

A batch of changes is made as a whole or not at all, and its DELETE must name the whole set as it is, with its TTL. So
DELETE of what was read and CREATE of what is to be, in one batch, are compare and swap. Then GetChange says when all
name servers have it. Asking one of them does not: behind each address there are many.
"""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from certagent.dns.message import absolute, canonical, one_of_zones
from certagent.dns.presentation import text_of, value_of
from certagent.dns.providers.about import About
from certagent.dns.providers.child import InChild
from certagent.dns.providers.compare import same
from certagent.dns.providers.http import RETRY_AFTER_MAX_S, HttpOptions, checked, credentials
from certagent.dns.providers.program import printable
from certagent.dns.providers.protocol import Capabilities, Changed, RdType, RRset, Ttl, zones_of
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.facts.duration import Duration
from certagent.facts.retryafter import retry_after_s
from certagent.host import deadline
from certagent.host.files import read_trusted

T = TypeVar("T")

_SECRETS = ("aws_access_key_id", "aws_secret_access_key")
_REGION = "us-east-1"
"""For the signature: the service has no region, and this one signs for it."""
_PAUSE_S = 0.2
"""Before a change is asked for again. It doubles."""
_LONGEST_PAUSE_S = 5.0
"""A change takes half a minute. An account has five requests a second."""
_POLICY = (
    "the key's IAM policy must allow route53:ChangeResourceRecordSets and route53:ListResourceRecordSets on"
    " arn:aws:route53:::hostedzone/ID, route53:GetChange on arn:aws:route53:::change/*, and"
    " route53:ListHostedZonesByName; docs/how-to/route53.md has it whole"
)
_BUSY = frozenset({"Throttling", "ThrottlingException", "TooManyRequestsException", "PriorRequestNotComplete"})
_CLOCK = frozenset({"RequestTimeTooSkewed", "RequestExpired"})
_NO_ZONE = "list only zones that are hosted in this account, or write the id of the zone under zone_ids"


class Options(HttpOptions, frozen=True, kw_only=True):
    """Amazon Route 53. The token file has two lines: `aws_access_key_id = …` and `aws_secret_access_key = …`."""

    url: str = "https://route53.amazonaws.com"
    """Where the API is."""
    timeout: Duration = "3m"
    """How long a change may take until all name servers have it; half a minute is usual."""
    zone_ids: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    """Ids of hosted zones by zone: if several have one name, or if the key may not list them."""


class Route53(InChild):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `InChild`.

    Raises:
        Usage: At construction: `secret.mode`, `secret.file`.
    """

    SERVICE = "Route 53"
    WORKER = f"{__name__}:Worker"
    LIBRARY = "botocore"
    EXTRA = "route53"
    Options = Options
    capabilities = Capabilities(precondition="set", publish_lag_s=60, propagation_status=True)
    about = About(
        title="Amazon Route 53",
        rights=(
            "An IAM user with nothing but an access key, and a policy for one hosted zone. Condition keys narrow it to"
            " the types TXT and TLSA, to CREATE and DELETE, and to certagent's own names:"
            " docs/how-to/route53.md has it."
        ),
        access=(
            "Install the extra: `/opt/certagent/bin/pip install 'certagent[route53]'`. Make an access key of the IAM"
            " user, and write two lines into the file: `aws_access_key_id = …`, `aws_secret_access_key = …`. Nothing"
            " else is read: neither the environment, nor ~/.aws, nor the metadata of the machine."
        ),
        limits=(
            "An account has five requests a second. A change counts as done when all name servers have it, which takes"
            " about half a minute. Sets with a routing policy (weighted, latency, alias) are left alone. TLSA records"
            " are of use only if DNSSEC signing is on for the hosted zone."
        ),
        example="type: route53\ntoken_file: /etc/certagent/route53.key\nzones: [example.org]",
        name_servers=tuple(f".awsdns-[0-9][0-9].{end}." for end in ("com", "net", "org", "co.uk")),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        _checked(options)  # before a child is needed


class _HostedZone(Struct, rename="pascal"):
    id: str
    name: str
    config: dict[str, Any] = {}


class _HostedZones(Struct, rename="pascal"):
    hosted_zones: list[_HostedZone]


class _Record(Struct, rename="pascal"):
    value: str


class _Set(Struct, rename="pascal"):
    name: str
    type: str
    ttl: Ttl | None = msgspec.field(name="TTL", default=None)
    resource_records: list[_Record] = []
    set_identifier: str | None = None


class _Sets(Struct, rename="pascal"):
    resource_record_sets: list[_Set]


class _ChangeInfo(Struct, rename="pascal"):
    id: str
    status: Literal["PENDING", "INSYNC"]


class _Change(Struct, rename="pascal"):
    change_info: _ChangeInfo


class _InvalidBatch(Rejected):
    """Nothing of a batch was done: its DELETE or CREATE does not fit what is there, or its content is wrong."""


class Worker:
    """The provider itself, in the child."""

    Options = Options
    capabilities = Route53.capabilities

    def __init__(self, options: Options) -> None:
        self.zones = zones_of(options.zones)
        self._options = options
        self._ids = {absolute(zone): zone_id for zone, zone_id in options.zone_ids.items()}
        self._client: tuple[dict[str, str], Any] = {}, None
        _checked(options)

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """See `Provider`."""
        asked = {"StartRecordName": name, "StartRecordType": rdtype, "MaxItems": "1"}  # the first from there on
        zone_id = self._zone_id(name)
        found = self._ask("list_resource_record_sets", _Sets, "dns.unreachable", HostedZoneId=zone_id, **asked)
        for one in found.resource_record_sets:
            if (absolute(one.name), one.type) == (name, rdtype):
                if one.set_identifier is not None or one.ttl is None:
                    detail = f"Route 53: {name} {rdtype} has a routing policy or is an alias"
                    raise Rejected("dns.rejected", detail, "make it a simple record set, or remove it")
                own = tuple(record.value for record in one.resource_records)
                return RRset(frozenset(text_of(rdtype, value) for value in own), one.ttl, own)
        return None

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:
        """See `Provider`."""
        there = was.values if was else frozenset[str]()
        new = sorted(frozenset(canonical(rdtype, value) for value in values) - there)
        if new or was is None or was.ttl_s != ttl_s:
            own = (*_own(rdtype, was), *(value_of(rdtype, value) for value in new))
            self._swap(name, rdtype, was, RRset(frozenset(), ttl_s, own))
        else:
            self._unchanged(name, rdtype, was)

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:
        """See `Provider`."""
        gone = frozenset(canonical(rdtype, value) for value in values)
        if was and gone & was.values:
            own = tuple(value for value in _own(rdtype, was) if text_of(rdtype, value) not in gone)
            self._swap(name, rdtype, was, RRset(frozenset(), was.ttl_s, own) if own else None)
        else:
            self._unchanged(name, rdtype, was)

    def _unchanged(self, name: str, rdtype: RdType, was: RRset | None) -> None:
        if not same(self.get(name, rdtype), was):
            raise Changed(name, rdtype)

    def _swap(self, name: str, rdtype: RdType, was: RRset | None, new: RRset | None) -> None:
        """One batch: all or nothing."""
        until = time.monotonic() + deadline.left(self._options.timeout_s)
        wanted = (("DELETE", was), ("CREATE", new))
        changes = [_change(action, name, rdtype, rrset) for action, rrset in wanted if rrset]
        to = {"HostedZoneId": self._zone_id(name), "ChangeBatch": {"Changes": changes}}
        try:
            change = self._ask("change_resource_record_sets", _Change, "dns.unknown_outcome", **to)
        except _InvalidBatch:
            self._unchanged(name, rdtype, was)
            raise  # so it is the content
        try:
            self._wait(change.change_info, until)
        except Error as error:  # whatever it is, the change was accepted
            raise Transient("dns.unknown_outcome", error.detail, error.hint) from None

    def _wait(self, change: _ChangeInfo, until: float) -> None:
        """Until all name servers have it."""
        waits = deadline.pauses(until, _PAUSE_S, _LONGEST_PAUSE_S)
        while change.status != "INSYNC":
            if not next(waits, False):
                raise Transient("dns.unknown_outcome", "Route 53: accepted, and not yet at all of its name servers")
            change = self._ask("get_change", _Change, "dns.unknown_outcome", Id=change.id).change_info

    def _zone_id(self, name: str) -> str:
        zone = one_of_zones(name, self.zones)
        if zone not in self._ids:
            found = self._ask("list_hosted_zones_by_name", _HostedZones, "dns.unreachable", DNSName=zone).hosted_zones
            public = [z.id for z in found if absolute(z.name) == zone and not z.config.get("PrivateZone")]
            if len(public) != 1:
                what = "several public hosted zones have this name" if public else "no such hosted zone in this account"
                raise Misconfigured("dns.refused", f"Route 53: {zone}: {what}", _NO_ZONE)
            self._ids[zone] = public[0]
        return self._ids[zone]

    def _ask(self, operation: str, kind: type[T], lost: str, **parameters: Any) -> T:
        """One request, and its answer as that type. `lost` is the code if nothing is known of it."""
        botocore = import_module("botocore.exceptions")
        try:
            answer = getattr(self._connected(), operation)(**parameters)
            return msgspec.convert(answer, kind)
        except botocore.ClientError as error:
            raise _refused(error.response, lost) from None
        except botocore.SSLError:
            detail = f"Route 53: {self._options.url} shows a certificate that is not trusted, or speaks no TLS"
            raise Misconfigured("dns.refused", detail, "if the API has a private CA, name it as ca_file") from None
        except (botocore.EndpointConnectionError, botocore.ConnectTimeoutError):  # nothing was sent
            raise Transient("dns.unreachable", f"Route 53: no connection to {self._options.url}") from None
        except botocore.ReadTimeoutError:
            raise Transient(lost, f"Route 53: no answer within {self._options.timeout_s:g} s") from None
        except Error:
            raise
        except Exception as error:  # noqa: BLE001 -- its parsers raise many kinds, with the answer in their words
            raise Transient(lost, f"Route 53: no answer that is understood ({type(error).__name__})") from None

    def _connected(self) -> Any:
        """The library's client, made anew if the key has changed."""
        secrets, client = credentials(self._options.token_file, *_SECRETS), self._client
        if client[1] is None or client[0] != secrets:
            self._client = client = secrets, _client(self._options, secrets)
        return client[1]


def _checked(options: Options) -> None:
    checked(Route53.SERVICE, options.url)
    credentials(options.token_file, *_SECRETS)


def _client(options: Options, secrets: dict[str, str]) -> Any:
    """With nothing of the environment, of ~/.aws or of the machine's metadata, and without retries."""
    session_module: Any = import_module("botocore.session")
    loaders: Any = import_module("botocore.loaders")
    nowhere = (None, None, os.devnull, None)
    variables = {"profile": (None, None, None, None), "config_file": nowhere, "credentials_file": nowhere}
    session = session_module.Session(variables)
    models = loaders.Loader([loaders.Loader.BUILTIN_DATA_PATH], include_default_search_paths=False)
    session.register_component("data_loader", models)
    timeout_s = deadline.left(options.timeout_s)
    if options.ca_file:
        read_trusted(Path(options.ca_file))
    return session.create_client(
        "route53",
        region_name=_REGION,
        endpoint_url=options.url,
        verify=options.ca_file or True,
        aws_access_key_id=secrets["aws_access_key_id"],
        aws_secret_access_key=secrets["aws_secret_access_key"],
        config=import_module("botocore.config").Config(
            connect_timeout=timeout_s,
            read_timeout=timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},
            proxies={},
            ignore_configured_endpoint_urls=True,
        ),
    )


def _own(rdtype: RdType, rrset: RRset | None) -> tuple[str, ...]:
    """The records as the service wrote them."""
    if rrset is None:
        return ()
    return rrset.own or tuple(value_of(rdtype, value) for value in sorted(rrset.values))


def _change(action: str, name: str, rdtype: RdType, rrset: RRset) -> dict[str, Any]:
    records = [{"Value": value} for value in _own(rdtype, rrset)]
    rrset_now = {"Name": name, "Type": rdtype, "TTL": rrset.ttl_s, "ResourceRecords": records}
    return {"Action": action, "ResourceRecordSet": rrset_now}


def _refused(response: Any, lost: str) -> Error:
    """The service's own error."""
    status = int(response["ResponseMetadata"]["HTTPStatusCode"])
    code, words = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    detail = printable(f"Route 53: HTTP {status} {code}: {words.splitlines()[0] if words else ''}")
    headers = response["ResponseMetadata"].get("HTTPHeaders", {})
    wait_s = retry_after_s(headers.get("retry-after", ""), datetime.now(UTC), RETRY_AFTER_MAX_S)
    if status == 429 or code in _BUSY:
        return Transient("dns.rate_limited", detail, "it is tried again by itself, later", retry_after_s=wait_s)
    if remedy := _remedy(status, code):
        return Misconfigured("dns.refused", detail, remedy)
    if code == "InvalidChangeBatch":
        return _InvalidBatch("dns.rejected", detail)
    if 400 <= status < 500 and status != 408:
        return Rejected("dns.rejected", detail)
    return Transient(lost, detail, retry_after_s=wait_s)


def _remedy(status: int, code: str) -> str:
    """What to do where key, rights or zone are not right; empty: they are not the trouble."""
    if code in _CLOCK:
        return "set the clock of this host: timedatectl"
    if status in (401, 403):
        return _POLICY
    return _NO_ZONE if code == "NoSuchHostedZone" or status == 404 or 300 <= status < 400 else ""
