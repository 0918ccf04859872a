"""What is met where something else was expected: somebody rolled by hand, or an old state was brought back.

What is remembered as served is disproven by that, and exempts from no gate any more.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from certagent.facts.unknown import Unknown
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates
from certagent.lifecycle import steps as st
from certagent.lifecycle.converged import rolled
from certagent.lifecycle.rules import deployment, disposal, records, rotation
from docs.draw import TLSA_NAME
from tests.lifecycle.play import SPEC, STRANGE, Life, because, chain_of, served

BY_HAND = chain_of("ee")
"""Its record is `STRANGE`."""


def drifted(life: Life) -> Life:
    """Another chain is met than the one that was verified."""
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=(served(BY_HAND),)))
    life.fails("verify postfix", "mta.not_served")
    return life


def test_after_a_roll_by_hand_the_swap_back_waits_like_every_swap() -> None:
    """Caches have only the record of what is met. Ours are published beside it, and it stays until then."""
    life = drifted(Life.published())
    mine = life.in_dns
    life.looks(STRANGE)
    assert because(life.offers(deployment.finish)) == [
        "Wait: postfix: something else is served than was installed, and caches forbid it by now"
    ]
    [publish] = life.offers(records.publish)
    assert isinstance(publish, st.Publish)
    assert publish.values == mine | STRANGE
    assert life.offers(records.unpublish) == []
    life.looks(mine | STRANGE)
    life.passes(timedelta(hours=3))
    [back] = life.offers(deployment.finish)
    assert isinstance(back, st.Install)
    life.does(back, ev.Installed(server="postfix", generation="g1"), ev.Reloaded(server="postfix"))
    life.happens(ev.Verified(server="postfix", generation="g1", drained=True, served=()))
    assert life.state.mail_servers["postfix"].strange == ()
    assert life.names[TLSA_NAME].surplus == frozenset(), "it was never ours to remove"


@pytest.mark.parametrize("silent", [False, True])
def test_what_matches_no_record_is_put_right_at_once(silent: bool) -> None:
    """In any weather: no sender can use what somebody put there."""
    life = drifted(Life.published())
    mine = life.in_dns
    life.looks(*((mine, None) if silent else (mine,)))
    [again] = life.offers(deployment.finish)
    assert isinstance(again, st.Install)
    assert STRANGE.isdisjoint(life.names[TLSA_NAME].desired), "nor is its record published"


def test_what_dns_gave_before_does_not_say_that_what_is_met_is_wrong() -> None:
    """Nobody is heard: the operator may have rolled, or the state is an old one, and DNS has the record by now."""
    life = drifted(Life.published())
    life.looks(None)
    assert [type(offer) for offer in life.offers(deployment.finish)] == [st.Wait]
    life.looks(life.in_dns, None)
    assert [type(offer) for offer in life.offers(deployment.finish)] == [st.Install], "it breaks what is given now"


def test_dns_is_asked_before_what_was_met_is_replaced() -> None:
    """A set that came since the last observation decides."""
    life = Life.published()
    g1 = life.state.generation("g1")
    assert g1
    assert gates.names_that_roll(life.names, "postfix", g1) == ()
    drifted(life)
    assert [str(name) for name in gates.names_that_roll(life.names, "postfix", g1)] == [TLSA_NAME]


def test_the_key_of_a_swap_that_an_old_state_does_not_know_is_no_key_of_before() -> None:
    """The next key is met with another certificate before its own is installed: what was remembered is disproven."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="rotate"))
    install = life.until(st.Install)
    assert isinstance(install, st.Install)
    life.does(install)
    new = life.state.generation(install.generation)
    assert new
    mine = new.chains["ecdsa-p256"]
    assert not life.state.surprises("postfix", (served(mine),)), "the swap was interrupted"
    lost = replace(mine, serial="another")
    assert life.state.surprises("postfix", (served(lost),)) == [lost]
    life.happens(ev.Met(server="postfix", served=(served(lost),)))
    before = life.state.generation("g1")
    assert before
    life.looks(frozenset({f"3 1 1 {mine.spki}"}))
    assert gates.may_install(life.names, "postfix", before, life.now), "no cache need have the record of before"


def test_what_is_met_before_a_change_counts_though_nothing_else_is_known() -> None:
    """No phase changes by that; but no roll is over, no first publication may begin, and no standby key is made."""
    life = Life.published(replace(SPEC, standby=True))
    before = life.state
    for nothing_new in (served(Unknown("no answer")), served(before.generations[-1].chains["ecdsa-p256"])):
        life.happens(ev.Met(server="postfix", served=(nothing_new,)))
    life.happens(ev.Met(server="unknown", served=(served(BY_HAND),)))
    assert life.state == before
    assert rolled(life.spec, life.state)
    life.happens(ev.Met(server="postfix", served=(served(BY_HAND), served(BY_HAND))))
    assert life.state.mail_servers["postfix"].strange == (BY_HAND,)
    assert life.state.mail_servers["postfix"].phase == "drained"
    assert not rolled(life.spec, life.state)
    assert life.names[TLSA_NAME].shared.verified is None
    assert all(isinstance(offer, st.Wait) for offer in life.offers(rotation.make_keys))


def test_the_first_records_of_their_parameters_are_known_as_such() -> None:
    """They must match what is served at the moment in which they are published."""
    life = Life.published()
    name = life.names[TLSA_NAME]
    assert not name.lacks_parameters(STRANGE)
    assert name.lacks_parameters(frozenset({"2 1 1 " + "ca" * 32}))
    life.looks(life.in_dns, frozenset())
    assert life.names[TLSA_NAME].lacks_parameters(STRANGE)


def test_deferrals_were_accepted_for_one_swap() -> None:
    """Not for putting it back over what somebody rolled to since."""
    life = Life.published(replace(SPEC, standby=False))
    life.happens(ev.Requested(what="emergency", accept_deferrals=True))
    life.does(life.until(st.Install), ev.Installed(server="postfix", generation="g2"))
    life.happens(ev.Verified(server="postfix", generation="g2", drained=True, served=()))
    life.happens(ev.VerifyFailed(server="postfix", generation="g2", served=(served(BY_HAND),)))
    life.looks(STRANGE)
    assert [type(offer) for offer in life.offers(deployment.finish)] == [st.Wait]


def test_an_abort_verifies_first_and_keeps_the_key_that_is_met() -> None:
    """An old state was brought back: it takes the key that is served for the next one."""
    life = Life.published()
    life.happens(ev.Requested(what="abort"))
    assert because(life.offers(disposal.abort)) == ["Verify: verified afresh before keys are deleted"]
    next_keys = life.state.next_keys
    assert next_keys
    chain = replace(chain_of("ee"), spki=next_keys.spki["ecdsa-p256"])
    life.happens(ev.VerifyFailed(server="postfix", generation="g1", served=(served(chain),)))
    life.fails("verify postfix", "mta.not_served")
    [delete] = life.offers(disposal.abort)
    assert isinstance(delete, st.Delete)
    assert delete.keys == ()


def test_an_abort_does_not_wait_for_a_mail_server_that_is_not_met() -> None:
    """It serves nobody; and what was never served is not served by it."""
    life = Life.published()
    life.happens(ev.Requested(what="abort"))
    life.fails("verify postfix", "mta.down")
    [delete] = life.offers(disposal.abort)
    assert isinstance(delete, st.Delete)
    assert delete.keys == ("k2",)


def test_what_is_met_again_is_not_revoked() -> None:
    """Files from a backup: the compromised certificate is served once more."""
    life = Life.published()
    life.happens(ev.Requested(what="emergency"))
    life.until(st.Revoke)
    compromised = life.state.generation("g1")
    assert compromised
    life.happens(ev.VerifyFailed(server="postfix", generation="g2", served=(served(compromised.chains["ecdsa-p256"]),)))
    assert life.offers(disposal.revoke) == []


def test_what_was_to_be_put_back_is_over_with_a_newer_generation() -> None:
    """A put-back that never came about does not fail for ever (simulated history 2600060288 of 2026-11-30)."""
    life = Life.published()
    life.fails("rollback postfix", "mta.config")
    life.fails("install postfix", "mta.config")
    life.happens(ev.Verified(server="postfix", generation="g1", drained=True, served=()))
    assert life.state.failing == ()


@pytest.mark.parametrize(
    ("values", "days", "waits"), [(STRANGE, 0, True), (STRANGE, 89, False), (frozenset[str](), 0, False)]
)
def test_a_proper_roll_by_hand_waits_for_servers_that_are_not_heard(
    values: frozenset[str], days: int, waits: bool
) -> None:
    """Resolvers may give expired sets as long as a server is silent (RFC 8767). What breaks mail now is put right."""
    life = Life.published(replace(SPEC, standby=False))
    drifted(life)
    g1 = life.state.generation("g1")
    assert g1
    life.looks(life.in_dns | values)
    life.passes(timedelta(days=days, hours=3))
    life.looks(life.in_dns | values, None)
    against = gates.may_install(life.names, "postfix", g1, life.now)
    assert ["not heard" in str(obstacle) for obstacle in against] == [True] * waits
