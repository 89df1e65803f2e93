"""The name by which this process knows Kiln: reprs and the names of types begin with it."""

import inspect
import sys
from typing import Any

name = "kiln"
"""`kiln`; `torch` where PyTorch programs run (`kiln.compat.torch`), which compare such texts."""

_homes: dict[type, str] = {}  # of classes that are shown under another name: where they are defined


def rename(cls: type, module: str) -> None:
    """Have a class of Kiln say that it is defined in this module."""
    home = cls.__module__
    try:
        cls.__module__ = module
    except TypeError:  # a class that Python does not let one change
        return
    _homes.setdefault(cls, home)
    texts = inspect.get_annotations(cls)
    if texts:  # of names of the module that it was in, which who evaluates them won't find
        space = vars(sys.modules[home])
        cls.__annotations__ = {n: _meaning(a, space) for n, a in texts.items()}


def _meaning(annotation: Any, space: dict[str, Any]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, space)
    except (NameError, TypeError, AttributeError):  # names for type checkers alone
        return Any


def home(cls: type) -> str:
    """The module in which a class is defined, whatever it says."""
    return _homes.get(cls, cls.__module__)
