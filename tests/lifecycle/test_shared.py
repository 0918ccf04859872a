"""Names whose aliases lead to one place: a change of the records there minds what is served under any of them."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from certagent.facts.dns import Answer, Observation
from certagent.facts.tls import Service
from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates
from certagent.lifecycle import steps as st
from certagent.lifecycle.spec import MailServer
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaNames
from tests.lifecycle.play import SPEC, TLSA_NAME, Life, chain_of, served, unmanaged

IMAPS, PLACE = "_993._tcp.mx1.example.org.", "_dane.example.org."
TWO = replace(
    SPEC,
    standby=False,
    tlsa_names={TLSA_NAME: ("postfix",), IMAPS: ("dovecot",)},
    mail_servers=(
        MailServer("postfix", (Service("mx1.example.org", 25, "smtp"),)),
        MailServer("dovecot", (Service("mx1.example.org", 993, "tls"),)),
    ),
)


def aliased(step: st.AnyStep, state: State) -> list[ev.AnyEvent] | None:
    """The first observation of each name finds that it is an alias."""
    if not isinstance(step, st.Observe) or step.tlsa_name in state.tlsa_names:
        return None
    path = ((PLACE, 3600),)
    observation = Observation("example.org.", PLACE, {"ns1": Answer(frozenset(), 3600, path)}, "secure", "", path)
    return [ev.Observed(tlsa_name=step.tlsa_name, observation=observation, lane=step.lane)]


def stuck(step: st.AnyStep, state: State) -> list[ev.AnyEvent] | None:
    """Dovecot takes no new files."""
    if isinstance(step, st.Install) and step.server == "dovecot":
        return [ev.Failed(lane=step.lane, kind="misconfigured", code="mta.config", detail="doveconf fails")]
    return aliased(step, state)


def shared(life: Life) -> frozenset[str]:
    return life.zone.get(PLACE, frozenset())


def test_the_first_records_wait_until_every_server_of_them_is_verified() -> None:
    life = Life(TWO)
    life.until_quiet(stuck, limit=60)
    assert life.state.mail_servers["postfix"].phase == "drained"
    assert shared(life) == frozenset()
    life.until_quiet(aliased)
    assert shared(life) == life.records("g1")


def test_old_records_stay_while_one_server_of_them_may_serve_the_old_key() -> None:
    life = Life(TWO)
    life.until_quiet(aliased)
    life.passes(timedelta(hours=5))
    life.happens(ev.Requested(what="rotate"))
    life.until_quiet(stuck, limit=60)
    assert life.state.mail_servers["postfix"].serves == ("g2",)
    assert life.records("g1") <= shared(life)
    for tlsa_name in (TLSA_NAME, IMAPS):
        assert gates.may_unpublish(TlsaNames(TWO, life.state)[tlsa_name], life.records("g1"))
    life.until_quiet()
    assert shared(life) == life.records("g2")


def test_what_one_of_the_names_leaves_is_still_the_others() -> None:
    """A name that is taken out of the config takes nothing of theirs with it, also while its alias is there."""
    life = Life(TWO)
    life.until_quiet(aliased)
    life.passes(timedelta(hours=5))
    life.spec = replace(TWO, tlsa_names={TLSA_NAME: ("postfix",)})
    done = [type(moment.step) for moment in life.until_quiet(limit=60)]
    assert not {st.Publish, st.Unpublish} & set(done)
    assert not life.names[IMAPS].withdrawn
    life.spec = replace(TWO, tlsa_names={})
    life.until_quiet(withdrawn=True)
    assert shared(life) == frozenset()


def test_nothing_is_removed_while_it_is_not_known_where_a_name_leads() -> None:
    life = Life(replace(TWO, tlsa_names={TLSA_NAME: ("postfix",)}))
    life.until_quiet(aliased)
    life.passes(timedelta(hours=5))
    life.spec = TWO
    against = gates.may_unpublish(TlsaNames(TWO, life.state)[TLSA_NAME], life.records("g1"))
    assert against == f"{TLSA_NAME}: where {IMAPS} leads is not known yet: the records may be the same"
    assert TlsaNames(TWO, life.state)[TLSA_NAME].publication_blocked is None, (
        "DANE is in force: what is served is published as ever"
    )
    new = Life(replace(TWO, tlsa_names={TLSA_NAME: ("postfix",)}))
    new.until(st.Publish, aliased)
    assert new.names[TLSA_NAME].publication_blocked is None
    held_back = f"where {IMAPS} leads is not known yet: the records may be the same"
    assert TlsaNames(TWO, new.state)[TLSA_NAME].publication_blocked == held_back


def test_a_new_kind_of_record_minds_what_is_served_where_the_records_may_be_the_same() -> None:
    """Whoever follows the other name would find the new kind, too, and no record of it that matches there."""
    pinned = replace(TWO, tlsa_parameters=("3 1 1", "2 1 1"))
    life = Life(replace(TWO, tlsa_names={TLSA_NAME: ("postfix",)}, mail_servers=TWO.mail_servers[:1]))
    life.until_quiet(unmanaged(chain_of("ee", "ca")), limit=1)
    path = ((PLACE, 3600),)
    answers: dict[str, Answer | Unknown] = {"ns1": Answer(frozenset({"3 1 1 " + "ee" * 32}), 3600, path)}
    life.happens(
        ev.Observed(tlsa_name=TLSA_NAME, observation=Observation("example.org.", PLACE, answers, "secure", "", path))
    )
    issuer = frozenset({"2 1 1 " + "ca" * 32})
    assert gates.may_publish(life.names[TLSA_NAME], issuer) is None
    against = gates.may_publish(TlsaNames(pinned, life.state)[TLSA_NAME], issuer)
    assert against == f"{TLSA_NAME}: what dovecot serves is not known yet"
    life.happens(ev.Inspected(server="dovecot", served=(served(chain_of("dd", "cb")),)))
    assert list(map(str, TlsaNames(pinned, life.state).unplaced)) == [IMAPS]
    against = gates.may_publish(TlsaNames(pinned, life.state)[TLSA_NAME], issuer)
    assert against == f"{TLSA_NAME}: no record of type 2 1 1 would match what is served now"
    assert not TlsaNames(pinned, life.state)[TLSA_NAME].missing & issuer
    elsewhere = Observation("example.org.", IMAPS, {"ns1": Answer(frozenset(), 3600)}, "secure")
    life.happens(ev.Observed(tlsa_name=IMAPS, observation=elsewhere))
    assert gates.may_publish(TlsaNames(pinned, life.state)[TLSA_NAME], issuer) is None


def test_a_name_with_a_server_that_was_not_heard_may_share_any_records() -> None:
    """A server that disagrees about an alias leads elsewhere, and caches go there until the TTL is over."""
    life = Life(replace(TWO, tlsa_parameters=("3 1 1", "2 1 1")))
    old, issuer = frozenset({"3 1 1 " + "ee" * 32}), frozenset({"2 1 1 " + "ca" * 32})
    life.happens(ev.Inspected(server="postfix", served=(served(chain_of("ee", "ca")),)))
    life.happens(ev.Inspected(server="dovecot", served=(served(chain_of("dd", "cb")),)))

    def seen(tlsa_name: str, target: str, values: frozenset[str], **others: Unknown) -> None:
        path = ((target, 3600),)
        answers: dict[str, Answer | Unknown] = {"ns1": Answer(values, 600, path), **others}
        observation = Observation("example.org.", target, answers, "secure", "", path)
        life.happens(ev.Observed(tlsa_name=tlsa_name, observation=observation))

    def against() -> tuple[str | None, str | None]:
        postfix = life.names[TLSA_NAME]
        assert bool(postfix.missing & issuer) == (gates.may_publish(postfix, issuer) is None)
        return gates.may_publish(postfix, issuer), gates.may_unpublish(postfix, frozenset({"3 1 1 " + "dd" * 32}))

    adds = f"{TLSA_NAME}: no record of type 2 1 1 would match what is served now"
    removes = f"{TLSA_NAME}: without these no record of type 3 1 1 would match what is served"
    seen(TLSA_NAME, PLACE, old | {"3 1 1 " + "dd" * 32})
    seen(IMAPS, "_other.example.org.", old, ns2=Unknown("it disagrees about the alias"))
    assert against() == (adds, removes), "ns2 may lead to the same place"
    without = replace(life.spec, tlsa_names={TLSA_NAME: ("postfix",)})
    assert gates.may_publish(TlsaNames(without, life.state)[TLSA_NAME], issuer) == adds, (
        "caches know it, though withdrawn"
    )
    seen(IMAPS, "_other.example.org.", old)
    assert against() == (adds, removes), "caches may have the alias that ns2 gave until now"
    life.passes(timedelta(seconds=2 * 4200))
    seen(IMAPS, "_other.example.org.", old)
    assert against() == (None, None)


def test_where_an_alias_led_counts_while_caches_may_follow_it() -> None:
    """For its TTL a cache takes the old way, and keeps what it finds there for as long as that may live."""
    life = Life(TWO)
    life.until_quiet(aliased)
    path = (("_other.example.org.", 3600),)
    moved = Observation("example.org.", path[0][0], {"ns1": Answer(shared(life), 3600, path)}, "secure", "", path)
    for hours, together in ((0, [TLSA_NAME, IMAPS]), (3, [TLSA_NAME, IMAPS]), (5, [TLSA_NAME])):
        life.passes(timedelta(hours=hours))
        life.happens(ev.Observed(tlsa_name=TLSA_NAME, observation=moved))
        assert [name.name for name in TlsaNames(TWO, life.state)[TLSA_NAME].shared.names] == together


def test_the_first_records_wait_while_a_server_of_another_name_is_not_heard() -> None:
    """It may lead to them, and what is served there is not verified."""

    def partly(step: st.AnyStep, state: State) -> list[ev.AnyEvent] | None:
        if not isinstance(step, st.Observe) or step.tlsa_name != IMAPS:
            return stuck(step, state)
        answers: dict[str, Answer | Unknown] = {"ns1": Answer(frozenset(), 3600), "ns2": Unknown("it disagrees")}
        observation = Observation("example.org.", IMAPS, answers, "secure")
        return [ev.Observed(tlsa_name=IMAPS, observation=observation, lane=step.lane)]

    life = Life(TWO)
    life.until_quiet(partly, limit=60)
    name = life.names[TLSA_NAME]
    assert name.shared.verified
    assert not life.names.unplaced
    assert list(map(str, name.shared.names)) == [TLSA_NAME]
    assert name.publication_blocked == "first publication: the key is served and verified first"
