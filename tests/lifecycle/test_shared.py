"""Names whose aliases lead to one place: a change of the records there minds what is served under any of them."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from certagent.lifecycle import events as ev
from certagent.lifecycle import rollover
from certagent.lifecycle import steps as st
from certagent.lifecycle.model import Answer, Service, Sighting, Target
from certagent.lifecycle.state import State
from tests.lifecycle.play import OWNER, SPEC, Life

IMAPS, PLACE = "_993._tcp.mx1.example.org.", "_dane.example.org."
TWO = replace(
    SPEC,
    standby=False,
    owners={OWNER: ("postfix",), IMAPS: ("dovecot",)},
    targets=(
        Target("postfix", (Service("mx1.example.org", 25, "smtp"),)),
        Target("dovecot", (Service("mx1.example.org", 993, "tls"),)),
    ),
)


def aliased(step: st.AnyStep, state: State) -> list[ev.AnyEvent] | None:
    """The first look at each name finds that it is an alias."""
    if not isinstance(step, st.Look) or step.owner in state.owners:
        return None
    path = ((PLACE, 3600),)
    sighting = Sighting("example.org.", PLACE, {"ns1": Answer(frozenset(), 3600, path)}, "secure", "", path)
    return [ev.Looked(owner=step.owner, sighting=sighting, work=step.work)]


def stuck(step: st.AnyStep, state: State) -> list[ev.AnyEvent] | None:
    """Dovecot takes no new files."""
    if isinstance(step, st.Install) and step.target == "dovecot":
        return [ev.Failed(work=step.work, kind="misconfigured", code="mta.config", detail="doveconf fails")]
    return aliased(step, state)


def shared(life: Life) -> frozenset[str]:
    return life.zone.get(PLACE, frozenset())


def test_the_first_records_wait_until_every_server_of_them_is_proven() -> None:
    life = Life(TWO)
    life.until_quiet(stuck, limit=60)
    assert life.state.targets["postfix"].phase == "drained"
    assert shared(life) == frozenset()
    life.until_quiet(aliased)
    assert shared(life) == life.records("g1")


def test_old_records_stay_while_one_server_of_them_may_serve_the_old_key() -> None:
    life = Life(TWO)
    life.until_quiet(aliased)
    life.passes(timedelta(hours=5))
    life.happens(ev.Requested(what="rotate"))
    life.until_quiet(stuck, limit=60)
    assert life.state.targets["postfix"].serves == ("g2",)
    assert life.records("g1") <= shared(life)
    for owner in (OWNER, IMAPS):
        assert rollover.may_unpublish(TWO, life.state, owner, life.records("g1"))
    life.until_quiet()
    assert shared(life) == life.records("g2")


def test_what_one_of_the_names_leaves_is_still_the_others() -> None:
    """A name that is taken out of the config takes nothing of theirs with it, also while its alias is there."""
    life = Life(TWO)
    life.until_quiet(aliased)
    life.passes(timedelta(hours=5))
    life.spec = replace(TWO, owners={OWNER: ("postfix",)})
    done = [type(moment.step) for moment in life.until_quiet(limit=60)]
    assert not {st.Publish, st.Unpublish} & set(done)
    assert not rollover.withdrawn(life.spec, life.state, IMAPS)
    life.spec = replace(TWO, owners={})
    life.until_quiet(withdrawn=True)
    assert shared(life) == frozenset()


def test_nothing_is_removed_while_it_is_not_known_where_a_name_leads() -> None:
    life = Life(replace(TWO, owners={OWNER: ("postfix",)}))
    life.until_quiet(aliased)
    life.passes(timedelta(hours=5))
    life.spec = TWO
    against = rollover.may_unpublish(TWO, life.state, OWNER, life.records("g1"))
    assert against == f"{OWNER}: where {IMAPS} leads is not known yet: the records may be the same"
    assert rollover.withheld(TWO, life.state, OWNER) is None, "DANE is in force: what is served is published as ever"
    new = Life(replace(TWO, owners={OWNER: ("postfix",)}))
    new.until(st.Publish, aliased)
    assert rollover.withheld(new.spec, new.state, OWNER) is None
    held_back = f"where {IMAPS} leads is not known yet: the records may be the same"
    assert rollover.withheld(TWO, new.state, OWNER) == held_back


def test_where_an_alias_led_counts_while_caches_may_follow_it() -> None:
    """For its TTL a cache takes the old way, and keeps what it finds there for as long as that may live."""
    life = Life(TWO)
    life.until_quiet(aliased)
    path = (("_other.example.org.", 3600),)
    moved = Sighting("example.org.", path[0][0], {"ns1": Answer(shared(life), 3600, path)}, "secure", "", path)
    for hours, together in ((0, [OWNER, IMAPS]), (3, [OWNER, IMAPS]), (5, [OWNER])):
        life.passes(timedelta(hours=hours))
        life.happens(ev.Looked(owner=OWNER, sighting=moved))
        assert rollover.sharing(TWO, life.state, OWNER) == together
