"""When TLSA records are observed, added and removed, and what each says of why."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.rules import records
from tests.lifecycle.play import (
    CA,
    MINUTE,
    SPEC,
    STRANGE,
    TLSA_NAME,
    Life,
    chain_of,
    swapping,
)


def test_nothing_is_published_on_an_observation_that_met_nobody() -> None:
    """Nor before any observation, nor between a change and the observation after it."""
    life = Life()
    assert life.offers(records.publish) == []
    life = Life.published()
    life.looks(None)
    assert life.offers(records.publish) == []
    life.looks(frozenset({"3 1 1 " + "99" * 32}))
    assert [type(offer) for offer in life.offers(records.publish)] == [st.Publish]
    life.does(st.Publish(tlsa_name=TLSA_NAME, values=STRANGE, ttl_s=60, because=""))
    assert life.offers(records.publish) == []


def test_a_first_publication_that_waits_says_why() -> None:
    """And is observed again at the latest after the check interval."""
    life = Life()
    life.until(st.Install)
    [wait] = life.offers(records.publish)
    assert isinstance(wait, st.Wait)
    assert wait.because == f"{TLSA_NAME} not published: first publication: the key is served and verified first"
    assert wait.delay == SPEC.check_interval


def test_a_name_below_a_wildcard_gets_its_own_records_and_loses_none() -> None:
    """All that should be there at once, since they hide the wildcard's (RFC 4592); what is not its own stays."""
    life = Life.published()
    old = "3 1 1 " + "99" * 32
    life.happens(ev.Requested(what="rotate"))
    life.until(st.Unpublish)
    before = life.names[TLSA_NAME].surplus
    assert before
    life.looks(life.in_dns | {old}, wildcard="*.example.org.")
    assert not life.names[TLSA_NAME].surplus
    [add] = life.offers(records.publish)
    assert isinstance(add, st.Publish)
    assert add.values == life.names[TLSA_NAME].desired
    assert add.because == "a wildcard answers for the name: it gets its own records"
    life.looks(life.in_dns)
    assert life.names[TLSA_NAME].surplus == before
    assert life.offers(records.publish) == []


def test_records_are_added_on_a_fresh_observation_and_again_only_after_a_while() -> None:
    """A TTL raised since would be superseded unseen; a provider that lost the change is asked once more."""
    life = Life.published()
    life.looks(life.in_dns - life.records("g1"))
    [add] = life.offers(records.publish)
    assert isinstance(add, st.Publish)
    assert (add.values, add.because) == (life.in_dns, "keys k2 must be in every cache before they serve")
    life.passes(2 * MINUTE)
    [observe] = life.offers(records.publish)
    assert isinstance(observe, st.Observe)
    assert observe.because == "the last observation before records are added"
    waits: list[float] = []
    for _ in range(3):
        life.does(add, ev.Published(tlsa_name=TLSA_NAME, values=add.values))
        life.passes(timedelta(milliseconds=1))
        life.looks(life.in_dns - life.records("g1"))
        [wait] = life.offers(records.publish)
        assert isinstance(wait, st.Wait)
        assert wait.because == "the provider has accepted a change that is not to be seen yet"
        waits.append(round(wait.delay.total_seconds()))
        life.passes(wait.delay)
        assert life.offers(records.publish) == [add]
    assert waits == [2, 5, 15]


def test_why_records_are_added() -> None:
    """The first ones; those of the next keys; and what somebody else deleted."""
    life = Life(replace(SPEC, standby=False))
    assert life.until(st.Publish).because == "first publication: what is served is verified"
    life.until_quiet()
    life.looks(STRANGE)
    [add] = life.offers(records.publish)
    assert add.because == "a record of what is served is missing"


def test_when_is_looked_again() -> None:
    """Soon after a change, then less and less often; with the watch where nothing is waited for."""
    life = Life.published()

    def next_observation() -> tuple[float, str]:
        [offer] = life.offers(records.observe)
        if isinstance(offer, st.Observe):
            return 0, offer.because
        assert isinstance(offer, st.Wait)
        return round(offer.delay.total_seconds()), offer.because.partition(": ")[2]

    life.looks()
    assert next_observation() == (6 * 3600, "check interval")
    life.looks(life.in_dns, None)
    assert next_observation() == (900, "a server was not heard"), "the change is hours ago"
    publish = st.Publish(tlsa_name=TLSA_NAME, values=STRANGE, ttl_s=60, because="")
    life.does(publish)
    assert next_observation() == (0, "changed, and not observed since")
    life.passes(MINUTE)
    life.looks(life.in_dns, life.in_dns - life.records("g1"))
    assert next_observation() == (15, "not every server has followed")
    life.passes(timedelta(seconds=15))
    assert next_observation() == (0, "not every server has followed")
    new = Life()
    assert next_observation() != (0, "never observed")
    [first] = new.offers(records.observe)
    assert first.because == "never observed"
    new.looks(None)
    [offer] = new.offers(records.observe)
    assert isinstance(offer, st.Wait)
    assert offer.delay == MINUTE, "as if the change were four minutes ago"


def test_old_records_stay_until_every_mail_server_is_freshly_verified() -> None:
    """RFC 7671 section 8.1: they go last."""
    life = swapping()
    old = life.records("g1")
    life.until(st.Unpublish)
    assert life.state.mail_servers["postfix"].serves == ("g2",)
    [remove] = life.offers(records.unpublish)
    assert isinstance(remove, st.Unpublish)
    assert (remove.values, remove.because) == (old, "no longer matched by anything that is served")
    life.passes(2 * MINUTE)
    [verify] = life.offers(records.unpublish)
    assert isinstance(verify, st.Verify)
    assert (verify.drained, verify.because) == (True, "verified afresh before old records go")
    life.happens(ev.Verified(server="postfix", generation="g2", drained=True, served=()))
    [observe] = life.offers(records.unpublish)
    assert observe.because == "the last observation before records go"
    life.looks()
    assert life.offers(records.unpublish) == [remove]
    life.does(remove, ev.Unpublished(tlsa_name=TLSA_NAME, values=old))
    assert life.offers(records.unpublish) == [], "changed since"
    life.passes(timedelta(milliseconds=1))
    life.looks()
    [wait] = life.offers(records.unpublish)
    assert isinstance(wait, st.Wait)
    assert wait.because == "the provider has accepted a change that is not to be seen yet"
    # a proof that fails: nothing is removed
    life.happens(ev.VerifyFailed(server="postfix", generation="g2", served=()))
    assert life.offers(records.unpublish) == []


def test_tlsa_parameters_that_are_not_configured_any_more_go_while_a_swap_is_under_way() -> None:
    """As a whole it breaks with nobody; not if somebody else's record of that type, matching nothing, would be left."""
    issuer = frozenset({"2 1 1 " + "ca" * 32})
    life = Life(replace(SPEC, tlsa_parameters=("3 1 1", "2 1 1")))
    life.until(st.PlaceOrder)
    keys = life.state.keys[0].spki["ecdsa-p256"]
    chain = replace(chain_of("aa", "ca"), spki=keys)
    life.happens(ev.Issued(key_type="ecdsa-p256", keys="k1", generation="g1", chain=chain, completes=True, ca=CA))
    life.until_quiet()
    assert life.in_dns >= issuer
    life.spec = SPEC
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    life.looks()
    [remove] = life.offers(records.unpublish)
    assert isinstance(remove, st.Unpublish)
    assert remove.values == issuer
    life.looks(life.in_dns | {"2 1 1 " + "cb" * 32})
    [wait] = life.offers(records.unpublish)
    assert isinstance(wait, st.Wait)
    gate = "without these no record of type 2 1 1 would match what is served"
    assert wait.because == f"not removed: {TLSA_NAME}: {gate}"
