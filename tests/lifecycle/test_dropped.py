"""Names that a first swap would take away: it is refused, in words that have the remedy."""

from __future__ import annotations

from datetime import timedelta

import pytest
from msgspec.structs import replace

from certagent.facts.tls import Chain
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates
from certagent.lifecycle import steps as st
from certagent.lifecycle.dropped import dropped, in_words
from certagent.lifecycle.forecast import forecast
from certagent.lifecycle.rules import deployment, disposal
from certagent.lifecycle.spec import Spec
from tests.lifecycle.play import CA, ECDSA, SPEC, START, TLSA_NAME, Life, chain_of, served

ALONE = replace(SPEC, tlsa_names={}, undeclared={TLSA_NAME: ("postfix",)})
OLD = replace(chain_of("ee"), names=(*SPEC.names, "*.example.org", "imap.example.org", "localhost"))
LOST = ("*.example.org", "imap.example.org")


def issued(chain: Chain = OLD, spec: Spec = ALONE) -> Life:
    """That chain is served, of somebody else; the first certificate of certagent's is there."""
    life = Life(spec)
    life.happens(ev.Inspected(server="postfix", served=(served(chain),)))
    life.happens(ev.KeysMade(keys="k1", spki={ECDSA: "aa" * 32}))
    new = ev.Issued(key_type=ECDSA, keys="k1", generation="g1", chain=chain_of("aa"), completes=True, ca=CA)
    life.happens(new)
    return life


def test_the_first_swap_waits_for_the_operator() -> None:
    life = issued()
    [offer] = life.offers(deployment.deploy)
    assert isinstance(offer, st.Wait)
    assert offer.because.endswith(f"the certificate served today is also for {', '.join(LOST)}")
    [again] = life.offers(deployment.inspect)
    assert isinstance(again, st.Inspect), "he may have put another one there"


def test_a_forecast_ends_there() -> None:
    life = issued()
    steps = [item.step for item in forecast(life.spec, life.state, life.now)]
    assert not [step for step in steps if isinstance(step, st.Install)]
    assert isinstance(steps[-1], st.Wait | st.Inspect)


@pytest.mark.parametrize("spec", [replace(ALONE, names=(*SPEC.names, *LOST)), replace(ALONE, drop_names=LOST)])
def test_names_that_are_kept_or_given_up_hold_nothing_back(spec: Spec) -> None:
    kept = () if spec.drop_names else LOST
    assert dropped(spec, [OLD], (*SPEC.names, *kept), START.wall) == ()
    assert dropped(ALONE, [OLD], SPEC.names, START.wall) == LOST


@pytest.mark.parametrize(
    "chain", [replace(OLD, self_signed=True), replace(OLD, not_after=START.wall - timedelta(seconds=1))]
)
def test_a_certificate_that_no_client_accepts_keeps_no_name(chain: Chain) -> None:
    assert dropped(ALONE, [chain], SPEC.names, START.wall) == ()


def test_the_words_have_both_lines_of_the_configuration() -> None:
    detail, hint = in_words(ALONE, LOST)
    assert (
        detail == "the certificate that is served today is also for *.example.org, imap.example.org; the new one"
        " would not be"
    )
    assert '`names: ["*.example.org", imap.example.org, mx1.example.org]`' in hint
    assert '`drop_names: ["*.example.org", imap.example.org]`' in hint
    assert "mx1.example.org:25" in gates.remedy(TLSA_NAME)


def test_an_inspection_that_failed_is_made_again() -> None:
    life = issued(chain_of("ee"))
    assert life.offers(deployment.inspect) == []
    life.fails("inspect postfix", "mta.x")
    assert [offer.because for offer in life.offers(deployment.inspect)] == ["it failed before"]


def test_a_mail_server_that_only_failed_is_forgotten_when_it_is_not_configured_any_more() -> None:
    life = Life(SPEC)
    life.fails("inspect gone", "mta.x")
    [offer] = life.offers(disposal.delete_mail_servers)
    assert isinstance(offer, st.Delete)
    assert offer.mail_servers == ("gone",)


def test_a_response_of_an_order_that_is_over_changes_nothing() -> None:
    life = Life(SPEC)
    life.happens(ev.ResponseNotSeen(key_type=ECDSA))
    assert life.state.orders == {}


@pytest.mark.parametrize(("names", "swaps"), [(SPEC.names, True), ((*SPEC.names, "*.example.org"), False)])
def test_an_unmet_server_gets_no_certificate_that_lacks_a_configured_name(names: tuple[str, ...], swaps: bool) -> None:
    """Its files have no name that the configuration lacks, so the inspection said. That is of no older certificate."""
    life = Life(replace(ALONE, names=names, tlsa_names={}, undeclared={}))
    life.fails("inspect postfix", "mta.down")
    life.happens(ev.KeysMade(keys="k1", spki={ECDSA: "aa" * 32}))
    life.happens(ev.Issued(key_type=ECDSA, keys="k1", generation="g1", chain=chain_of("aa"), completes=True, ca=CA))
    offers = life.offers(deployment.deploy)
    assert [isinstance(offer, st.Install) for offer in offers] == [swaps]
