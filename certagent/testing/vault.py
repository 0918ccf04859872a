"""Checks for authors of a vault: one that passes `vault_suite` can keep the keys and chains.

    from certagent.testing import vault_suite

    @pytest.mark.parametrize("check", vault_suite, ids=lambda check: check.__name__)
    def test_vault(check):
        check(lambda: MyVault(options))

Each check is a plain function of `open_vault()`, which opens the same vault each time within one check, as another
process would, and an empty one in the next check. Its docstring is the rule, and it raises AssertionError if that is
broken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from certagent.errors import Missing, Unsafe
from certagent.secret import Secret
from certagent.store.protocol import Vault

Open = Callable[[], Vault]
VaultCheck = Callable[[Open], None]
vault_suite: list[VaultCheck] = []

KEY, OTHER = Secret(b"a key"), Secret(b"another key")
ECDSA, RSA = "ecdsa-p256", "rsa-2048"


def _check(check: VaultCheck) -> VaultCheck:
    vault_suite.append(check)
    return check


def _missing(read: Callable[[], object], what: str) -> None:
    try:
        read()
    except Missing:
        return
    raise AssertionError(f"{what} is there")


@_check
def what_was_put_is_there(open_vault: Open) -> None:
    """For every other process too: each certificate, id and type of key has its own key and chain."""
    vault, places = open_vault(), [(c, i, k) for c in ("a", "b") for i in ("1", "2") for k in (ECDSA, RSA)]
    for place in places:
        vault.put_key(*place, Secret(f"key of {place}".encode()))
        vault.put_chain(*place, f"chain of {place}".encode())
    for place in places:
        assert open_vault().key(*place).reveal() == f"key of {place}".encode()
        assert open_vault().chain(*place) == f"chain of {place}".encode()


@_check
def what_was_not_put_is_missing(open_vault: Open) -> None:
    """`vault.missing`, as the type `Missing`: what is done about it depends on that."""
    vault = open_vault()
    vault.put_key("a", "1", ECDSA, KEY)
    vault.put_chain("a", "2", ECDSA, b"chain")
    for place in (("a", "2", ECDSA), ("a", "1", RSA), ("b", "1", ECDSA)):
        _missing(lambda place=place: vault.key(*place), f"the key of {place}")
    for place in (("a", "1", ECDSA), ("a", "2", RSA), ("b", "2", ECDSA)):
        _missing(lambda place=place: vault.chain(*place), f"the chain of {place}")


@_check
def a_key_is_never_replaced(open_vault: Open) -> None:
    """`vault.exists` (Unsafe) for another key: DNS may have records of the first. The same key again is fine."""
    vault = open_vault()
    vault.put_key("a", "1", ECDSA, KEY)
    vault.put_key("a", "1", ECDSA, KEY)
    try:
        vault.put_key("a", "1", ECDSA, OTHER)
    except Unsafe:
        pass
    else:
        raise AssertionError("another key was taken")
    assert vault.key("a", "1", ECDSA).reveal() == KEY.reveal()


@_check
def a_chain_is_replaced(open_vault: Open) -> None:
    """The last one counts: the CA may be asked for it again."""
    vault = open_vault()
    vault.put_chain("a", "1", ECDSA, b"first")
    vault.put_chain("a", "1", ECDSA, b"second")
    assert open_vault().chain("a", "1", ECDSA) == b"second"


@_check
def only_these_keys_are_dropped(open_vault: Open) -> None:
    """All types of key of one id are gone; its chains stay, and other keys. A second time it is no error."""
    vault = open_vault()
    for certificate, id_ in (("a", "1"), ("a", "2"), ("b", "1")):
        for key_type in (ECDSA, RSA):
            vault.put_key(certificate, id_, key_type, KEY)
            vault.put_chain(certificate, id_, key_type, b"chain")
    vault.drop_keys("a", "1")
    vault.drop_keys("a", "1")
    vault.drop_keys("c", "1")
    for key_type in (ECDSA, RSA):
        _missing(lambda key_type=key_type: open_vault().key("a", "1", key_type), "a dropped key")
        assert vault.chain("a", "1", key_type) == b"chain"
        assert vault.key("a", "2", key_type).reveal() == vault.key("b", "1", key_type).reveal() == KEY.reveal()
    vault.put_key("a", "1", ECDSA, OTHER)
    assert vault.key("a", "1", ECDSA).reveal() == OTHER.reveal()


@_check
def only_these_chains_are_dropped(open_vault: Open) -> None:
    """All chains of one id are gone; its keys stay, and other chains. A second time it is no error."""
    vault = open_vault()
    for certificate, id_ in (("a", "1"), ("a", "2"), ("b", "1")):
        for key_type in (ECDSA, RSA):
            vault.put_key(certificate, id_, key_type, KEY)
            vault.put_chain(certificate, id_, key_type, b"chain")
    vault.drop_chain("a", "1")
    vault.drop_chain("a", "1")
    vault.drop_chain("c", "1")
    for key_type in (ECDSA, RSA):
        _missing(lambda key_type=key_type: open_vault().chain("a", "1", key_type), "a dropped chain")
        assert vault.key("a", "1", key_type).reveal() == KEY.reveal()
        assert vault.chain("a", "2", key_type) == vault.chain("b", "1", key_type) == b"chain"


@_check
def files_of_somebody_else_are_kept(open_vault: Open) -> None:
    """By path, for each mail server of each certificate; those kept last count. None were kept: an empty mapping."""
    vault = open_vault()
    first = {"/etc/one.pem": Secret(b"one"), "/etc/two.pem": Secret(b"\0two\xff")}
    assert vault.kept("a", "one") == {}
    for certificate, server in (("a", "one"), ("a", "two"), ("b", "one")):
        vault.keep(certificate, server, first)
    vault.keep("a", "one", {"/etc/three.pem": Secret(b"three")})
    vault.drop_keys("a", "1")
    vault.drop_chain("a", "1")
    assert _shown(open_vault().kept("a", "one")) == {"/etc/three.pem": b"three"}
    assert _shown(open_vault().kept("a", "two")) == _shown(open_vault().kept("b", "one")) == _shown(first)


def _shown(files: Mapping[str, Secret[bytes]]) -> dict[str, bytes]:
    return {path: content.reveal() for path, content in files.items()}
