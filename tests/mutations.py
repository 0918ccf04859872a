"""The ways in which the engine is broken on purpose; each names the rule it breaks. Run by `tests/mutants.py`."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A substitution in one module of certagent."""

    name: str
    rule: str
    module: str
    old: str
    new: str


C, P, R, F, S, I, A = (  # noqa: E741 -- a table
    "lifecycle.caches",
    "lifecycle.planner",
    "lifecycle.rollover",
    "lifecycle.fold",
    "lifecycle.state",
    "lifecycle.issuance",
    "act",
)

MUTANTS: tuple[Mutant, ...] = (
    # -- what caches may hold
    Mutant(
        "hold-a-fifth",
        "a set is held for its whole TTL and more",
        C,
        "return max(2 * ttl, ttl + max(guard, GRAIN))",
        "return ttl / 5",
    ),
    Mutant(
        "hold-short-of-ttl",
        "the hold is never shorter than the TTL",
        C,
        "return max(2 * ttl, ttl + max(guard, GRAIN))",
        "return ttl * 0.8",
    ),
    Mutant(
        "hold-halved",
        "two TTLs are waited for, and not one",
        C,
        "return max(2 * ttl, ttl + max(guard, GRAIN))",
        "return max(2 * ttl, ttl + max(guard, GRAIN)) / 2",
    ),
    Mutant(
        "second-ttl-forgotten",
        "two TTLs are waited for, also where the guard is shorter",
        C,
        "return max(2 * ttl, ttl + max(guard, GRAIN))",
        "return ttl + max(guard, GRAIN)",
    ),
    Mutant(
        "guard-forgotten",
        "the guard is waited for, also where the TTL is shorter",
        C,
        "return max(2 * ttl, ttl + max(guard, GRAIN))",
        "return 2 * ttl",
    ),
    Mutant(
        "no-hold",
        "caches are waited for",
        C,
        "return [h for h in held if h.gone_at is None or now.since(h.gone_at) < hold(h, path, guard)]",
        "return [h for h in held if h.gone_at is None]",
    ),
    Mutant(
        "incomplete-is-complete",
        "a server that was not heard may give any set it ever gave",
        C,
        "return bool(sighting.answers) and all(isinstance(a, Answer) for a in sighting.answers.values())",
        "return any(isinstance(a, Answer) for a in sighting.answers.values())",
    ),
    Mutant(
        "one-server-asked",
        "every authoritative server is asked",
        C,
        "return [a for _, a in sorted(sighting.answers.items()) if isinstance(a, Answer)]",
        "return [a for _, a in sorted(sighting.answers.items()) if isinstance(a, Answer)][:1]",
    ),
    Mutant(
        "regression-keeps-clock",
        "a set that comes back is held again from the start",
        C,
        "            seen_at=now,\n            gone_at=None,",
        "            seen_at=now,\n            gone_at=old.gone_at if old else None,",
    ),
    Mutant(
        "smallest-ttl",
        "the largest TTL a set was given with counts",
        C,
        "ttl_s=max(answer.ttl_s, old.ttl_s if old else 0)",
        "ttl_s=min(answer.ttl_s, old.ttl_s if old else answer.ttl_s)",
    ),
    Mutant(
        "alias-forgotten",
        "through an old alias the old set is fetched for the alias's TTL",
        C,
        "        ttl_s += sum(hop_s for _, hop_s in held.path)",
        "        pass",
    ),
    Mutant(
        "held-dropped-early",
        "a held set is kept until its hold is over",
        C,
        "return 4 * timedelta(seconds=held.ttl_s + sum(ttl for _, ttl in held.path)) + timedelta(days=2)",
        "return timedelta(0)",
    ),
    Mutant(
        "any-triple-will-do",
        "each triple in a set must match (RFC 7671 section 8)",
        C,
        "    return frozenset(triple for triple, ok in matched.items() if not ok)",
        "    return frozenset() if any(matched.values()) else frozenset(matched)",
    ),
    Mutant(
        "wall-clock",
        "waits are measured in time lived through, not by the wall",
        "lifecycle.model",
        "return timedelta(0, self.lived_s - earlier.lived_s)",
        "return self.wall - earlier.wall",
    ),
    # -- the gates
    Mutant(
        "no-obstacles",
        "nothing is swapped while caches may hold a set without the key",
        R,
        "    result: list[Obstacle] = []\n    for name in names:",
        "    result: list[Obstacle] = []\n    for name in []:",
    ),
    Mutant(
        "one-algorithm",
        "RSA and ECDSA are both covered",
        R,
        "    return obstacles(spec, state, list(generation.leaves.values()), names, now)",
        "    return obstacles(spec, state, list(generation.leaves.values())[:1], names, now)",
    ),
    Mutant(
        "one-owner",
        "every TLSA name of a target counts",
        R,
        "    names = names_of(spec, state, target)",
        "    names = names_of(spec, state, target)[:1]",
    ),
    Mutant(
        "shared-records-forgotten",
        "names whose aliases lead to one place are rolled as one",
        R,
        "for name in others if here & _places(spec, state, name))]",
        "for name in others if name == owner)]",
    ),
    Mutant(
        "left-and-believed",
        "a mail server that comes back is surveyed like a new one",
        P,
        "if gone and not state.doomed and state.owners.keys() <= spec.owners.keys():",
        "if False:",
    ),
    Mutant(
        "left-too-early",
        "a mail server that left counts for as long as its TLSA names may",
        P,
        "if gone and not state.doomed and state.owners.keys() <= spec.owners.keys():",
        "if gone and not state.doomed:",
    ),
    Mutant(
        "withdrawn-forgotten",
        "a name taken out of the config is still held by caches",
        R,
        "return [*spec.owners, *(o for o in state.owners if o not in spec.owners)]",
        "return [*spec.owners]",
    ),
    Mutant(
        "publish-before-serving",
        "the first publication comes after the key is served",
        R,
        '        return "first publication: the key is served and proven first"',
        "        return None",
    ),
    Mutant(
        "publish-half-proven",
        "first publication: every target serves it, and nothing else",
        R,
        'if at is None or at.phase != "drained" or not (target and met_everywhere(target, at)):',
        "if at is None:",
    ),
    Mutant(
        "rsa-record-forgotten",
        "records of every algorithm are published",
        S,
        "return frozenset(v for leaf in generation.leaves.values() for v in tlsa.records(leaf, triples))",
        "return frozenset(v for leaf in list(generation.leaves.values())[:1] for v in tlsa.records(leaf, triples))",
    ),
    Mutant(
        "old-record-dropped",
        "what is still served keeps its record",
        R,
        "        values |= records(generation, spec.triples)\n    if state.newest:",
        "        pass\n    if state.newest:",
    ),
    Mutant(
        "next-keys-unpublished",
        "the next keys are published ahead",
        R,
        '    if state.next_keys and "3 1 1" in spec.triples:',
        "    if False:",
    ),
    Mutant(
        "worse-never",
        "no set comes to be with a triple that matches nothing served",
        R,
        "for triple in caches.hurts(before | values, leaf) - caches.hurts(before, leaf)",
        "for triple in ()",
    ),
    Mutant(
        "surplus-never",
        "old records are removed",
        R,
        "    return seen | {v for v in state.ours - wanted if tlsa.triple(v) in over}",
        "    return frozenset()",
    ),
    # -- the fold
    Mutant(
        "intent-not-counted",
        "an intended swap counts as done until the outcome is known",
        F,
        "        case Install(target=name, generation=generation, rollback=rollback):",
        "        case Install(target=name, generation=generation, rollback=rollback) if False:",
    ),
    Mutant(
        "old-generation-forgotten",
        "what was served before the rename may be served still",
        F,
        "serves = (*(s for s in old.serves if s != generation), generation)",
        "serves = (generation,)",
    ),
    Mutant(
        "proof-is-enough",
        "old processes live on after the first proof",
        F,
        "    if not event.drained:",
        "    if False:",
    ),
    Mutant(
        "retired-forgotten",
        "values of deleted keys are still ours to remove",
        S,
        "        values = set(self.retired)",
        "        values: set[str] = set()",
    ),
    Mutant(
        "survey-forgotten",
        "what was served before certagent came counts",
        F,
        "    installation = Installation(serves=tuple(serves), met=met, rejected=old.rejected)",
        "    installation = Installation(serves=(), met=met, rejected=old.rejected)",
    ),
    Mutant(
        "put-back-is-all-there-is",
        "after files were put back, processes that read the others may live on",
        F,
        "    serves += [id_ for id_ in old.serves if id_ not in serves]\n",
        "",
    ),
    # -- the planner
    Mutant(
        "no-fresh-look",
        "DNS is asked in the same breath as the swap",
        A,
        "                state = fold(state, event, now)",
        "                pass",
    ),
    Mutant(
        "drain-skipped",
        "old processes are waited for",
        P,
        "                left = spec.drain - now.since(at.reloaded_at)",
        "                left = timedelta(0)",
    ),
    Mutant(
        "no-reload",
        "a rename alone does not end the old processes",
        P,
        '                yield Reload(target=target.name, because="installed; old processes go on with the old files")',
        '                yield Prove(target=target.name, generation=at.generation, drained=True, because="")',
    ),
    Mutant(
        "dns-unwatched",
        "somebody else's change in DNS is noticed",
        P,
        '    return spec.watch, "watch"',
        '    return spec.watch * 1000, "watch"',
    ),
    Mutant(
        "servers-unwatched",
        "somebody else's change at a mail server is noticed",
        P,
        "        left = spec.watch - now.since(at.proven_at)",
        "        left = spec.watch * 1000 - now.since(at.proven_at)",
    ),
    Mutant(
        "regression-unwatched",
        "while caches are waited for, regressions are looked for",
        P,
        '        return schedule.look_every(spec, min(waited_for)), "caches are waited for"',
        '        return schedule.look_every(spec, min(waited_for)) * 10000, "caches are waited for"',
    ),
    Mutant(
        "lost-not-restored",
        "what somebody replaced is put back",
        P,
        '            case "lost":',
        '            case "lost" if False:',
    ),
    Mutant(
        "no-standby",
        "a stand-by is made as soon as a roll is over",
        I,
        "elif spec.standby and spec.owners and rollover.rolled(spec, state):",
        "elif False:",
    ),
    Mutant(
        "revoke-served",
        "nothing is revoked while it may be served",
        I,
        "if generation.revoke and generation.id not in served:",
        "if generation.revoke:",
    ),
    Mutant(
        "no-last-chance",
        "a certificate that runs out is renewed with its own key",
        I,
        "    urgent = _fallback(spec, state, now)\n",
        "    urgent = None\n",
    ),
    Mutant(
        "ari-unheard",
        "the CA's window is heeded",
        "lifecycle.schedule",
        "moments.append((min(renewal.drawn.at, last_chance(leaf))",
        "moments.append((last_chance(leaf)",
    ),
    Mutant(
        "renewal-too-late",
        "a renewal is due well before the end",
        "lifecycle.schedule",
        "return leaf.not_after - (life / 2 if life < SHORT_LIFE else life / 3)",
        "return leaf.not_after",
    ),
    Mutant(
        "challenges-left",
        "challenges are taken away",
        I,
        "    if over:\n        yield Tidy",
        "    if False:\n        yield Tidy",
    ),
    Mutant(
        "forget-unchecked",
        "keys that are served are not deleted",
        P,
        "kept = {id_ for at in state.targets.values() for id_ in at.serves} | {state.newest.id}",
        "kept = set()",
    ),
    Mutant(
        "abort-deletes-served",
        "an abort never touches what is installed",
        P,
        "    served = {g.keys for g in state.generations if g.id in installed}\n    keys = tuple",
        "    served = set()\n    keys = tuple",
    ),
    # -- act
    Mutant(
        "second-address-unproven",
        "every address is proven",
        A,
        "        served = tuple(world.probe(services, algorithms))",
        "        served = tuple(world.probe(services, algorithms))[:1]",
    ),
    Mutant(
        "proof-by-any",
        "every handshake must meet the generation",
        A,
        "        wrong = [s for s in served if not _is(s, generation)]",
        "        wrong = [] if any(_is(s, generation) for s in served) else list(served)",
    ),
)

EQUIVALENT: dict[str, str] = {
    "publish-unlooked": (
        "the last look before records are added: a TTL that was raised since is read from the provider, and journaled, "
        "before the write that supersedes its set; the look only spares vain writes."
    ),
    "unseen-is-empty": (
        "the obstacle of a name that was never asked: `deploy` and `finish` want a fresh look at every name of the "
        "target in any case, so no swap is planned on a name without one; the obstacle only says why."
    ),
    "clean-unlooked": (
        "the fresh look before a removal: taking away a value that matches nothing served cannot make a triple fail "
        "that did not fail before, whatever the set is by now; it only spares the provider vain writes."
    ),
    "surplus-of-primary": (
        "a record counts as surplus, or as published, at any server and not only where all give it: otherwise cleaning "
        "waits until all are heard and follow, and a record is written once more, in step with the back-off. Neither "
        "can hurt a sender, and once faults stop all servers agree."
    ),
    "change-not-noted": (
        "a change that no look has seen makes the last look out of date: the look comes a second later in any case "
        "(`schedule.look_again`), what may come of the change is held from the intent on, and `act.py` asks DNS in the "
        "same breath as the swap."
    ),
    "act-gate-empty": (
        "the gate in `act.py` asks the same question about the same state as the planner a moment before: it can only "
        "differ where the planner is broken, too (`no-obstacles` breaks both)."
    ),
}
