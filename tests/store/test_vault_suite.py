"""Every vault passes the conformance suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from certagent.errors import Misconfigured
from certagent.secret import Secret
from certagent.store.vault import Vault
from certagent.testing import MemoryVault, VaultCheck, vault_suite


@pytest.mark.parametrize("check", vault_suite, ids=lambda check: check.__name__)
def test_files(tmp_path: Path, check: VaultCheck) -> None:
    """One directory."""
    check(lambda: Vault(tmp_path / "vault"))


@pytest.mark.parametrize("check", vault_suite, ids=lambda check: check.__name__)
def test_memory(check: VaultCheck) -> None:
    """One object."""
    vault = MemoryVault()
    check(lambda: vault)


class OneKeyType(MemoryVault):
    """It forgets which type of key a key is of."""

    def put_key(self, certificate: str, keys_id: str, key_type: str, key: Secret[bytes]) -> None:
        self._keys[certificate, keys_id, "any"] = key

    def key(self, certificate: str, keys_id: str, key_type: str) -> Secret[bytes]:
        return super().key(certificate, keys_id, "any")


class Vague(MemoryVault):
    """What is missing is an error of the operator, and nothing more is known."""

    def key(self, certificate: str, keys_id: str, key_type: str) -> Secret[bytes]:
        try:
            return super().key(certificate, keys_id, key_type)
        except Misconfigured as error:
            raise Misconfigured("store.path", error.detail) from None


class Overwrites(MemoryVault):
    """The last key counts."""

    def put_key(self, certificate: str, keys_id: str, key_type: str, key: Secret[bytes]) -> None:
        self._keys[certificate, keys_id, key_type] = key


class FirstChain(MemoryVault):
    """The first chain counts."""

    def put_chain(self, certificate: str, generation_id: str, key_type: str, pem: bytes) -> None:
        self._chains.setdefault((certificate, generation_id, key_type), pem)


class DropsKeysOfAll(MemoryVault):
    """The id counts, whichever certificate it is of."""

    def drop_keys(self, certificate: str, keys_id: str) -> None:
        self._keys = {place: key for place, key in self._keys.items() if place[1] != keys_id}


class DropsNoChain(MemoryVault):
    """Chains stay."""

    def drop_chain(self, certificate: str, generation_id: str) -> None: ...


class KeepsAll(MemoryVault):
    """What was kept before stays beside it."""

    def keep(self, certificate: str, server: str, files: Mapping[str, Secret[bytes]]) -> None:
        super().keep(certificate, server, {**self.kept(certificate, server), **files})


BROKEN = {
    "what_was_put_is_there": OneKeyType,
    "what_was_not_put_is_missing": Vague,
    "a_key_is_never_replaced": Overwrites,
    "a_chain_is_replaced": FirstChain,
    "only_these_keys_are_dropped": DropsKeysOfAll,
    "only_these_chains_are_dropped": DropsNoChain,
    "files_of_somebody_else_are_kept": KeepsAll,
}


@pytest.mark.parametrize("check", vault_suite, ids=lambda check: check.__name__)
def test_each_check_finds_a_vault_that_breaks_its_rule(check: VaultCheck) -> None:
    """So each check can fail."""
    broken = BROKEN[check.__name__]()
    with pytest.raises((AssertionError, Misconfigured)):
        check(lambda: broken)
