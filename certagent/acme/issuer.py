"""What certagent asks of a certificate authority: an order is data and can be taken up again by its URL.

Every method may be called again after a crash: it asks the CA how far the order is and goes on from there. None waits
longer than its stated budget; a CA that needs more answers `ca.slow` (Transient) and the order is taken up later.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Protocol

from msgspec import Struct

from certagent.facts.challenge import DNS_01, Challenge, Method
from certagent.secret import Secret


class Order(Struct, frozen=True):
    """An order at the CA (RFC 8555 section 7.1.3). No challenges: all authorizations are valid already."""

    url: str
    challenges: tuple[Challenge, ...]
    expires: datetime | None


class Window(Struct, frozen=True):
    """When the CA wants a renewal (RFC 9773 section 4.2). `retry_after_s`: ask again after that many seconds."""

    start: datetime
    end: datetime
    explanation_url: str | None
    retry_after_s: float


class Issuer(Protocol):
    """One account at one CA.

    One object serves several threads. Errors of every method: `ca.unreachable`, `ca.busy` (Transient, with
    Retry-After), `ca.slow` (Transient), `ca.rate_limited` (Transient, with Retry-After), `ca.garbage` (Transient: an
    answer that is no ACME), `ca.rejected` (Rejected: the CA's problem document), `ca.order_gone` (Rejected: order
    invalid, expired or unknown: place a new one), `ca.challenge_failed` (Rejected: what the CA saw), `ca.account` and
    `ca.profile` (Misconfigured), and `store.disk` (Transient) where the account's files cannot be written.
    """

    def order(
        self, csr_pem: bytes, method: Method = DNS_01, *, profile: str | None = None, replaces: str | None = None
    ) -> Order:
        """Place an order for the names of the CSR. Makes or finds the account first where needed.

        `method` says how its challenges will be met: a CA that does not offer that is refused (`ca.rejected`).
        `replaces` is the name of the certificate that this one renews (RFC 9773 section 5); a CA that refuses it is
        asked without it.
        """
        ...

    def answer(self, url: str, type_: str = DNS_01.type) -> None:
        """Tell the CA that all challenges, of that type, can be checked; returns when the order is ready to be
        finalized.
        """
        ...

    def finalize(self, url: str, csr_pem: bytes) -> bytes:
        """Finalize if that is still to be done, and return the PEM chain, leaf first, as the CA gave it.

        After a crash the order may be valid already: the certificate is then of the CSR that was sent first, so the
        caller compares its key.
        """
        ...

    def alternates(self, url: str) -> Iterator[bytes]:
        """The other chains that the CA has for the certificate of a finalized order (RFC 8555 section 7.4.2)."""
        ...

    def renewal_info(self, leaf_pem: bytes) -> Window | None:
        """The CA's suggestion for this certificate; None if it has expired, or the CA has no ARI (RFC 9773)."""
        ...

    def revoke(self, leaf_pem: bytes, reason: int, key: Secret[bytes] | None = None) -> None:
        """Revoke by the account, or by the certificate's own key (RFC 8555 section 7.6). Revoked already: no error."""
        ...
