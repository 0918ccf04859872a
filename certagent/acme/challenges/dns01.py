"""`dns-01`: the response is a TXT record below the name (RFC 8555 section 8.4). CNAMEs are followed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

from josepy.json_util import encode_b64jose

from certagent.acme.challenges.protocol import Means, Offer
from certagent.errors import NotYet
from certagent.facts.challenge import Challenge
from certagent.pki.names import challenge_name

BUDGET = timedelta(seconds=10)
"""How long one call asks for the records at every authoritative server. Slower servers are asked again later."""

WORKERS = 8
"""How many names are asked for side by side, so that name servers with rate limits still answer."""


class Dns01:
    """A ChallengeType."""

    remedy = "look at the TXT records under _acme-challenge at every name server, and at CAA"

    def __init__(self, means: Means) -> None:
        self._txt = means.txt

    @staticmethod
    def respond(offer: Offer) -> Challenge:
        """The digest of the key authorization (RFC 8555 section 8.1).

        Raises:
            Misconfigured: `name.invalid`: The identifier is no host name, or too long.
        """
        digest = hashlib.sha256(offer.key_authorization.encode()).digest()
        return Challenge("dns-01", offer.identifier, challenge_name(offer.identifier), encode_b64jose(digest))

    def present(self, challenges: Sequence[Challenge]) -> None:
        """Add the TXT records."""
        for (zone, name), values in self._by_final_name(challenges).items():
            self._txt.add(zone, name, values)

    def serving(self, _: Sequence[Challenge], /) -> AbstractContextManager[None]:
        """DNS does it."""
        return nullcontext()

    def ready(self, challenges: Sequence[Challenge]) -> str:
        """The CA may ask any authoritative server, so every one of them should give the records."""
        places = {name: values for (_, name), values in self._by_final_name(challenges).items()}

        def not_seen(name: str) -> NotYet | None:
            try:
                self._txt.seen(name, places[name], BUDGET)
            except NotYet as error:
                return error
            return None

        with ThreadPoolExecutor(max_workers=WORKERS) as pool:
            errors = [error for error in pool.map(not_seen, places) if error]
        if errors:
            words = "; ".join(error.detail for error in errors)
            raise NotYet("dns.not_yet", words, seen=all(error.seen for error in errors))
        return ""

    def clean_up(self, challenges: Sequence[Challenge]) -> None:
        """Remove the TXT records."""
        for (zone, name), values in self._by_final_name(challenges).items():
            self._txt.remove(zone, name, values)

    def _by_final_name(self, challenges: Sequence[Challenge]) -> dict[tuple[str, str], frozenset[str]]:
        """The values for each (zone, name). Several names may be CNAMEs to one."""
        found: dict[tuple[str, str], frozenset[str]] = {}
        for name in dict.fromkeys(challenge.name for challenge in challenges):
            final = self._txt.final(name)
            found[final] = found.get(final, frozenset()) | {c.value for c in challenges if c.name == name}
        return found
