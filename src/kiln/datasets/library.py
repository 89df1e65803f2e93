"""The text of Python's own standard library: code and prose that are on every machine."""

from __future__ import annotations

import ast
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from ..errors import KilnError, KilnValueError

_PARTS = ("code", "prose")
_APART = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__", "ensurepip", "lib2to3", "turtledemo"}  # fmt: skip


def load_library_text(part: str = "prose", length: int | None = 1_000_000) -> str:
    """The first `length` characters (all with None) of the library's "code", or of its docstrings ("prose").

    Modules come in the order of their names, tests left out. It is the text of the Python that runs, so another
    version has another one. KilnError where the library's source is not installed.
    """
    if part not in _PARTS:
        raise KilnValueError("load_library_text", "no such part", repr(part), f"one of {_PARTS}")
    found: list[str] = []
    size = 0
    for source in _sources():
        text = source if part == "code" else "\n\n".join(_docstrings(source))
        if text:
            found.append(text.rstrip() + "\n\n")
            size += len(found[-1])
        if length is not None and size >= length:
            break
    if not found:
        raise KilnError(
            "load_library_text", "the standard library's source is not there", _root(),
            "install the Python that has it, or read a text of your own",
        )  # fmt: skip
    return "".join(found)[:length]


def _root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _sources() -> Iterator[str]:
    paths: list[Path] = []
    for folder, folders, files in os.walk(_root()):
        # what is installed may be a hundred times the library: its folders are not entered
        folders[:] = [f for f in folders if f not in _APART]
        paths += [Path(folder, f) for f in files if f.endswith(".py")]
    for path in sorted(paths):
        try:
            yield path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):  # a few files hold other encodings on purpose
            continue


def _docstrings(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text
