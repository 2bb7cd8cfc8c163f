"""Which command was typed, and what does its end mean? Knows the exit codes, and no command's work.

0 done · 1 refused · 2 wrong usage · 3 the daemon is not reachable · 130 interrupted.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from meshhold import __version__
from meshhold.cli.session import Session, config_option
from meshhold.errors import DaemonUnreachableError, MeshHoldError

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 3
EXIT_INTERRUPTED: Final = 130
_TRACEBACK_VARIABLE: Final = "MESHHOLD_TRACEBACK"

_COMMANDS: Final = {
    "init": "init:init",
    "daemon": "daemon:daemon",
    "quickstart": "quickstart:quickstart",
    "status": "status:status",
    "keygen": "init:keygen",
    "invite": "mesh:invite",
    "join": "join:join",
    "node": "node:node",
    "swarm": "mesh:swarm",
    "vault": "vault:vault",
    "ring": "ring:ring",
    "scrub": "care:scrub",
    "collect": "care:collect",
    "s3-key": "s3_key:s3_key",
    "s3-perm": "s3_perm:s3_perm",
}


class _LazyCommands(click.Group):
    """Loads a command's module when it is asked for, so that `status` does not pay for `daemon`."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(f"meshhold.cli.{module}"), attribute)
        return command


@click.group(cls=_LazyCommands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="meshhold")
@config_option
@click.pass_context
def commands(context: click.Context) -> None:
    """MeshHold: encrypted storage on your own machines, served to apps as S3."""
    context.ensure_object(Session)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; whatever goes wrong becomes a sentence on stderr."""
    try:
        code = commands.main(args=list(arguments), prog_name="meshhold", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        error.show()
        return EXIT_REFUSED
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except DaemonUnreachableError as error:
        _complain(error.message, error.fix)
        return EXIT_UNREACHABLE
    except MeshHoldError as error:
        _complain(error.message, error.fix)
        return EXIT_REFUSED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left: nothing more to flush
        return EXIT_REFUSED
    except OSError as error:
        _complain(f"{error.filename or 'the system'}: {error.strerror or error}", "")
        return EXIT_REFUSED
    except Exception as error:
        if os.environ.get(_TRACEBACK_VARIABLE):
            raise
        _complain(f"unexpected {type(error).__name__}: {error}", f"{_TRACEBACK_VARIABLE}=1 shows where it arose")
        return EXIT_REFUSED
    return code if isinstance(code, int) else 0


def _complain(message: str, fix: str) -> None:
    print(f"meshhold: {message}", file=sys.stderr)
    if fix:
        print(f"  → {fix}", file=sys.stderr)


def main() -> None:
    """Run the program on the process's own arguments."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
