"""The program: finds the command, loads its file, and turns whatever happens into an exit status."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NoReturn

import click

from certagent import __version__
from certagent.cli.errors import Ended, Exit, complain, exit_status_of
from certagent.errors import Error, Usage
from certagent.report.terminal import say

COMMANDS = {
    "init": "init",
    "renew": "renew",
    "run": "run",
    "status": "show",
    "check": "show",
    "plan": "show",
    "history": "show",
    "tlsa": "show",
    "abort": "renew",
    "dns": "dns",
    "explain": "explain",
    "schema": "schema",
}
"""Each command, in the order of the help, and the file that has it."""
NO_SECRET = frozenset({"status", "plan", "history", "tlsa", "explain", "schema"})
"""Commands that read no key and no other secret."""


class _Commands(click.Group):
    """Loads a command when it is used: each has libraries that the others do without."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:  # all of them, to suggest what was meant
            if name not in self.commands:
                self.add_command(getattr(import_module(f"certagent.cli.{COMMANDS[name]}"), name))
        return super().get_command(ctx, cmd_name)


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="\b\nExit codes: 0 done, 1 failed and tried again later, 2 usage or configuration,\n"
    "3 needs a human, 4 nothing to do (only with --exit-unchanged), 130 interrupted.",
)
@click.version_option(__version__, "--version", prog_name="certagent", message="%(prog)s %(version)s")
@click.pass_context
def cli(context: click.Context) -> None:
    """The certificate lifecycle agent for mail servers: renews by ACME, and cannot break DANE.

    Begin with `certagent init`: it looks at this host and proposes a configuration. `certagent renew --dry-run` then
    does everything against the CA's staging directory and changes nothing. `certagent run` looks after all
    certificates.
    """
    if context.invoked_subcommand not in NO_SECRET:
        from certagent.host.memory import no_core_dumps

        no_core_dumps()


def main() -> NoReturn:
    """The program. Turns every error into its two lines and its exit status."""
    try:
        cli.main(prog_name="certagent", standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message(), err=True)
        sys.exit(Exit.USAGE)
    except click.ClickException as error:
        message = error.format_message().rstrip(".")
        context = getattr(error, "ctx", None)
        hint = f"{context.command_path if context else 'certagent'} --help"
        complain(Usage("cli.usage", message[:1].lower() + message[1:], hint))
        sys.exit(Exit.USAGE)
    except Error as error:
        complain(error)
        sys.exit(exit_status_of(error))
    except (Ended, KeyboardInterrupt, click.Abort):
        say("certagent: interrupted; what was begun is in the journal, and the next run goes on", err=True)
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        # the reader is gone; nobody wants the rest of the output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.FAILED)
    except Exception as error:  # noqa: BLE001 -- no traceback ever reaches a user
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = where.tb_frame.f_code.co_qualname if where else "?"
        detail = f"unforeseen {type(error).__name__} in {place}"
        hint = "please report this, with the command and the output of `certagent history NAME`"
        complain(Error("internal.defect", detail, hint))
        sys.exit(Exit.FAILED)
    sys.exit(Exit.DONE)
