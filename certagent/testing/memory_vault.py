"""A vault in memory, for tests and rehearsals. It passes `vault_suite`, as every vault does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from certagent.errors import Missing, Unsafe
from certagent.secret import Secret

T = TypeVar("T")
Place = tuple[str, str, str]
"""Certificate, id of the keys or of the generation, type of key."""


class MemoryVault:
    """See `Vault`."""

    def __init__(self) -> None:
        self._keys: dict[Place, Secret[bytes]] = {}
        self._chains: dict[Place, bytes] = {}
        self._kept: dict[tuple[str, str], dict[str, Secret[bytes]]] = {}

    def put_key(self, certificate: str, keys_id: str, key_type: str, key: Secret[bytes]) -> None:
        """See `Vault`."""
        there = self._keys.setdefault((certificate, keys_id, key_type), key)
        if there.reveal() != key.reveal():
            raise Unsafe("vault.exists", f"{certificate} {keys_id} {key_type} is another key", "make a new id")

    def key(self, certificate: str, keys_id: str, key_type: str) -> Secret[bytes]:
        """See `Vault`."""
        return _found(self._keys, (certificate, keys_id, key_type))

    def put_chain(self, certificate: str, generation_id: str, key_type: str, pem: bytes) -> None:
        """See `Vault`."""
        self._chains[certificate, generation_id, key_type] = pem

    def chain(self, certificate: str, generation_id: str, key_type: str) -> bytes:
        """See `Vault`."""
        return _found(self._chains, (certificate, generation_id, key_type))

    def drop_keys(self, certificate: str, keys_id: str) -> None:
        """See `Vault`."""
        self._keys = {place: key for place, key in self._keys.items() if place[:2] != (certificate, keys_id)}

    def drop_chain(self, certificate: str, generation_id: str) -> None:
        """See `Vault`."""
        self._chains = {place: pem for place, pem in self._chains.items() if place[:2] != (certificate, generation_id)}

    def keep(self, certificate: str, server: str, files: Mapping[str, Secret[bytes]]) -> None:
        """See `Vault`."""
        self._kept[certificate, server] = dict(files)

    def kept(self, certificate: str, server: str) -> Mapping[str, Secret[bytes]]:
        """See `Vault`."""
        return self._kept.get((certificate, server), {})


def _found(there: dict[Place, T], place: Place) -> T:
    if place not in there:
        raise Missing("vault.missing", f"{' '.join(place)} is missing", "put it first")
    return there[place]
