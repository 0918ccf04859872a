"""Certificates from a real CA: Pebble, with a real DNS behind its validation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import pytest
from cryptography import x509

from certagent.acme.client import Acme
from certagent.acme.issuer import Order
from certagent.errors import Error, Misconfigured, Rejected, Transient
from certagent.secret import Secret
from tests.acme import csr as csrs
from tests.acme.front import Front, Reply, answer, changed, drop, garbled, lost, problem
from tests.lab.addresses import ZONE
from tests.lab.dns import Dns
from tests.lab.pebble import EAB_KEY, EAB_KID, Pebble

NAME = f"mx1.{ZONE}"


class Make(Protocol):
    def __call__(self, **changes: Any) -> Acme: ...


@pytest.fixture
def front(pebble: Pebble, tmp_path: Path) -> Iterator[Front]:
    with Front(tmp_path, (pebble.directory, pebble.https_ca)) as front:
        yield front


@pytest.fixture
def make(front: Front, tmp_path: Path) -> Make:
    """Another run of certagent: a new object with the same account directory."""
    usual: dict[str, Any] = {"agree_tos": True, "ca_bundle": front.ca_bundle, "timeout_s": 5}
    return lambda **changes: Acme(front.directory, tmp_path / "account", **(usual | changes))


@pytest.fixture
def restarted(pebble: Pebble) -> Iterator[Callable[..., None]]:
    """Starts Pebble with other options; after the test it has its usual ones again."""

    def start(**options: Any) -> None:
        pebble.stop()
        pebble.start(**options)

    yield start
    start()


def publish(dns: Dns, order: Order) -> None:
    values: dict[str, list[str]] = {}
    for challenge in order.challenges:
        values.setdefault(challenge.name, []).append(f'"{challenge.value}"')
    for name, texts in values.items():
        dns.update(name, "TXT", texts)


def issue(acme: Acme, dns: Dns, key: csrs.Key, *names: str) -> list[x509.Certificate]:
    request = csrs.csr(key, *names)
    order = acme.order(request)
    publish(dns, order)
    acme.answer(order.url)
    return x509.load_pem_x509_certificates(acme.finalize(order.url, request))


def caught(kind: type[Error], call: Callable[..., object], *args: Any) -> Error:
    with pytest.raises(kind) as info:
        call(*args)
    return info.value


def paths(front: Front) -> list[str]:
    """The requests without what is different each time, and each poll of what Pebble is slow with only once."""
    paths = ["/".join(request.split("/")[:2]) for request in front.requests]
    looks = ("POST /my-order", "POST /authZ")
    return [path for before, path in pairwise(["", *paths]) if path != before or path not in looks]


class TestIssuance:
    @pytest.mark.parametrize("key", [csrs.ecdsa, csrs.rsa_2048])
    def test_a_certificate_for_the_key(
        self, make: Make, lab_dns: Dns, pebble: Pebble, key: Callable[[], csrs.Key]
    ) -> None:
        mine = key()
        leaf, *issuers = issue(make(), lab_dns, mine, NAME)
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert san.get_values_for_type(x509.DNSName) == [NAME]
        assert leaf.public_key() == mine.public_key()
        root = x509.load_pem_x509_certificate(pebble.root())
        for certificate, issuer in zip([leaf, *issuers], [*issuers, root], strict=True):
            certificate.verify_directly_issued_by(issuer)

    def test_no_needless_request(self, make: Make, lab_dns: Dns, front: Front) -> None:
        """A known account costs nothing, nonces are reused, all goes through one connection."""
        acme = make()
        issue(acme, lab_dns, csrs.ecdsa(), f"n1.{ZONE}")  # new names: Pebble sometimes reuses an authorization
        assert paths(front)[:3] == ["GET /dir", "HEAD /nonce-plz", "POST /sign-me-up"]
        front.requests.clear()
        order = ["POST /order-plz", "POST /authZ"]
        answered = ["POST /my-order", "POST /authZ", "POST /chalZ", "POST /authZ"]
        finalized = ["POST /my-order", "POST /finalize-order", "POST /my-order", "POST /certZ"]
        issue(acme, lab_dns, csrs.ecdsa(), f"n2.{ZONE}")
        assert paths(front) == order + answered + finalized
        assert front.connections == 1

        front.requests.clear()
        issue(make(), lab_dns, csrs.ecdsa(), f"n3.{ZONE}")
        assert paths(front) == ["GET /dir", "HEAD /nonce-plz", *order, *answered, *finalized]

    def test_a_name_and_its_wildcard(self, make: Make, lab_dns: Dns) -> None:
        """RFC 8555 section 8.4: both challenges are at the same name."""
        acme, key = make(), csrs.ecdsa()
        name = f"wild.{ZONE}"  # not ZONE: Pebble 2.4 crashes where a name has fewer labels than one of its blocklist
        request = csrs.csr(key, name, f"*.{name}")
        order = acme.order(request)
        assert {challenge.name for challenge in order.challenges} == {f"_acme-challenge.{name}."}
        assert len({challenge.value for challenge in order.challenges}) == 2
        publish(lab_dns, order)
        acme.answer(order.url)
        leaf, *_ = x509.load_pem_x509_certificates(acme.finalize(order.url, request))
        san = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(san.get_values_for_type(x509.DNSName)) == {name, f"*.{name}"}

    def test_an_authorization_that_is_valid_needs_no_challenge(
        self, make: Make, lab_dns: Dns, front: Front, restarted: Callable[..., None]
    ) -> None:
        restarted(authz_reuse=100)
        acme = make()
        issue(acme, lab_dns, csrs.ecdsa(), NAME)
        request = csrs.csr(csrs.ecdsa(), NAME)
        order = acme.order(request)
        assert order.challenges == ()
        acme.answer(order.url)
        assert acme.finalize(order.url, request).startswith(b"-----BEGIN CERTIFICATE")

    def test_most_nonces_refused(self, make: Make, lab_dns: Dns, front: Front, restarted: Callable[..., None]) -> None:
        """RFC 8555 section 6.5: a refused nonce is no failure."""
        restarted(nonce_reject=60)
        issue(make(), lab_dns, csrs.ecdsa(), NAME)

    def test_several_certificates_side_by_side(self, make: Make, lab_dns: Dns) -> None:
        """One object serves the threads of the daemon."""
        acme = make()
        names = [f"t{n}.{ZONE}" for n in range(6)]
        with ThreadPoolExecutor(6) as pool:
            issued = [pool.submit(issue, acme, lab_dns, csrs.ecdsa(), name) for name in names]
            chains = [future.result() for future in issued]
        found = [c[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value for c in chains]
        assert [san.get_values_for_type(x509.DNSName) for san in found] == [[name] for name in names]


class TestResuming:
    def test_each_stage_is_taken_up_by_another_run(self, make: Make, lab_dns: Dns, front: Front) -> None:
        """An order is data: its URL is enough."""
        key = csrs.ecdsa()
        request = csrs.csr(key, NAME)
        order = make().order(request)
        publish(lab_dns, order)
        make().answer(order.url)
        make().answer(order.url)
        chain = make().finalize(order.url, request)
        assert make().finalize(order.url, request) == chain
        make().answer(order.url)
        assert front.count("/finalize-order") == 1
        assert front.count("/sign-me-up") == 1

    @pytest.mark.parametrize("fault", [lost, drop, garbled])
    def test_an_answer_lost_at_finalize(self, make: Make, lab_dns: Dns, front: Front, fault: Any) -> None:
        """Whether the CA did the work or not: the next call gets the certificate."""
        acme, key = make(), csrs.ecdsa()
        request = csrs.csr(key, NAME)
        order = acme.order(request)
        publish(lab_dns, order)
        acme.answer(order.url)
        front.once("/finalize-order", fault)
        code = "ca.garbage" if fault is garbled else "ca.unreachable"
        assert caught(Transient, acme.finalize, order.url, request).code == code
        leaf, *_ = x509.load_pem_x509_certificates(acme.finalize(order.url, request))
        assert leaf.public_key() == key.public_key()
        assert front.count("/finalize-order") == (2 if fault is drop else 1)

    @pytest.mark.parametrize("fault", [lost, drop])
    def test_an_answer_lost_at_the_challenge(self, make: Make, lab_dns: Dns, front: Front, fault: Any) -> None:
        acme = make()
        order = acme.order(csrs.csr(csrs.ecdsa(), NAME))
        publish(lab_dns, order)
        front.once("/chalZ", fault)
        assert caught(Transient, acme.answer, order.url).code == "ca.unreachable"
        acme.answer(order.url)
        acme.answer(order.url)

    def test_an_order_that_the_ca_is_slow_with(self, make: Make, lab_dns: Dns, front: Front) -> None:
        acme = make(order_budget_s=0.1)
        request = csrs.csr(csrs.ecdsa(), NAME)
        order = acme.order(request)
        publish(lab_dns, order)
        front.once("/authZ", *[changed(status="pending")] * 9)
        assert caught(Transient, acme.answer, order.url).code == "ca.slow"
        make().answer(order.url)
        make().finalize(order.url, request)


class TestAccount:
    def test_the_files(self, make: Make, lab_dns: Dns, tmp_path: Path) -> None:
        issue(make(), lab_dns, csrs.ecdsa(), NAME)
        home = tmp_path / "account"
        assert oct(home.stat().st_mode & 0o777) == "0o700"
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in home.iterdir()} == {
            "account.key": "0o600",
            "account.json": "0o600",
        }

    def test_it_is_found_again_by_its_key(self, make: Make, lab_dns: Dns, tmp_path: Path) -> None:
        """RFC 8555 section 7.3.1."""
        file = tmp_path / "account" / "account.json"
        issue(make(), lab_dns, csrs.ecdsa(), NAME)
        before = file.read_bytes()
        file.unlink()
        issue(make(), lab_dns, csrs.ecdsa(), NAME)
        assert file.read_bytes() == before

    def test_a_lost_key_is_a_new_account(self, make: Make, lab_dns: Dns, tmp_path: Path) -> None:
        """The note of the old account is of no use to another key."""
        file = tmp_path / "account" / "account.json"
        issue(make(), lab_dns, csrs.ecdsa(), NAME)
        before = json.loads(file.read_text())
        (tmp_path / "account" / "account.key").unlink()
        issue(make(), lab_dns, csrs.ecdsa(), NAME)
        after = json.loads(file.read_text())
        assert before["account"] != after["account"]
        assert before["key"] != after["key"]

    def test_an_answer_lost_at_registration(self, make: Make, lab_dns: Dns, front: Front, tmp_path: Path) -> None:
        """The crash between the CA's work and our note of it leaves no second account."""
        locations: list[str] = []

        def lose(forward: Callable[[], Reply]) -> Reply | None:
            locations.append(forward().headers["Location"])
            return None

        front.once("/sign-me-up", lose)
        request = csrs.csr(csrs.ecdsa(), NAME)
        assert caught(Transient, make().order, request).code == "ca.unreachable"
        make().order(request)
        assert json.loads((tmp_path / "account" / "account.json").read_text())["account"] == locations[0]

    def test_a_ca_that_forgot_it(self, make: Make, lab_dns: Dns, pebble: Pebble, front: Front, tmp_path: Path) -> None:
        """The same key is registered again, once; orders of before are gone."""
        acme = make()
        key = tmp_path / "account" / "account.key"
        old = acme.order(csrs.csr(csrs.ecdsa(), NAME))
        before = key.read_bytes()
        pebble.restart()
        issue(acme, lab_dns, csrs.ecdsa(), NAME)
        assert key.read_bytes() == before
        assert front.count("/sign-me-up") == 2
        for another in (acme, make()):
            assert caught(Rejected, another.answer, old.url).code == "ca.order_gone"
            request = csrs.csr(csrs.ecdsa(), NAME)
            assert caught(Rejected, another.finalize, old.url, request).code == "ca.order_gone"

    def test_terms_are_not_agreed_to_silently(self, make: Make, front: Front) -> None:
        error = caught(Misconfigured, make(agree_tos=False).order, csrs.csr(csrs.ecdsa(), NAME))
        assert error.code == "ca.account"
        assert "data:text/plain" in error.hint
        assert front.count("POST") == 0

    def test_external_binding(self, make: Make, lab_dns: Dns, front: Front, restarted: Callable[..., None]) -> None:
        """RFC 8555 section 7.3.4; the MAC key is never told."""
        restarted(eab_required=True)
        request = csrs.csr(csrs.ecdsa(), NAME)
        assert caught(Misconfigured, make().order, request).code == "ca.account"
        wrong = Secret("d3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmcgd3Jvbmc")
        error = caught(Misconfigured, make(eab_kid=EAB_KID, eab_key=wrong).order, request)
        assert error.code == "ca.account"
        assert "d3Jvbmc" not in repr(error) + error.detail + error.hint
        issue(make(eab_kid=EAB_KID, eab_key=Secret(EAB_KEY)), lab_dns, csrs.ecdsa(), NAME)


class TestRefusals:
    @pytest.mark.parametrize("values", [['"wrong"'], []])
    def test_a_wrong_txt(self, make: Make, lab_dns: Dns, values: list[str]) -> None:
        acme = make()
        order = acme.order(csrs.csr(csrs.ecdsa(), NAME))
        lab_dns.update(order.challenges[0].name, "TXT", values)
        error = caught(Rejected, acme.answer, order.url)
        assert error.code == "ca.challenge_failed"
        assert error.detail.startswith(f"{NAME}: unauthorized: ")
        assert caught(Rejected, make().answer, order.url).detail == error.detail
        assert caught(Rejected, acme.finalize, order.url, csrs.csr(csrs.ecdsa(), NAME)).code == "ca.order_gone"

    def test_a_name_that_the_ca_will_not_have(self, make: Make) -> None:
        error = caught(Rejected, make().order, csrs.csr(csrs.ecdsa(), f"blocked.{ZONE}"))
        assert error.code == "ca.rejected"
        assert "rejectedIdentifier" in error.detail

    def test_another_accounts_order(self, make: Make, front: Front, tmp_path: Path) -> None:
        order = make().order(csrs.csr(csrs.ecdsa(), NAME))
        other = Acme(front.directory, tmp_path / "other", agree_tos=True, ca_bundle=front.ca_bundle)
        assert caught(Rejected, other.answer, order.url).code == "ca.order_gone"

    @pytest.mark.parametrize(
        ("fault", "code", "retry_after_s"),
        [
            (answer(problem(429, "rateLimited", Retry_After="3")), "ca.rate_limited", 3),
            (answer(problem(503, "rateLimited", Retry_After="2")), "ca.rate_limited", 2),
            (answer(Reply(429, b"slow down", {"Retry-After": "4"})), "ca.rate_limited", 4),
            (answer(Reply(503, b"", {"Retry-After": "2"})), "ca.busy", 2),
            (answer(Reply(500, b"<html>oops</html>")), "ca.busy", None),
            (answer(problem(500, "serverInternal")), "ca.busy", None),
            (garbled, "ca.garbage", None),
            (lost, "ca.unreachable", None),
            (drop, "ca.unreachable", None),
        ],
    )
    def test_what_passes_by_itself(
        self, make: Make, lab_dns: Dns, front: Front, fault: Any, code: str, retry_after_s: float | None
    ) -> None:
        """Nothing is wrong with the request, and the same object goes on after it."""
        acme = make()
        request = csrs.csr(csrs.ecdsa(), NAME)
        bodied = fault is garbled or retry_after_s == 2
        for place in ("/dir", "/nonce-plz", "/sign-me-up", "/order-plz", "/authZ"):
            if place == "/nonce-plz" and bodied:
                continue  # a HEAD has no body that could say or garble anything
            front.once(place, fault)
            error = caught(Transient, acme.order, request)
            assert (place, error.code, error.retry_after_s) == (place, code, retry_after_s)
        issue(acme, lab_dns, csrs.ecdsa(), NAME)

    def test_a_ca_that_is_away(self, make: Make, pebble: Pebble) -> None:
        acme = make(timeout_s=4)
        request = csrs.csr(csrs.ecdsa(), NAME)
        acme.order(request)
        pebble.pause()
        try:
            assert caught(Transient, acme.order, request).code == "ca.unreachable"
        finally:
            pebble.resume()
        acme.order(request)

    def test_a_ca_that_is_down(self, tmp_path: Path, pebble: Pebble) -> None:
        acme = Acme(pebble.directory, tmp_path / "a", agree_tos=True, ca_bundle=pebble.https_ca)
        request = csrs.csr(csrs.ecdsa(), NAME)
        acme.order(request)
        pebble.stop()
        try:
            error = caught(Transient, acme.order, request)
        finally:
            pebble.restart()
        assert error.code == "ca.unreachable"
        assert "refused" in error.detail
        acme.order(request)


class TestRevocation:
    def test_by_the_account_and_again(self, make: Make, lab_dns: Dns) -> None:
        """Revoked is revoked: the second time is no error."""
        acme = make()
        leaf = csrs.certificate_pem(issue(acme, lab_dns, csrs.ecdsa(), NAME)[0])
        acme.revoke(leaf, 4)
        acme.revoke(leaf, 4)

    @pytest.mark.parametrize("make_key", [csrs.ecdsa, csrs.rsa_2048])
    def test_by_the_certificates_key(
        self, make: Make, lab_dns: Dns, front: Front, tmp_path: Path, make_key: Callable[[], csrs.Key]
    ) -> None:
        """RFC 8555 section 7.6: without any account."""
        key = make_key()
        leaf = csrs.certificate_pem(issue(make(), lab_dns, key, NAME)[0])
        stranger = Acme(front.directory, tmp_path / "none", ca_bundle=front.ca_bundle)
        stranger.revoke(leaf, 1, Secret(csrs.pem(key)))
        assert not (tmp_path / "none").exists()

    def test_anothers_certificate(self, make: Make, lab_dns: Dns, front: Front, tmp_path: Path) -> None:
        leaf = csrs.certificate_pem(issue(make(), lab_dns, csrs.ecdsa(), NAME)[0])
        other = Acme(front.directory, tmp_path / "other", agree_tos=True, ca_bundle=front.ca_bundle)
        assert caught(Rejected, other.revoke, leaf, 1).code == "ca.rejected"


def test_renewal_info_of_a_ca_without(make: Make, lab_dns: Dns) -> None:
    """Pebble 2.4 has no ARI; newer ones have."""
    acme = make()
    leaf = csrs.certificate_pem(issue(acme, lab_dns, csrs.ecdsa(), NAME)[0])
    window = acme.renewal_info(leaf)
    assert window is None or window.start < window.end
