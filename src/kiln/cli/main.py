"""`kiln`: one command, one subcommand for each thing to do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import KilnError
from . import bench, board, docs, quickstart, run

COMMANDS = (
    quickstart,
    board,
    run,
    bench,
    docs,
)  # each has NAME, SUMMARY, add_arguments(parser) and run(args) -> exit status
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def parser() -> argparse.ArgumentParser:
    """The command line's grammar."""
    from .. import __version__

    p = argparse.ArgumentParser(
        prog="kiln", description="Kiln: deep learning with PyTorch's API, compiled whole."
    )
    p.add_argument("--version", action="version", version=f"kiln {__version__}")
    commands = p.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        sub = commands.add_parser(
            command.NAME, help=command.SUMMARY, description=command.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        command.add_arguments(sub)
        sub.set_defaults(run=command.run)
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit status."""
    p = parser()
    args = p.parse_args(argv)
    if not hasattr(args, "run"):
        p.print_help()
        return 0
    if args.run is run.run:
        return args.run(args)  # what the program raises is its own, as under python
    try:
        return args.run(args)
    except KilnError as e:
        print(e, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped by Ctrl-C; files that were complete are kept", file=sys.stderr)
        return INTERRUPTED
