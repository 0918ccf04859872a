"""Which certificates a Postfix configuration serves, and what must be set so that they are certagent's.

Two ways exclude each other: smtpd_tls_chain_files, and the older smtpd_tls_cert_file, smtpd_tls_key_file,
smtpd_tls_eccert_file, smtpd_tls_eckey_file, which the first one disables if it is not empty. In either way, one file
that is missing, or a second key of one kind, makes Postfix refuse TLS with every key (seen with 3.7.11); so a file that
was never installed must not be named yet.

Source: postconf(5) smtpd_tls_chain_files, smtpd_tls_cert_file; TLS_README.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from msgspec import Struct

from certagent.errors import Error
from certagent.host.files import read_file
from certagent.mta import pemfile
from certagent.mta.postfix.postconf import Place, Setting
from certagent.mta.reference import Pair, Words, compare, shown, to_come
from certagent.pki.keytypes import algorithm

_HOME = {"rsa": "cert", "ecdsa": "eccert"}
"""The slot that is meant for a key type."""

_LISTED = Words("list", "lists", ": no TLS at all", "a second key of the same algorithm: no TLS at all")
_NAMED = Words(
    "name", "names", ": no TLS at all", "a second certificate of the same algorithm: it is served, or nothing"
)


class Problem(Struct, frozen=True):
    """What is wrong at a place, and the settings that put it right."""

    what: str
    remedy: dict[Setting, str | None]


def chain_problem(place: Place, needed: Mapping[str, str], ours: Iterable[str], *, stale: bool) -> Problem | None:
    """Of a place's chain files: the `needed` must be listed once they exist; with `stale`, no other of `ours` may.

    `needed` by key type.
    """
    wanted = {key_type: Pair(file, file) for key_type, file in needed.items()}
    compared = compare([Pair(file, file) for file in place.chain], wanted, [Pair(f, f) for f in ours], stale=stale)
    if not (found := compared.problems(_LISTED)):
        return None
    setting = place.setting("chain_files")
    what = f"{place.name}: {setting} {'; it '.join(found)}"
    return Problem(what, {(place.name, setting): ",".join(_left(place.chain, compared.keep))})


def chain_advice(place: Place, needed: Mapping[str, str]) -> Problem | None:
    """Files that are neither there nor listed yet; the remedy is for when they are. `needed` by key type."""
    wanted = {key_type: Pair(file, file) for key_type, file in needed.items()}
    new, keep = to_come([Pair(file, file) for file in place.chain], wanted)
    if not new:
        return None
    what = f"{place.name} does not list {shown(new)} yet: the first run installs it and stops there"
    return Problem(what, {(place.name, place.setting("chain_files")): ",".join(_left(place.chain, keep))})


def slot_problem(place: Place, needed: Mapping[str, Pair], ours: Iterable[Pair], *, stale: bool) -> Problem | None:
    """`chain_problem` for the separate settings."""
    ready = {key_type: pair for key_type, pair in needed.items() if pair.exists}
    if place.chain and ready:
        setting = place.setting("chain_files")
        what = f"{place.name}: {setting} = {', '.join(place.chain)} disables {place.setting('cert_file')} and its like"
        return Problem(what, {**_filled(place, {}, ready), (place.name, setting): _nothing(place)})
    compared = compare(list(place.slots.values()), needed, list(ours), stale=stale)
    lacks = {key_type: pair for key_type, pair in ready.items() if pair in compared.lacks}
    keep = {slot: pair for slot, pair in place.slots.items() if pair in compared.keep}
    slots = {pair: slot for slot, pair in place.slots.items()} | {p: _HOME[algorithm(k)] for k, p in lacks.items()}
    found = [
        f"{place.setting(f'{slots[pair]}_file')} {problem}"
        for pair in (*compared.lacks, *compared.gone, *compared.twice, *compared.unused)
        for problem in compared.only(pair).problems(_NAMED)
    ]
    return Problem(f"{place.name}: {'; '.join(found)}", _filled(place, keep, lacks)) if found else None


def chain_instead(places: Iterable[Place], files: Sequence[str]) -> dict[Setting, str | None]:
    """The settings that name these chain files, once for all, in place of everything that is set separately."""
    old = {(place.name, place.setting(name)): None for place in places for name in sorted(place.sets)}
    return {**old, ("main.cf", "smtpd_tls_chain_files"): ",".join(files)}


def without_effect(place: Place) -> Problem | None:
    """Separate settings that chain files disable."""
    idle = [f"{slot}_file" for slot in place.slots if place.chain and f"{slot}_file" in place.sets]
    keys = [name for slot in idle if (name := slot.replace("cert", "key")) in place.sets]
    if not idle:
        return None
    disabled = ", ".join(map(place.setting, idle))
    what = f"{place.name}: {place.setting('chain_files')} disables {disabled}"
    return Problem(what, {(place.name, place.setting(name)): None for name in [*idle, *keys]})


def files_of_others(place: Place, ours: Iterable[Path]) -> list[str]:
    """The files in effect there, by what the place itself sets, that are not `ours`."""
    if place.chain:
        named = list(place.chain) if place.is_main or "chain_files" in place.sets else []
    else:
        named = [file for pair in place.slots.values() for file in pair]
    return [file for file in dict.fromkeys(named) if Path(file) not in ours]


def _left(listed: Sequence[str], keep: Iterable[Pair]) -> list[str]:
    """What stays of a list of chain files, and what is added to it.

    A key and a certificate in two files go together: with only one of them Postfix refuses TLS with every key.
    """
    kept = [pair.cert for pair in keep]
    away = {file for file in listed if file not in kept}
    for file, following in pairwise(listed):
        if following in away and _holds(file) == {"key"}:
            away.add(file)
        if file in away and _holds(following) == {"certificate"}:
            away.add(following)
    return [file for file in kept if file not in away]


def _holds(file: str) -> set[str]:
    """Whether a `key`, a `certificate` or both are in it; nothing if it cannot be read."""
    try:
        pem = read_file(Path(file), links=True) or b""
    except Error:
        return set()
    found = {"key": pemfile.first_key(pem), "certificate": pemfile.first_certificate(pem)}
    return {part for part, there in found.items() if there is not None}


def _filled(place: Place, keep: Mapping[str, Pair], lacks: Mapping[str, Pair]) -> dict[Setting, str | None]:
    """The settings after which the slots are `keep` and `lacks`."""
    slots = dict(keep)
    for key_type, pair in lacks.items():
        home = _HOME[algorithm(key_type)]
        slots[next(slot for slot in (home, "eccert", "cert", "dcert") if slot not in slots)] = pair
    changed: dict[Setting, str | None] = {}
    for slot in {**place.slots, **slots}:
        if slots.get(slot) == place.slots.get(slot) and not place.chain:
            continue
        key = slot.replace("cert", "key")
        certificate_file, key_file = slots.get(slot, (_nothing(place), _nothing(place)))
        changed[place.name, place.setting(f"{slot}_file")] = certificate_file
        if certificate_file or f"{key}_file" in place.sets:
            changed[place.name, place.setting(f"{key}_file")] = key_file
    return changed


def _nothing(place: Place) -> str | None:
    """The value that leaves a setting empty: if it is inherited, that must be said."""
    return None if place.is_main else ""
