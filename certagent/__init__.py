"""certagent: the certificate lifecycle agent for mail servers. This page is the architecture.

The one promise
    A sender who holds any TLSA set that was ever in public DNS, for as long as that set's TTL allows, always meets a
    certificate that matches it; and nobody ever meets a wrong, incomplete or expired chain. Where the promise cannot
    be kept, nothing is changed, the old key goes on serving, and certagent says so. `kill -9` at any line loses
    nothing.

The shape
    One pure core in which the rules can be read, thin edges around it, one reconcile loop that drives everything:
    fold the journal -> plan ONE step -> journal the intent -> act -> journal the outcome -> again.
    Looking at the world is a step like any other: what was seen is journaled with its date, and the planner, a
    function of (spec, state, now), says itself when an answer is too old to act on. So a journal reproduces every
    decision.

Code layout, and the one direction of imports (a test holds it; nothing imports upwards)
    errors.py secret.py   failures by what to do next; a value that never prints itself
    pki/                  pure: names.py algorithms.py leaf.py tlsa.py keys.py chain.py
    lifecycle/            pure. planner.py: the rules of a roll, begin here; issuance.py: the rules of renewal
                          caches.py: what the world's caches may hold, and whom that would hurt
                          rollover.py: the set to publish, the gates; schedule.py: when; settled.py: over or not
                          model.py steps.py events.py state.py: the words; fold.py; forecast.py: the plan ahead
    ca/ dns/ mta/ store/  edges: certificate authorities, DNS, mail servers, disk
                          mta/: server.py: the protocol; layout.py: the files; probe.py: what is served; command.py;
                          a directory for each of postfix exim dovecot opensmtpd sendmail, begin with server.py
    config.py reader.py   the configuration; compiled.py: a large one as it was last read; clock.py
    world.py act.py       the edges of one certificate; Step -> Event: the only place that changes the world
    agent.py              the reconcile loop of one certificate
    build.py log.py       wiring and plug-ins; log lines
    findings.py render.py what people read
    checks.py dryrun.py   a look at the world as it is; the rehearsal against a test CA
    init/                 what this host runs and what DNS says, made into a configuration
    daemon.py renew.py    the long-running agent; one certificate's turn by hand
    cli.py                commands, exit codes
    testing.py            conformance suites for authors of plug-ins

Glossary
    certificate  the operator's entry          generation  one chain of each algorithm, with its keys
    key set      one key of each algorithm     target      a mail server that holds the certificate
    owner        a TLSA name                   observation    what every authoritative server answered, once
    held         a set that caches may hold    obstacle    why a swap cannot be made now
"""

__version__ = "0.1.0"
