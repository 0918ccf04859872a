"""The command `explain`."""

from __future__ import annotations

import click


@click.command()
@click.argument("code", required=False, metavar="[CODE]")
def explain(code: str | None) -> None:
    """Say what an error code means and what to do; without a CODE, list all.

    A code is the word in square brackets at the end of an error, such as dns.unreachable.
    """
    from certagent.report.codes import NEXT, all_codes, explained
    from certagent.report.terminal import columns, say, wrapped

    width = columns()
    if code is None:
        for name, one in all_codes().items():
            say("\n".join(wrapped(f"{name}: {one.meaning}", width, indent="")))
        return
    code = code.strip("[]")
    one = explained(code)
    say(f"{code}: {one.kind}")
    for text in (one.meaning, NEXT[one.kind], f"do: {one.remedy}"):
        say("\n".join(wrapped(text, width)))
