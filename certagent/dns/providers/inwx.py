"""INWX.

Source: https://www.inwx.de/en/help/apidoc. One address takes every method as JSON, and answers errors with HTTP status
200. The session is a cookie.

An account may have a second factor. Its code is accepted once, so a login waits for the next code (at most 30 s) if the
last one was used, by this process or by another.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from threading import Lock
from typing import Any

from msgspec import Struct, field

from certagent.dns.presentation import text_of
from certagent.dns.providers import totp
from certagent.dns.providers.about import About
from certagent.dns.providers.http import Answer, HttpOptions, HttpProvider
from certagent.dns.providers.protocol import Capabilities, RdType, Ttl
from certagent.dns.providers.single import Record, RecordByRecord
from certagent.errors import Rejected, Transient, Usage

_NO_SESSION = (2002, 2200)
"""Of a method that wants a session: there is none, or it is over."""
_DENIED = 2200
_EXISTS = 2302
_MISSING = 2303
_TOO_MANY = 2502
_DENIALS = (_DENIED, 2201, 2202, _MISSING, 2501)
"""What speaks of login, rights or zone."""
_FAILED = (2400, 2500)


class Options(HttpOptions, frozen=True, kw_only=True):
    """INWX. The token file has the lines `username = …` and `password = …`, and `sharedsecret = …` if there is one."""

    url: str = "https://api.domrobot.com/jsonrpc"
    """Where the API is; that of the test system is https://api.ote.domrobot.com/jsonrpc."""


class _Reply(Struct):
    result: int = field(name="code")
    msg: str = ""
    reason: str = ""
    resData: Any = None  # noqa: N815 -- the service's name


class _Login(Struct):
    tfa: str | int = "0"


class _Record(Struct):
    id: int | str
    name: str
    type: str
    content: str
    ttl: Ttl


class _Records(Struct):
    record: list[_Record] = []


class Inwx(HttpProvider, RecordByRecord):
    """See `certagent.dns.providers.protocol.Provider` for what the methods promise, and `HttpProvider`."""

    SERVICE = "INWX"
    RIGHTS = "at INWX: user name and password, the shared secret of the mobile TAN if it is on, and the zone's records"
    SECRETS = ("username", "password")
    PERHAPS = ("sharedsecret",)
    Options = Options
    capabilities = Capabilities(atomic=False, ttl_floor_s=300, publish_lag_s=360)
    about = About(
        title="INWX",
        rights="A login can do all that its account can: use one that has only the zones in question.",
        access=(
            "Write the lines `username = …` and `password = …` into the file. If the mobile TAN (two-factor"
            " authentication) is on: `sharedsecret = …` as well, the text that was shown beside the QR code when it"
            " was switched on."
        ),
        limits=(
            "TTLs are between 300 s and 10 days. Records are changed one by one; publication takes minutes at times."
            " A code of the mobile TAN is accepted once: sessions are used again, and a second login within 30 s waits"
            " for the next code. The clock of this host must be right."
        ),
        example="type: inwx\ntoken_file: /etc/certagent/inwx.keys\nzones: [example.org]",
        name_servers=(".inwx.de.", ".inwx.eu.", ".inwx.com.", ".inwx.net."),
    )

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self._session = ""
        self._login = Lock()  # several zones may be written at once, and one code serves one login
        self._used = -1
        """The period of the last code that was sent."""

    def _secrets(self) -> dict[str, str]:
        secrets = super()._secrets()
        try:
            totp.key(secrets.get("sharedsecret", "A" * 8))
        except ValueError:
            detail = f"{self._token_file}: sharedsecret is not in base32 (A to Z, 2 to 7)"
            raise Usage("secret.file", detail, "it is the text that INWX shows beside the QR code") from None
        return secrets

    def _headers(self) -> Mapping[str, str]:
        return {}

    def _words(self, data: Any) -> str:
        return f"{data['code']} {data['msg']}"

    def records(self, name: str, rdtype: RdType) -> list[Record]:
        """See `RecordByRecord`."""
        zone, _ = self._located(name)
        wanted = {"domain": zone, "name": name.rstrip("."), "type": rdtype}
        found = self._call("nameserver.info", wanted, lost="dns.unreachable").read(_Records).record
        same = [r for r in found if (r.name.lower().rstrip("."), r.type) == (name.rstrip("."), rdtype)]
        return [Record(str(r.id), name, rdtype, text_of(rdtype, r.content), r.ttl) for r in same]

    def create(self, name: str, rdtype: RdType, value: str, ttl_s: int) -> None:
        """A record that is there already is that of another writer, and is seen when the set is read again."""
        zone, _ = self._located(name)
        record = {"domain": zone, "name": name.rstrip("."), "type": rdtype, "content": value, "ttl": ttl_s}
        self._call("nameserver.createRecord", record, accept=(_EXISTS,))

    def retime(self, record: Record, ttl_s: int) -> None:
        """See `RecordByRecord`."""
        self._call("nameserver.updateRecord", {"id": record.id, "ttl": ttl_s}, accept=(_MISSING,))

    def delete(self, record: Record) -> None:
        """See `RecordByRecord`."""
        self._call("nameserver.deleteRecord", {"id": record.id}, accept=(_MISSING,))

    def _call(
        self, method: str, params: dict[str, Any], *, accept: tuple[int, ...] = (), lost: str = "dns.unknown_outcome"
    ) -> Answer:
        """Within a session, which is begun anew if it is over."""
        session = self._begun(over="")
        answer = self._method(method, params, session, (*accept, *_NO_SESSION), lost)
        if answer.status in _NO_SESSION:
            answer = self._method(method, params, self._begun(over=session), accept, lost)
        return answer

    def _begun(self, *, over: str) -> str:
        """A session other than that one."""
        with self._login:
            if self._session in ("", over):
                self._session = self._logged_in()
            return self._session

    def _logged_in(self) -> str:
        secrets = self._secrets()
        who = {"user": secrets["username"], "pass": secrets["password"], "lang": "en"}
        answer = self._method("account.login", who, "", (), "dns.unreachable")
        if str(answer.read(_Login).tfa) != "0":
            if "sharedsecret" not in secrets:
                hint = "write its shared secret into the file, as a line `sharedsecret = …`"
                raise self._api.wrong("the account asks for a code of the mobile TAN", hint)
            self._unlock(answer.cookies, totp.key(secrets["sharedsecret"]))
        return answer.cookies

    def _unlock(self, session: str, key: bytes) -> None:
        """Once more with the next code if one is refused: another process may have used it."""
        for accept in ((_DENIED,), ()):
            if (period := int(time.time() // totp.PERIOD_S)) <= self._used:
                period = self._used + 1
                time.sleep(max(0, period * totp.PERIOD_S - time.time()))  # bounded by the period, 30 s
            self._used = period
            tan = {"tan": totp.code(key, period)}
            if self._method("account.unlock", tan, session, accept, "dns.unreachable").status != _DENIED:
                return

    def _method(self, method: str, params: dict[str, Any], session: str, accept: tuple[int, ...], lost: str) -> Answer:
        """The data of the answer, with INWX's own code; no data for those in `accept`."""
        answer = self._api.call("POST", "/", {"method": method, "params": params}, lost=lost, cookies=session)
        reply = answer.read(_Reply)
        if 1000 <= reply.result < 2000:
            return Answer(reply.result, reply.resData or {}, answer.place, lost, answer.cookies)
        if reply.result in accept:
            return Answer(reply.result, None, answer.place, lost)
        words = f"{method}: {reply.result} {reply.msg} {reply.reason}".rstrip()
        if reply.result in _DENIALS:
            raise self._api.wrong(words)
        if reply.result == _TOO_MANY:
            raise Transient("dns.rate_limited", self._api.said(words), "it is tried again by itself, later")
        if reply.result in _FAILED:
            raise Transient(lost, self._api.said(words))
        raise Rejected("dns.rejected", self._api.said(words))
