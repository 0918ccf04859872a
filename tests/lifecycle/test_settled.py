"""`renew --wait` ends when everything that was begun is over, and not before: each condition taken away alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from certagent.facts.challenge import Challenge
from certagent.facts.dns import Answer, Observation
from certagent.lifecycle import events as ev
from certagent.lifecycle.converged import converged
from certagent.lifecycle.spec import MailServer
from certagent.lifecycle.steps import Present, Publish
from tests.lifecycle.play import CA, RSA, SPEC, TLSA_NAME, Life, chain_of


def test_a_life_is_converged_at_its_end_and_at_no_moment_before() -> None:
    """From the first step on."""
    life = Life()
    moments = life.until_quiet()
    assert converged(life.spec, life.state)
    assert not any(converged(life.spec, moment.before) for moment in moments)


CHALLENGE = (Challenge("dns-01", "mx1.example.org", "_acme-challenge.mx1.example.org.", "value"),)


def presented(life: Life) -> None:
    life.happens(ev.OrderPlaced(key_type=RSA, keys="k1", url="", challenges=CHALLENGE, ca=CA))


def gone(life: Life) -> None:
    # its order is gone, its values are in DNS
    presented(life)
    life.happens(ev.Intended(step=Present(key_type=RSA, because="")))
    life.happens(ev.OrderAbandoned(key_type=RSA))
    assert not life.state.orders


def reissued(life: Life) -> None:
    life.happens(
        ev.Issued(key_type="ecdsa-p256", keys="k2", generation="g2", chain=chain_of("bb"), completes=True, ca=CA)
    )


def respec(**words: object) -> Callable[[Life], None]:
    def change(life: Life) -> None:
        life.spec = replace(life.spec, **words)

    return change


def happens(event: ev.AnyEvent) -> Callable[[Life], None]:
    return lambda life: life.happens(event)


def one_is_behind(life: Life) -> None:
    life.looks(life.in_dns, life.records("g1"))


def one_is_silent(life: Life) -> None:
    life.looks(life.in_dns, None)


@pytest.mark.parametrize(
    "harm",
    [
        happens(ev.Requested(what="renew")),
        presented,
        gone,
        reissued,
        happens(ev.VerifyFailed(server="postfix", generation="g1", served=())),
        respec(key_types=("ecdsa-p256", RSA)),
        respec(names=("mx1.example.org", "mx2.example.org")),
        respec(mail_servers=(*SPEC.mail_servers, MailServer("other", ()))),
        respec(tlsa_names={TLSA_NAME: ("postfix",), "_465._tcp.mx1.example.org.": ("postfix",)}),
        one_is_behind,
        one_is_silent,
        respec(tlsa_names={}),
    ],
)
def test_one_thing_that_is_not_over(harm: Callable[[Life], None]) -> None:
    """A request, an order, a challenge value, a swap, a proof, the config, one server behind, one not withdrawn yet."""
    life = Life.published()
    assert converged(life.spec, life.state)
    harm(life)
    if len(life.spec.tlsa_names) == 2:
        [new] = [name for name in life.spec.tlsa_names if name != TLSA_NAME]
        assert converged(life.spec, life.state), "blocked: the new name was not observed yet"
        empty = Observation("example.org.", new, {"ns1./192.0.2.1": Answer(frozenset(), 3600)}, "secure")
        life.happens(ev.Observed(tlsa_name=new, observation=empty))
    assert not converged(life.spec, life.state)


def test_the_standby_key_is_waited_for_where_it_is_wanted() -> None:
    """Only with TLSA names is there one."""
    bare = Life.published(replace(SPEC, standby=False))
    assert converged(bare.spec, bare.state)
    assert not converged(replace(bare.spec, standby=True), bare.state)
    alone = Life(replace(SPEC, tlsa_names={}))
    alone.until_quiet()
    assert converged(alone.spec, alone.state)
    assert len(alone.state.keys) == 1


def test_a_record_of_ours_that_is_left_over_is_waited_for() -> None:
    """At one server is enough."""
    life = Life.published(replace(SPEC, standby=False))
    old = life.records("g1")
    life.happens(ev.Requested(what="rotate"))
    life.until_quiet()
    life.looks(life.in_dns, life.in_dns | old)
    assert not converged(life.spec, life.state)


def test_a_name_that_cannot_be_published_for_a_reason_outside_is_not_waited_for() -> None:
    """An unsigned zone stays unsigned."""
    life = Life(replace(SPEC, standby=False))
    step = life.until(Publish)
    assert not converged(life.spec, life.state)
    life.looks(frozenset(), security="insecure")
    assert converged(life.spec, life.state), step
