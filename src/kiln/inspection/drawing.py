"""`kiln.draw`: a module or a captured program as an SVG picture, by a layout of our own."""

from __future__ import annotations

import html
import os
from pathlib import Path
from threading import get_ident
from typing import Any

from ..autograd.modes import no_grad
from ..compile.compiled import CompiledFunction
from ..debugging.numerics import input_names
from ..debugging.watching import compiled
from ..device import META, device
from ..dtypes import float32
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..graph.node import Graph, Leaf, Node
from ..meta import WATCHING
from ..nn.modules.module import Module
from ..places import tensor_names
from . import rehearsal
from .layout import TITLE, Box, arrange
from .rehearsal import tensors

_FILL = {"op": "#ffffff", "layer": "#e8f1fd", "input": "#e9f7ec", "output": "#fdf0e3"}


def draw(
    what: Any, file: str | os.PathLike | None = None, inputs: Any = None, *, depth: int | None = None, dtype: Any = float32
) -> str:  # fmt: skip
    """The picture of a module or a captured program as SVG text, written to a file where one is named.

    A module needs `inputs`, as `kiln.summary` takes them; nothing is run, and modules inside are boxes, down to `depth`. A function of
    `kiln.compile` is drawn as it was captured first, and so is a compiled module without `inputs`; a `Graph` as it is. Boxes tell name, kind,
    shape and dtype. Errors: KilnError for a function that was not called yet, KilnTypeError for what is none of these, KilnValueError for
    a file that is not to be an SVG.
    """
    if file is not None and Path(file).suffix.lower() != ".svg":
        raise KilnValueError("draw", "pictures are SVG", os.fspath(file), "name the file model.svg: browsers show and print it")  # fmt: skip
    plain = getattr(what, "_orig_mod", what)
    if plain is not what and inputs is None:
        what = compiled(what)
    if isinstance(what, Module):
        root = _of_module(plain, inputs, depth, dtype)
    elif isinstance(what, CompiledFunction):
        root = _of_graph(*_captured(what), what.name)
    elif isinstance(what, Graph):
        root = _of_graph(what, {}, {}, "Graph")
    else:
        raise KilnTypeError(
            "draw", "expected a module, a function of kiln.compile, or a Graph", describe(what), ""
        )
    arrange(root)
    text = svg(root)
    if file is not None:
        Path(file).write_text(text, encoding="utf-8")
    return text


# ---------------------------------------------------------------- what is drawn


def _shape(x: Any) -> str:
    return describe(next(tensors(x), None)) if next(tensors(x), None) is not None else ""


class _Watcher:
    """A forward pass on meta tensors as boxes: layers without layers inside, ops outside of these, groups of both."""

    def __init__(self, name: str, model: Module, depth: int | None):
        self.root = Box([name], "group")
        self.open = [self.root]  # groups and at most one layer
        self.names = {m: path.rpartition(".")[2] for path, m in model.named_modules()}
        self.depth, self.model = depth, model
        self.made: dict[int, tuple[Any, Box]] = {}  # by payload, which is kept

    def held(self, size: int) -> None:
        """Memory that is taken now."""

    def gives(self, box: Box, out: Any) -> None:
        """A box's results."""
        for t in tensors(out):
            self.made[id(t._a)] = (t._a, box)

    def called(self, op: Any, args: tuple, out: Any) -> None:
        """An op."""
        box = self.open[-1]
        sources = [self.made[id(t._a)][1] for t in tensors(list(args)) if id(t._a) in self.made]
        if box.kind != "layer":
            if not sources:
                return  # a value of parameters alone, or a constant
            box = Box([op.name, _shape(out)], "op", box)
        box.reads |= dict.fromkeys(s for s in sources if s is not box)
        self.gives(box, out)

    def enter(self, m: Module, *_: Any) -> None:
        """A module is called."""
        if m is self.model:
            return
        inside = self.open[-1]
        if inside.kind == "layer":
            self.open.append(inside)
            return
        group = any(True for _ in m.children()) and (self.depth is None or len(self.open) < self.depth)  # fmt: skip
        name = f"{self.names[m]}: {type(m).__name__}"
        self.open.append(Box([name], "group" if group else "layer", inside))

    def leave(self, m: Module, given: Any, out: Any) -> None:
        """A module has returned."""
        if m is self.model:
            return
        box = self.open.pop()
        if box.kind == "layer" and box is not self.open[-1]:
            box.text.append(_shape(out))
            if not box.reads:  # it called nothing: dropout in evaluation, say
                box.reads |= dict.fromkeys(self.made[id(t._a)][1] for t in tensors(given) if id(t._a) in self.made)  # fmt: skip
                self.gives(box, out)


def _of_module(model: Module, inputs: Any, depth: int | None, dtype: Any) -> Box:
    from .table import arguments

    if inputs is None:
        raise KilnError(
            "draw", "a module needs inputs to be drawn", describe(type(model).__name__), "draw(model, 'model.svg', (1, 3, 32, 32))",
        )  # fmt: skip
    copied, _ = rehearsal.twin(model)
    args, kwargs = arguments(copied, inputs, dtype)
    w = _Watcher(type(model).__name__, copied.eval(), depth)
    named = {
        **{f"input {i}" if len(args) > 1 else "input": x for i, x in enumerate(args)},
        **kwargs,
    }
    for name, value in named.items():
        for t in tensors(value):
            w.gives(Box([name, describe(t)], "input", w.root), t)
    handles = [h for m in copied.modules() for h in (
        m.register_forward_pre_hook(w.enter, prepend=True), m.register_forward_hook(w.leave))]  # fmt: skip
    WATCHING[get_ident()] = w
    try:
        with device(META), no_grad():
            out = copied(*args, **kwargs)
    finally:
        del WATCHING[get_ident()]
        for h in handles:
            h.remove()
    for t in tensors(out):
        if id(t._a) in w.made:
            Box(["output", describe(t)], "output", w.root).reads[w.made[id(t._a)][1]] = None
    for b in [b for b in w.root.walk() if b.kind == "group" and not b.children]:
        b.kind = "layer"  # it called nothing that reads the inputs
    return w.root


def _captured(fn: CompiledFunction) -> tuple[Graph, dict[Node, str], dict[int, str]]:
    """What was captured first, its inputs' names, and those of outputs that are gradients."""
    if not fn.entries:
        raise KilnError(
            "draw", "the function was not captured yet", fn.name, "call it once, then draw it"
        )
    path = fn.entries[0].root
    while path.plan is None:  # a branch on a value: the way that the first call took
        path = next(iter(path.children.values()))
    plan = path.plan
    names = dict(zip(plan.graph.inputs, input_names(plan), strict=True))
    targets = [(t, k[1]) for t, k in plan.grads if k is not None and k[0] == "new"]
    known = tensor_names(t for t, _ in targets if not isinstance(t, int))
    grads = {
        k: f"grad of {f'argument {t}' if isinstance(t, int) else known.get(id(t), 'a tensor')}" for t, k in targets
    }  # fmt: skip
    return plan.graph, names, grads


def _of_graph(graph: Graph, names: dict[Node, str], grads: dict[int, str], title: str) -> Box:
    root = Box([title], "group")
    boxes: dict[Node, Box] = {}
    nodes = graph.nodes()
    read = {i for n in nodes for i in n.inputs} | set(graph.outputs)
    for n in nodes:
        if n not in read or (isinstance(n.op, Leaf) and n.name in ("const", "literal")):
            continue
        results = n.outputs or ((n.shape, n.dtype),)
        detail = " ".join(f"{d.abbr}{list(s)}" for s, d in results)
        kind = "input" if n.name == "input" else "op"
        box = boxes[n] = Box([names.get(n, n.name), detail], kind, root)
        box.reads |= {boxes[i]: None for i in n.inputs if i in boxes}
    for k, n in enumerate(graph.outputs):
        if n in boxes:
            into = graph.updates.get(k)
            label = (
                grads.get(k, "output")
                if into is None
                else f"into {names.get(graph.inputs[into], 'input')}"
            )
            Box([label], "output", root).reads[boxes[n]] = None
    return root


# ---------------------------------------------------------------- SVG


def svg(root: Box) -> str:
    """Boxes that have their places as a picture."""
    w, h = round(root.w) + 1, round(root.h) + 1
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w}" height="{h}" viewBox="0 0 {w} {h}" '
        'font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="12">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#5a6472"/></marker></defs>',
        f'<rect width="{w}" height="{h}" fill="#ffffff"/>',
    ]
    groups = [b for b in root.walk() if b.children]
    for i, b in enumerate(groups):
        shade = "#f7f8fa" if len(b.above()) % 2 else "#ffffff"
        out.append(_rect(b, shade, "#b8c0cc", 8))
        out.append(_text(b.x + 8, b.y + TITLE - 6, b.text[0], "start", "#5a6472" if i else "#1d2733"))  # fmt: skip
    out += [_line(*line) for b in groups for line in b.lines]
    for b in root.walk():
        if not b.children and b is not root:
            out.append(_rect(b, _FILL.get(b.kind, "#ffffff"), "#5a6472", 5))
            out += [
                _text(b.x + b.w / 2, b.y + 16 + 15 * i, t, "middle", "#5a6472" if i else "#1d2733")
                for i, t in enumerate(b.text)
            ]
    return "\n".join([*out, "</svg>\n"])


def _rect(b: Box, fill: str, stroke: str, r: int) -> str:
    return f'<rect x="{b.x:.1f}" y="{b.y:.1f}" width="{b.w:.1f}" height="{b.h:.1f}" rx="{r}" fill="{fill}" stroke="{stroke}"/>'  # fmt: skip


def _text(x: float, y: float, text: str, anchor: str, fill: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}">{html.escape(text)}</text>'  # fmt: skip


def _line(x0: float, y0: float, turn: float, x1: float, y1: float, arrow: bool) -> str:
    middle = (turn + y1) / 2
    tip = ' marker-end="url(#tip)"' if arrow else ""
    return (
        f'<path d="M{x0:.1f} {y0:.1f}V{turn:.1f}C{x0:.1f} {middle:.1f} {x1:.1f} {middle:.1f} {x1:.1f} {y1:.1f}" '
        f'fill="none" stroke="#5a6472"{tip}/>'
    )


__all__ = ["draw", "svg"]
