"""Host names in the one form that is compared, ordered and published: lower-case A-labels without the final dot.

Never looks a name up, and never guesses: what is not a host name is refused with the remedy.
"""

from __future__ import annotations

import re

from certagent.errors import Misconfigured

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""Letters, digits and inner hyphens, at most 63 octets. Source: RFC 1123 section 2.1, RFC 1035 section 2.3.1."""

_MAX_NAME = 253
"""255 octets on the wire (RFC 1035 section 2.3.4) less the first length octet and the root."""


def hostname(text: str) -> str:
    """The canonical form of a host name with at least two labels; one final dot is accepted and dropped.

    For a name in another script the hint holds its A-label form (RFC 5890 section 2.3.2.1).

    Raises:
        Misconfigured: `name.invalid`.
    """
    if not text.isascii():
        raise _invalid(text, "has letters outside ASCII", _a_label_hint(text))
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if len(name) > _MAX_NAME:
        raise _invalid(text, f"is longer than {_MAX_NAME} characters")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise _invalid(text, "has a label that is not 1 to 63 letters, digits and inner hyphens")
    if len(labels) < 2:
        raise _invalid(text, "has only one label", "write the full name, such as mx1.example.org")
    if labels[-1].isdigit():  # so that it is never mistaken for an IPv4 address; RFC 1123 section 2.1
        raise _invalid(text, "is an address, or ends like one", "write the name that the address belongs to")
    return name


def identifier(text: str) -> str:
    """The canonical form of what a certificate is ordered for: a host name, or `*.` and a host name.

    Source: RFC 8555 section 7.1.3 (a wildcard is one whole leftmost label).

    Raises:
        Misconfigured: `name.invalid`.
    """
    if text.startswith("*."):
        return "*." + hostname(text[2:])
    return hostname(text)


def fqdn(host: str) -> str:
    """The absolute name, with the final dot."""
    return hostname(host) + "."


def tlsa_name(host: str, port: int) -> str:
    """Where the TLSA records of a TCP service live: `_25._tcp.mx1.example.org.`.

    Source: RFC 6698 section 3; for SMTP RFC 7672 section 2.2.3 (`host` is the MX host, `port` the real port).

    Raises:
        Misconfigured: `name.invalid`.
    """
    if not 1 <= port <= 65535:
        raise Misconfigured("name.invalid", f"{port} is not a TCP port", "use 1 to 65535")
    return below(f"_{port}._tcp", hostname(host))


def service_of(name: str) -> str:
    """`mx1.example.org:25`, of its TLSA name."""
    port, _, host = name.split(".", 2)
    return f"{host.removesuffix('.')}:{port.removeprefix('_')}"


def challenge_name(text: str) -> str:
    """Where the dns-01 answer for an identifier lives; a wildcard and its base share the name.

    Source: RFC 8555 section 8.4.

    Raises:
        Misconfigured: `name.invalid`.
    """
    return below("_acme-challenge", identifier(text).removeprefix("*."))


def covers(pattern: str, name: str) -> bool:
    """A certificate with the dNSName `pattern` is good for `name`; both canonical identifiers.

    A wildcard stands for exactly one whole leftmost label; an ordered wildcard is covered by itself only.
    Source: RFC 9525 section 6.4.3, RFC 7672 section 3.2.3.
    """
    return pattern == name or (pattern.startswith("*.") and not name.startswith("*.") and _parent(name) == pattern[2:])


def _parent(name: str) -> str:
    return name.partition(".")[2]


def below(label: str, host: str) -> str:
    """The absolute name of a record below a host.

    Raises:
        Misconfigured: `name.invalid`: It is too long.
    """
    if len(f"{label}.{host}") > _MAX_NAME:
        raise _invalid(host, f"is too long to have {label}. before it")
    return f"{label}.{host}."


def _invalid(text: str, why: str, hint: str = "write a host name as in DNS, such as mx1.example.org") -> Misconfigured:
    return Misconfigured("name.invalid", f"{text[:_MAX_NAME]!r} {why}", hint)


def _a_label_hint(text: str) -> str:
    """The same name as DNS has it, where there is such a name."""
    import idna

    try:
        return f"write {idna.encode(text[:_MAX_NAME], uts46=True).decode('ascii')}"
    except idna.IDNAError:
        return "write its A-label form (xn--…)"
