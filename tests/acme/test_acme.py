"""What no CA in the lab does by itself: a scripted one."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from certagent.acme import transport
from certagent.acme.client import Acme
from certagent.acme.issuer import Issuer
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.secret import Secret
from tests.acme import csr as csrs
from tests.acme.front import Front, Reply, answer, problem
from tests.acme.test_ari import certificate
from tests.lab import certificates
from tests.pki.test_weburl import NO_URLS

NONCE = {"Replay-Nonce": "AAAA"}
NAME = "mx1.corp.example"
CSR = csrs.csr(csrs.ecdsa(), NAME)


class Ca(Front):
    """A CA that answers what the test says; its account and nonces always work."""

    def __init__(self, place: Path) -> None:
        super().__init__(place)
        self.endpoints: dict[str, Any] = {
            "newNonce": f"{self.url}/nonce",
            "newAccount": f"{self.url}/account",
            "newOrder": f"{self.url}/order",
            "revokeCert": f"{self.url}/revoke",
        }
        self.always("/dir", lambda _: Reply(200, json.dumps(self.endpoints).encode()))
        self.always("/nonce", answer(Reply(200, b"", NONCE)))
        self.always("/account", answer(self.json({}, 201, Location=f"{self.url}/me")))
        self.always("/chall", answer(self.json({"type": "dns-01", "url": f"{self.url}/chall"})))

    def json(self, body: dict[str, Any], status: int = 200, **headers: str) -> Reply:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return Reply(status, json.dumps(body).encode(), {**NONCE, **names})

    def order(self, status: str, **more: Any) -> dict[str, Any]:
        return {"status": status, "finalize": f"{self.url}/fin", "authorizations": [f"{self.url}/authz"], **more}

    def authorization(self, status: str, /, *, name: str = NAME, **challenge: Any) -> Reply:
        dns01 = {"type": "dns-01", "url": f"{self.url}/chall", "token": "dG9rZW4", "status": "pending", **challenge}
        others = {"type": "dns-persist-01", "accounturi": "x"}
        identifier = {"type": "dns", "value": name}
        return self.json({"identifier": identifier, "status": status, "challenges": [others, dns01]})

    def sent(self, at: int) -> dict[str, Any]:
        """The payload of a signed request."""
        payload = json.loads(self.posted[at])["payload"]
        return json.loads(base64.urlsafe_b64decode(payload + "==") or "{}")


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[Ca]:
    with Ca(tmp_path) as ca:
        yield ca


@pytest.fixture
def acme(ca: Ca, tmp_path: Path) -> Acme:
    return Acme(ca.directory, tmp_path / "account", ca_bundle=ca.ca_bundle, timeout_s=5)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waits are noted instead of waited; the clock moves all the same."""
    waits: list[float] = []
    clock = time.monotonic
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("time.monotonic", lambda: clock() + sum(waits))
    return waits


def caught(kind: type[Error], call: Callable[..., object], *args: Any, **more: Any) -> Error:
    with pytest.raises(kind) as info:
        call(*args, **more)
    return info.value


def test_it_is_an_issuer_that_asks_nothing_when_made(ca: Ca, acme: Acme) -> None:
    issuer: Issuer = acme
    assert issuer is acme
    assert ca.requests == []


def test_the_directory_must_be_https(tmp_path: Path) -> None:
    """RFC 8555 section 6.1."""
    assert caught(Misconfigured, Acme, "http://ca.example/dir", tmp_path).code == "ca.account"


class TestOrder:
    def test_profile_and_replaces_are_sent(self, ca: Ca, acme: Acme) -> None:
        ca.endpoints |= {"renewalInfo": f"{ca.url}/ari", "meta": {"profiles": {"short": "6 days"}}}
        ca.once("/order", answer(ca.json(ca.order("ready"), 201, Location=f"{ca.url}/o/1")))
        order = acme.order(CSR, profile="short", replaces="a.b")
        assert (order.url, order.challenges, order.expires) == (f"{ca.url}/o/1", (), None)
        identifiers = [{"type": "dns", "value": NAME}]
        assert ca.sent(-1) == {"identifiers": identifiers, "profile": "short", "replaces": "a.b"}

    @pytest.mark.parametrize(
        "refusal",
        [
            problem(409, "alreadyReplaced"),
            problem(400, "malformed"),
            problem(403, "unauthorized"),
            problem(404, "malformed"),
        ],
    )
    def test_refused_with_replaces_it_is_asked_once_without(self, ca: Ca, acme: Acme, refusal: Reply) -> None:
        """RFC 9773 section 5: replacing is a favour, not a condition."""
        ca.endpoints["renewalInfo"] = f"{ca.url}/ari"
        ca.once("/order", answer(refusal), answer(ca.json(ca.order("ready"), 201, Location=f"{ca.url}/o/1")))
        acme.order(CSR, replaces="a.b")
        assert ca.count("POST /order") == 2
        assert "replaces" not in ca.sent(-1)

    def test_a_refusal_without_replaces_is_final(self, ca: Ca, acme: Acme) -> None:
        ca.always("/order", answer(problem(409, "alreadyReplaced", "used")))
        assert caught(Rejected, acme.order, CSR).code == "ca.rejected"
        assert ca.count("POST /order") == 1

    def test_a_ca_without_ari_hears_of_no_replaces(self, ca: Ca, acme: Acme) -> None:
        ca.once("/order", answer(ca.json(ca.order("ready"), 201, Location=f"{ca.url}/o/1")))
        acme.order(CSR, replaces="a.b")
        assert "replaces" not in ca.sent(-1)

    def test_a_profile_that_the_ca_has_not_is_the_operators_matter(self, ca: Ca, acme: Acme) -> None:
        """A CA without profiles would silently issue something else."""
        assert caught(Misconfigured, acme.order, CSR, profile="short").code == "ca.profile"
        assert ca.count("/order") == 0

    def test_a_challenge_is_the_digest_of_token_and_key(self, ca: Ca, acme: Acme) -> None:
        """The token is used as the CA wrote it, also if it is no canonical base64url."""
        ca.once("/order", answer(ca.json(ca.order("pending"), 201, Location=f"{ca.url}/o/1")))
        ca.once("/authz", answer(ca.authorization("pending", token="not-canonical-_x")))
        (challenge,) = acme.order(CSR).challenges
        assert challenge.name == f"_acme-challenge.{NAME}."
        assert len(challenge.value) == 43

    def test_only_dns_01_will_do(self, ca: Ca, acme: Acme) -> None:
        ca.once("/order", answer(ca.json(ca.order("pending"), 201, Location=f"{ca.url}/o/1")))
        ca.once("/authz", answer(ca.authorization("pending", type="http-01")))
        error = caught(Rejected, acme.order, CSR)
        assert error.code == "ca.rejected"
        assert "http-01" in error.detail

    def test_what_is_no_csr_is_not_sent(self, ca: Ca, acme: Acme) -> None:
        assert caught(Rejected, acme.order, b"junk").code == "ca.rejected"
        assert ca.requests == []


class TestAnswer:
    def test_polls_ever_slower_and_as_slow_as_the_ca_wants(self, ca: Ca, acme: Acme, slept: list[float]) -> None:
        """RFC 8555 section 7.5.1 and RFC 9110 section 10.2.3."""
        ca.always("/o/1", answer(ca.json(ca.order("pending"))))
        pending, asked = ca.authorization("pending"), ca.authorization("pending")
        asked.headers = {**asked.headers, "Retry-After": "7"}
        ca.once("/authz", *map(answer, [pending, pending, pending, asked, pending, ca.authorization("valid")]))
        acme.answer(f"{ca.url}/o/1")
        assert slept == pytest.approx([0.02, 0.03, 0.045, 7, 0.10125])
        assert ca.count("/chall") == 1

    def test_waits_no_longer_than_the_budget(self, ca: Ca, acme: Acme, slept: list[float]) -> None:
        ca.always("/o/1", answer(ca.json(ca.order("pending"))))
        ca.always("/authz", answer(ca.authorization("pending")))
        assert caught(Transient, acme.answer, f"{ca.url}/o/1").code == "ca.slow"
        assert 50 < sum(slept) <= 60
        assert max(slept) == 5

    def test_a_wish_beyond_the_budget_ends_the_call_at_once(self, ca: Ca, acme: Acme, slept: list[float]) -> None:
        """The caller may come back later; a sleeping thread helps nobody."""
        ca.always("/o/1", answer(ca.json(ca.order("processing"), Retry_After="600")))
        error = caught(Transient, acme.finalize, f"{ca.url}/o/1", CSR)
        assert (error.code, error.retry_after_s, slept) == ("ca.slow", 600, [])

    def test_a_failed_challenge_that_stays_pending_has_failed(self, ca: Ca, acme: Acme, slept: list[float]) -> None:
        """Caddy's server: it would be pending for ever."""
        error = {"type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "TXT not found"}
        ca.always("/o/1", answer(ca.json(ca.order("pending"))))
        ca.once("/authz", answer(ca.authorization("pending")))
        ca.always("/authz", answer(ca.authorization("pending", error=error)))
        failure = caught(Rejected, acme.answer, f"{ca.url}/o/1")
        assert failure.code == "ca.challenge_failed"
        assert failure.detail == f"{NAME}: rejectedIdentifier: TXT not found"

    def test_a_challenge_that_is_checked_again_has_not_failed(self, ca: Ca, acme: Acme, slept: list[float]) -> None:
        """RFC 8555 section 8.2: a server that retries says processing, and why it has to."""
        error = {"type": "urn:ietf:params:acme:error:dns", "detail": "SERVFAIL"}
        again = ca.authorization("pending", status="processing", error=error)
        ca.always("/o/1", answer(ca.json(ca.order("pending"))))
        ca.once("/authz", answer(again), answer(again), answer(ca.authorization("valid")))
        acme.answer(f"{ca.url}/o/1")
        assert ca.count("/chall") == 0

    @pytest.mark.parametrize("status", ["expired", "revoked", "deactivated", "invalid", "something-new"])
    def test_an_authorization_that_is_over_ends_the_order(self, ca: Ca, acme: Acme, status: str) -> None:
        ca.always("/o/1", answer(ca.json(ca.order("pending"))))
        ca.always("/authz", answer(ca.authorization(status)))
        error = caught(Rejected, acme.answer, f"{ca.url}/o/1")
        assert error.code == "ca.order_gone"
        assert status in error.detail

    @pytest.mark.parametrize("status", ["ready", "processing", "valid"])
    def test_an_order_that_is_further_needs_no_answer(self, ca: Ca, acme: Acme, status: str) -> None:
        ca.always("/o/1", answer(ca.json(ca.order(status))))
        acme.answer(f"{ca.url}/o/1")
        assert ca.requests[-1] == "POST /o/1"


class TestFinalize:
    def test_a_request_that_had_arrived_is_not_refused_to_the_caller(
        self, ca: Ca, acme: Acme, slept: list[float]
    ) -> None:
        """A database that lags says ready although the order is being worked on: orderNotReady means look again."""
        chain = certificates.make([NAME]).certificate_pem
        valid = ca.json(ca.order("valid", certificate=f"{ca.url}/cert"))
        states = [ca.json(ca.order("ready")), ca.json(ca.order("processing")), valid]
        ca.once("/o/1", *map(answer, states))
        ca.once("/fin", answer(problem(403, "orderNotReady")))
        ca.always("/cert", answer(Reply(200, chain, NONCE)))
        assert acme.finalize(f"{ca.url}/o/1", CSR) == chain

    def test_a_bad_csr_is_refused_to_the_caller(self, ca: Ca, acme: Acme) -> None:
        ca.always("/o/1", answer(ca.json(ca.order("ready"))))
        ca.once("/fin", answer(problem(400, "badCSR", "weak key")))
        error = caught(Rejected, acme.finalize, f"{ca.url}/o/1", CSR)
        assert (error.code, error.detail) == ("ca.rejected", f"{ca.host}/fin: badCSR: weak key")

    def test_an_invalid_order_says_why(self, ca: Ca, acme: Acme) -> None:
        why = {"detail": "forbidden"}  # RFC 9457 section 3.1: the type may be absent
        ca.always("/o/1", answer(ca.json(ca.order("invalid", error=why))))
        error = caught(Rejected, acme.finalize, f"{ca.url}/o/1", CSR)
        assert error.code == "ca.order_gone"
        assert error.detail.endswith("invalid: about:blank: forbidden")

    @pytest.mark.parametrize("chain", [b"", b"<html>", b"x" * (transport.ANSWER_MAX_BYTES + 1)])
    def test_what_is_no_chain_is_not_taken(self, ca: Ca, acme: Acme, chain: bytes) -> None:
        ca.always("/o/1", answer(ca.json(ca.order("valid", certificate=f"{ca.url}/cert"))))
        ca.always("/cert", answer(Reply(200, chain, NONCE)))
        assert caught(Transient, acme.finalize, f"{ca.url}/o/1", CSR).code == "ca.garbage"

    def test_its_other_chains_are_asked_for_one_by_one(self, ca: Ca, acme: Acme) -> None:
        """RFC 8555 section 7.4.2, RFC 8288 section 3. What is no https URL is not followed."""
        first, second, third = (certificates.make([NAME]).certificate_pem for _ in range(3))
        places = f'<{ca.url}/a>;rel="alternate", <{ca.url}/up>; rel=up, <http://x/>;rel="alternate"'
        links = {**NONCE, "Link": f'{places}, <{ca.url}/b> ; Rel="index alternate"'}
        ca.always("/o/1", answer(ca.json(ca.order("valid", certificate=f"{ca.url}/cert"))))
        ca.always("/cert", answer(Reply(200, first, links)))
        ca.always("/a", answer(Reply(200, second, NONCE)))
        ca.always("/b", answer(Reply(200, third, NONCE)))
        found = acme.alternates(f"{ca.url}/o/1")
        assert next(found) == second
        assert ca.count("POST /b") == 0
        assert list(found) == [third]


class TestRefusals:
    def test_the_account_of_another_ca_is_registered_anew(self, ca: Ca, acme: Acme, tmp_path: Path) -> None:
        file = tmp_path / "account" / "account.json"
        ca.always("/o/1", answer(ca.json(ca.order("ready"))))
        acme.answer(f"{ca.url}/o/1")
        note = json.loads(file.read_text())
        for changes, requests in [({}, 1), ({"directory": "https://other.example", "account": "x"}, 2)]:
            file.write_text(json.dumps(note | changes))
            Acme(ca.directory, tmp_path / "account", ca_bundle=ca.ca_bundle).answer(f"{ca.url}/o/1")
            assert ca.count("POST /account") == requests
        assert json.loads(file.read_text()) == note

    def test_an_account_that_stays_unknown_is_registered_once(self, ca: Ca, acme: Acme) -> None:
        ca.always("/order", answer(problem(400, "accountDoesNotExist")))
        assert caught(Rejected, acme.order, CSR).code == "ca.rejected"
        assert ca.count("POST /account") == 2

    @pytest.mark.parametrize("kind", ["userActionRequired", "externalAccountRequired"])
    def test_what_the_owner_must_do_is_said(self, ca: Ca, acme: Acme, kind: str) -> None:
        ca.always("/order", answer(problem(403, kind, "see https://ca.example/terms")))
        error = caught(Misconfigured, acme.order, CSR)
        assert error.code == "ca.account"
        assert "https://ca.example/terms" in error.detail

    def test_where_the_owner_must_go_is_said(self, ca: Ca, acme: Acme) -> None:
        """RFC 8555 section 7.3.3: the page in the problem document, and the new terms; nothing that is no URL."""
        links = '<https://ca.example/tos>;rel="terms-of-service", <javascript:x>;rel="terms-of-service"'
        document = {
            "type": f"{transport.ERROR_TYPE}userActionRequired",
            "detail": "new terms",
            "instance": "https://ca.example/agree",
        }
        ca.always("/order", answer(ca.json(document, 403, Link=links)))
        error = caught(Misconfigured, acme.order, CSR)
        assert error.concerns == "ca"
        assert error.hint.endswith("visit https://ca.example/agree and https://ca.example/tos")

    @pytest.mark.parametrize(
        ("account", "code"),
        [("deactivated", "ca.account"), ("revoked", "ca.account"), ("refused", "ca.account"), ("valid", "ca.rejected")],
    )
    def test_a_closed_account_is_told_from_other_refusals(
        self, ca: Ca, acme: Acme, tmp_path: Path, account: str, code: str
    ) -> None:
        """RFC 8555 section 7.3.6; the remedy is the file to move away."""
        refused = problem(403, "unauthorized", "not so")
        ca.always("/order", answer(refused))
        ca.always("/me", answer(refused if account == "refused" else ca.json({"status": account})))
        error = caught(Error, acme.order, CSR)
        assert (error.code, error.concerns) == (code, "ca")
        assert (str(tmp_path / "account" / "account.key") in error.hint) == (code == "ca.account")

    def test_a_key_whose_account_is_closed_gets_no_other(self, ca: Ca, acme: Acme, tmp_path: Path) -> None:
        ca.once("/account", answer(problem(403, "unauthorized", "deactivated")))
        assert str(tmp_path / "account" / "account.key") in caught(Misconfigured, acme.order, CSR).hint

    def test_a_directory_may_say_nothing_of_the_ca(self, ca: Ca, acme: Acme) -> None:
        ca.endpoints["meta"] = None
        ca.always("/order", answer(problem(400, "malformed", "no")))
        assert caught(Rejected, acme.order, CSR).code == "ca.rejected"

    def test_a_refused_registration_is_the_operators_matter(self, ca: Ca, tmp_path: Path) -> None:
        ca.once("/account", answer(problem(400, "invalidContact", "no MX")))
        acme = Acme(ca.directory, tmp_path / "a", ca_bundle=ca.ca_bundle, contact=("x@invalid.example",))
        assert caught(Misconfigured, acme.order, CSR).code == "ca.account"
        assert ca.sent(-1)["contact"] == ["mailto:x@invalid.example"]

    def test_rate_limit_with_a_date(self, ca: Ca, acme: Acme) -> None:
        when = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
        ca.always("/order", answer(problem(429, "rateLimited", "paused: https://ca.example/unpause", Retry_After=when)))
        error = caught(Transient, acme.order, CSR)
        assert error.code == "ca.rate_limited"
        assert error.retry_after_s == pytest.approx(3600, abs=60)
        assert "https://ca.example/unpause" in error.detail

    @pytest.mark.parametrize(("value", "seconds"), [("-5", None), ("soon", None), ("9" * 400, 7 * 86400), ("0", 0)])
    def test_strange_retry_after(self, ca: Ca, acme: Acme, value: str, seconds: float | None) -> None:
        ca.always("/order", answer(problem(503, "serverInternal", Retry_After=value)))
        error = caught(Transient, acme.order, CSR)
        assert (error.code, error.retry_after_s) == ("ca.busy", seconds)

    def test_the_cas_words_are_made_fit_for_a_terminal(self, ca: Ca, acme: Acme) -> None:
        ca.always("/order", answer(problem(403, "unauthorized", "\x1b[31mred\r\n\u202e" + "x" * 100_000)))
        detail = caught(Rejected, acme.order, CSR).detail
        assert detail.isprintable()
        assert len(detail) <= 500

    def test_subproblems_are_reported(self, ca: Ca, acme: Acme) -> None:
        """RFC 8555 section 6.7.1."""
        sub = {"type": "urn:ietf:params:acme:error:caa", "detail": "no", "identifier": {"type": "dns", "value": NAME}}
        body = {"type": "urn:ietf:params:acme:error:compound", "detail": "two", "subproblems": [sub]}
        ca.always("/order", answer(ca.json(body, 403)))
        assert caught(Rejected, acme.order, CSR).detail == f"{ca.host}/order: compound: two; {NAME}: caa: no"

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(200, b"<html>", NONCE),
            Reply(200, b"[]", NONCE),
            Reply(200, b"\xff", NONCE),
            Reply(200, b"[" * 100_000, NONCE),
            Reply(201, b'{"status": "ready", "finalize": "x"}', NONCE),  # no Location
            Reply(403, b"<html>a proxy</html>"),
            Reply(403, b'{"message": "a proxy"}'),
            Reply(302, b"", {"Location": "/elsewhere"}),
            Reply(200, b"x" * (transport.ANSWER_MAX_BYTES + 1)),
        ],
    )
    def test_what_is_no_acme_is_garbage(self, ca: Ca, acme: Acme, reply: Reply) -> None:
        ca.always("/order", answer(reply))
        assert caught(Transient, acme.order, CSR).code == "ca.garbage"
        assert ca.count("elsewhere") == 0

    def test_nonces_are_refused_only_so_often(self, ca: Ca, acme: Acme) -> None:
        refusal = problem(400, "badNonce", Replay_Nonce="BBBB")
        ca.always("/order", answer(refusal))
        assert caught(Transient, acme.order, CSR).code == "ca.busy"
        assert ca.count("POST /order") == transport.NONCE_TRIES
        assert ca.count("HEAD") == 1

    def test_a_ca_without_nonces(self, ca: Ca, acme: Acme) -> None:
        ca.endpoints["newNonce"] = f"{ca.url}/chall-without"
        ca.once("/chall-without", answer(Reply(200, b"", {"Replay-Nonce": "!"})))
        assert caught(Transient, acme.order, CSR).code == "ca.garbage"

    def test_a_stranger_in_place_of_the_ca(self, ca: Ca, tmp_path: Path) -> None:
        """The certificate of the endpoint is verified."""
        error = caught(Transient, Acme(ca.directory, tmp_path / "a").order, CSR)
        assert error.code == "ca.unreachable"
        assert "certificate verify failed" in error.detail

    def test_a_missing_bundle(self, ca: Ca, tmp_path: Path) -> None:
        acme = Acme(ca.directory, tmp_path / "a", ca_bundle=tmp_path / "missing.pem")
        error = caught(Misconfigured, acme.order, CSR)
        assert "missing.pem" in error.detail

    def test_a_redirect_to_http_is_not_followed(self, ca: Ca, acme: Acme) -> None:
        """RFC 8555 section 6.1."""
        ca.once("/dir", answer(Reply(302, b"", {"Location": "http://127.0.0.1:1/dir"})))
        error = caught(Transient, acme.order, CSR)
        assert (error.code, error.detail[:14]) == ("ca.garbage", "127.0.0.1:1/di")

    @pytest.mark.parametrize(
        "to", ["\xff\xfe", "https://[", "https://a..b/", "//\xe4.example/", "https://u:p@ca.example/"]
    )
    def test_a_redirect_that_leads_nowhere(self, ca: Ca, acme: Acme, to: str) -> None:
        ca.once("/dir", answer(Reply(302, b"", {"Location": to})))
        error = caught(Transient, acme.order, CSR)
        assert (error.code, "u:p" in error.detail) == ("ca.garbage", False)

    def test_redirects_are_followed_and_counted(self, ca: Ca, acme: Acme, tmp_path: Path) -> None:
        ca.once("/dir", *[answer(Reply(307, b"", {"Location": "/dir"}))] * transport.REDIRECTS_MAX)
        ca.always("/order", answer(ca.json(ca.order("ready"), 201, Location=f"{ca.url}/o/1")))
        acme.order(CSR)
        assert ca.count("/dir") == transport.REDIRECTS_MAX + 1
        ca.always("/round", answer(Reply(307, b"", {"Location": "/round"})))
        endless = Acme(f"{ca.url}/round", tmp_path / "b", ca_bundle=ca.ca_bundle)
        assert caught(Transient, endless.order, CSR).code == "ca.garbage"
        assert ca.count("/round") == transport.REDIRECTS_MAX + 1

    @pytest.mark.parametrize("url", NO_URLS)
    @pytest.mark.parametrize("at", ["newNonce", "newOrder", "authorizations", "Location"])
    def test_what_is_no_url_of_a_ca(self, ca: Ca, acme: Acme, at: str, url: str) -> None:
        """It is neither asked nor journaled, and no terminal obeys it."""
        order = ca.order("pending", authorizations=[url if at == "authorizations" else f"{ca.url}/authz"])
        ca.endpoints |= {at: url} if at.startswith("new") else {}
        ca.always("/authz", answer(ca.authorization("valid")))
        ca.always(
            "/order",
            answer(
                ca.json(
                    order, 201, Location=url.encode("utf-8").decode("latin-1") if at == "Location" else f"{ca.url}/o/1"
                )
            ),
        )
        error = caught(Transient, acme.order, CSR)
        assert (error.code, error.detail.isprintable()) == ("ca.garbage", True)

    def test_the_directory_is_read_again_after_a_day(self, ca: Ca, acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
        ca.always("/order", answer(ca.json(ca.order("ready"), 201, Location=f"{ca.url}/o/1")))
        acme.order(CSR)
        acme.order(CSR)
        assert ca.count("/dir") == 1
        later = time.monotonic() + 86401
        monkeypatch.setattr("time.monotonic", lambda: later)
        acme.order(CSR)
        assert ca.count("/dir") == 2


class TestAccountFiles:
    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
    def test_a_key_that_others_may_read_is_refused(self, ca: Ca, acme: Acme, tmp_path: Path, mode: int) -> None:
        home = tmp_path / "account"
        home.mkdir(mode=0o700)
        (home / "account.key").write_bytes(csrs.pem(csrs.ecdsa()))
        (home / "account.key").chmod(mode)
        assert caught(Misconfigured, acme.order, CSR).code == "ca.account"
        assert ca.count("POST") == 0

    @pytest.mark.parametrize(
        "damaged", [b"", b"junk", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
    )
    def test_a_damaged_key_is_never_replaced(self, acme: Acme, tmp_path: Path, damaged: bytes) -> None:
        home = tmp_path / "account"
        home.mkdir(mode=0o700)
        (home / "account.key").write_bytes(damaged)
        (home / "account.key").chmod(0o600)
        assert caught(Misconfigured, acme.order, CSR).code == "ca.account"
        assert (home / "account.key").read_bytes() == damaged

    def test_the_key_is_on_disk_before_the_ca_hears_of_it(
        self, ca: Ca, acme: Acme, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each request comes after the last sync of the key and of the directories above it."""
        events: list[str] = []
        sync = os.fsync

        def note(descriptor: int) -> None:
            events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("-")[0])
            sync(descriptor)

        monkeypatch.setattr("os.fsync", note)
        ca.once("/account", lambda _: events.append("newAccount"))
        caught(Transient, acme.order, CSR)
        assert events == [tmp_path.name.split("-")[0], ".account.key.new", "account", "newAccount"]

    @pytest.mark.parametrize("make", [csrs.rsa_2048, csrs.ecdsa])
    def test_a_key_from_elsewhere_is_used(
        self, ca: Ca, acme: Acme, tmp_path: Path, make: Callable[[], csrs.Key]
    ) -> None:
        home = tmp_path / "account"
        home.mkdir(mode=0o700)
        (home / "account.key").write_bytes(csrs.pem(make()))
        (home / "account.key").chmod(0o600)
        ca.always("/o/1", answer(ca.json(ca.order("ready"))))
        acme.answer(f"{ca.url}/o/1")

    def test_half_a_binding_is_refused(self, ca: Ca, tmp_path: Path) -> None:
        assert caught(Misconfigured, Acme, ca.directory, tmp_path, eab_kid="kid-1").code == "ca.account"

    def test_a_mac_key_that_is_none_is_not_reported(self, ca: Ca, tmp_path: Path) -> None:
        key = Secret("hunter2 is no base64url: ä")
        acme = Acme(ca.directory, tmp_path / "a", ca_bundle=ca.ca_bundle, eab_kid="kid-1", eab_key=key)
        error = caught(Misconfigured, acme.order, CSR)
        assert error.code == "ca.account"
        assert "hunter2" not in repr(error) + repr(error.__cause__)


class TestRenewalInfo:
    LEAF = csrs.certificate_pem(certificate(0x87654321, bytes.fromhex("69885B6B87464041E1B37B847BA0AE2CDE01C8D4")))

    def test_a_window(self, ca: Ca, acme: Acme) -> None:
        ca.endpoints["renewalInfo"] = f"{ca.url}/ari"
        window = {"start": "2026-11-21T00:00:00Z", "end": "2026-11-22T00:00:00Z"}
        ca.once("/ari", answer(ca.json({"suggestedWindow": window}, Retry_After="5")))
        found = acme.renewal_info(self.LEAF)
        assert found is not None
        assert found.retry_after_s == 60
        assert ca.requests == ["GET /dir", "GET /ari/aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"]

    def test_a_ca_without_ari(self, acme: Acme) -> None:
        assert acme.renewal_info(self.LEAF) is None

    def test_an_expired_certificate_is_not_asked_for(self, ca: Ca, acme: Acme, monkeypatch: pytest.MonkeyPatch) -> None:
        """RFC 9773 section 4.3."""
        ca.endpoints["renewalInfo"] = f"{ca.url}/ari"

        class Later(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return datetime.now(tz) + timedelta(days=2)

        monkeypatch.setattr("certagent.acme.client.datetime", Later)
        assert acme.renewal_info(self.LEAF) is None
        assert ca.requests == []

    def test_a_certificate_that_the_ca_does_not_know_is_asked_for_again_after_six_hours(
        self, ca: Ca, acme: Acme
    ) -> None:
        """RFC 9773 section 4.3.3."""
        ca.endpoints["renewalInfo"] = f"{ca.url}/ari"
        ca.always("/ari", answer(problem(404, "malformed", "unknown")))
        assert caught(Rejected, acme.renewal_info, self.LEAF).retry_after_s == 21600

    def test_an_empty_window_counts_as_no_answer(self, ca: Ca, acme: Acme) -> None:
        """RFC 9773 section 4.2: then again after six hours."""
        ca.endpoints["renewalInfo"] = f"{ca.url}/ari"
        window = {"start": "2026-11-22T00:00:00Z", "end": "2026-11-21T00:00:00Z"}
        ca.once("/ari", answer(ca.json({"suggestedWindow": window})))
        error = caught(Transient, acme.renewal_info, self.LEAF)
        assert (error.code, error.retry_after_s) == ("ca.garbage", 21600)
