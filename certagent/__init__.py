"""certagent: the certificate lifecycle agent for mail servers. This page is the architecture.

The promise
    A sender that has a TLSA set of this host in its cache, for as long as the TTL of that set allows, meets a
    certificate that matches it. Nobody ever meets a wrong, incomplete or expired chain. Where that cannot be kept,
    nothing is changed, the old key goes on serving, and certagent says why. `kill -9` at any line loses nothing.

The shape
    A pure core in which the rules can be read, thin edges around it, and one reconcile loop that drives everything:
    fold the journal, plan ONE step, journal the intent, act, journal the outcome, again.

    To observe the world is a step like any other. What was seen is journaled with its date. The planner is a function
    of (spec, state, now) and says itself when an answer is too old to act on. So a journal reproduces every decision.

The tree, from the top of the imports to their bottom (a test holds it; nothing imports upwards)
    cli         the command line, one file per group of commands
    testing     conformance suites for authors of plug-ins
    agent       the reconcile loop, its edges and wiring, the daemon; `act`: from a step to its outcome
    checks      what is observed on request: what is served now, and the rehearsal against a test CA
    init        what this host runs and what DNS says, made into a configuration
    report      what people and programs read: status, steps, findings, log lines
    config      the configuration: its sections as types, read strictly
    acme        certificate authorities
    dns         DNS: reading it everywhere, and the providers that write it
    mta         mail servers: their files, settings and reloads; a folder for each
    probe       what a service serves: STARTTLS and handshakes
    store       the disk: the journal, the vault of keys, the lock
    host        this machine: files, programs, processes, clock
    lifecycle   pure: the life of one certificate. Begin with `planner`; `rules` has the rules; `caches` is the promise
    pki         pure: names, key types, keys, chains, TLSA records
    facts       pure values that edges produce: DNS answers, chains, moments, and what is unknown
    errors      failures, by what to do next
    secret      a value that never prints itself

The words are in docs/explanation/words.md, every file in docs/explanation/architecture.md.
"""

__version__ = "0.1.0"
