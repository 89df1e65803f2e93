"""One op, one definition: the registry, and what is derived from it.

An op is a decorated function. Its Python signature is the op's signature, its docstring the docs,
its body the NumPy reference; the decorator adds the gradient, the shape rule, the lowering and
samples. `op` returns the public function on Tensors.

    @op(grad={"input": lambda g, out: g * out}, scalar="exp", ...)
    def exp(input: Tensor) -> Tensor:
        '''e to the power of each element.'''
        return np.exp(input)

Parameters annotated `Tensor`, `Tensor | None`, `Operand` (tensor or Python number) and
`Sequence[Tensor]` are tensors; every other one is an attribute. `VarInts` takes `f(2, 3)` and
`f((2, 3))` alike.
"""

from __future__ import annotations

import inspect
import types
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, wraps
from typing import Any

import numpy as np

from .. import naming
from ..formats import channels_last, channels_last_3d, images_order
from ..tensor import CAPTURING, PLAIN, Tensor

Number = bool | int | float | complex
Operand = Tensor | Number
VarInts = Sequence[int]

TENSOR, OPTIONAL, OPERAND, TENSORS, ATTR = "tensor", "optional", "operand", "tensors", "attr"
ALIGNED, LEADING, EACH = "aligned", "leading", "each"
"""The `batch` of ops whose operands broadcast; that take any dimensions before their own; called for each."""
_KINDS = {"Tensor": TENSOR, "Tensor | None": OPTIONAL, "Operand": OPERAND,
          "Operand | None": "operand?", "Sequence[Tensor]": TENSORS}  # fmt: skip


_LIES = dict.fromkeys(("elementwise", "cast", "select"), "operands") | dict.fromkeys(
    ("composite", "contraction", "indexing", "reduction", "scan", "sort", "transform"), "rows"
)
"""How results of families lie, as `op` tells; others lie as NumPy gives them."""


@dataclass(frozen=True)
class Param:
    """One parameter of an op: its name, kind and default (`inspect.Parameter.empty` for none)."""

    name: str
    kind: str
    default: Any
    keyword_only: bool
    variadic: bool

    @property
    def is_tensor(self) -> bool:
        return self.kind != ATTR


@dataclass
class Sample:
    """A call to test an op with: arguments are NumPy arrays in tensor positions.

    `error` is the exception class that the call must raise; `grad=False` leaves the sample out of
    gradient checks (kinks, integer data); `fixed` names the keyword arguments without a gradient.
    """

    args: tuple
    kwargs: dict = field(default_factory=dict)
    error: type[Exception] | None = None
    grad: bool = True
    fixed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """A gradient rule: `fn(*names)` gives the gradients of `targets` (positions of parameters).

    `slots` says where each argument comes from: a parameter position, GRAD, OUT, PICKS, NEEDS or SHAPE, or
    SIZES minus the position of a parameter of which only the shape is read, and kept.
    """

    fn: Callable
    targets: tuple[int, ...]
    slots: tuple[int, ...]
    joint: bool


# `g` (or `gs`), `out` (or `outs`), `needs`, `in_shape`, `picks` (the second of the results, where a change
# of the first is no matter) and `x_shape` in a rule's signature
GRAD, OUT, NEEDS, SHAPE, PICKS, SIZES = -1, -2, -3, -4, -5, -10


@dataclass(slots=True, eq=False)
class Plan:
    """Backward for one choice of inputs that need gradients.

    `slots` tells the parameter (and index in a sequence) of each edge; tensors at `drop`
    are not saved, but for the shapes of those at `sizes`; those at `keep` must not change (of an op that reads its
    input's layout that is all its rules read). `seen` is the result that must not change. What `saves` nothing may be
    gone through again.
    """

    rules: tuple[Rule, ...]
    slots: tuple[tuple[int, int | None], ...]
    needed: frozenset[int]
    keep: tuple[int, ...]
    drop: tuple[int, ...]
    sizes: tuple[int, ...]
    save_out: bool
    saves: bool
    seen: int
    blank: (
        tuple | None
    )  # the arguments to keep where no tensor is saved and attributes have their defaults
    quick: (
        Callable[[Any, Sequence[Any], Any, Sequence[Any]], list] | None
    )  # the rules on plain arrays: of the gradient(s), the arguments, the results and the edges
    scripts: dict[Any, Any] = field(default_factory=dict)  # a backend's, by call
    parts: dict[tuple[bool, ...], Plan] = field(default_factory=dict)  # for some of the edges
    ruled: Callable[[Any, Sequence[Any], Callable, Sequence[Any], bool], list] | None = None
    save: Callable[[Any, tuple, tuple], None] | None = None  # the tape's, for calls of this plan

    def differentiate(
        self, gs: Sequence[Any], args: Sequence[Any], outputs: Callable, edges: Sequence[Any]
    ) -> list[Any]:
        """The gradient, or None, for each edge: by the rules, from these gradients, arguments and outputs."""
        single = len(gs) == 1
        if self.ruled is None:
            rules = {i: r for r in self.rules for i in r.targets}
            self.ruled = _written([(rules.get(i), i, j) for i, j in self.slots], self.needed)
        return self.ruled(gs[0] if single else gs, args, outputs, edges, single)


class Op:
    """An operation and everything that is known about it."""

    def __init__(self, name: str, reference: Callable, family: str, **facts: Any):
        self.name, self.reference, self.family = name, _positional(reference), family
        self.annotations: dict[str, Any] = dict(reference.__annotations__)
        self.params = _params(reference)
        self.index = {p.name: i for i, p in enumerate(self.params)}
        self.tensor_slots = tuple(i for i, p in enumerate(self.params) if p.is_tensor)
        # where None, or a number beside tensors, is what it should be
        self.absent = frozenset(
            i for i in self.tensor_slots if self.params[i].kind in (OPTIONAL, "operand?")
        )
        self.plain = frozenset(
            i for i in self.tensor_slots if self.params[i].kind in (OPERAND, "operand?")
        )
        self.list_slots = tuple(i for i, p in enumerate(self.params) if p.kind == TENSORS)
        self.infer: Callable | None = facts.get("infer")
        self.body: Callable | None = facts.get("body")
        self.batch: Any = facts.get("batch")
        self.scalar: str | None = facts.get("scalar")
        self.promote: str | None = facts.get("promote")
        self.view: bool = facts.get("view", False)
        # of a view of a part: NumPy's index of that part, from the arguments after the input
        self.part: Callable[..., tuple] | None = facts.get("part")
        self.check: bool = facts.get("check", True)
        self.exact: bool = facts.get("exact", False)
        self.samples: Callable[[], Iterator[Sample]] | None = facts.get("samples")
        self.aliases: tuple[str, ...] = tuple(facts.get("aliases", ()))
        self.method: bool = facts.get("method", True)
        self.namespace: str = facts.get("namespace", "")
        # "zero": what it changes in place keeps a gradient, which is zero
        self.inplace: bool | str = facts.get("inplace", False)
        self.out: bool | str = facts.get("out", False)  # or which `out=` it takes: see `store_out`
        self.private: bool = facts.get("private", False)
        self.numbers: bool = facts.get("numbers", False)  # takes two Python numbers
        # takes numbers as they are beside half floats: see Note [Numbers beside half floats]
        self.wide_numbers: bool = facts.get("wide_numbers", False)
        # takes NumPy so many passes that a kernel is quicker for any number of elements
        self.dear: bool = facts.get("dear", False)
        # the parameter that only multiplies, whose value no kernel depends on
        self.factor: int | None = self.index.get(facts.get("factor", "alpha"))
        self.lies: str = facts.get("lies", _LIES.get(family, ""))
        self.layout: bool = facts.get("layout", False)  # reads how its input lies in memory
        self.formal = frozenset(self.index[n] for n in facts.get("formal", ()))
        self.nondiff_outputs: tuple[int, ...] = tuple(facts.get("nondiff_outputs", ()))
        self.run: Callable = self.reference
        self.eager: Callable = (
            self.run
        )  # what eager mode calls: `run`, or a backend's native routine
        # stores the result of raw arguments in the first of them, if it can do so as it computes
        self.into: Callable[..., bool] | None = None
        self.ufunc: Any = facts.get("ufunc")
        # what the function's short path calls: the ufunc, or for an op without one a function of raw operands
        self.short: Any = facts.get("short", self.ufunc)
        self.native: str = facts.get("native", "")
        self.dunders: tuple[str, ...] = tuple(facts.get("dunders", ()))
        self.result_names: str = facts.get("result_names", "")
        self.result: Any = None
        self.torch_name: str | None = facts.get("torch_name")
        # the name of its nodes on the tape, PyTorch's where it is another than the op's; or the usual one and a function
        # of the node, for as long as its arguments are kept
        self.node: str | tuple[str, Callable[[Any], str]] = facts.get("node", "")
        self.reflected: str = facts.get(
            "reflected", ""
        )  # the same for a number and a tensor, where it differs
        self.rules = tuple(self._rule(k, fn) for k, fn in (facts.get("grad") or {}).items())
        self.defaults = tuple(p.default for p in self.params if not p.is_tensor)
        quick = [self._rule(k, fn) for k, fn in (facts.get("quick") or {}).items()]
        self.quick = {i: r for r in quick for i in r.targets}
        # the result of several that must not change where rules read any, if not the first
        self.seen: int | None = facts.get("seen")
        self._plans: dict[Any, Any] = {}
        self.passed: set[tuple] = set()  # calls that the shape rule let pass
        self.fn: Callable = None  # type: ignore[assignment]  # set by `op`

    def _rule(self, key: Any, fn: Callable) -> Rule:
        keys = key if isinstance(key, tuple) else (key,)
        special = {"g": GRAD, "gs": GRAD, "out": OUT, "outs": OUT, "needs": NEEDS, "picks": PICKS,
                   "in_shape": SHAPE, **{f"{n}_shape": SIZES - i for n, i in self.index.items()}}  # fmt: skip
        slots = tuple(special[n] if n in special else self.index[n] for n in parameter_names(fn))
        return Rule(fn, tuple(self.index[k] for k in keys), slots, isinstance(key, tuple))

    @property
    def doc(self) -> str:
        """The documentation: the reference's docstring."""
        return inspect.getdoc(self.reference) or ""

    @property
    def differentiable(self) -> bool:
        return bool(self.rules)

    def plan(self, needed: tuple) -> Plan:
        """What backward does for these needed parameters (a position, or position and index in a sequence)."""
        found = self._plans.get(needed)
        if found is None:
            slots = tuple((n, None) if isinstance(n, int) else n for n in needed)
            wanted = frozenset(i for i, _ in slots)
            rules = tuple(r for r in self.rules if wanted.intersection(r.targets))
            short = slots and all(i in self.quick for i, _ in slots)
            quick = [(self.quick[i], i, j) for i, j in slots] if short else []
            saved = {s for r in (*rules, *(q for q, _, _ in quick)) for s in r.slots}
            keep = tuple(i for i in self.tensor_slots if i in saved)
            drop = tuple(i for i in self.tensor_slots if i not in saved)
            sizes = tuple(i for i in drop if SIZES - i in saved)
            results = OUT in saved or PICKS in saved
            blank = tuple(None if p.is_tensor else p.default for p in self.params)
            found = self._plans[needed] = Plan(
                rules, slots, wanted, () if self.layout else keep, drop, sizes, results, bool(keep) or results,
                int(OUT not in saved) if self.seen is None else self.seen,
                blank if not keep and not sizes and not results else None,
                _written(quick) if quick else None,
            )  # fmt: skip
        return found

    def flat_tensors(self, args: Sequence[Any]) -> list[Any]:
        """The tensors among bound arguments, sequences flattened, in order."""
        out = []
        for i in self.tensor_slots:
            x = args[i]
            if isinstance(x, Tensor):
                out.append(x)
            elif i in self.list_slots:
                out.extend(x)
        return out

    def bind(self, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple:
        """Arguments in the order of the parameters, defaults filled in."""
        values = list(args)
        for p in self.params[len(args) :]:
            values.append(kwargs.get(p.name, p.default))
        return tuple(values)

    def __repr__(self) -> str:
        return f"<op {self.name}>"


def _written(
    rules: list[tuple[Rule | None, int, int | None]], needed: frozenset[int] | None = None
) -> Callable:
    """Rules for edges (a parameter, its place in a sequence) as one function: quick ones, see `Plan.quick`, or, for the
    `needed` parameters, those on tensors, which take a function that gives the results and whether there is one."""
    scope: dict[str, Any] = {"Tensor": Tensor, "shape_of": _shape_of}
    lines, results, asked = [], [], {}
    arrays = needed is None
    if not arrays and any(s in (OUT, PICKS) for r, _, _ in rules if r for s in r.slots):
        lines.append("    outs = outs()\n    out = outs[0] if single else outs\n")
    for k, (rule, i, j) in enumerate(rules):
        if rule is None:
            results.append("None")
            continue
        values = []
        for s in rule.slots:
            if s >= 0:
                x = f"args[{s}]"
                values.append(f"(x._a if isinstance(x := {x}, Tensor) else x)" if arrays else x)
            elif s == SHAPE:
                values.append(f"edges[{k}][2]")
            elif s == NEEDS and j is not None and not rule.joint:
                values.append(str(tuple(p for r, _, p in rules if r is rule)))
            elif s == NEEDS:
                values.append(str(tuple(t in needed for t in rule.targets)))  # type: ignore[operator]
            elif s <= SIZES:
                values.append(f"shape_of(args[{SIZES - s}])")
            else:
                values.append({GRAD: "g", OUT: "outs" if arrays else "out", PICKS: "outs[1]"}[s])
        places = [rule.targets.index(i)] if rule.joint else []
        if j is not None and not (arrays and rule.joint):
            places.append(j)
        place = "".join(f"[{p}]" for p in places)
        call = asked.get(id(rule))
        if call is None:
            scope[f"f{k}"] = rule.fn
            call = f"f{k}({', '.join(values)})"
            if place:  # a rule of several gradients
                asked[id(rule)] = f"r{k}"
                lines.append(f"    r{k} = {call}\n")
                call = f"r{k}"
        results.append(call + place)
    more = "" if arrays else ", single"
    source = (
        f"def rules(g, args, outs, edges{more}):\n{''.join(lines)}    return [{', '.join(results)}]"
    )
    return types.FunctionType(code_of(source, "<kiln rules>"), scope, "rules")


@lru_cache(4096)
def code_of(source: str, filename: str) -> types.CodeType:
    """The code of the one function in a source that was written for an op; tracebacks name the file."""
    module = compile(source, filename, "exec")
    return next(c for c in module.co_consts if isinstance(c, types.CodeType))


def _shape_of(x: Any) -> Any:
    """The shape of a tensor, those of several; what is one already."""
    if isinstance(x, Tensor):
        return x._a.shape
    several = isinstance(x, list | tuple) and x and isinstance(x[0], Tensor)
    return [y._a.shape for y in x] if several else x


def _positional(fn: Any) -> Callable:
    """The function with every parameter a positional one: dispatch passes all of them in order."""
    code = fn.__code__
    variadic = bool(code.co_flags & inspect.CO_VARARGS)
    if (not code.co_kwonlyargcount and not variadic) or "names" in fn.__dict__:
        return fn
    if code.co_kwonlyargcount and variadic:
        raise TypeError(
            f"{fn.__name__}: a reference has *args or keyword-only parameters, not both"
        )
    code = code.replace(
        co_argcount=code.co_argcount + code.co_kwonlyargcount + variadic,
        co_kwonlyargcount=0,
        co_flags=code.co_flags & ~inspect.CO_VARARGS,
    )
    out = types.FunctionType(code, fn.__globals__, fn.__name__, None, fn.__closure__)
    out.__doc__ = fn.__doc__
    return out


# Signatures are read from code objects: `inspect.signature` is slow, and `import kiln` reads some hundreds.
def parameter_names(fn: Any) -> tuple[str, ...]:
    """The names of a function's parameters; a function that is given them by position may list `names`."""
    if "names" in fn.__dict__:
        return fn.names
    code = fn.__code__
    variadic = bool(code.co_flags & inspect.CO_VARARGS)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + variadic]


def _params(reference: Any) -> tuple[Param, ...]:
    code = reference.__code__
    names = parameter_names(reference)
    given = reference.__defaults__ or ()
    defaults = dict(zip(names[code.co_argcount - len(given) :], given, strict=False))
    defaults |= reference.__kwdefaults__ or {}
    out = []
    for i, n in enumerate(names):
        text = reference.__annotations__.get(n, "")
        text = text if isinstance(text, str) else getattr(text, "__name__", "")
        default = defaults.get(n, inspect.Parameter.empty)
        keyword = code.co_argcount <= i < code.co_argcount + code.co_kwonlyargcount
        out.append(Param(n, _KINDS.get(text, ATTR), default, keyword, text == "VarInts"))
    return tuple(out)


REGISTRY: dict[str, Op] = {}
"""Every op by name."""
FUNCTIONS: dict[str, Callable] = {}
"""Every public function by dotted name: ops and compositions of ops (`nn.functional.relu`, `add`)."""
METHODS: dict[str, Callable] = {}
"""Every Tensor method that is derived from an op or a composition."""
COMPOSITIONS: dict[str, Composition] = {}
"""Public functions that only call ops, by name, with their samples."""


def room(name: str) -> dict[str, Callable]:
    """The public functions of a module such as `nn.functional`, by name."""
    start = name + "."
    return {n.removeprefix(start): fn for n, fn in FUNCTIONS.items() if n.startswith(start)}


@cache
def named(name: str, fields: str) -> Any:
    """The class of named results; to be asked for when there are some, as making one takes longer than an import of ten ops."""
    fields_of = namedtuple(name, fields)  # noqa: PYI024
    return type(
        name, (fields_of,), {"__module__": "kiln.return_types", "__slots__": (), "__repr__": _shown}
    )


def _shown(result: Any) -> str:
    values = ",\n".join(f"{f}={v!r}" for f, v in zip(result._fields, result, strict=True))
    return f"{naming.name}.return_types.{type(result).__name__}(\n{values})"


@dataclass
class Composition:
    """A public function written in ops: no node of its own, tested like one."""

    name: str
    fn: Callable
    samples: Callable[[], Iterator[Sample]] | None
    namespace: str
    torch_name: str | None
    family: str = "composite"
    out: bool | str = False  # as an op's


def op(
    *,
    grad: dict[Any, Callable] | None = None,
    infer: Callable | None = None,
    family: str = "composite",
    name: str | None = None,
    **facts: Any,
) -> Callable[[Callable], Callable]:
    """Register the decorated NumPy reference as an op; gives the function on Tensors.

    `grad` maps a parameter name (or a tuple of names, for a rule that gives several gradients) to a
    function written in ops whose argument names say what it needs: `g` (`gs` for many outputs), the
    op's parameters, `out`/`outs`, `needs` (which targets of a joint rule are wanted, or places in a sequence), `in_shape` (the
    shape of the target, which costs no saved tensor).
    `quick` may give some of the same rules on plain float arrays, for first-order eager backward; that of a
    sequence gives a list, an array for each of it.
    `infer(*args) -> (shape, dtype)`, or a list of these, is the shape rule; it raises on bad input.
    `body` is the decomposition in ops; `scalar` the name of a primitive elementwise expression.
    `batch` says how vmap calls it, where that does not follow from the rest (`ops/batching.py`).
    `view` results share memory, with `part` (NumPy's index, of the arguments after the first) where they are a part
    and its gradient goes there; `exact` ops do no arithmetic (no upcast of half floats);
    `lies` says how results lie in memory: as the "operands" do, in "rows", or, of convolutions and the like, with
    "channels" innermost where an operand has them so ("images": not of volumes; "joined": where all have);
    `formal` names inputs that gradients depend on, be it by zeros: under `create_graph` all gradients
    require grad where these do, as those of PyTorch's ops that have a backward op of their own. `inplace`
    and `out` derive `name_` and the `out=` argument; `namespace` "" is `kiln`, "F" only
    `kiln.nn.functional`; `private` ops have no public name; `check=False` calls `infer` in eager
    mode only after the reference has failed.
    """

    def register(reference: Callable) -> Callable:
        from . import binding, derive, runners

        o = Op(name or reference.__name__, reference, family, grad=grad, infer=infer, **facts)
        if family == "elementwise" and o.infer is None:
            o.infer = runners.elementwise_infer(o)
        if o.name in REGISTRY:
            raise ValueError(f"op {o.name} is defined twice")
        REGISTRY[o.name] = o
        o.run = o.eager = runners.runner(o)
        o.fn = derive.function(o)
        binding.bind_names(o)
        return o.fn

    return register


whole: Callable[[str, Callable, bool, tuple, dict], Any] | None = None
"""A backend's way to run a composition on large tensors as one; it gives None where its ops are to run one by one."""
_LARGE, _DEAR = 1 << 17, 1 << 12


def at_once(fn: Callable, how: str) -> Callable:
    """A composition that is asked for as a whole where its first tensor is large."""
    least, moves = _DEAR if how == "dear" else _LARGE, how == "move"

    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        if args and not CAPTURING and (x := args[0]).__class__ in PLAIN:
            a = x._a
            large = a.__class__ is np.ndarray and a.size >= least
            if large and whole is not None and kwargs.get("out") is None:
                r = whole(fn.__name__, fn, moves, args, kwargs)
                if r is not None:
                    return r
        return fn(*args, **kwargs)

    return run


def _of_images(fn: Callable, lies: str) -> Callable:
    """A composition whose results lie as the images do which it is given."""

    @wraps(fn)
    def run(input: Tensor, *args: Any, **kwargs: Any) -> Any:
        r = fn(input, *args, **kwargs)
        a = getattr(input, "_a", None)
        a = a if a.__class__ is np.ndarray else getattr(a, "layout", None)
        if a.__class__ is not np.ndarray or images_order(lies, a.ndim, [a]) is None:  # type: ignore[union-attr]
            return r
        format = channels_last if a.ndim == 4 else channels_last_3d  # type: ignore[union-attr]
        if isinstance(r, tuple):
            return tuple(t.contiguous(memory_format=format) for t in r)
        return r.contiguous(memory_format=format)

    return run


def composition(
    *,
    namespace: str = "",
    aliases: Sequence[str] = (),
    method: bool = True,
    function: bool = True,
    inplace: bool = False,
    out: bool | str = False,
    samples: Callable[[], Iterator[Sample]] | None = None,
    torch_name: str | None = None,
    fused: str = "",
    lies: str = "",
) -> Callable[[Callable], Callable]:
    """Export a function written in ops under its name, and as a Tensor method.

    `inplace` adds the method `name_`, `out` the argument of that name to the function. One that is `fused`
    runs as one where tensors are large: "rounded" once instead of after each op, "dear" too from fewer
    elements on, or a "move" of elements. It depends on nothing but its arguments, of which tensors stand alone.
    `lies` is as an op's, of images.
    """

    def register(fn: Callable) -> Callable:
        from .numpy_names import numpy_names

        if fused:
            fn = at_once(fn, fused)
        if lies:
            fn = _of_images(fn, lies)
        if namespace != "F":
            fn = numpy_names(fn)
        room = "nn.functional." if namespace == "F" else f"{namespace}." if namespace else ""
        entry = Composition(fn.__name__, fn, samples, namespace, torch_name, out=out)
        public = _with_out(entry) if out else fn
        for n in (fn.__name__, *aliases):
            if function:
                FUNCTIONS[room + n] = public
            if method and not namespace:
                METHODS[n] = fn
                setattr(Tensor, n, fn)
            if inplace:
                METHODS[n + "_"] = FUNCTIONS[n + "_"] = into = _in_place(fn)
                setattr(Tensor, n + "_", into)
        key = fn.__name__ if namespace == "F" else room + fn.__name__
        COMPOSITIONS[key] = entry
        return public

    return register


def _with_out(entry: Composition) -> Any:
    fn: Any = entry.fn

    def into(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        result = fn(*args, **kwargs)
        if out is None:
            return result
        from .storing import store_out

        return store_out(entry, result, out, args)

    into.__name__, into.__doc__, into.__module__ = fn.__name__, fn.__doc__, fn.__module__
    into.__wrapped__ = fn  # type: ignore[attr-defined]
    return into


def _in_place(fn: Any) -> Any:
    def into(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        from .indexing import assign

        return assign(self, fn, *args, **kwargs)

    into.__name__, into.__doc__ = (
        fn.__name__ + "_",
        f"In-place form of `{fn.__name__}`: {fn.__doc__}",
    )
    return into


def method(name: str) -> Callable[[Callable], Callable]:
    """Bind the decorated function as a Tensor method of that name only."""

    def register(fn: Callable) -> Callable:
        from .numpy_names import numpy_names

        METHODS[name] = fn = numpy_names(fn)
        setattr(Tensor, name, fn)
        return fn

    return register
