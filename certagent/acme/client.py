"""ACME: certificates from a CA that speaks RFC 8555.

Every step begins by asking the CA how far the order is, so each may be called again after a crash or a lost answer.
Nothing is remembered between calls but the account, the directory and a nonce. Never waits longer than the budget,
never answers a challenge that the CA has decided, never prints a key. May be used by several threads: the transport
sends one request at a time, waits happen outside of its lock.

Standards: RFC 8555 section 7; RFC 9773 section 5 (`replaces`); draft-ietf-acme-profiles.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from acme import crypto_util, messages
from cryptography import x509

from certagent.acme import ari, objects
from certagent.acme.account import Account, Application, Binding, signer
from certagent.acme.challenges import loaded
from certagent.acme.challenges.protocol import Offer
from certagent.acme.https import Https
from certagent.acme.issuer import Order, Window
from certagent.acme.transport import Answer, Refusal, Transport, clean
from certagent.errors import AccountRefused, CaRefusal, CaUnavailable, Error, Misconfigured, Rejected
from certagent.facts.challenge import DNS_01, TYPES, Challenge, Method
from certagent.host import deadline
from certagent.secret import Secret

T = TypeVar("T")

FIRST_WAIT_S = 0.02
"""A CA in the same house is done by then."""
WAIT_GROWTH = 1.5
"""So a wait is at most half as long as what has passed already."""
LONGEST_WAIT_S = 5.0
"""Boulder's own Retry-After is 3 s."""
ALTERNATES_MAX = 8
"""CAs have one to three."""


class _Patience:
    """The waits of one call: growing, as long as the CA asks for, and never beyond the budget."""

    def __init__(self, budget_s: float) -> None:
        self._end = time.monotonic() + budget_s
        self._next = FIRST_WAIT_S

    def wait(self, for_what: str, asked: float | None = None) -> None:
        """Wait, within the budget.

        Raises:
            Transient: `ca.slow`: The budget would be spent.
        """
        pause = max(self._next, asked or 0.0)
        if time.monotonic() + pause > self._end or pause > deadline.left(pause):
            raise CaUnavailable("ca.slow", f"the CA is not done with {for_what}", retry_after_s=pause)
        time.sleep(pause)
        self._next = min(self._next * WAIT_GROWTH, LONGEST_WAIT_S)


class Acme:
    """An Issuer: one account at one ACME directory. Making one asks nothing over the network.

    Args:
        directory: its https URL.
        account_dir: where the account's key is or will be (mode 0700, made when it is missing).
        contact: mail addresses or URLs that the CA may write to.
        agree_tos: the operator has agreed to the CA's terms of service.
        ca_bundle: the CA of the directory's own HTTPS certificate, if it is a private one.
        proxy: the HTTP proxy that leads there, `http://host:port`, if there is one.
        eab_kid: external account binding, with `eab_key` in base64url.
        timeout_s: the longest silence within one request.
        order_budget_s: the longest time that one call waits for the CA's work, requests not counted.
    """

    def __init__(  # noqa: PLR0913 (all but two by keyword)
        self,
        directory: str,
        account_dir: Path,
        *,
        contact: tuple[str, ...] = (),
        agree_tos: bool = False,
        ca_bundle: Path | None = None,
        proxy: str | None = None,
        eab_kid: str | None = None,
        eab_key: Secret[str] | None = None,
        timeout_s: float = 30.0,
        order_budget_s: float = 60.0,
        user_agent: str = "certagent",
    ) -> None:
        if not directory.startswith("https://"):  # RFC 8555 section 6.1
            raise Misconfigured("ca.account", f"{clean(directory)}: not an https URL")
        if (eab_kid is None) != (eab_key is None):
            raise Misconfigured("ca.account", "the external account binding needs both a key id and a MAC key")
        binding = Binding(eab_kid, eab_key) if eab_kid is not None and eab_key is not None else None
        https = Https(ca_bundle=ca_bundle, proxy=proxy, timeout_s=timeout_s, user_agent=user_agent)
        self._transport = Transport(directory, https)
        self._account = Account(self._transport, directory, account_dir, Application(contact, agree_tos, binding))
        self._budget_s = order_budget_s

    # -- the Issuer's promises -----------------------------------------------------------------------------------------

    def order(
        self, csr_pem: bytes, method: Method = DNS_01, *, profile: str | None = None, replaces: str | None = None
    ) -> Order:
        """See Issuer. A CA that refuses with `replaces` is asked once more without: that only costs an exemption."""
        names = _load(_identifiers, csr_pem, "CSR")
        directory = self._transport.directory()
        profiles = directory.meta.profiles
        if profile is not None and profile not in profiles:
            hint = f"it has: {clean(', '.join(sorted(profiles)))}" if profiles else "it has no profiles"
            raise Misconfigured("ca.profile", f"the CA has no profile {profile}", hint)
        if directory.renewal_info is None:  # RFC 9773 section 5: only where the CA has ARI
            replaces = None
        try:
            answer = self._post(directory.new_order, _new_order(names, profile, replaces))
        except Refusal:
            if replaces is None:
                raise
            answer = self._post(directory.new_order, _new_order(names, profile, None))
        order = answer.read(objects.Order)
        if order.status not in ("pending", "ready", "processing", "valid"):
            raise _gone(answer.location, order)
        needed = order.authorizations if order.status == "pending" else ()
        ordered = {name.value.removeprefix("*.") for name in names}
        challenges = [self._challenge(url, ordered, method) for url in needed]
        return Order(answer.location, tuple(c for c in challenges if c is not None), order.expires)

    def answer(self, url: str, type_: str = DNS_01.type) -> None:
        """See Issuer. That all authorizations are valid makes the order ready (RFC 8555 section 7.1.6)."""
        patience = _Patience(self._budget_s)
        order, _ = self._read_order(url)
        if order.status in ("ready", "processing", "valid"):
            return
        # Also of an order that has failed: its authorizations know why.
        found = {
            place: self._open(self._read(place, objects.Authorization)[0], type_) for place in order.authorizations
        }
        if order.status != "pending":
            raise _gone(url, order)
        waiting = {place: challenge for place, challenge in found.items() if challenge is not None}
        for challenge in waiting.values():
            if challenge.status == "pending":
                self._post(challenge.url, b"{}")  # RFC 8555 section 7.5.1
        if waiting:
            patience.wait("the challenges")
        for place in waiting:
            self._until_valid(place, type_, patience)

    def finalize(self, url: str, csr_pem: bytes) -> bytes:
        """See Issuer. An order that is valid already is only downloaded: compare the certificate's key with yours."""
        request = messages.CertificateRequest(csr=_load(x509.load_pem_x509_csr, csr_pem, "CSR")).json_dumps().encode()
        patience = _Patience(self._budget_s)
        order, asked = self._read_order(url)
        sent = False
        while order.status != "valid":
            if order.status == "ready" and not sent:
                order, asked = self._send_request(url, order, request)
                sent = True
            elif order.status in ("pending", "ready", "processing"):  # the CA's databases may lag behind its answers
                patience.wait("the order", asked)
                order, asked = self._read_order(url)
            else:
                raise _gone(url, order)
        return self._download(url, order)[0]

    def alternates(self, url: str) -> Iterator[bytes]:
        """See Issuer. The first is asked for when it is wanted."""
        for link in self._download(url, self._read_order(url)[0])[1][:ALTERNATES_MAX]:
            yield self._chain(link)[0]

    def renewal_info(self, leaf_pem: bytes) -> Window | None:
        """See Issuer. Never asks for an expired certificate (RFC 9773 section 4.3): None."""
        leaf = _load(x509.load_pem_x509_certificate, leaf_pem, "certificate")
        name = ari.certificate_id(leaf)
        if name is None or leaf.not_valid_after_utc <= datetime.now(UTC):
            return None
        base = self._transport.directory().renewal_info
        if base is None:
            return None
        try:
            answer = self._transport.get(f"{base.rstrip('/')}/{name}")
        except Refusal as refusal:  # RFC 9773 section 4.3.3: such as 404, of a CA that does not know the certificate
            refusal.retry_after_s = max(refusal.retry_after_s or 0.0, ari.RETRY_AFTER_DEFAULT_S)
            raise
        try:
            return ari.window(answer.body, answer.retry_after_s)
        except (ValueError, RecursionError) as error:
            garbage = answer.garbage(clean(str(error)))
            garbage.retry_after_s = ari.RETRY_AFTER_DEFAULT_S
            raise garbage from None

    def revoke(self, leaf_pem: bytes, reason: int, key: Secret[bytes] | None = None) -> None:
        """See Issuer. `key`: the certificate's private key in PEM."""
        leaf = _load(x509.load_pem_x509_certificate, leaf_pem, "certificate")
        payload = messages.Revocation(certificate=leaf, reason=reason).json_dumps().encode()
        where = self._transport.directory().revoke_cert
        try:
            if key is None:
                self._post(where, payload)
            else:
                self._transport.post(where, payload, _load(signer, key.reveal(), "certificate's key"), None)
        except Refusal as refusal:
            if refusal.type != "alreadyRevoked":
                raise

    # -- requests ------------------------------------------------------------------------------------------------------

    def _post(self, url: str, payload: bytes = b"", accept: str = "*/*") -> Answer:
        """A request of the account; an account that the CA has forgotten is registered again, once.

        Raises:
            AccountRefused: `ca.account`: The account is deactivated or revoked (RFC 8555 section 7.3.6).
        """
        account = self._account.url()
        try:
            return self._transport.post(url, payload, self._account.signer(), account, accept)
        except Refusal as refusal:
            if refusal.type == "unauthorized" and self._is_over(account):
                hint = f"move {self._account.key_file} away: the next run makes a new account; CAA records may name it"
                detail = clean(f"{refusal.detail}; the account {account} is closed")
                raise AccountRefused("ca.account", detail, hint) from None
            if refusal.type != "accountDoesNotExist":
                raise
        account = self._account.url(instead_of=account)
        return self._transport.post(url, payload, self._account.signer(), account, accept)

    def _is_over(self, account: str) -> bool:
        """Whether it is the account itself that the CA does not let in any more; unauthorized may be many things."""
        try:
            found = self._transport.post(account, b"", self._account.signer(), account).read(objects.Account)
        except Refusal as refusal:
            return refusal.type == "unauthorized"
        except Error:  # it says nothing about the account
            return False
        return found.status in ("deactivated", "revoked")

    def _fetch(self, url: str, accept: str = "*/*") -> Answer:
        """Something that belongs to an order; refused means that it is gone, or another account's."""
        try:
            return self._post(url, accept=accept)
        except Refusal as refusal:
            raise CaRefusal("ca.order_gone", refusal.detail, "a new order is needed") from None

    def _read(self, url: str, kind: type[T]) -> tuple[T, float | None]:
        """The object at `url`, and how long the CA wants to be left alone."""
        answer = self._fetch(url)
        return answer.read(kind), answer.retry_after_s

    def _read_order(self, url: str) -> tuple[objects.Order, float | None]:
        return self._read(url, objects.Order)

    def _challenge(self, url: str, ordered: set[str], method: Method) -> Challenge | None:
        """The challenge of an authorization, with its response; None if the authorization is valid already.

        Raises:
            Rejected: `ca.rejected`: It is for a name that was not ordered, which this host does not vouch for.
        """
        authorization, _ = self._read(url, objects.Authorization)
        challenge = self._open(authorization, method.type)
        if challenge is None:
            return None
        name = authorization.identifier.value.removeprefix("*.")
        if name not in ordered:
            raise CaRefusal("ca.rejected", clean(f"{name}: the CA wants this name validated, and it was not ordered"))
        offer = Offer(
            name,
            challenge.token,
            self._account.thumbprint(),
            method,
            wildcard=authorization.wildcard,
            account=challenge.accounturi or self._account.url(),
            issuers=challenge.issuer_domain_names,
        )
        return loaded(method.type).respond(offer)

    def _open(self, authorization: objects.Authorization, type_: str) -> objects.Challenge | None:
        """The challenge of that type, if it is still to be met; None if the authorization is valid already.

        Raises:
            Rejected: `ca.challenge_failed`; `ca.order_gone`: expired, revoked or deactivated; `ca.rejected`: the CA
                does not offer the type.
        """
        if authorization.status == "valid":
            return None
        name = authorization.identifier.value
        if authorization.status != "pending":
            for challenge in authorization.challenges:
                if authorization.status == "invalid" and challenge.error is not None:
                    raise _failed(authorization, challenge)
            detail = clean(f"{name}: the authorization is {authorization.status}")
            raise CaRefusal("ca.order_gone", detail, "a new order is needed")
        offered = {challenge.type: challenge for challenge in reversed(authorization.challenges)}
        if type_ not in offered:
            detail = clean(f"{name}: the CA offers no {type_}, only {', '.join(offered) or 'nothing'}")
            raise CaRefusal("ca.rejected", detail, "`challenge` of the certificate, in the configuration, chooses one")
        return offered[type_]

    def _until_valid(self, url: str, type_: str, patience: _Patience) -> None:
        while True:
            authorization, asked = self._read(url, objects.Authorization)
            challenge = self._open(authorization, type_)
            if challenge is None:
                return
            if challenge.error is not None and challenge.status != "processing":
                # Some CAs leave a failed challenge pending (Caddy does); one that goes on trying says "processing".
                raise _failed(authorization, challenge)
            patience.wait(f"the challenge of {authorization.identifier.value}", asked)

    def _send_request(self, url: str, order: objects.Order, request: bytes) -> tuple[objects.Order, float | None]:
        try:
            answer = self._post(order.finalize, request)
        except Refusal as refusal:
            if refusal.type != "orderNotReady":  # it is, says the order: so the request arrived before
                raise
            return self._read_order(url)
        return answer.read(objects.Order), answer.retry_after_s

    def _download(self, url: str, order: objects.Order) -> tuple[bytes, list[str]]:
        if order.certificate is None:
            raise CaUnavailable("ca.garbage", f"{clean(url)}: valid, but without a certificate")
        return self._chain(order.certificate)

    def _chain(self, url: str) -> tuple[bytes, list[str]]:
        """A chain, and where the others are that the CA has for its certificate (RFC 8555 section 7.4.2)."""
        answer = self._fetch(url, "application/pem-certificate-chain")
        try:
            x509.load_pem_x509_certificates(answer.body)
        except ValueError:
            raise answer.garbage("not a chain in PEM") from None
        return answer.body, answer.links("alternate")


def _new_order(names: list[messages.Identifier], profile: str | None, replaces: str | None) -> bytes:
    return objects.NewOrder(identifiers=names, profile=profile, replaces=replaces).json_dumps().encode()


def _identifiers(csr_pem: bytes) -> list[messages.Identifier]:
    csr = x509.load_pem_x509_csr(csr_pem)
    names, addresses = crypto_util.get_identifiers_from_x509(csr.subject, csr.extensions)
    return [messages.Identifier(typ=messages.IDENTIFIER_FQDN, value=name) for name in names] + [
        messages.Identifier(typ=messages.IDENTIFIER_IP, value=address) for address in addresses
    ]


def _load(loader: Callable[[bytes], T], pem: bytes, what: str) -> T:
    """What the caller brought; damaged, no CA will take it. The text never quotes it."""
    try:
        return loader(pem)
    except ValueError:
        raise CaRefusal("ca.rejected", f"the {what} cannot be read", "it was not sent to the CA") from None


def _failed(authorization: objects.Authorization, challenge: objects.Challenge) -> Rejected:
    detail = clean(f"{authorization.identifier.value}: {challenge.error}")
    hint = loaded(challenge.type).remedy if challenge.type in TYPES else ""
    return CaRefusal("ca.challenge_failed", detail, hint)


def _gone(url: str, order: objects.Order) -> Rejected:
    why = f": {order.error}" if order.error else ""
    return CaRefusal("ca.order_gone", clean(f"{url}: the order is {order.status}{why}"), "a new order is needed")
