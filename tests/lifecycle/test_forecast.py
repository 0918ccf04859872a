"""The forecast is what the planner does when it is really run in the same ideal world; it ends, and changes nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from msgspec.structs import replace

from certagent.lifecycle import events as ev
from certagent.lifecycle import steps as st
from certagent.lifecycle.forecast import LIMIT, Foreseen, forecast
from tests.lifecycle.drawn import LIVES
from tests.lifecycle.play import CA, ECDSA, RSA, SPEC, Life, chain_of, lane_of, unmanaged


def told(life: Life) -> list[Foreseen]:
    return forecast(life.spec, life.state, life.now)


def steps(foreseen: list[Foreseen]) -> list[str]:
    return [type(f.step).__name__ for f in foreseen if not isinstance(f.step, st.Wait)]


def at(foreseen: list[Foreseen], kind: type[st.AnyStep], nth: int = 0) -> Foreseen:
    return [f for f in foreseen if isinstance(f.step, kind)][nth]


@given(LIVES)
@settings(max_examples=40, deadline=None)
def test_it_ends_in_order_of_time_and_changes_nothing(life: Life) -> None:
    """From whatever moment of a life in which things went wrong."""
    before, now = msgspec.json.encode(life.state), life.now
    foreseen = forecast(life.spec, life.state, now)
    assert msgspec.json.encode(life.state) == before
    assert 1 <= len(foreseen) < LIMIT
    assert isinstance(foreseen[-1].step, st.Wait)
    moments = [f.at.elapsed_s for f in foreseen]
    assert moments == sorted(moments)
    assert moments[0] == now.elapsed_s


def test_it_knows_what_fails_now() -> None:
    """A CA that wants a pause is asked at the date that the real run would ask it, and not now."""
    life = Life.published()
    life.happens(ev.Requested(what="renew"))
    life.until(st.PlaceOrder)
    life.happens(
        ev.Failed(
            lane=lane_of(f"order {ECDSA}"),
            kind="transient",
            code="ca.rate_limited",
            detail="too many",
            concerns="ca",
            retry_after_s=7 * 86400.0,
        )
    )
    foreseen = told(life)
    waits = [f.step.because for f in foreseen if isinstance(f.step, st.Wait)]
    assert any(because.endswith("UTC: too many") for because in waits)
    assert at(foreseen, st.PlaceOrder).at.since(life.now) == timedelta(days=7)


def test_it_ends_even_if_the_planner_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect there must not hang who asks."""
    life = Life()
    whole = told(life)
    monkeypatch.setattr("certagent.lifecycle.forecast.LIMIT", 10)
    assert told(life) == whole[:10]


@pytest.mark.parametrize("standby", [True, False])
@pytest.mark.parametrize("tlsa_parameters", [("3 1 1",), ("3 1 1", "2 1 1")])
def test_what_is_foreseen_from_nothing_is_what_then_happens(standby: bool, tlsa_parameters: tuple[str, ...]) -> None:
    """The first certificate, and it ends with the wait for the next one."""
    life = Life(replace(SPEC, standby=standby, tlsa_parameters=tlsa_parameters))
    foreseen = told(life)
    happened = [name for m in life.until_quiet() if (name := type(m.step).__name__) != "Wait"]
    assert steps(foreseen) == happened
    assert isinstance(foreseen[-1].step, st.Wait)
    assert foreseen[-1].step.delay > timedelta(days=1)


def test_a_renewal_without_a_standby_is_foreseen_to_publish_two_ttls_before_it_swaps() -> None:
    """And on the day that is the certificate's: a third of its 90 days left."""
    life = Life.published(replace(SPEC, standby=False))
    foreseen = told(life)
    publish, swap = at(foreseen, st.Publish), at(foreseen, st.Install)
    assert swap.at.since(publish.at) >= timedelta(hours=2)
    assert abs(swap.at.wall - (foreseen[0].at.wall + timedelta(days=60))) < timedelta(days=1)
    assert steps(foreseen).count("Install") == 1


def test_it_sees_past_present_failures() -> None:
    """What fails now is taken to be repaired: the forecast is of the rules."""
    life = Life()
    life.fails("vault", "store.disk", times=9)
    assert steps(told(life))[:1] == steps(forecast(life.spec, Life().state, life.now))[:1]


def test_an_order_that_nothing_wants_is_foreseen_to_be_dropped() -> None:
    """The algorithms of the config have changed in the middle."""
    life = Life(replace(SPEC, key_types=("ecdsa-p256", RSA)))
    life.until(st.Present)
    life.spec = SPEC
    assert "AbandonOrder" in steps(told(life))
    assert "Delete" in steps(told(life)), "with the keys of the algorithm that is gone"


def test_the_moment_that_the_ca_gave_is_the_day_of_the_renewal() -> None:
    """It is not asked again in a forecast: what it would say is not known."""
    life = Life.published()
    date = life.now.wall + timedelta(days=20)
    life.happens(
        ev.RenewalInfo(generation="g1", key_type="ecdsa-p256", start=date, end=date, at=date, ask_again_s=3600, ca=CA)
    )
    foreseen = told(life)
    order = at(foreseen, st.PlaceOrder)
    assert order.at.wall - date < timedelta(minutes=1)
    assert order.at.wall >= date


def test_the_real_servers_ttls_and_aliases_are_the_ones_foreseen() -> None:
    """The waits come from what was seen, not from the config."""
    life = Life.published(replace(SPEC, standby=False))
    path = (("a.hosted.net.", 300),)
    life.looks(life.in_dns, life.in_dns, ttl_s=86400, path=path)
    foreseen = told(life)
    assert at(foreseen, st.Install).at.since(at(foreseen, st.Publish).at) >= timedelta(days=2)
    assert isinstance(at(foreseen, st.Install).step, st.Install)


def test_what_others_serve_is_foreseen_to_be_replaced() -> None:
    """A survey that was made counts; one to come is taken to meet nobody."""
    life = Life()
    life.until_quiet(unmanaged(chain_of("ee", "ca", life=timedelta(days=6))), limit=1)
    foreseen = told(life)
    install = at(foreseen, st.Install).step
    assert isinstance(install, st.Install)
    assert install.generation == "g1"


def test_every_kind_of_step_can_be_foreseen() -> None:
    """Withdrawn, aborted, compromised, put back: each way is told to its end."""
    seen: set[str] = set()
    withdrawn = Life.published()
    withdrawn.spec = replace(SPEC, tlsa_names={})
    seen |= set(steps(told(withdrawn)))
    assert "Unpublish" in seen
    emergency = Life.published()
    emergency.happens(ev.Requested(what="emergency"))
    seen |= set(steps(told(emergency)))
    assert "Revoke" in seen
    back = Life()
    back.until_quiet(unmanaged(chain_of("ee")), limit=1)
    back.until(st.Install)
    back.does(back.plan())
    back.happens(ev.Installed(server="postfix", generation="g1", kept=True))
    back.happens(ev.Reloaded(server="postfix"))
    back.happens(ev.VerifyFailed(server="postfix", generation="g1", served=()))
    back.fails("verify postfix", "mta.not_served")
    back.does(back.plan())
    seen |= set(steps(told(back)))
    assert "Restore" in seen
    seen |= set(steps(told(Life())))
    dropped = Life(replace(SPEC, key_types=("ecdsa-p256", RSA)))
    dropped.until(st.Present)
    dropped.spec = SPEC
    seen |= set(steps(told(dropped)))
    assert seen == {kind.__name__ for kind in get_args(st.AnyStep)}
