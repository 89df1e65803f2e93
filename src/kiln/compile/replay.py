"""The Python around a program's call, written out for each plan: a line for each thing that a call does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..autograd.modes import mode
from ..autograd.views import rebase
from ..backends.base import too_large
from ..errors import KilnError, describe
from ..ops.registry import REGISTRY
from ..ops.storing import bump
from ..runtime.blocks import allocator
from ..sharing import Written, watched, written
from ..tensor import Tensor, wrap
from .inputs import Input
from .pytree import count, unflatten
from .source import Source
from .tapenodes import ProgramNode, SpentNode

if TYPE_CHECKING:
    from .plan import Plan


def replay(plan: Plan) -> Callable[[tuple[Any, ...]], Any]:
    """The function from argument leaves to what the captured function returned, as one program run.

    Arrays of state stay bound to the program while their tensors hold them; arguments, gradients
    and arrays that are not contiguous are passed at each call, as are the outputs.
    """
    program, graph = plan.program, plan.graph
    s = Source(
        ProgramNode=ProgramNode, SpentNode=SpentNode, alias=_alias, bump=bump, bump_all=_bump_all, copyto=np.copyto, mode=mode, rebase=rebase, unflatten=unflatten, watched=watched, whole=_whole, program=program, wrap=wrap, written=written,
    )  # fmt: skip
    if plan.n_leaves:
        s.line("".join(f"x{n}, " for n in range(plan.n_leaves)) + "= leaves")
    apart = plan.apart
    s.names["apart"] = apart
    tests = [f"(a{n} := x{n}._a).base is not None or id(a{n}) in apart.owners" for n in apart.given]
    if tests or apart.always:
        s.line(f"if {'True' if apart.always else ' or '.join(tests)}:")
        s.line("apart.check(leaves)", 2)
    if plan.visible:
        size = sum(
            o.numel() * o.dtype.itemsize for o in map(graph.outputs.__getitem__, plan.visible)
        )
        s.names["too_large"] = lambda: too_large(f"results of {program.name}", size)
        s.line("try:")
        for k in plan.visible:
            o = graph.outputs[k]
            empty = s.constant(allocator(o.numel() * o.dtype.itemsize))
            s.line(f"o{k} = {empty}({tuple(o.shape)}, {s.constant(o.dtype.np)})", 2)
        s.line("except MemoryError:")
        s.line("raise too_large() from None", 2)
    s.line("with program.lock:")
    steady, varying, back = _inputs(plan, s)
    outputs = [f"o{k}" for k in plan.visible]
    s.names["call"] = program.caller([i.index for i, _ in varying])
    run = [f"call({', '.join([text for _, text in varying] + outputs)})", *back]
    if plan.written:
        bound = {i.index for _, i in steady}
        changes = [a for i in plan.written if i.index not in bound for a in _arrays(i, s)]
        told = f"if watched: changed.tell(); written({', '.join(changes)})"
        run = ["try:", *("    " + line for line in run), "finally:", "    " + told]
    for line in run:
        s.line(line, 2)
    _effects(plan, s)
    made = _results(plan, s)
    s.line(f"return {_tree(plan.structure, iter(made), s)}")
    function = s.function("run(leaves)", "replay")
    s.names["rebind"] = lambda leaves: _rebind(plan, leaves, steady, s.names)
    s.names["changed"] = _changed(plan, steady)
    return function


def _tensor(t: Tensor | int, s: Source) -> str:
    """The name of a tensor, which may be an argument leaf."""
    return f"x{t}" if isinstance(t, int) else s.constant(t)


def _owner(i: Input, s: Source) -> str:
    """The name of the tensor of an input."""
    return _tensor(i.leaf if i.leaf >= 0 else i.tensor, s)  # type: ignore[arg-type]


def _arrays(i: Input, s: Source) -> list[str]:
    """The names of the arrays of an input."""
    if i.kind == "stretch":
        return [f"x{n}._a" for n, _, _ in i.stretch.places]
    return [f"{_owner(i, s)}._grad._a" if i.kind == "grad" else f"{_owner(i, s)}._a"]


def _inputs(
    plan: Plan, s: Source
) -> tuple[list[tuple[str, Input]], list[tuple[Input, str]], list[str]]:
    """Lines that look at inputs: (names of arrays bound, what is passed, lines that store copies back)."""
    steady: list[tuple[str, Input]] = []
    varying: list[tuple[Input, str]] = []
    back: list[str] = []
    copies: list[str] = []
    hosts = [i for i in plan.inputs if i.kind == "host"]
    numbers = np.zeros(len(hosts))
    s.names["numbers"] = memoryview(numbers)
    for j, i in enumerate(hosts):
        owner, key = i.host  # type: ignore[misc]
        plan.program.bind(i.index, numbers[j : j + 1].reshape(()))
        copies.append(f"numbers[{j}] = {s.constant(owner)}[{key!r}]")
    for i in plan.inputs:
        if i.kind == "host":
            continue
        if i.kind == "state" and i.index not in plan.loose:
            a = i.tensor._a  # type: ignore[union-attr]
            plan.program.bind(i.index, i.lay(a))
            steady.append((s.variable(a), i))
            continue
        if i.kind == "stretch":
            copies.append(f"w{i.index} = {s.constant(i.stretch)}.array(leaves)")
            varying.append((i, f"w{i.index}"))
            continue
        (held,) = _arrays(i, s)
        if i.order is not None:
            copies.append(f"h{i.index} = {held}.transpose({i.order})")
            held = f"h{i.index}"
        if i.kind == "grad" or i.index in plan.loose:
            copies.append(f"w{i.index} = whole({held})")
            if i in plan.written:
                back.append(f"if w{i.index} is not {held}:")
                back.append(f"    copyto({held}, w{i.index})")
            held = f"w{i.index}"
        varying.append((i, held))
    if steady:
        tests = " or ".join(f"{_owner(i, s)}._a is not {a}" for a, i in steady)
        s.line(f"if {tests}:", 2)
        s.line("rebind(leaves)", 3)
    for line in copies:
        s.line(line, 2)
    return steady, varying, back


def _whole(a: np.ndarray) -> np.ndarray:
    """An array with these elements that is contiguous."""
    return a if a.flags.c_contiguous else a.copy()


def _rebind(
    plan: Plan, leaves: tuple[Any, ...], steady: list[tuple[str, Input]], names: dict[str, Any]
) -> None:
    """Follow tensors of state that hold other arrays now."""
    plan.apart.follow()
    plan.apart.check(leaves)
    for name, i in steady:
        a, old = i.tensor._a, names[name]  # type: ignore[union-attr]
        if a is not old:
            laid = i.lay(a)
            if (a.shape, a.dtype) != (old.shape, old.dtype) or not laid.flags.c_contiguous:
                raise KilnError(
                    "compile", "a tensor was given other memory by another thread during the call",
                    f"{describe(old)} became {describe(a)}", "change tensors between calls",
                )  # fmt: skip
            plan.program.bind(i.index, laid)
            names[name] = a
    names["changed"] = _changed(plan, steady)


def _changed(plan: Plan, steady: list[tuple[str, Input]]) -> Written:
    """The arrays of state that a call writes, of those that are bound."""
    return Written(i.tensor._a for _, i in steady if i in plan.written)  # type: ignore[union-attr]


def _effects(plan: Plan, s: Source) -> None:
    """Lines for what a call changes: versions of memory, and gradients."""
    for i in plan.written:
        if i.kind == "arg":
            s.line(f"bump({_owner(i, s)})")
        elif i.kind == "stretch":
            s.line(f"bump_all({', '.join(f'x{n}' for n, _, _ in i.stretch.places)})")
        elif i.kind == "state":
            bump(i.tensor)  # type: ignore[arg-type]
            s.line(f"{_owner(i, s)}._ver[0] += 1")
    for target, made in plan.grads:
        value = "None"
        if made is not None:
            value = f"x{made[1]}" if made[0] == "arg" else f"wrap(o{made[1]})"
        s.line(f"{_tensor(target, s)}._grad = {value}")


def _bump_all(*tensors: Tensor) -> None:
    """Count one change of memory that several tensors share."""
    for t in {id(t._ver or t): t for t in tensors}.values():
        bump(t)


def _results(plan: Plan, s: Source) -> list[str]:
    """Lines that make the output leaves; their names."""
    made = [""] * len(plan.makers)
    position: dict[int, int] = {}
    if plan.joint is not None:
        position = {k: j for j, k in enumerate(plan.joint.outputs)}
        slots = ", ".join(f"{k}: o{k}" for k in plan.visible)
        joint, inputs = s.constant(plan.joint), s.constant(plan.inputs)
        s.line(f"node = ProgramNode({joint}, {inputs}, leaves, {{{slots}}}) if mode.grad else None")
        for leaf, k in plan.moved:
            s.line("if node is not None:")
            s.line(f"rebase(x{leaf}, node, None, {position[k]})", 2)
    for at, m in plan.order:
        if m[0] == "value":
            made[at] = s.constant(m[1])
            continue
        if m[0] in ("again", "arg"):
            made[at] = made[m[1]] if m[0] == "again" else f"x{m[1]}"
            continue
        made[at] = f"m{at}"
        if m[0] == "new":
            turned = f".transpose({m[2]})" if len(m) > 2 else ""
            s.line(f"m{at} = wrap(o{m[1]}{turned})")
            if m[1] in position:
                s.line("if node is not None:")
                s.line(f"m{at}._fn, m{at}._idx, m{at}._rg = node, {position[m[1]]}, True", 2)
            elif m[1] in plan.spent:
                s.line(f"m{at}._fn, m{at}._rg = SpentNode(), True")
        else:
            _, source, chain, tracked = m
            if isinstance(source, Input):
                text = _owner(source, s)
            else:
                text = made[source] if isinstance(source, int) else _tensor(source, s)
            s.line(f"m{at} = alias({text}, {s.constant(chain)}, {tracked})")
    return made


def _alias(t: Tensor, chain: tuple | None, tracked: bool) -> Tensor:
    """A view of a tensor, or the tensor itself where the chain is None; without its history if not tracked."""
    if chain is None:
        return t
    if not tracked:
        t = t.detach()
    for name, rest in chain:
        t = REGISTRY[name].fn(t, *rest)
    return t


def _tree(structure: Any, leaves: Iterator[str], s: Source) -> str:
    """The expression for a tree of leaves."""
    if structure is None:
        return next(leaves)
    kind, parts = structure[:2]
    if kind is dict:
        return "{" + ", ".join(f"{s.constant(k)}: {_tree(p, leaves, s)}" for k, p in parts) + "}"
    if kind is tuple or kind is list:
        inner = "".join(f"{_tree(p, leaves, s)}, " for p in parts)
        return f"({inner})" if kind is tuple else f"[{inner}]"
    flat = "".join(f"{next(leaves)}, " for _ in range(count(structure)))
    return f"unflatten({s.constant(structure)}, iter(({flat})).__next__)"
