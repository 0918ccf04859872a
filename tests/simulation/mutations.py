"""The ways in which the engine is broken on purpose; each names the rule it breaks. Run by `mutants.py` here."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """A substitution in one module of certagent."""

    name: str
    rule: str
    module: str
    old: str
    new: str


C, DEPLOYMENT, RECORDS, DISPOSAL, ROTATION, R, F, S, I, A, M, D = (  # noqa: E741 -- a table
    "lifecycle.caches",
    "lifecycle.rules.deployment",
    "lifecycle.rules.records",
    "lifecycle.rules.disposal",
    "lifecycle.rules.rotation",
    "lifecycle.rollover",
    "lifecycle.fold",
    "lifecycle.state",
    "lifecycle.rules.issuance",
    "agent.act.serving",
    "facts.moment",
    "lifecycle.schedule",
)

MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "hold-a-fifth",
        "a set is held for its whole TTL and more",
        C,
        "    return max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "    return ttl / 5",
    ),
    Mutant(
        "hold-short-of-ttl",
        "the hold is never shorter than the TTL",
        C,
        "    return max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "    return ttl * 0.8",
    ),
    Mutant(
        "hold-halved",
        "two TTLs are waited for, and not one",
        C,
        "    return max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "    return max(2 * ttl, ttl + max(safety_margin, GRAIN)) / 2",
    ),
    Mutant(
        "second-ttl-forgotten",
        "two TTLs are waited for, also where the guard is shorter",
        C,
        "    return max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "    return ttl + max(safety_margin, GRAIN)",
    ),
    Mutant(
        "guard-forgotten",
        "the guard is waited for, also where the TTL is shorter",
        C,
        "    return max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "    return 2 * ttl",
    ),
    Mutant(
        "no-hold",
        "caches are waited for",
        C,
        "    return [h for h in cached if h.gone_at is None or "
        "now.since(h.gone_at) < retire_interval(h, path, safety_margin)]",
        "    return [h for h in cached if h.gone_at is None]",
    ),
    Mutant(
        "incomplete-is-complete",
        "a server that was not heard may give any set it ever gave",
        C,
        "    return bool(observation.answers) and all(isinstance(a, Answer) for a in observation.answers.values())",
        "    return any(isinstance(a, Answer) for a in observation.answers.values())",
    ),
    Mutant(
        "one-server-asked",
        "every authoritative server is asked",
        C,
        "    return [a for _, a in sorted(observation.answers.items()) if isinstance(a, Answer)]",
        "    return [a for _, a in sorted(observation.answers.items()) if isinstance(a, Answer)][:1]",
    ),
    Mutant(
        "regression-keeps-clock",
        "a set that comes back is held again from the start",
        C,
        "            gone_at=now if values is None and everyone else None,",
        "            gone_at=now if values is None and everyone else old.gone_at if old else None,",
    ),
    Mutant(
        "smallest-ttl",
        "the largest TTL a set was given with counts",
        C,
        "            ttl_s=max(ttl_s, old.ttl_s if old else 0),",
        "            ttl_s=min(ttl_s, old.ttl_s if old else ttl_s),",
    ),
    Mutant(
        "alias-forgotten",
        "through an old alias the old set is fetched for the alias's TTL",
        C,
        "        ttl_s += sum(hop_s for _, hop_s in cached.path)",
        "        pass",
    ),
    Mutant(
        "alias-believed",
        "what an alias leads to by now may have been another set before the first look there",
        C,
        "        given += [(None, ttl_s, a.path) for a in answers if _place(a.path) not in places]",
        "        pass",
    ),
    Mutant(
        "held-dropped-early",
        "a held set is kept until its hold is over",
        C,
        "    return 4 * timedelta(seconds=cached.ttl_s + sum(ttl for _, ttl in cached.path)) + timedelta(days=2)",
        "    return timedelta(0)",
    ),
    Mutant(
        "any-triple-will-do",
        "each triple in a set must match (RFC 7671 section 8)",
        C,
        "    return frozenset(parameters for parameters, ok in matched.items() if not ok)",
        "    return frozenset() if any(matched.values()) else frozenset(matched)",
    ),
    Mutant(
        "wall-clock",
        "waits are measured in time lived through, not by the wall",
        M,
        "        return timedelta(0, self.elapsed_s - earlier.elapsed_s)",
        "        return self.wall - earlier.wall",
    ),
    Mutant(
        "no-obstacles",
        "nothing is swapped while caches may hold a set without the key",
        R,
        "    for name in names:",
        "    for name in []:",
    ),
    Mutant(
        "one-algorithm",
        "RSA and ECDSA are both covered",
        R,
        "    return obstacles(spec, state, list(generation.chains.values()), names, now)",
        "    return obstacles(spec, state, list(generation.chains.values())[:1], names, now)",
    ),
    Mutant(
        "one-owner",
        "every TLSA name of a target counts",
        R,
        "    names = names_of(spec, state, server)",
        "    names = names_of(spec, state, server)[:1]",
    ),
    Mutant(
        "shared-records-forgotten",
        "names whose aliases lead to one place are rolled as one",
        R,
        "    return [tlsa_name, *(name for name in others if here & _places(spec, state, name))]",
        "    return [tlsa_name, *(name for name in others if name == tlsa_name)]",
    ),
    Mutant(
        "unplaced-forgotten",
        "no new triple while a name that may share the records is served by a chain that it does not match",
        R,
        "    names = (tlsa_name, *unplaced(spec, state))",
        "    names = (tlsa_name,)",
    ),
    Mutant(
        "left-and-believed",
        "a mail server that comes back is surveyed like a new one",
        DISPOSAL,
        "    if gone and not state.pending_delete and state.tlsa_names.keys() <= spec.tlsa_names.keys():",
        "    if False:",
    ),
    Mutant(
        "left-too-early",
        "a mail server that left counts for as long as its TLSA names may",
        DISPOSAL,
        "    if gone and not state.pending_delete and state.tlsa_names.keys() <= spec.tlsa_names.keys():",
        "    if gone and not state.pending_delete:",
    ),
    Mutant(
        "withdrawn-forgotten",
        "a name taken out of the config is still held by caches",
        R,
        "    return [*spec.tlsa_names, *(o for o in state.tlsa_names if o not in spec.tlsa_names)]",
        "    return [*spec.tlsa_names]",
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
        '        if at is None or at.phase != "drained" or not (server and met_everywhere(server, at)):',
        "        if at is None:",
    ),
    Mutant(
        "rsa-record-forgotten",
        "records of every algorithm are published",
        S,
        "    return frozenset(v for chain in generation.chains.values() for v in tlsa.records(chain, tlsa_parameters))",
        "    return frozenset(v for chain in list(generation.chains.values())[:1] "
        "for v in tlsa.records(chain, tlsa_parameters))",
    ),
    Mutant(
        "old-record-dropped",
        "what is still served keeps its record",
        R,
        "        values |= records(generation, spec.tlsa_parameters)",
        "        pass",
    ),
    Mutant(
        "next-keys-unpublished",
        "the next keys are published ahead",
        R,
        '    if state.next_keys and "3 1 1" in spec.tlsa_parameters:',
        "    if False:",
    ),
    Mutant(
        "worse-never",
        "no set comes to be with a triple that matches nothing served",
        R,
        "        for parameters in caches.unmatched(before | values, chain) - caches.unmatched(before, chain)",
        "        for parameters in ()",
    ),
    Mutant(
        "surplus-never",
        "old records are removed",
        R,
        "    return seen | {v for v in state.ours - wanted if tlsa.parameters(v) in over}",
        "    return frozenset()",
    ),
    Mutant(
        "intent-not-counted",
        "an intended swap counts as done until the outcome is known",
        F,
        "        case Install(server=name, generation=generation, rollback=rollback):",
        "        case Install(server=name, generation=generation, rollback=rollback) if False:",
    ),
    Mutant(
        "old-generation-forgotten",
        "what was served before the rename may be served still",
        F,
        "            serves = (*(s for s in old.serves if s != generation), generation)",
        "            serves = (generation,)",
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
        "        values = set(self.past_values)",
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
        "    serves += [id_ for id_ in old.serves if id_ not in serves]",
        "",
    ),
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
        DEPLOYMENT,
        "    left = spec.drain - now.since(at.reloaded_at)",
        "    left = timedelta(0)",
    ),
    Mutant(
        "no-reload",
        "a rename alone does not end the old processes",
        DEPLOYMENT,
        '    "installed": Stage("reloaded", "installed; old processes go on with the old files", _reload),',
        '    "installed": Stage("", "", lambda d, _: iter([Verify(server=d.server.name, generation=d.generation.id, '
        'drained=True, because="")])),',
    ),
    Mutant(
        "dns-unwatched",
        "somebody else's change in DNS is noticed",
        RECORDS,
        '    return spec.check_interval, "check interval"',
        '    return spec.check_interval * 1000, "watch"',
    ),
    Mutant(
        "servers-unwatched",
        "somebody else's change at a mail server is noticed",
        DEPLOYMENT,
        "        left = spec.check_interval - now.since(at.verified_at)",
        "        left = spec.check_interval * 1000 - now.since(at.verified_at)",
    ),
    Mutant(
        "regression-unwatched",
        "while caches are waited for, regressions are looked for",
        RECORDS,
        '        return schedule.observe_every(spec, min(waited_for)), "caches are waited for"',
        '        return schedule.observe_every(spec, min(waited_for)) * 10000, "caches are waited for"',
    ),
    Mutant(
        "lost-not-restored",
        "what somebody replaced is put back",
        DEPLOYMENT,
        '        "something else is served than was installed",\n        _install_again,',
        '        "something else is served than was installed",\n        _other_rule,',
    ),
    Mutant(
        "no-standby",
        "a stand-by is made as soon as a roll is over",
        ROTATION,
        "        elif spec.standby and spec.tlsa_names and rollover.rolled(spec, state):",
        "        elif False:",
    ),
    Mutant(
        "revoke-served",
        "nothing is revoked while it may be served",
        DISPOSAL,
        "        if generation.revoke and generation.id not in served:",
        "        if generation.revoke:",
    ),
    Mutant(
        "no-last-chance",
        "a certificate that runs out is renewed with its own key",
        I,
        "    urgent = _fallback(spec, state, now)",
        "    urgent = None",
    ),
    Mutant(
        "ari-unheard",
        "the CA's window is heeded",
        D,
        "            moments.append((min(renewal.drawn.at, last_chance(chain)), "
        '"the CA\'s renewal window (RFC 9773)"))',
        '            moments.append((last_chance(chain), "the CA\'s renewal window (RFC 9773)"))',
    ),
    Mutant(
        "renewal-too-late",
        "a renewal is due well before the end",
        D,
        "    return chain.not_after - (life / 2 if life < SHORT_LIFE else life / 3)",
        "    return chain.not_after",
    ),
    Mutant("challenges-left", "challenges are taken away", I, "    if over:", "    if False:"),
    Mutant(
        "forget-unchecked",
        "keys that are served are not deleted",
        DISPOSAL,
        "    kept = {id_ for at in state.mail_servers.values() for id_ in at.serves} | {state.newest.id}",
        "    kept = set()",
    ),
    Mutant(
        "abort-deletes-served",
        "an abort never touches what is installed",
        DISPOSAL,
        "    served = {g.keys for g in state.generations if g.id in installed}",
        "    served = set()",
    ),
    Mutant(
        "second-address-unproven",
        "every address is proven",
        A,
        "        served = tuple(edges.probe(services, key_types))",
        "        served = tuple(edges.probe(services, key_types))[:1]",
    ),
    Mutant(
        "proof-by-any",
        "every handshake must meet the generation",
        A,
        "        wrong = [s for s in served if not _is(s, generation)]",
        "        wrong = [] if any(_is(s, generation) for s in served) else list(served)",
    ),
    Mutant(
        "one-at-a-time-backwards",
        "where a change is not atomic, what is served is added first and removed last",
        "agent.act.records",
        "    return frozenset(order[:1])",
        "    return frozenset(order[-1:])",
    ),
    Mutant(
        "one-at-a-time-for-several-keys",
        "a change that has no harmless order is not made value by value",
        "lifecycle.setchange",
        "        if not harmless(before, change, served, adds=adds):",
        "        if False:",
    ),
    Mutant(
        "not-atomic-at-once",
        "where a change is not atomic, it is made value by value",
        "agent.act.records",
        "    if capabilities.atomic:",
        "    if True:",
    ),
)

EQUIVALENT: dict[str, str] = {
    "publish-unlooked": (
        "the last look before records are added: a TTL that was raised since is read from the provider, and journaled, "
        "before the write that supersedes its set; the observe only spares vain writes."
    ),
    "unseen-is-empty": (
        "the obstacle of a name that was never asked: `deploy` and `finish` want a fresh look at every name of the "
        "server in any case, so no swap is planned on a name without one; the obstacle only says why."
    ),
    "clean-unlooked": (
        "the fresh look before a removal: taking away a value that matches nothing served cannot make parameters fail "
        "that did not fail before, whatever the set is by now; it only spares the provider vain writes."
    ),
    "surplus-of-primary": (
        "a record counts as surplus, or as published, at any server and not only where all give it: otherwise cleaning "
        "waits until all are heard and follow, and a record is written once more, in step with the back-off. Neither "
        "can hurt a sender, and once faults stop all servers agree."
    ),
    "change-not-noted": (
        "a change that no look has seen makes the last look out of date: the look comes a second later in any case "
        "(`schedule.observe_again`), what may come of the change is cached from the intent on, and `act.py` asks DNS "
        "in the same breath as the swap."
    ),
    "act-gate-empty": (
        "the gate in `act.py` asks the same question about the same state as the planner a moment before: it can only "
        "differ where the planner is broken, too (`no-obstacles` breaks both)."
    ),
}
