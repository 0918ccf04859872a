"""Which certificates a Postfix configuration serves, and what must be set so that they are certagent's.

Two ways exclude each other: smtpd_tls_chain_files, and the older smtpd_tls_cert_file, smtpd_tls_key_file,
smtpd_tls_eccert_file, smtpd_tls_eckey_file, which the first one disables where it is not empty. In either way, one file
that is missing, or a second key of one kind, makes Postfix refuse TLS with every key (seen with 3.7.11); so a file that
was never installed must not be named yet.

Source: postconf(5) smtpd_tls_chain_files, smtpd_tls_cert_file; TLS_README.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from msgspec import Struct

from certagent.errors import Error
from certagent.mta import pemfile
from certagent.mta.postfix.postconf import Place, Setting
from certagent.pki.keys import key_type_of
from certagent.pki.keytypes import algorithm

Pair = tuple[str, str]
"""The files of certificate and key; twice the same where one file holds both."""

_HOME = {"rsa": "cert", "ecdsa": "eccert"}
"""The slot that is meant for a kind of key."""


class Problem(Struct, frozen=True):
    """What is wrong at a place, and the settings that put it right."""

    what: str
    remedy: dict[Setting, str | None]


def chain_problem(place: Place, needed: Sequence[str], ours: Sequence[str], *, stale: bool) -> Problem | None:
    """Of a place's chain files: the `needed` must be listed once they exist; with `stale`, no other of `ours` may."""
    listed = place.chain
    dropped = [file for file in ours if stale and file not in needed]
    lacks = [file for file in needed if file not in listed and os.path.exists(file)]
    kinds = {kind for file in needed if file in listed or file in lacks for kind in kinds_in(file)}
    others = [file for file in listed if file not in ours]
    gone = [file for file in others if not os.path.exists(file)]
    twice = [file for file in others if not kinds.isdisjoint(kinds_in(file))]
    keep = _without(listed, {*dropped, *gone, *twice}) + lacks
    unused = [file for file in listed if file in dropped and keep]
    problems = [
        (lacks, "does not list", "which is installed"),
        (gone, "lists", "which is missing: no TLS at all"),
        (twice, "lists", "a second key of the same kind: no TLS at all"),
        (unused, "lists", "which nothing renews"),
    ]
    if found := [f"{verb} {', '.join(files)}, {why}" for files, verb, why in problems if files]:
        setting = place.setting("chain_files")
        return Problem(f"{place.name}: {setting} {'; it '.join(found)}", {(place.name, setting): ",".join(keep)})
    return None


def chain_ahead(place: Place, needed: Mapping[str, str]) -> Problem | None:
    """Files that are not there yet, and not listed; the remedy is for when they are. `needed` by algorithm."""
    new = {a: file for a, file in needed.items() if file not in place.chain and not os.path.exists(file)}
    if not new:
        return None
    kinds = {algorithm(key_type) for key_type in new}
    others = [file for file in place.chain if file not in needed.values()]
    away = [file for file in others if not os.path.exists(file) or not kinds.isdisjoint(kinds_in(file))]
    what = f"{place.name} does not list {', '.join(new.values())} yet: the first run installs it and stops there"
    remedy = ",".join([*_without(place.chain, away), *new.values()])
    return Problem(what, {(place.name, place.setting("chain_files")): remedy})


def slot_problem(place: Place, needed: Mapping[str, Pair], ours: Collection[Pair], *, stale: bool) -> Problem | None:
    """`chain_problem` for the separate settings; `needed` by algorithm."""
    ready = {key_type: pair for key_type, pair in needed.items() if _exist(pair)}
    if place.chain and ready:
        setting = place.setting("chain_files")
        what = f"{place.name}: {setting} = {', '.join(place.chain)} disables {place.setting('cert_file')} and its like"
        return Problem(what, {**_filled(place, {}, ready), (place.name, setting): _nothing(place)})
    others = {slot: pair for slot, pair in place.slots.items() if pair not in ours}
    dropped = [
        slot for slot, pair in place.slots.items() if stale and slot not in others and pair not in needed.values()
    ]
    kinds = {algorithm(key_type) for key_type in ready}
    gone = {slot: pair for slot, pair in others.items() if not _exist(pair)}
    twice = {
        slot: pair for slot, pair in others.items() if slot not in gone and not kinds.isdisjoint(kinds_in(pair[0]))
    }
    lacks = {key_type: pair for key_type, pair in ready.items() if pair not in place.slots.values()}
    keep = {slot: pair for slot, pair in place.slots.items() if slot not in {*gone, *twice, *dropped}}
    problems = [
        *((_HOME[algorithm(a)], "does not name", p, "which is installed") for a, p in lacks.items()),
        *((slot, "names", pair, "which is missing: no TLS at all") for slot, pair in gone.items()),
        *((s, "names", p, "a second certificate of the same kind: it is served, or nothing") for s, p in twice.items()),
        *((slot, "names", place.slots[slot], "which nothing renews") for slot in dropped if keep or lacks),
    ]
    if not problems:
        return None
    told = "; ".join(
        f"{place.setting(f'{slot}_file')} {verb} {_pair(pair)}, {why}" for slot, verb, pair, why in problems
    )
    return Problem(f"{place.name}: {told}", _filled(place, keep, lacks))


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
    told = ", ".join(map(place.setting, idle))
    what = f"{place.name}: {place.setting('chain_files')} disables {told}"
    return Problem(what, {(place.name, place.setting(name)): None for name in [*idle, *keys]})


def files_of_others(place: Place, ours: Iterable[Path]) -> list[str]:
    """The files in effect there, by what the place itself sets, that are not `ours`."""
    if place.chain:
        named = list(place.chain) if place.is_main or "chain_files" in place.sets else []
    else:
        named = [file for pair in place.slots.values() for file in pair]
    return [file for file in dict.fromkeys(named) if Path(file) not in ours]


def kinds_in(file: str) -> set[str]:
    """Which family of keys it holds; nothing where that cannot be told, as for a key without its certificate."""
    leaf = pemfile.leaf_der(Path(file))
    try:
        return {algorithm(key_type_of(x509.load_der_x509_certificate(leaf).public_key()))} if leaf else set()
    except (ValueError, Error):  # not a kind that certagent would have made
        return set()


def _without(listed: Sequence[str], away: Collection[str]) -> list[str]:
    """What stays of a list of chain files. A key and a certificate in files of their own go together: with only one of
    them Postfix refuses TLS with every key.
    """
    away = {*away}
    for file, following in pairwise(listed):
        if following in away and _holds(file) == {"key"}:
            away.add(file)
        if file in away and _holds(following) == {"certificate"}:
            away.add(following)
    return [file for file in listed if file not in away]


def _holds(file: str) -> set[str]:
    """Whether a `key`, a `certificate` or both are in it; nothing where it cannot be read."""
    try:
        pem = Path(file).read_bytes()
    except OSError:
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
    """The value that leaves a setting empty: where it is inherited, that must be said."""
    return None if place.is_main else ""


def _exist(pair: Pair) -> bool:
    return all(os.path.exists(file) for file in pair)


def _pair(pair: Pair) -> str:
    return pair[0] if pair[0] == pair[1] else f"{pair[0]} with the key {pair[1]}"
