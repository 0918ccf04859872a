"""acme-dns: a server for the TXT records of challenges, to which `_acme-challenge` names lead by CNAME.

Source: https://github.com/joohoi/acme-dns, README. An account has one name (its `fulldomain`), and its last two values
are served there. Nothing is read, and nothing is removed: newer values take the place of older ones. Which one is older
is decided by whole seconds, so the values of two calls are kept apart by one.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from certagent.dns.message import absolute, one_of_zones
from certagent.dns.providers.about import About
from certagent.dns.providers.http import Api, HttpOptions
from certagent.dns.providers.protocol import Capabilities, RdType, RRset, zones_of
from certagent.errors import Misconfigured, Transient, Usage
from certagent.host.deadline import left
from certagent.host.files import read_private

_VALUES = 2
"""An account keeps so many: those of a name and of its wildcard."""
_APART_S = 1.0
"""Between two calls: the service tells older values from newer by whole seconds."""
_FILE_MAX_BYTES = 1 << 20
"""Thousands of accounts, with 300 bytes each."""
_RIGHTS = "at acme-dns: username, password and subdomain as /register gave them, and this host among its `allowfrom`"


class Options(HttpOptions, frozen=True, kw_only=True):
    """acme-dns, for challenges only. `zones` has the domain of that server.

    The token file has the accounts in JSON, as other clients of acme-dns keep them: `{"mx1.example.org": {"fulldomain":
    "…", "subdomain": "…", "username": "…", "password": "…"}}`.
    """


class _Account(Struct):
    fulldomain: str
    subdomain: str
    username: str
    password: str


class _Updated(Struct):
    txt: str


class AcmeDns:
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, as far as acme-dns can.

    Raises:
        Usage: At construction: `secret.mode`, `secret.file`.
        Misconfigured: At construction: `dns.options`.
    """

    Options = Options
    capabilities = Capabilities(atomic=False, ttl_scope="zone", challenges_only=True)
    about = About(
        title="acme-dns (challenges only)",
        rights=(
            "An account can change the TXT values of one random name, and nothing else. The server's operator can get"
            " certificates for your names, so run it yourself."
        ),
        access=(
            "Register an account for each name: `curl -X POST https://auth.example.org/register`. Write what it answers"
            ' into the file, as JSON: `{"mx1.example.org": {…}}`. A file of lego, acme-dns-client or certbot\'s hook'
            " can be used as it is. Then make `_acme-challenge.mx1.example.org` a CNAME to the account's `fulldomain`."
        ),
        limits=(
            "It writes no TLSA records: with DANE, another provider must write those. An account keeps two values, so"
            " give each name its own account. Values are not removed; newer ones take their place."
        ),
        example=(
            "type: acme-dns\nurl: https://auth.example.org\ntoken_file: /etc/certagent/acme-dns.json\n"
            "zones: [auth.example.org]"
        ),
    )

    def __init__(self, options: Options) -> None:
        self.zones = zones_of(options.zones)
        self._options = options
        self._written: dict[str, float] = {}
        self._accounts()  # a file that cannot be used is found at once
        self._api(None)  # a URL, too

    def get(self, name: str, rdtype: RdType) -> RRset | None:
        """Always None: acme-dns does not tell."""
        self._account(name, rdtype)
        return None

    def add(self, name: str, rdtype: RdType, values: frozenset[str], ttl_s: int, was: RRset | None) -> None:  # noqa: ARG002
        """The values take the place of the oldest. They may be there already, which is not known."""
        account = self._account(name, rdtype)
        if len(values) > _VALUES:
            detail = f"acme-dns: {len(values)} challenges lead to {name}, and it keeps {_VALUES} values"
            raise Misconfigured("dns.refused", detail, "give each name its own account, and its own CNAME")
        time.sleep(left(max(0.0, self._written.get(name, 0.0) + _APART_S - time.monotonic())))
        try:
            for value in sorted(values):
                body = {"subdomain": account.subdomain, "txt": value}
                said = self._api(account).call("POST", "/update", body).read(_Updated).txt
                if said != value:
                    raise Transient("dns.unknown_outcome", "acme-dns: it took another value than it was given")
        finally:
            self._written[name] = time.monotonic()

    def remove(self, name: str, rdtype: RdType, values: frozenset[str], was: RRset | None) -> None:  # noqa: ARG002
        """Nothing: see above."""
        self._account(name, rdtype)

    def _account(self, name: str, rdtype: RdType) -> _Account:
        zone = one_of_zones(name, self.zones)
        if rdtype != "TXT":
            detail = f"acme-dns: it takes challenges only, and {name} {rdtype} is none"
            hint = "list the zone of the TLSA name under another provider, and let no CNAME lead it here"
            raise Misconfigured("dns.refused", detail, hint)
        found = next((one for one in self._accounts() if absolute(one.fulldomain) == name), None)
        if found is None:
            detail = f"acme-dns: no account in {self._options.token_file} has the fulldomain {name}"
            hint = f"make the CNAME of the challenge name lead to one that is there; it ends with {zone}"
            raise Misconfigured("dns.refused", detail, hint)
        return found

    def _accounts(self) -> list[_Account]:
        """Read anew for each call, so that a new account needs no restart."""
        path = self._options.token_file
        try:
            return list(
                msgspec.json.decode(read_private(Path(path), _FILE_MAX_BYTES), type=dict[str, _Account]).values()
            )
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            hint = 'expected {"NAME": {"fulldomain": "…", "subdomain": "…", "username": "…", "password": "…"}}'
            raise Usage("secret.file", f"{path} has no accounts of acme-dns in JSON", hint) from None

    def _api(self, account: _Account | None) -> Api:
        options = self._options

        def headers(method: str, url: str, body: bytes) -> dict[str, str]:  # noqa: ARG001 -- nothing is signed
            return {"X-Api-User": account.username, "X-Api-Key": account.password} if account else {}

        return Api(
            "acme-dns",
            options.url,
            headers,
            words=_words,
            rights=_RIGHTS,
            timeout_s=options.timeout_s,
            ca_file=options.ca_file,
            denials=("bad_subdomain",),
            secrets=lambda: (account.password,) if account else (),
        )


def _words(data: Any) -> str:
    return str(data["error"])
