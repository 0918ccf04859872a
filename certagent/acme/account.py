"""The account at the CA: a key that is on disk before the CA hears of it, so that no crash can orphan an account.

`account.key` (PEM, mode 0600) is the account: with it the CA finds the rest again. `account.json` only saves asking.
Never overwrites a key, and never agrees to terms of service that the operator did not agree to.

Standards: RFC 8555 sections 7.3, 7.3.1 (finding an account by its key) and 7.3.4 (external account binding).
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from acme import messages
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from josepy.json_util import encode_b64jose
from josepy.jwa import ES256, ES384, ES512, RS256
from josepy.jwk import JWKEC, JWKRSA
from msgspec import Struct

from certagent.acme.transport import Refusal, Signer, Transport, clean
from certagent.errors import AccountRefused, Error, Misconfigured
from certagent.host import replace
from certagent.host.files import file_status, private_dir, read_private
from certagent.secret import Secret


class Known(Struct):
    """`account.json`: which account which key (its RFC 7638 thumbprint) has at which CA."""

    directory: str
    key: str
    account: str


class Binding(Struct, frozen=True):
    """External account binding (RFC 8555 section 7.3.4): what the CA's website gave the operator."""

    kid: str
    key: Secret[str]


class Application(Struct, frozen=True):
    """What the operator says to the CA when the account is made; `contact` are mail addresses or URLs."""

    contact: tuple[str, ...]
    agree_tos: bool
    binding: Binding | None


class Account:
    """The account of one directory; safe for threads."""

    def __init__(self, transport: Transport, directory: str, home: Path, application: Application) -> None:
        self._transport = transport
        self._directory = directory
        self._home = home
        self._application = application
        self._lock = threading.RLock()
        self._signer: Signer | None = None
        self._url: str | None = None

    def signer(self) -> Signer:
        """The account's key; made and synced to disk when there is none.

        Raises:
            Misconfigured: `ca.account`.
        """
        with self._lock:
            if self._signer is None:
                self._signer = self._load_key() or self._make_key()
            return self._signer

    @property
    def key_file(self) -> Path:
        """Where the account's key is: it is the account."""
        return self._home / "account.key"

    def thumbprint(self) -> str:
        """Of the account's key, in base64url (RFC 7638)."""
        return encode_b64jose(self.signer().key.thumbprint())

    def url(self, *, instead_of: str | None = None) -> str:
        """The account's URL; found or registered if it is not known, or known to be `instead_of` and gone.

        May be called again after a crash at any line.

        Raises:
            Misconfigured: `ca.account`.
            Error: Those of the transport.
        """
        with self._lock:
            self._url = self._url or self._remembered()
            if self._url is None or self._url == instead_of:
                self._url = self._register()
                known = Known(self._directory, self.thumbprint(), self._url)
                self._write("account.json", msgspec.json.encode(known))
            return self._url

    # -- on disk -------------------------------------------------------------------------------------------------------

    def _load_key(self) -> Signer | None:
        path = self._home / "account.key"
        if not _exists(path):
            return None
        with _of_account():
            pem = read_private(path)
        try:
            return signer(pem)
        except ValueError:
            hint = "restore it from a backup, or move it away to get a new account"
            raise Misconfigured("ca.account", f"{path}: no private key that ACME can use", hint) from None

    def _make_key(self) -> Signer:
        # P-256: every CA takes it (RFC 8555 section 6.2 demands ES256).
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._write("account.key", pem)
        return signer(pem)

    def _remembered(self) -> str | None:
        """The URL in `account.json`; a file that is lost, damaged, of another CA or key only costs one request."""
        try:
            known = msgspec.json.decode(read_private(self._home / "account.json"), type=Known)
        except (Error, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        same = (known.directory, known.key) == (self._directory, self.thumbprint())
        return known.account if same else None

    def _write(self, name: str, data: bytes) -> None:
        with _of_account():
            private_dir(self._home)
            replace.write(self._home / name, data, mode=0o600)

    # -- at the CA -----------------------------------------------------------------------------------------------------

    def _register(self) -> str:
        """With a key that has an account, the CA answers with that one (RFC 8555 section 7.3.1)."""
        signer = self.signer()  # on disk before the CA hears of it
        directory = self._transport.directory()
        application = self._application
        terms = directory.meta.terms_of_service
        if terms and not application.agree_tos:
            hint = clean(f"read {terms}, then set agree_tos")
            raise Misconfigured("ca.account", "the CA's terms of service are not agreed to", hint)
        if directory.meta.external_account_required and application.binding is None:
            hint = "get a key id and a MAC key from the CA's website"
            raise Misconfigured("ca.account", "the CA wants an external account binding", hint)
        registration = messages.NewRegistration.from_data(
            contact=tuple(c if ":" in c else f"mailto:{c}" for c in application.contact),
            terms_of_service_agreed=True if terms else None,
            external_account_binding=_bind(application.binding, signer, directory.new_account),
        )
        try:
            answer = self._transport.post(directory.new_account, registration.json_dumps().encode(), signer, None)
        except Refusal as refusal:  # the same key and contact will be refused again until someone changes something
            hint = "the CA does not give this key an account"
            if refusal.type == "unauthorized":  # it had one, which is closed
                hint = f"move {self.key_file} away: the next run asks with a new key"
            raise AccountRefused("ca.account", refusal.detail, hint) from None
        return answer.location


def signer(pem: bytes) -> Signer:
    """The private key in `pem`. ValueError when it is none that ACME can use; the text never quotes it."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError("not an unencrypted private key in PEM") from None
    if isinstance(key, rsa.RSAPrivateKey):
        return Signer(JWKRSA(key=key), RS256)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        key_types = {"secp256r1": ES256, "secp384r1": ES384, "secp521r1": ES512}
        if key.curve.name in key_types:
            return Signer(JWKEC(key=key), key_types[key.curve.name])
    raise ValueError("not a key for JWS")


def _bind(binding: Binding | None, signer: Signer, new_account: str) -> dict[str, object] | None:
    if binding is None:
        return None
    directory = messages.Directory({"newAccount": new_account})
    secret = binding.key.reveal().rstrip("=")
    try:
        return messages.ExternalAccountBinding.from_data(signer.key.public_key(), binding.kid, secret, directory)
    except ValueError:
        raise Misconfigured("ca.account", "the MAC key of the external account is not base64url") from None


def _exists(path: Path) -> bool:
    """False only where there is surely none: a key that is there but cannot be seen must not be replaced."""
    try:
        return file_status(path) is not None
    except Error:
        return True


@contextmanager
def _of_account() -> Generator[None]:
    """What the operator has to change about these files is a matter of the account."""
    try:
        yield
    except Misconfigured as error:
        raise Misconfigured("ca.account", error.detail, error.hint) from None
