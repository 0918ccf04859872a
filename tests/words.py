"""The words that this project does not use, and what to say in their place.

`python -m tests.words` lists each that is left. docs/explanation/words.md has the words that are used. Names are read
as words: `still_held` and `StillHeld` both are "still held". A rule is a regular expression over such text, in lower
case unless it says otherwise.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Rule(NamedTuple):
    """Words that are not used."""

    pattern: re.Pattern[str]
    say: str
    folders: tuple[str, ...] = ("",)
    """The rule counts in files below these; elsewhere the word has another meaning."""
    spelled: bool = False
    """Read the text as it is spelled: capitals and underscores count."""
    tests: bool = True
    """Tests are read, too."""


class Hit(NamedTuple):
    """A word that is not used, at a place."""

    file: str
    line: int
    text: str
    say: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text!r}, say: {self.say}"


def _word(pattern: str, say: str, *folders: str, spelled: bool = False, tests: bool = True) -> Rule:
    return Rule(re.compile(rf"(?<!\w)(?:{pattern})(?!\w)"), say, folders or ("",), spelled, tests)


CORE = ("certagent/lifecycle", "certagent/agent", "certagent/report", "certagent/cli")
PAGES = ("README.md", "packaging/man", *(f"docs/{kind}" for kind in ("tutorial", "how-to", "reference", "explanation")))

RULES = (
    # the field's words: RFC 9499, 7671, 7583, 8555
    _word(r"sightings?|sighted|in sight", "observation"),
    _word(r"(?:a|the|last|first|next|each|fresh|complete|every|one) looks?(?! up)", "observation"),
    _word(r"Looked|LookAt|Sighting", "Observed", spelled=True),
    _word(r"still held|holdable|held (?:set|until|again|anew)|sets? (?:that )?(?:is|are) held", "cached set"),
    _word(r"(?:the|a|its|one|this|that) hold", "retire interval"),
    _word(r"hurt(?:s|ing)?", "break, unmatched"),
    _word(r"triples?(?! des)", "TLSA parameters"),
    _word(r"(?:tlsa|dane) owners?|owner names?", "TLSA name"),
    _word(r"(?:tlsa|records?) of `?owner`?|owner = dns", "TLSA name", "certagent/dns"),
    _word(r"owners?", "TLSA name", "certagent/lifecycle", "certagent/facts"),
    _word(r"(?<!make )(?<!cname )(?<!\.)targets?(?!=)", "mail server", *CORE, *PAGES),
    _word(r"spiral", "reconcile loop"),
    _word(r"looked at", "observed, inspected, checked"),
    _word(r"_?tell(?=\()|_tell\w*|tell_\w+", "report, format", spelled=True, tests=False),
    _word(r"settle txt", "wait for TXT"),
    _word(r"worse", "unmatched", "certagent/lifecycle"),
    _word(r"longest hold|holds? now in force", "longest retire interval"),
    _word(r'(?<!short-)(?<!from )(?<!")(?<!into )(?<!update )(?<!table )lived|(?:surely|was not) lived', "elapsed"),
    _word(r"familiar", "already served"),
    _word(r"foreign", "unmanaged, or of another program"),
    _word(r"withheld", "publication blocked"),
    _word(r"guards?", "safety margin", "certagent/lifecycle", "certagent/config", "config.example.yaml", *PAGES),
    _word(r"stand by|stand-by", "standby"),
    _word(r"no_time_to_roll", "no time to roll"),
    _word(r"settled", "converged"),
    _word(r"doomed", "pending delete"),
    _word(r"Survey(?:ed)?", "Inspect", *CORE, "certagent/mta", spelled=True),
    _word(r"Proved?|Proven|Disproven|Forget|Forgotten|Tidy", "see lifecycle/steps.py", "certagent/", spelled=True),
    _word(r"AnswerOrder|DropOrder|AskRenewal", "Respond, AbandonOrder, FetchRenewalInfo", spelled=True),
    _word(r"prov(?:e|es|ed|en)|proofs?", "verify, or show", "certagent/", "config.example.yaml"),
    _word(r"World|Built", "edges, wiring", spelled=True, tests=False),
    _word(r"survey(?:s|ed)?", "inspect", *CORE, *PAGES),
    _word(r"tidy|tidies|tidied", "clean up"),
    _word(r"watch(?:es)?(?: interval)?:|: watch", "check_interval", tests=False),
    _word(r'"refused", f?"', "error, the severity of a finding", "certagent/checks", "certagent/report"),
    _word(r"kinds? of (?:the )?keys?|both algorithms|pem\.algorithm", "key type"),
    _word(r"rfc 6125", "RFC 9525"),
    _word(r"rfc 7807", "RFC 9457"),
    # English
    _word(r"whom", "who, or another sentence"),
    _word(r"told", "says, reports, learns", tests=False),
    _word(r"(?:none|nothing|also|valueerror) where", "if"),
    _word(r"mend(?:s|ed|ing)?", "fix"),
    _word(r"of (?:its|their) own", "its own …", tests=False),
    _word(r"abilities", "capabilities"),
    _word(r"whoever", "anybody who, or a noun", tests=False),
    _word(r"hands? of somebody|somebody else['’]s hand", "another program or person"),
    _word(r"[Ww]ho(?: \w+){1,8} then", "if …", spelled=True),
    _word(r"(?:one|two|an?) (?:file|row|line|order|certificate|entry|process|key|record|class) an? \w+", "one X per Y"),
    _word(r"(?:one|two|an?) (?:step|job|value|set|list|folder|test|directory) an? \w+", "one X per Y"),
)  # fmt: skip

_WORDS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")
"""Where one word of a name ends and the next begins."""


def files() -> list[Path]:
    """What is read: the package, its tests, the documentation and what is shipped with it."""
    found = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs").glob("*.py"),
        *(path for path in (ROOT / "tests").rglob("*.*") if path.suffix in {".py", ".md", ".sh", ".txt"}),
        ROOT / "config.example.yaml",
    ]
    for folder in ("certagent", "hooks", "packaging"):
        found += [
            path for path in (ROOT / folder).rglob("*") if path.is_file() and path.suffix not in {".pyc", ".typed"}
        ]
    # these two say what is not used
    found = [path for path in found if path not in {ROOT / "tests/words.py", ROOT / "tests/test_words.py"}]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def hits(path: Path) -> Iterator[Hit]:
    """Every word of a file that is not used; a phrase may run over the end of a line."""
    return found(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8"))


def found(name: str, text: str) -> Iterator[Hit]:
    """The same, in a text; what is generated in it is not read: it comes from a file that is."""
    text = re.sub(r"(?s)<!-- generated: .*?<!-- end -->", lambda part: "\n" * part[0].count("\n"), text)
    spelled = re.sub(r"\n[ \t]*(?:#:? )?", "\n", text)
    plain = _WORDS.sub(" ", spelled).lower()
    for rule in RULES:
        if any(name.startswith(folder) for folder in rule.folders) and (rule.tests or not name.startswith("tests/")):
            read = spelled if rule.spelled else plain
            for match in rule.pattern.finditer(read.replace("\n", " ")):
                yield Hit(name, read.count("\n", 0, match.start()) + 1, match[0], rule.say)


def main() -> int:
    """List what is left, in the files named or in all."""
    named = [Path(name).resolve() for name in sys.argv[1:]] or files()
    left = [hit for path in named for hit in hits(path)]
    print(*left, f"{len(left)} left, in {len({hit.file for hit in left})} files", sep="\n")
    return int(bool(left))


if __name__ == "__main__":
    sys.exit(main())
