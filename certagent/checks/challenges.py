"""Whether this host could answer a CA now, as far as it can be seen without a CA. Nothing is opened or written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from certagent.acme.challenges.protocol import listens
from certagent.facts.challenge import TYPES
from certagent.host import processes, sockets
from certagent.host.listener import everywhere
from certagent.lifecycle.spec import Spec
from certagent.report.findings import Finding


def findings(spec: Spec) -> Iterator[Finding]:
    """A warning: the next renewal may be months away, and a web server may be stopped until then."""
    method = spec.challenge
    what, port = f"challenge {method.type}", TYPES[method.type].port
    if method.webroot:
        if not Path(method.webroot).is_dir():
            hint = "`webroot` is the directory whose files a web server of this host gives at port 80"
            yield Finding("warning", what, f"{method.webroot} is no directory", hint)
        return
    if not port:
        return
    wanted, all_of_it = listens(method, port), {address for address, _ in everywhere(port)}
    taken = {
        f"port {other.port} is in use by {processes.holder(other.inode) or 'another program'}"
        for other in sockets.listening()
        for address, number in wanted
        if number == other.port and (address == other.address or {address, other.address} & all_of_it)
    }
    hint = "a renewal needs it: let that program pass challenges on (docs/how-to/challenges.md), or use another type"
    for detail in sorted(taken):
        yield Finding("warning", what, detail, hint)
