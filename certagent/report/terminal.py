"""What is printed: nothing that a terminal obeys. A name in a certificate, the words of a CA or of a
program may hold any character.
"""

from __future__ import annotations

import json

import click


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print it for people; `?` stands for what cannot be seen."""
    click.echo("".join(c if c.isprintable() or c in "\n\t" else "?" for c in text), err=err, nl=nl)


def escaped(document: str) -> str:
    """JSON of the same meaning in which every character can be seen."""
    if document.replace("\n", "").isprintable():
        return document
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in document)
