"""How a host shows a CA that it controls a name: one file for each challenge type (RFC 8555 section 8).

- `protocol`: what a type does (respond, present, ready, clean up), and what it may use of this host
- `dns01`: `dns-01`, a TXT record (RFC 8555 section 8.4)

To come: `http-01` (RFC 8555 section 8.3), `tls-alpn-01` (RFC 8737), `dns-persist-01`
(draft-ietf-acme-dns-persist). A new type is its file and its line in `TYPES`.
"""

from __future__ import annotations

from certagent.acme.challenges.dns01 import Dns01
from certagent.acme.challenges.protocol import ChallengeType

TYPES: dict[str, type[ChallengeType]] = {
    "dns-01": Dns01,
}
"""Every type that certagent can meet. If a CA offers several, the first of these is taken."""
