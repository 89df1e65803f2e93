"""Who made the first NaN or infinity: the op, its layer and its line, in eager mode and in compiled programs."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from threading import get_ident
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from ..autograd import anomaly
from ..autograd.tape import ANOMALY
from ..errors import KilnError, describe
from ..graph.node import CONST, INPUT, OBSERVERS, Graph, Leaf, Node, toposort
from ..ops.registry import REGISTRY
from ..places import Place, here, layer, tensor_names, told
from ..recording import OP, Event, Recorder
from ..sharing import written
from ..tensor import Tensor
from ..utils._pytree import tree_leaves

if TYPE_CHECKING:
    from ..compile.compiled import CompiledFunction
    from ..compile.plan import Plan


class NumericsError(KilnError, FloatingPointError):
    """A value that is NaN or infinite: `operation` made it, in the module `layer` (its path, "" outside of modules), on the line `place`.

    `backward` says that it is a gradient; then `layer` and `place` are those of the forward call.
    """

    operation = layer = place = ""
    backward = False


class check_numerics:
    """Raise a NumericsError where an op makes the first NaN, or with `inf` the first infinity, for a block.

    It names the op, the module and the line; for gradients, those of the forward call. A compiled function's
    call is run node by node first, with values that reach no result, and writes nothing where there is an error. Infinities that
    were given, as in masks of -inf, are none that an op made. `kiln.autograd.detect_anomaly` is this for gradients
    alone. It costs a look at every result; off, nothing. TensorFlow's `tf.debugging.enable_check_numerics`.

    >>> import kiln
    >>> with check_numerics():
    ...     kiln.tensor([-1.0]).log()
    Traceback (most recent call last):
    kiln.debugging.numerics.NumericsError: [check_numerics] log gives NaN...
    """

    def __init__(self, inf: bool = True):
        self.inf = inf
        self.checkers: list[Checker] = []

    def __enter__(self) -> None:
        c = Checker(self.inf)
        self.checkers.append(c)
        c.before = ANOMALY[:]
        c.start()
        ANOMALY[:] = [anomaly.Watch(True, c)]
        anomaly.switch()

    def __exit__(self, *_: object) -> None:
        c = self.checkers.pop()
        ANOMALY[:] = c.before
        anomaly.switch()
        c.stop()


_enabled: list[check_numerics] = []


def enable_check_numerics(inf: bool = True) -> None:
    """`check_numerics` from now on, until `disable_check_numerics`."""
    disable_check_numerics()
    _enabled.append(check_numerics(inf))
    _enabled[0].__enter__()


def disable_check_numerics() -> None:
    """End what `enable_check_numerics` began."""
    while _enabled:
        _enabled.pop().__exit__()


# ---------------------------------------------------------------- arrays


def _lacks(a: Any, test: Callable = np.isnan) -> bool:
    """Whether a test finds an element of an array of numbers."""
    if not isinstance(a, np.ndarray | np.generic) or a.dtype.kind not in "fcV":
        return False
    try:
        return bool(test(a).any())
    except TypeError:
        return False


def _unfit(values: Any, inf: bool) -> str:
    """ "NaN" or "inf" where one of an op's results holds that, else ""."""
    arrays = values if isinstance(values, tuple | list) else (values,)
    if any(map(_lacks, arrays)):
        return "NaN"
    return "inf" if inf and any(_lacks(a, np.isinf) for a in arrays) else ""


def _holds(values: Any, kind: str) -> bool:
    arrays = values if isinstance(values, tuple | list) else (values,)
    return any(_lacks(a, np.isnan if kind == "NaN" else np.isinf) for a in arrays)


def stats(a: Any) -> str:
    """What an array holds, in a few words: `f32[4, 5] from -1.2 to 3.1, 2 NaN`."""
    a = np.asarray(a)
    text = describe(Tensor(a)) if a.dtype.kind in "fcV" else f"{a.dtype}{list(a.shape)}"
    if a.dtype.kind not in "fV" or not a.size:
        return text
    x = a.astype(np.float64)
    good = x[np.isfinite(x)]
    if good.size:
        text += f" from {good.min():.3g} to {good.max():.3g}"
    for name, found in (("NaN", np.isnan(x)), ("infinite", np.isinf(x))):
        if found.any():
            text += f", {int(found.sum())} {name}"
    return text


def _infinite_number(args: Iterable[Any]) -> bool:
    return any(isinstance(x, float) and math.isinf(x) for x in args)


def _moves(op: Any) -> bool:
    """Whether an op passes on what it is given, so that what reads its result is to be named."""
    return getattr(op, "family", "") in ("movement", "indexing") or getattr(op, "name", "") in ("clone", "detach", "cast", "item")  # fmt: skip


def error(
    who: str, op: str, kind: str, at: Place, given: Sequence[str], result: str
) -> NumericsError:
    """The error for an op whose result is not finite."""
    backward, source = at.forward is not None, at.forward or at
    where = layer(source.module)
    of = f", in the gradient of {at.through}," if backward else ""
    out = NumericsError(
        who, f"{op} gives {kind}{of}" + (f" in layer {where}" if where else ""),
        f"{told(source)}; it gives {result}" + (f", from {'; '.join(given)}" if given else ""),
        "look at the values there: 0 / 0, log or sqrt of 0, inf - inf, a step that is too large, …",
    )  # fmt: skip
    out.operation, out.place, out.backward = op, str(source), backward
    out.layer = where.rpartition(" (")[0] or where
    return out


# ---------------------------------------------------------------- eager mode


class Checker(Recorder):
    """Looks at each op's result as a profiler sees it; keeps nothing."""

    def __init__(self, inf: bool):
        super().__init__(values=True)
        self.inf = inf
        self.before: list[Any] = []

    def take(self, e: Event, args: tuple, out: Any) -> None:
        """Raise where a call gave what it was not given."""
        if e.kind != OP:
            return
        if out is None:  # an in-place form, which was written unless it failed
            if sys.exc_info()[1] is not None or not args or not e.name.endswith("_"):
                return
            args, out = args[1:], args[0]
        values = [t._a for t in tree_leaves(out) if isinstance(t, Tensor)]
        kind = _unfit(values, self.inf)
        if not kind:
            return
        tensors = [t for t in tree_leaves(list(args)) if isinstance(t, Tensor)]
        bad = [t for t in tensors if _holds(t._a, kind)]
        name = e.name.rpartition("::")[2]
        if kind == "inf" and (bad or _infinite_number(args)):
            return
        if bad and (_moves(REGISTRY.get(name.rstrip("_"))) or not tensors):
            return
        names = tensor_names(tensors)
        given = [f"{names.get(id(t), 'argument')} {stats(t._a)}" for t in tensors]
        at = here()[0]
        node = anomaly.current()
        if node is not None:
            at.follow(anomaly.place_of(node), node.name())
        raise error(
            "check_numerics",
            name,
            kind,
            at,
            given,
            stats(next(v for v in values if _holds(v, kind))),
        )


# ---------------------------------------------------------------- compiled programs


class Finding:
    """The node of a program that made the first value that is not finite."""

    def __init__(
        self, node: Node, at: Place, kind: str, result: str, given: list[tuple[Node, str]]
    ):
        self.node, self.at, self.kind, self.result, self.given = node, at, kind, result, given


def find(
    graph: Graph, places: dict[Node, Place], inputs: Sequence[np.ndarray], inf: bool, forward: bool = True
) -> Finding | None:  # fmt: skip
    """Run a Graph node by node and say which node made the first NaN (or infinity), in the program's order.

    Without `forward` NaN alone counts, of which a gradient came to be NaN: the result of a rule, as in eager mode.
    """
    made: list[tuple[float, int, Finding]] = []
    inner: list[Finding] = []
    unfit: set[Node] = set()
    mine = set(graph.nodes())
    places = _inside(graph) | places
    read: set[Node] = {n for n in mine if n.op is INPUT}

    def observe(n: Node, value: Any, raw: Callable) -> None:
        if isinstance(n.op, Leaf) and n.op.name != "item":
            read.add(n)
            return
        kind = _unfit(value, inf)
        if _moves(n.op) and all(x in read for x in n.inputs):
            read.add(n)
        if not kind:
            return
        unfit.add(n)
        bad = [x for x in n.inputs if _holds(raw(x), kind)]
        if bad and (
            _moves(n.op) or kind == "inf" or not all(x in read or x.op is INPUT for x in bad)
        ):
            return
        if kind == "inf" and (
            _infinite_number(n.args)
            or any(x.op is CONST and math.isinf(abs(x.args[0])) for x in n.inputs)
        ):
            return
        at = made_at(places, n)
        values = value if isinstance(value, tuple | list) else (value,)
        result = stats(next(v for v in values if _holds(v, kind)))
        f = Finding(
            n, at, kind, result, [(x, stats(raw(x))) for x in n.inputs if x.outputs is None]
        )
        if bad and n not in mine:
            inner.append(f)
        else:
            made.append((at.order or math.inf, len(made), f))

    me = get_ident()
    old = OBSERVERS.get(me)
    OBSERVERS[me] = observe
    try:
        graph.evaluator()(inputs)
    finally:
        if old is None:
            del OBSERVERS[me]
        else:
            OBSERVERS[me] = old
    if not forward:
        gradient = _first_gradient(graph, places, unfit)
        if gradient is None:
            return None
        below = set(toposort([gradient]))
        made = [m for m in made if m[2].node in below or m[2].node not in mine]
    if made:
        return min(made, key=lambda m: m[:2])[2]
    return inner[0] if inner else None


def _inside(graph: Graph) -> dict[Node, Place]:
    """Where the nodes of the bodies of loops and branches were made, at any depth."""
    out: dict[Node, Place] = {}
    for n in graph.nodes():
        for body in n.graphs:
            out |= _inside(body) | body.places
    return out


def made_at(places: dict[Node, Place], n: Node) -> Place:
    """Where a node of a program was made."""
    at = places.get(n) or n.source
    return at if isinstance(at, Place) else Place(at)


def _first_gradient(graph: Graph, places: dict[Node, Place], unfit: set[Node]) -> Node | None:
    """The first of these nodes that is a rule's result: a gradient that no op of the same rule reads."""
    readers: dict[Node, list[Node]] = {}
    for n in graph.nodes():
        for x in n.inputs:
            readers.setdefault(x, []).append(n)
    for n in graph.nodes():
        rule = made_at(places, n).forward
        if n in unfit and rule is not None:
            found = readers.get(n)
            if found is None or n in graph.outputs or any(made_at(places, r).forward is not rule for r in found):  # fmt: skip
                return n
    return None


def look(
    graph: Graph, places: dict[Node, Place], inputs: Sequence[np.ndarray], checker: Any, plan: Plan | None = None
) -> None:  # fmt: skip
    """Raise the error for a program's first NaN, or what else `check_numerics` asks for; None is `detect_anomaly`."""
    f = find(graph, places, inputs, checker is not None and checker.inf, checker is not None)
    if f is not None:
        by_node = {} if plan is None else dict(zip(graph.inputs, input_names(plan), strict=True))
        given = [f"{by_node.get(x, x.name)} {text}" for x, text in f.given]
        raise error(WHO[checker is not None], f.node.name, f.kind, f.at, given, f.result)


WHO = ("backward", "check_numerics")


_whole: WeakKeyDictionary[Plan, Graph] = WeakKeyDictionary()


def _with_unused(plan: Plan) -> Graph:
    """A plan's Graph with all that the function computed, that which reaches no result too."""
    found = _whole.get(plan)
    if found is None:
        graph = plan.graph
        known, unused = {*graph.nodes(), *graph.inputs}, []
        for n in toposort(plan.places):
            if n not in known and n.op is not INPUT and all(x in known for x in n.inputs):
                known.add(n)
                unused.append(n)
        found = _whole[plan] = Graph(graph.inputs, [*graph.outputs, *unused])
    return found


def input_names(plan: Plan) -> list[str]:
    """What the inputs of a captured program are: arguments, parameters, optimizer state, …"""
    names = tensor_names(i.tensor for i in plan.inputs if i.tensor is not None)
    out = []
    for i in plan.inputs:
        if i.kind == "host":
            out.append(str(i.node.args[1]))
        elif i.leaf >= 0:
            out.append(f"{'grad of ' if i.kind == 'grad' else ''}argument {i.leaf}")
        elif i.tensor is not None:
            name = names.get(id(i.tensor), "a tensor")
            out.append(f"grad of {name}" if i.kind == "grad" else name)
        else:
            out.append("arguments")
    return out


def run_plan(fn: CompiledFunction, plan: Plan, leaves: tuple, checker: Any) -> Any:
    """A call of a captured program after a look at all that it computes; an error leaves state as it was."""
    if checker is None and not any(at.forward for at in plan.places.values()):
        return plan.run(leaves)
    plan.apart.check(leaves)
    inputs = [i.fetch(leaves) for i in plan.inputs]
    look(_with_unused(plan), plan.places, inputs, checker, plan)
    if any(map(_lacks, inputs)):
        return plan.run(leaves)
    held = [i.held(leaves).copy() for i in plan.written]
    targets = [leaves[t] if isinstance(t, int) else t for t, _ in plan.grads]
    grads = [t._grad for t in targets]
    out = plan.run(leaves)
    found = [t._a for t in tree_leaves(out) if isinstance(t, Tensor)]
    found += [i.held(leaves) for i in plan.written]
    found += [t._grad._a for t in targets if t._grad is not None]
    if checker is None or not any(map(_lacks, found)):
        return out
    for i, a in zip(plan.written, held, strict=True):
        now = i.held(leaves)
        written(now)
        np.copyto(now, a)
        written(now)
    for t, g in zip(targets, grads, strict=True):
        t._grad = g
    raise NumericsError(
        WHO[1], f"the program {fn.name} gives NaN where its ops one by one give none",
        None, "compile it with backend='reference', or bisect with KILN_NO_FUSE=1 and KILN_NO_SIMPLIFY=1",
    )  # fmt: skip
