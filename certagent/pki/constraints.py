"""What a certificate demands of everybody who reads it: critical extensions, and names that it may not sign.

Why not `cryptography.x509.verification`: it knows neither Ed25519 nor other keys that a private CA may have, and asks
for much that no sender asks for. What stands here is what OpenSSL refuses, which reads the chain for most senders.

Source: RFC 5280 sections 4.2 (critical), 4.2.1.10 and 6.1.4 (name constraints); RFC 6962 section 3.1 (precertificates).
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

_KNOWN = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.INHIBIT_ANY_POLICY,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.POLICY_CONSTRAINTS,
        ExtensionOID.POLICY_MAPPINGS,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    }
)
"""Those that OpenSSL knows: of any other that is critical it refuses the certificate (error 34)."""


def unknown_critical(certificate: x509.Certificate) -> str | None:
    """The first critical extension that a sender may not know; None: there is none."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN:
            if extension.oid == ExtensionOID.PRECERT_POISON:
                return "is a precertificate, which is for logs alone"
            return f"has a critical extension that is not known ({extension.oid.dotted_string})"
    return None


def outside(constraints: x509.NameConstraints, certificate: x509.Certificate) -> str | None:
    """The first name of a certificate that an issuer above it with these constraints may not sign; None: all hold."""
    for name in _names(certificate):
        permitted, excluded = (
            [tree for tree in trees or () if type(tree) is type(name)]
            for trees in (constraints.permitted_subtrees, constraints.excluded_subtrees)
        )
        within = any(_within(name, tree, unknown=True) for tree in excluded)
        if within or (permitted and not any(_within(name, tree, unknown=False) for tree in permitted)):
            return str(getattr(name, "value", name))[:200]
    return None


def _names(certificate: x509.Certificate) -> Iterator[x509.GeneralName]:
    if certificate.subject.rdns:
        yield x509.DirectoryName(certificate.subject)
    try:
        yield from certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return


def _within(name: x509.GeneralName, tree: x509.GeneralName, *, unknown: bool) -> bool:
    """`unknown`: the answer for kinds of names that are not read here, so that they are refused."""
    if isinstance(name, x509.DNSName) and isinstance(tree, x509.DNSName):
        base, text = tree.value.lower(), name.value.lower()
        return not base or text == base or text.endswith(base if base.startswith(".") else f".{base}")
    if isinstance(name, x509.DirectoryName) and isinstance(tree, x509.DirectoryName):
        base = _parts(tree.value)
        return _parts(name.value)[: len(base)] == base
    return unknown


def _parts(name: x509.Name) -> list[frozenset[tuple[str, str]]]:
    """Compared without regard to case and repeated blanks. Source: RFC 5280 section 7.1."""
    return [
        frozenset((one.oid.dotted_string, " ".join(str(one.value).casefold().split())) for one in rdn)
        for rdn in name.rdns
    ]
