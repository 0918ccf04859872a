"""The only place that asks and changes the world: each step has its act, and its outcome is one event or more.

Everything here may be done twice. Before a swap and before records are added or removed, the gates of the core are
asked once more, with the state of that moment. Errors are those of the edges, `dane.gate`, `dns.not_atomic` and
`dns.budget`.
"""

from __future__ import annotations

from certagent.agent.act import challenges, issuing, records, serving
from certagent.agent.act.outcome import Note, gate
from certagent.agent.act.spending import Counted
from certagent.agent.edges import Edges
from certagent.facts.moment import Instant
from certagent.lifecycle import events as ev
from certagent.lifecycle import gates
from certagent.lifecycle import steps as st
from certagent.lifecycle.fold import fold
from certagent.lifecycle.spec import Spec
from certagent.lifecycle.state import State
from certagent.lifecycle.tlsaname import TlsaNames


def act(  # noqa: C901, PLR0911, PLR0912 -- one line per step
    step: st.AnyStep, spec: Spec, state: State, edges: Edges, now: Instant, note: Note
) -> tuple[ev.AnyEvent, ...]:
    """Do the step. Returns what happened; raises an `Error` if it did not.

    `note` journals at once what must not be forgotten however the step ends.
    """
    lane = step.lane
    spend = Counted(step, spec, state, edges, now, note)
    match step:
        case st.MakeKeys():
            return (issuing.make_keys(step, spec, edges),)
        case st.PlaceOrder():
            return (issuing.place_order(step, spec, state, edges),)
        case st.AbandonOrder():
            return (ev.OrderAbandoned(key_type=step.key_type, lane=lane),)
        case st.Present():
            lag_s = challenges.present(state.orders[step.key_type].challenges, spec, edges, spend)
            return (ev.Presented(key_type=step.key_type, publish_lag_s=lag_s, lane=lane),)
        case st.Respond():
            return challenges.respond(step, spec, state, edges)
        case st.Finalize():
            return issuing.finalize(step, spec, state, edges, now)
        case st.CleanUp():
            challenges.clean_up(step.challenges, spec, edges, spend)
            return (ev.CleanedUp(challenges=step.challenges, lane=lane),)
        case st.Observe():
            return records.observe(step, spec, state, edges, now)
        case st.Publish():
            name = TlsaNames(spec, state)[step.tlsa_name]
            if name.lacks_parameters(step.values):  # then they must match what is served at this very moment
                for event in serving.surprises(name.shared.mail_servers, spec, state, edges):
                    note(event)
                    state = fold(state, event, now)
                name = TlsaNames(spec, state)[step.tlsa_name]
            gate(gates.may_publish(name, step.values))
            records.write_tlsa(step, name, edges, note, spend)
            return (ev.Published(tlsa_name=step.tlsa_name, values=step.values, lane=lane),)
        case st.Unpublish():
            name = TlsaNames(spec, state)[step.tlsa_name]
            gate(gates.may_unpublish(name, step.values))
            records.write_tlsa(step, name, edges, note, spend)
            return (ev.Unpublished(tlsa_name=step.tlsa_name, values=step.values, lane=lane),)
        case st.Inspect():
            return serving.inspect(step, spec, state, edges, now)
        case st.Install():
            return serving.install_unless(step, spec, state, edges, now)
        case st.Restore():
            mta = edges.servers[step.server]
            mta.restore(edges.vault.kept(spec.name, step.server))
            mta.reload()
            return (ev.Restored(server=step.server, lane=lane),)
        case st.Reload():
            edges.servers[step.server].reload()
            return (ev.Reloaded(server=step.server, lane=lane),)
        case st.Verify():
            return serving.verify(step, spec, state, edges)
        case st.FetchRenewalInfo():
            return (issuing.fetch_renewal_info(step, spec, state, edges),)
        case st.Revoke():
            return (issuing.revoke(step, spec, state, edges),)
        case st.Delete():
            for id_ in step.generations:
                edges.vault.drop_chain(spec.name, id_)
            for id_ in step.keys:
                edges.vault.drop_keys(spec.name, id_)
            return (ev.deleted(step),)
