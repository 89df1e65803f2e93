"""Where in the user's program something happens: a line, and the module that is being called.

Note [Places]: `here()` walks the stack once. The line is the innermost one that isn't Kiln's own; the module
is the innermost one whose method runs, Kiln's layers included, so that `nn.Sequential(…)` called on one line
tells its layers apart. A module's path (`encoder.layers.0`) is looked for only when somebody asks, among the
modules that hold it: what notes places pays for the walk alone.
"""

from __future__ import annotations

import linecache
import sys
import weakref
from collections.abc import Iterable
from typing import Any, Self

from .errors import _KILN, place
from .heap import is_module, is_optimizer, owners
from .tensor import active_capture

_LAYERS = _KILN + "nn."


class Place(str):
    """A line of the program as messages name it (`train.py:12 in step`), and what else is known of it.

    `file` and `line`; `module` is the module being called, or None where there is none (or none any more);
    `forward` is, for work of a backward pass, the place of the forward call that it differentiates, and
    `through` that call's node (`SqrtBackward0`); `order` numbers places as they were noted.
    """

    __slots__ = ("_module", "file", "forward", "line", "order", "through")

    file: str
    line: int
    order: int
    forward: Place | None
    through: str
    _module: Any

    def __new__(cls, text: str, file: str = "", line: int = 0, module: Any = None) -> Self:
        out = super().__new__(cls, text)
        out.file, out.line, out.order, out.forward, out.through = file, line, 0, None, ""
        out._module = None if module is None else weakref.ref(module)
        return out

    @property
    def module(self) -> Any:
        """The module that was being called."""
        return None if self._module is None else self._module()

    @property
    def text(self) -> str:
        """The source text of the line, where it can be read."""
        return linecache.getline(self.file, self.line).strip() if self.file else ""

    def follow(self, forward: Place, through: str) -> None:
        """Say that the work here differentiates that forward call, recorded under that name."""
        self.forward, self.through, self._module = forward, through, forward._module

    def __reduce__(self) -> tuple:
        return str, (str(self),)


UNKNOWN = Place("a line that is not known")


def _module_of(f: Any) -> Any:
    """The module whose method a frame runs."""
    code = f.f_code
    if not code.co_argcount or not (
        code.co_varnames[0] == "self" or code.co_name in ("forward", "__call__")
    ):
        return None
    x = f.f_locals.get(code.co_varnames[0])
    return x if is_module(x) else None


def here(stop: Any = None, engine: Any = None, deep: bool = True) -> tuple[Place, Any]:
    """The place that runs now, and the tape node whose backward runs, if any.

    Modules and nodes are looked for up to the frame whose code is `stop`, and not beyond the line unless
    `deep`; `engine` is the code of the engine's loop, whose variable `node` is what it runs.
    """
    f: Any = sys._getframe(1)
    line = module = node = None
    looking = True
    while f is not None:
        code = f.f_code
        if code is stop:
            looking = False
        name = f.f_globals.get("__name__", "")
        ours = name.startswith(_KILN) or code.co_filename.startswith("<kiln ")  # generated
        if looking:
            if code is engine:
                node = f.f_locals.get("node")
            elif module is None and (not ours or name.startswith(_LAYERS)):
                module = _module_of(f)
        if line is None and not ours:
            line = f
        if line is not None and not (looking and deep and module is None and node is None):
            break
        f = f.f_back
    if line is None:
        return Place(UNKNOWN, module=module), node
    return Place(place(line), line.f_code.co_filename, line.f_lineno, module), node


# ---------------------------------------------------------------- names of modules


def names_of(modules: Iterable[Any]) -> dict[int, str]:
    """The path of each module from the outermost that holds it, by id; "" for one that none holds."""
    wanted = {id(m): m for m in modules if m is not None}
    parents: dict[int, tuple[Any, str]] = {}
    for x in owners(active_capture() is not None) if wanted else ():
        for name, child in x.__dict__.get("_modules", {}).items():
            # a compiled module and its original hold the same children
            if child is not None and id(child) not in parents:
                parents[id(child)] = (x, name)
    out = {}
    for key in wanted:
        path: list[str] = []
        seen = {key}
        at = key
        while at in parents and id(parents[at][0]) not in seen:
            x, name = parents[at]
            path.append(name)
            at = id(x)
            seen.add(at)
        out[key] = ".".join(reversed(path))
    return out


def layer(module: Any) -> str:
    """A module as messages name it: `encoder.layers.0 (Linear)`, or its class where nothing holds it."""
    if module is None:
        return ""
    name = names_of([module])[id(module)]
    kind = type(module).__name__
    return f"{name} ({kind})" if name else kind


def told(at: Place) -> str:
    """A place in full: `train.py:12 in step: y = x.sqrt()`."""
    text = at.text
    return f"{at}: {text}" if text else str(at)


def tensor_names(tensors: Iterable[Any]) -> dict[int, str]:
    """What tensors are to the modules and optimizers of the program, by id: `encoder.weight`, `exp_avg of encoder.weight`."""
    wanted = {id(t): t for t in tensors}
    held: dict[int, tuple[Any, str]] = {}
    optimizers = []
    for x in owners(active_capture() is not None) if wanted else ():
        if is_optimizer(x):
            optimizers.append(x)
        else:
            for table in ("_parameters", "_buffers"):
                for name, t in x.__dict__[table].items():
                    if t is not None:
                        held.setdefault(id(t), (x, name))
    states: dict[int, tuple[str, Any]] = {}
    for o in optimizers:
        for p, slots in o.state.items():
            for name, t in slots.items() if isinstance(slots, dict) else ():
                if id(t) in wanted:
                    states[id(t)] = (name, p)
    shown = {key: held[key] for key in wanted if key in held}
    shown |= {id(p): held[id(p)] for _, p in states.values() if id(p) in held}
    paths = names_of(x for x, _ in shown.values())
    names = {key: ".".join(filter(None, (paths[id(x)], name))) for key, (x, name) in shown.items()}
    out = {key: names[key] for key in wanted if key in names}
    for key, (slot, p) in states.items():
        out.setdefault(key, f"{slot} of {names.get(id(p), 'a parameter')}")
    return out
