"""Run a Python program as `python` would; with --torch, `import torch` in it means Kiln.

kiln run --torch train.py --epochs 3      a program written for PyTorch, unmodified
kiln run --torch -m package.train         a module of such a program
kiln run --torch --report train.py src/   the torch names that files use, and which are missing
"""

from __future__ import annotations

import argparse
import os
import sys
from types import ModuleType, TracebackType

NAME = "run"
SUMMARY = "run a program written for PyTorch, unmodified (--torch)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--torch", action="store_true", help="`import torch` means Kiln")
    parser.add_argument(
        "--report", action="store_true", help="list the torch names that are used; run nothing"
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="the program is a module's name"
    )
    parser.add_argument(
        "program", nargs=argparse.REMAINDER, help="a script or folder, and its arguments"
    )


def run(args: argparse.Namespace) -> int:
    """Run the program, or report on it; the exit status."""
    if not args.program:
        print("kiln run: which program? kiln run --torch train.py", file=sys.stderr)
        return 2
    if args.report:
        from ..compat.report import report

        return report(args.program)
    if args.torch:
        from ..compat.torch import install

        install()
    program = args.program
    hook = sys.excepthook
    sys.excepthook = lambda kind, value, where: hook(
        kind, value.with_traceback(_program_frames(where)), value.__traceback__
    )
    if args.module:
        run_module(program)
    else:
        run_script(program)
    return 0


def run_script(argv: list[str]) -> None:
    """Run a file, or a folder or archive that holds `__main__.py`, as `python argv…` does."""
    path = argv[0]
    if not os.path.exists(path):
        print(f"{sys.executable}: can't open file {os.path.abspath(path)!r}: [Errno 2] No such file or directory",
              file=sys.stderr)  # fmt: skip
        raise SystemExit(2)
    if os.path.isdir(path) or path.endswith((".zip", ".pyz")):
        _begin(argv, path)
        import runpy

        runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
        return
    main = _begin(argv, os.path.dirname(os.path.realpath(path)))
    main.__dict__.update(__file__=path, __cached__=None)
    with open(path, "rb") as f:
        exec(compile(f.read(), path, "exec", dont_inherit=True), main.__dict__)


def run_module(argv: list[str]) -> None:
    """Run a module as `python -m argv…` does."""
    import runpy

    _begin(["-m", *argv[1:]], os.getcwd())
    runpy._run_module_as_main(argv[0])  # type: ignore[attr-defined]


def _begin(argv: list[str], folder: str) -> ModuleType:
    """A `__main__` of its own, with its arguments; modules beside it are found first."""
    sys.argv = list(argv)
    if not sys.flags.safe_path:
        sys.path[0] = folder
    main = ModuleType("__main__")
    main.__dict__["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    return main


def _program_frames(where: TracebackType | None) -> TracebackType | None:
    """A traceback from the program's first frame on."""
    ours, at = None, where
    while at is not None:
        if at.tb_frame.f_globals is globals():
            ours = at
        at = at.tb_next
    at = None if ours is None else ours.tb_next
    while at is not None and at.tb_frame.f_globals.get("__name__") == "runpy":
        at = at.tb_next
    return at or where
