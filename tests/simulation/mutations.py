"""The ways in which the engine is broken on purpose; each names the rule it breaks. Run by `mutants.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple, cast


class Mutant(NamedTuple):
    """A replacement in one module of certagent, found by the syntax tree: formatting and place do not matter."""

    name: str
    rule: str
    place: str
    """`module:function`, the function by its qualified name; without one: the module's own statements."""
    old: str
    """An expression or a statement, there exactly once. With `...` as its body, only its head is meant."""
    new: str
    """What stands there instead."""
    shown_by: str = ""
    """The mischief after which it shows soonest, if it seldom shows otherwise."""

    @property
    def module(self) -> str:
        """The module it is in."""
        return f"certagent.{self.place.partition(':')[0]}"

    def applied(self, source: str) -> ast.Module:
        """The module with the replacement.

        Raises: `LookupError` if it does not apply: the function is not there, or `old` is not in it exactly once.
        """
        tree = ast.parse(source)
        scope: ast.AST = tree
        for name in filter(None, self.place.partition(":")[2].split(".")):
            scope = next((n for n in ast.iter_child_nodes(scope) if getattr(n, "name", None) == name), ast.Pass())
        change = _Change(_parsed(self.old), _parsed(self.new))
        change.visit(scope)
        if change.count != 1:
            raise LookupError(f"{self.name}: found {change.count} times in {self.place}: {self.old}")
        return ast.fix_missing_locations(tree)


class _Change(ast.NodeTransformer):
    """Replaces what is equal to a node."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old = old
        self.new = new
        self.head_only = _is_head(old)
        self.wanted = _shape(old, head_only=self.head_only)
        self.count = 0

    def visit(self, node: ast.AST) -> ast.AST:
        if type(node) is not type(self.old) or _shape(node, head_only=self.head_only) != self.wanted:
            return self.generic_visit(node)
        self.count += 1
        if not self.head_only:
            return self.new
        for field, value in ast.iter_fields(self.new):
            if field not in _BODIES:
                setattr(node, field, value)
        return node


_BODIES = ("body", "orelse")


def _parsed(text: str) -> ast.AST:
    if text.startswith("case "):
        [match] = ast.parse(f"match _:\n  {text}").body
        assert isinstance(match, ast.Match)
        return match.cases[0]
    [statement] = ast.parse(text).body
    return statement.value if isinstance(statement, ast.Expr) else statement


def _is_head(node: ast.AST) -> bool:
    body = getattr(node, "body", None)
    return isinstance(body, list) and _dump(cast("object", body)) == _dump(ast.parse("...").body)


def _shape(node: ast.AST, *, head_only: bool) -> list[tuple[str, str]]:
    fields = cast("Iterator[tuple[str, object]]", ast.iter_fields(node))
    return [(field, _dump(value)) for field, value in fields if not (head_only and field in _BODIES)]


def _dump(value: object) -> str:
    if isinstance(value, list):
        return repr([_dump(one) for one in cast("list[object]", value)])
    return ast.dump(value) if isinstance(value, ast.AST) else repr(value)


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "interval-a-fifth",
        "a set may be cached for its whole TTL and more",
        "lifecycle.caches:retire_interval_of",
        "max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "ttl / 5",
    ),
    Mutant(
        "interval-short-of-ttl",
        "the retire interval is never shorter than the TTL",
        "lifecycle.caches:retire_interval_of",
        "max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "ttl * 0.8",
    ),
    Mutant(
        "interval-halved",
        "two TTLs are waited for, and not one",
        "lifecycle.caches:retire_interval_of",
        "max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "max(2 * ttl, ttl + max(safety_margin, GRAIN)) / 2",
    ),
    Mutant(
        "second-ttl-forgotten",
        "two TTLs are waited for, also if the safety margin is shorter",
        "lifecycle.caches:retire_interval_of",
        "max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "ttl + max(safety_margin, GRAIN)",
    ),
    Mutant(
        "margin-forgotten",
        "the safety margin is waited for, also if the TTL is shorter",
        "lifecycle.caches:retire_interval_of",
        "max(2 * ttl, ttl + max(safety_margin, GRAIN))",
        "2 * ttl",
    ),
    Mutant(
        "no-interval",
        "caches are waited for",
        "lifecycle.caches:still_cached",
        "h.gone_at is None or now.since(h.gone_at) < retire_interval(h, path, safety_margin)",
        "h.gone_at is None",
    ),
    Mutant(
        "incomplete-is-complete",
        "a server that was not heard may give any set it ever gave",
        "lifecycle.caches:complete",
        "bool(observation.answers) and all(isinstance(a, Answer) for a in observation.answers.values())",
        "any(isinstance(a, Answer) for a in observation.answers.values())",
    ),
    Mutant(
        "one-server-asked",
        "every authoritative server is asked",
        "lifecycle.caches:known",
        "[a for _, a in sorted(observation.answers.items()) if isinstance(a, Answer)]",
        "[a for _, a in sorted(observation.answers.items()) if isinstance(a, Answer)][:1]",
    ),
    Mutant(
        "regression-keeps-clock",
        "a set that comes back is waited for again from the start",
        "lifecycle.caches:after",
        "now if values is None and everyone else None",
        "now if values is None and everyone else old.gone_at if old else None",
    ),
    Mutant(
        "smallest-ttl",
        "the largest TTL a set was given with counts",
        "lifecycle.caches:after",
        "max(ttl_s, old.ttl_s if old else 0)",
        "min(ttl_s, old.ttl_s if old else ttl_s)",
    ),
    Mutant(
        "alias-forgotten",
        "through an old alias the old set is fetched for the alias's TTL",
        "lifecycle.caches:retire_interval",
        "ttl_s += sum(hop_s for _, hop_s in cached.path)",
        "pass",
    ),
    Mutant(
        "alias-believed",
        "what an alias leads to by now may have been another set before the first complete observation there",
        "lifecycle.caches:after",
        "given += [(None, ttl_s, a.path) for a in answers if _place(a.path) not in places]",
        "pass",
    ),
    Mutant(
        "cached-dropped-early",
        "a set is kept until its retire interval is over",
        "lifecycle.caches:_kept",
        "4 * timedelta(seconds=cached.ttl_s + sum(ttl for _, ttl in cached.path)) + timedelta(days=2)",
        "timedelta(0)",
    ),
    Mutant(
        "any-parameters-will-do",
        "for all TLSA parameters in a set some record must match (RFC 7671 section 8)",
        "lifecycle.caches:unmatched",
        "frozenset(parameters for parameters, ok in matched.items() if not ok)",
        "frozenset() if any(matched.values()) else frozenset(matched)",
    ),
    Mutant(
        "wall-clock",
        "waits are measured in time that surely passed, not by the wall",
        "facts.moment:Instant.since",
        "timedelta(0, self.elapsed_s - earlier.elapsed_s)",
        "self.wall - earlier.wall",
    ),
    Mutant(
        "no-obstacles",
        "nothing is swapped while caches may have a set without the key",
        "lifecycle.gates:obstacles",
        "for name in names: ...",
        "for name in []: ...",
    ),
    Mutant(
        "one-key-type",
        "RSA and ECDSA are both covered",
        "lifecycle.gates:may_install",
        "tuple(generation.chains.values())",
        "tuple(generation.chains.values())[:1]",
    ),
    Mutant(
        "one-name",
        "every TLSA name of a mail server counts",
        "lifecycle.gates:may_install",
        "names.at(server)",
        "names.at(server)[:1]",
    ),
    Mutant(
        "shared-records-forgotten",
        "names whose aliases lead to one place are rolled as one",
        "lifecycle.tlsaname:TlsaNames._of",
        "tuple(names) or (name,)",
        "(name,)",
    ),
    Mutant(
        "unplaced-forgotten",
        "no new TLSA parameters while a name that may share the records serves a chain that they do not match",
        "lifecycle.tlsaname:TlsaName.minded",
        "distinct((*self.served, *anywhere)) if anywhere else self.served",
        "self.served",
    ),
    Mutant(
        "withdrawn-may-share-nothing",
        "a name that is withdrawn may share the records of any other while it is not known where it leads",
        "lifecycle.tlsaname:TlsaNames.served_anywhere",
        "distinct(chain for name in self if not name.placed for chain in name.served)",
        "distinct(chain for name in self.anywhere for chain in name.served)",
    ),
    Mutant(
        "lost-swap-believed",
        "the key of a swap, met before it with another certificate, is from one that the state does not know",
        "lifecycle.state:State.surprises",
        "g.id != begun",
        "True",
    ),
    Mutant(
        "urgent-by-memory",
        "what is met is wrong only if it breaks what DNS gives now, not what it gave before",
        "lifecycle.gates:_urgent",
        "name.sets",
        "_seen_sets(name, now)",
    ),
    Mutant(
        "left-and-believed",
        "a mail server that comes back is inspected like a new one",
        "lifecycle.rules.disposal:delete_mail_servers",
        "gone and not state.pending_delete and kept <= spec.tlsa_names.keys()",
        "False",
    ),
    Mutant(
        "left-too-early",
        "a mail server that left counts for as long as its TLSA names may",
        "lifecycle.rules.disposal:delete_mail_servers",
        "gone and not state.pending_delete and kept <= spec.tlsa_names.keys()",
        "gone and not state.pending_delete",
    ),
    Mutant(
        "withdrawn-forgotten",
        "a name taken out of the configuration may be cached still",
        "lifecycle.tlsaname:TlsaNames._names",
        "(*spec.tlsa_names, *withdrawn)",
        "(*spec.tlsa_names,)",
    ),
    Mutant(
        "publish-before-serving",
        "the first publication comes after the key is served",
        "lifecycle.tlsaname:TlsaName.publication_blocked",
        'None if same and self.shared.verified else "first publication: the key is served and verified first"',
        "None",
    ),
    Mutant(
        "publish-half-verified",
        "first publication: every mail server serves it, and nothing else",
        "lifecycle.shared:Shared.verified",
        'server is None or at is None or at.phase != "drained" or at.strange or not at.met_everywhere(server)',
        "at is None",
    ),
    Mutant(
        "rsa-record-forgotten",
        "records of every key type are published",
        "lifecycle.state:records",
        "generation.chains.values()",
        "list(generation.chains.values())[:1]",
    ),
    Mutant(
        "old-record-dropped",
        "what is still served keeps its record",
        "lifecycle.shared:Shared.values",
        "values |= records(generation, spec.tlsa_parameters)",
        "pass",
    ),
    Mutant(
        "next-keys-unpublished",
        "the next keys are published ahead",
        "lifecycle.shared:Shared.values",
        "state.next_keys and tlsa.DANE_EE_SPKI_SHA256 in spec.tlsa_parameters",
        "False",
    ),
    Mutant(
        "newly-unmatched-never",
        "no set comes to be with TLSA parameters that match nothing served",
        "lifecycle.tlsaname:TlsaName.newly_unmatched",
        "caches.unmatched(old | values, chain) - caches.unmatched(old, chain)",
        "frozenset[str]()",
    ),
    Mutant(
        "surplus-never",
        "old records are removed",
        "lifecycle.tlsaname:TlsaName.surplus",
        "seen | {v for v in names.ours - self.desired if tlsa.parameters(v) in over} if over else seen",
        "frozenset()",
    ),
    Mutant(
        "intent-not-counted",
        "an intended swap counts as done until the outcome is known",
        "lifecycle.fold:_intended",
        "case Install(server=name, generation=generation, rollback=rollback): ...",
        "case Install(server=name, generation=generation, rollback=rollback) if False: ...",
    ),
    Mutant(
        "old-generation-forgotten",
        "what was served before the rename may be served still",
        "lifecycle.fold:_intended",
        "(*(s for s in old.serves if s != generation), generation)",
        "(generation,)",
    ),
    Mutant(
        "verified-is-enough",
        "old processes live on after the first verification",
        "lifecycle.fold:_verified",
        "not event.drained",
        "False",
    ),
    Mutant(
        "past-values-forgotten",
        "values of deleted keys are still ours to remove",
        "lifecycle.state:State.ours",
        "set(self.past_values)",
        "set()",
    ),
    Mutant(
        "inspection-forgotten",
        "what was served before certagent came counts",
        "lifecycle.fold:_inspected",
        "serves += [id_ for id_ in old.serves if id_ not in serves]",
        "serves = []",
    ),
    Mutant(
        "put-back-is-all-there-is",
        "after files were put back, processes that read the others may live on",
        "lifecycle.fold:_inspected",
        "serves += [id_ for id_ in old.serves if id_ not in serves]",
        "pass",
    ),
    Mutant(
        "no-fresh-observation",
        "DNS is asked in the same breath as the swap",
        "agent.act.serving:install_unless",
        "state = fold(state, event, now)",
        "pass",
    ),
    Mutant(
        "drain-skipped",
        "old processes are waited for",
        "lifecycle.rules.deployment:_verify_drained",
        "view.spec.drain - view.now.since(at.reloaded_at)",
        "timedelta(0)",
    ),
    Mutant(
        "strange-unnoticed",
        "what handshakes met where something else was expected disproves what is remembered",
        "lifecycle.state:State.surprises",
        "at is None",
        "True",
        "roll_by_hand",
    ),
    Mutant(
        "strange-exempts",
        "after a roll by hand the swap back waits for caches, though it was served before",
        "lifecycle.gates:obstacles",
        "(strange := name.shared.strange)",
        "(strange := None)",
        "roll_by_hand",
    ),
    Mutant(
        "strange-serves-nobody",
        "a set that matches only what was met unexpectedly holds a swap back",
        "lifecycle.shared:Shared.served",
        "distinct((*known, *self.strange))",
        "distinct(known)",
        "roll_by_hand",
    ),
    Mutant(
        "strange-dns-unasked",
        "DNS is asked before a swap back over what was met unexpectedly",
        "lifecycle.gates:names_that_roll",
        "n.shared.strange or not all(map(n.already_served, chains))",
        "not all(map(n.already_served, chains))",
        "roll_by_hand",
    ),
    Mutant(
        "swap-on-memory",
        "what is served is asked in the same breath as the swap",
        "agent.act.serving:install_unless",
        "observed += surprises((step.server,), spec, state, edges)",
        "pass",
        "roll_by_hand",
    ),
    Mutant(
        "publish-on-memory",
        "what is served is asked in the same breath as the first records of their parameters",
        "agent.act.dispatch:act",
        "name.lacks_parameters(step.values)",
        "False",
        "roll_by_hand",
    ),
    Mutant(
        "accepted-for-ever",
        "deferrals were accepted for one swap, not for putting it back over what somebody rolled to since",
        "lifecycle.rules.deployment:_install_again",
        "if at.strange: ...",
        "if False: ...",
        "roll_by_hand",
    ),
    Mutant(
        "strange-deleted",
        "an abort does not delete the key of what was met unexpectedly",
        "lifecycle.rules.disposal:abort",
        "strange | {chain.spki for g in state.generations if g.id in installed for chain in g.chains.values()}",
        "{chain.spki for g in state.generations if g.id in installed for chain in g.chains.values()}",
        "old_state",
    ),
    Mutant(
        "no-reload",
        "a rename alone does not end the old processes",
        "lifecycle.rules.deployment:_reload",
        "Reload(server=deployment.server.name, because=why)",
        "Verify(server=deployment.server.name, generation=deployment.generation.id, drained=True, because=why)",
    ),
    Mutant(
        "dns-unobserved",
        "somebody else's change in DNS is noticed",
        "lifecycle.rules.records:_interval",
        "(view.spec.check_interval, 'check interval')",
        "(view.spec.check_interval * 1000, 'check interval')",
    ),
    Mutant(
        "servers-unverified",
        "somebody else's change at a mail server is noticed",
        "lifecycle.rules.deployment:verify",
        "spec.check_interval - now.since(at.verified_at)",
        "spec.check_interval * 1000 - now.since(at.verified_at)",
    ),
    Mutant(
        "regression-unobserved",
        "while caches are waited for, regressions are looked for",
        "lifecycle.rules.records:_interval",
        "schedule.observe_every(view.spec, min(waited_for))",
        "schedule.observe_every(view.spec, min(waited_for)) * 10000",
    ),
    Mutant(
        "regression-behind-a-late-provider",
        "regressions are looked for also while a provider publishes late",
        "lifecycle.rules.records:_interval",
        'min((*found, (view.spec.check_interval, "check interval")), key=itemgetter(0))',
        '(*found, (view.spec.check_interval, "check interval"))[0]',
    ),
    Mutant(
        "drifted-not-restored",
        "what somebody replaced is put back",
        "lifecycle.rules.deployment:",
        'Stage("installed again; taken back if caches forbid it by now", "something else is served than '
        'was installed", _install_again)',
        'Stage("nothing", "")',
    ),
    Mutant(
        "no-standby",
        "a standby key is made as soon as a roll is over",
        "lifecycle.rules.rotation:make_keys",
        "spec.standby and spec.tlsa_names and rolled(spec, state)",
        "False",
    ),
    Mutant(
        "revoke-served",
        "nothing is revoked while it may be served",
        "lifecycle.rules.disposal:revoke",
        "generation.revoke and generation.id not in served and not met",
        "generation.revoke",
    ),
    Mutant(
        "no-last-chance",
        "a certificate that runs out is renewed with its own key",
        "lifecycle.rules.issuance:_wanted",
        "_fallback(view)",
        "None",
        "deaf_for_days",
    ),
    Mutant(
        "ari-asked-daily",
        "a CA that gave no answer is asked for its window again within six hours",
        "lifecycle.schedule",
        "360 * _MINUTE",
        "1440 * _MINUTE",
    ),
    Mutant(
        "ari-unheard",
        "the CA's window is heeded",
        "lifecycle.schedule:due",
        "min(at, last_chance(chain))",
        "last_chance(chain)",
    ),
    Mutant(
        "renewal-too-late",
        "a renewal is due well before the end",
        "lifecycle.schedule:backstop",
        "chain.not_after - (life / 2 if life < SHORT_LIFE else life / 3)",
        "chain.not_after",
    ),
    Mutant(
        "silent-server-stops-challenges",
        "a name server that does not answer this host is passed over: the CA judges",
        "lifecycle.rules.issuance:_waits_for",
        'return ("answering", "the responses are in place; a server that does not answer is passed over")',
        'return ("all", "")',
        "deaf_for_days",
    ),
    Mutant(
        "no-last-try-at-the-ca",
        "when time runs out the CA is asked although no server was heard",
        "agent.act.challenges:respond",
        'step.waits_for == "none"',
        "False",
        "deaf_for_days",
    ),
    Mutant(
        "any-view-is-the-worlds",
        "that there are no records counts only if it was validated",
        "dns.recursive:believed",
        'if security in ("secure", "insecure"): ...',
        "if True: ...",
        "inside",
    ),
    Mutant(
        "wildcard-uncovered",
        "a name below a wildcard is never emptied: the wildcard's keys would come back",
        "agent.act.records:_refuse_to_uncover",
        "if wildcards := edges.resolver().wildcards(zone, name): ...",
        "if wildcards := (): ...",
        "wildcard",
    ),
    Mutant(
        "challenges-left",
        "challenges are taken away",
        "lifecycle.rules.issuance:clean_up",
        "if over: ...",
        "if False: ...",
    ),
    Mutant(
        "delete-unchecked",
        "keys that are served are not deleted",
        "lifecycle.rules.disposal:delete",
        "{id_ for at in state.mail_servers.values() for id_ in at.serves} | {state.newest.id}",
        "set()",
    ),
    Mutant(
        "abort-deletes-served",
        "an abort never touches what is installed",
        "lifecycle.rules.disposal:abort",
        "strange | {chain.spki for g in state.generations if g.id in installed for chain in g.chains.values()}",
        "set()",
    ),
    Mutant(
        "second-address-unverified",
        "every address is verified",
        "agent.act.serving:verify",
        "[s for s in served if is_wrong(s)]",
        "[s for s in served[:1] if is_wrong(s)]",
    ),
    Mutant(
        "verified-by-any",
        "every handshake must meet the generation",
        "agent.act.serving:verify",
        "[s for s in served if is_wrong(s)]",
        "[] if not all(map(is_wrong, served)) else list(served)",
    ),
    Mutant(
        "one-at-a-time-backwards",
        "where a change is not atomic, what is served is added first and removed last",
        "agent.act.records:_first",
        "frozenset(order[:1])",
        "frozenset(order[-1:])",
    ),
    Mutant(
        "one-at-a-time-for-several-keys",
        "a change that has no harmless order is not made value by value",
        "lifecycle.setchange:one_at_a_time",
        "not harmless(before, change, served, adds=adds)",
        "False",
    ),
    Mutant(
        "not-atomic-at-once",
        "where a change is not atomic, it is made value by value",
        "agent.act.records:_first",
        "capabilities.atomic",
        "True",
    ),
    Mutant(
        "published-late-and-missed",
        "a provider that publishes late is given its time before a response is looked for",
        "lifecycle.rules.issuance:issue",
        "order.shown_at and (left := order.shown_at.since(now)) > timedelta(0)",
        "False",
    ),
    Mutant(
        "published-late-and-gone",
        "that a set is not there says nothing while its provider may still publish it",
        "lifecycle.caches:after",
        "everyone and (not (early and old.due_at))",
        "everyone",
    ),
    Mutant(
        "written-uncounted",
        "every write is counted in the journal before it is made",
        "agent.act.spending:Counted.__call__",
        "self._note(ev.Writing(zone=zone, per_day=per_day))",
        "None",
    ),
    Mutant(
        "written-without-end",
        "a provider that takes so many writes a day gets no more",
        "lifecycle.budget:ZoneBudget.left",
        "self.used(now) + 1 - self.limit(urgent=urgent)",
        "0",
    ),
    Mutant(
        "waits-for-the-ca",
        "a CA's Retry-After ends so that tries are left before what is served runs out",
        "lifecycle.schedule:retry_after",
        "at_most(failure, in_service) if of_the_ca(failure) else None",
        "None",
    ),
    Mutant(
        "deaf-to-the-operator",
        "a CA that wants a pause is asked all the same if the operator wants a certificate now",
        "lifecycle.fold:_requested",
        "schedule.of_the_ca(f) and f.kind != 'misconfigured' and (not wants)",
        "schedule.of_the_ca(f)",
    ),
    Mutant(
        "ari-antique",
        "a renewal window that ended before the certificate began is worth nothing",
        "lifecycle.schedule:wished",
        "renewal.drawn.at if renewal.drawn.end > chain.not_before else None",
        "renewal.drawn.at",
    ),
    Mutant(
        "ari-obeyed",
        "a CA that wants everything renewed at once is obeyed more and more seldom",
        "lifecycle.schedule:hurried",
        "any(((at := wished(state, newest, key_type)) and at <= now.wall for key_type, _ in early))",
        "False",
    ),
    Mutant(
        "asked-not-observed",
        "DNS is observed when the operator comes",
        "lifecycle.rules.records:observe",
        "view.state.asked_since(name.known.observed_at)",
        "False",
    ),
    Mutant(
        "asked-not-verified",
        "what is served is verified when the operator comes",
        "lifecycle.rules.deployment:verify",
        "state.asked_since(at.verified_at)",
        "False",
    ),
    Mutant(
        "drift-backs-off",
        "what is put in place of something else is verified at once",
        "lifecycle.fold:_intended",
        "[Lane('verify', name)] if drifted else []",
        "[]",
    ),
    Mutant(
        "fails-for-good",
        "what failed at a mail server is over once it is verified to serve the newest certificate",
        "lifecycle.fold:_verified",
        "failures.of_others(state, (event.server,))",
        "failures.without(state, Lane('install', event.server))",
    ),
    Mutant(
        "undeclared-unlooked",
        "records at a service without `tlsa: true` count before a key changes",
        "lifecycle.gates:obstacles",
        "undeclared(name, chains, now) if name.undeclared else _at(name, chains, now)",
        "[] if name.undeclared else _at(name, chains, now)",
        "unasked",
    ),
    Mutant(
        "undeclared-unheard",
        "where nobody answers for such a name, the key stays",
        "lifecycle.gates:undeclared",
        "not name.sets and not all(map(name.key_served, chains)) and not name.shared.runs_out(now)",
        "False",
        "unasked",
    ),
    Mutant(
        "undeclared-issuer",
        "records of others may pin the issuer, also of a renewal with the same key",
        "lifecycle.tlsaname:TlsaName._pins_issuer",
        "self.undeclared",
        "False",
        "unasked",
    ),
    Mutant(
        "undeclared-withdrawn",
        "records that nobody declared are never certagent's to remove",
        "lifecycle.tlsaname:TlsaNames._names",
        "name not in spec.tlsa_names and not at.undeclared",
        "name not in spec.tlsa_names",
        "unasked",
    ),
    Mutant(
        "inspected-long-ago",
        "what is served is inspected in the same minute as it is first replaced",
        "lifecycle.rules.deployment:deploy",
        "not schedule.fresh(at.inspected_at, now)",
        "False",
    ),
    Mutant(
        "names-lost",
        "the first swap takes no name away that is served today",
        "lifecycle.rules.deployment:deploy",
        "if lost := at_first_swap(spec, state, server.name, everywhere, now.wall): ...",
        "if False: ...",
    ),
    Mutant(
        "names-unreached",
        "names in the files count where the server cannot be met",
        "lifecycle.rules.deployment:deploy",
        "at is None and (failure is None or failure.kind == 'misconfigured' or late)",
        "False",
    ),
    Mutant(
        "met-by-intent",
        "a first swap that was begun says nothing of what is served before it",
        "lifecycle.tlsaname:TlsaNames.known_at",
        "at is not None and at.met",
        "at is not None and at.serves",
    ),
    Mutant(
        "first-at-one-server",
        "a set that one server has left is none for the others: the first records wait for TLS",
        "lifecycle.tlsaname:TlsaName.publication_blocked",
        "all(self.sets) or (self.seen_somewhere and self._known)",
        "self.seen_somewhere",
    ),
    Mutant(
        "files-unread",
        "what is in a mail server's files counts as soon as it may be read, also while old processes answer",
        "agent.act.serving:verify",
        "others_in_files(step.server, generation, edges)",
        "[]",
        "old_state",
    ),
    Mutant(
        "inspected-once",
        "what the last inspection did not meet holds no new record back",
        "lifecycle.shared:Shared.expected",
        "at.inspected if at.phase == 'inspected' else at.serves",
        "at.serves",
        "roll_by_hand",
    ),
    Mutant(
        "back-unheard",
        "a swap back that is not urgent waits for servers that are not heard",
        "lifecycle.gates:obstacles",
        "not _urgent(name, strange, now)",
        "False",
        "roll_by_hand",
    ),
    Mutant(
        "one-file-two-servers",
        "a file that two mail servers read is written for neither",
        "mta.claims:clashes",
        "if earlier := parts.get(claim.entry) or whole_file: ...",
        "if earlier := None: ...",
        "link",
    ),
    Mutant(
        "below-a-cut",
        "a provider of the parent does not write a zone below it: nobody would see that",
        "agent.zones:Zones.writing",
        "if not zone_of(candidate, (zone,)): ...",
        "if False: ...",
        "cut",
    ),
    Mutant(
        "put-back-by-all",
        "what is put back breaks no key type that is served",
        "lifecycle.gates:breaks_more",
        "broken(other) < broken(one)",
        "bool(broken(one)) and not broken(other)",
    ),
)

EQUIVALENT: dict[str, str] = {
    "publish-unlooked": (
        "the last observation before records are added: a TTL that was raised since is read from the provider, and "
        "journaled, before the write that supersedes its set; the observe only spares vain writes."
    ),
    "unseen-is-empty": (
        "the obstacle of a name that was never asked: `deploy` and `finish` want a fresh observation of every name of "
        "the server in any case, so no swap is planned on a name without one; the obstacle only says why."
    ),
    "clean-unlooked": (
        "the fresh observation before a removal: taking away a value that matches nothing served cannot make "
        "parameters fail that did not fail before, whatever the set is by now; it only spares the provider vain writes."
    ),
    "surplus-of-primary": (
        "a record counts as surplus, or as published, at any server and not only where all give it: otherwise cleaning "
        "waits until all are heard and follow, and a record is written once more, in step with the back-off. Neither "
        "can break a sender, and once faults stop all servers agree."
    ),
    "change-not-noted": (
        "a change that no observation has seen makes the last one out of date: the next comes a second later in any "
        "case (`schedule.observe_again`), what may come of the change is cached from the intent on, and `agent/act` "
        "asks DNS in the same breath as the swap."
    ),
    "act-gate-empty": (
        "the gate in `agent/act` asks the same question about the same state as the planner a moment before: it can "
        "only differ where the planner is broken, too (`no-obstacles` breaks both)."
    ),
}
