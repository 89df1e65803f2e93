"""Names that old programs import where they run on Python 2 too."""

import builtins
import collections.abc as container_abcs  # noqa: F401
from math import inf, nan  # noqa: F401

PY2, PY3, PY37 = False, True, True
string_classes = (str, bytes)
int_classes = int
FileNotFoundError = builtins.FileNotFoundError


def with_metaclass(meta: type, *bases: type) -> type:
    """A base class whose subclasses have a metaclass."""
    return meta("base", bases, {})
