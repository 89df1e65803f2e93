"""Look at event files in the browser, with TensorBoard (extra [board]).

What is written later is shown as it comes. Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..errors import KilnError
from ..extras import need

NAME = "board"
SUMMARY = "look at curves, pictures and graphs of trainings, with TensorBoard"


def add_arguments(p: argparse.ArgumentParser) -> None:
    """The options of `kiln board`."""
    p.add_argument(
        "logdir", nargs="?", type=Path, default=Path("runs"),
        help="folder of event files, or of folders of them (default: ./runs)",
    )  # fmt: skip
    p.add_argument("--host", default="localhost", help="address to serve at (default: localhost)")
    p.add_argument(
        "--port", type=int, default=None, metavar="N",
        help="port to serve at (default: 6006, or the next that is free; 0: any)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve until the process is stopped."""
    if args.logdir.exists() and not args.logdir.is_dir():
        raise KilnError(
            "board", "not a folder", str(args.logdir), f"its folder: kiln board {args.logdir.parent}"
        )  # fmt: skip
    program = need("tensorboard.program", "board", "board")
    board = program.TensorBoard()
    given = [] if args.port is None else ["--port", str(args.port)]
    board.configure(["kiln", "--logdir", str(args.logdir), "--host", args.host, *given])
    try:
        address = board.launch()
    except program.TensorBoardServerException as e:
        raise KilnError(
            "board", f"TensorBoard does not start: {e}", f"--host {args.host} --port {args.port}",
            "another --port",
        ) from None  # fmt: skip
    print(f"{args.logdir} is shown at {address} (stop with Ctrl-C)", flush=True)
    if not args.logdir.exists():
        print(f"{args.logdir} is not there yet: it is shown when something is written", flush=True)
    while True:
        time.sleep(3600)
