"""A model's layers as Keras's table, or as a picture of its graph."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import Any

from ..amounts import in_bytes
from .layer import Layer
from .model import Model, Sequential


def _shape(layer: Any) -> str:
    nodes = getattr(layer, "__dict__", {}).get("_nodes", [])
    shapes = [t.shape for t in nodes[0].outputs] if nodes else []
    if not shapes and isinstance(layer, Model) and layer._known is not None:
        shapes = [t.shape for t in layer.outputs]
    return "?" if not shapes else ", ".join(map(str, shapes))


def _weights(layer: Any) -> list[Any]:
    return list({id(w): w for w in (*layer.parameters(), *layer.buffers())}.values()) if hasattr(layer, "parameters") else []  # fmt: skip


def _count(layer: Any) -> str:
    if getattr(layer, "built", True) is False:
        return "0 (unbuilt)"
    return f"{sum(w.numel() for w in _weights(layer)):,}"


def _connected(layer: Any, own: set[int]) -> str:
    nodes = [n for n in layer.__dict__.get("_nodes", []) if id(n) in own]
    return ", ".join(f"{t.node.operation.name}[{t.node.index}][{t.index}]" for n in nodes for t in n.inputs if t.node) or "-"  # fmt: skip


def _rows(model: Model, nested: bool, depth: int = 0) -> Iterator[tuple[int, Any]]:
    graph = model._known
    whole = graph is not None and not isinstance(model, Sequential)
    for layer in graph.operations if graph is not None and whole else model.layers:
        yield depth, layer
        if nested and isinstance(layer, Model):
            yield from _rows(layer, nested, depth + 1)


def print_summary(
    model: Model, line_length: int | None = None, positions: Any = None, print_fn: Callable | None = None, expand_nested: bool = False,
    show_trainable: bool = False, layer_range: Any = None,
) -> None:  # fmt: skip
    """Print the table: layers, shapes of their outputs, parameters, and in graphs that are no chain what they are connected to."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    graph = model._known
    own = {id(n) for n in graph.nodes} if graph is not None else set()
    chain = graph is None or isinstance(model, Sequential) or all(len(n.inputs) < 2 for n in graph.nodes)  # fmt: skip
    table = Table(title=f'Model: "{escape(model.name)}"', title_justify="left", title_style="bold", show_lines=True)  # fmt: skip
    for name in ("Layer (type)", "Output Shape"):
        table.add_column(name, overflow="fold")
    table.add_column("Param #", justify="right")
    if not chain:
        table.add_column("Connected to", overflow="fold")
    if show_trainable:
        table.add_column("Trainable", justify="center")
    for depth, layer in _rows(model, expand_nested):
        kind = type(layer).__name__ if isinstance(layer, Layer) or hasattr(layer, "parameters") else layer.fn.__name__  # fmt: skip
        name = getattr(layer, "name", None) or kind.lower()
        row = ["    " * depth + f"{escape(name)} ({kind})", _shape(layer), _count(layer)]
        row += [] if chain else [_connected(layer, own)]
        row += ["Y" if getattr(layer, "trainable", True) else "N"] if show_trainable and _weights(layer) else ["-"] if show_trainable else []  # fmt: skip
        table.add_row(*row)
    out = io.StringIO()
    console = Console(file=out, width=line_length or 100, force_terminal=False, highlight=False)
    console.print(table)
    weights = model.weights
    trained = [w for w in weights if w.requires_grad]
    others = [w for w in weights if not w.requires_grad]
    for title, found in (("Total", weights), ("Trainable", trained), ("Non-trainable", others)):
        size = in_bytes(sum(w.numel() * w.dtype.itemsize for w in found))
        console.print(f" {title} params: {sum(w.numel() for w in found):,} ({size})")
    (print_fn or print)(out.getvalue().rstrip())


def plot_model(model: Model, to_file: Any = "model.png", show_shapes: bool = False, **other: Any) -> Any:  # fmt: skip
    """Draw the layers and what connects them with matplotlib: levels from inputs to outputs; gives the Figure."""
    from ..extras import need

    need("matplotlib", "demo", "plot_model")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    graph = model._of_graph("graph to draw")
    level: dict[int, int] = {id(t.node.operation): 0 for t in graph.starts}
    for node in graph.nodes:
        above = [level[id(t.node.operation)] for t in node.inputs]
        level[id(node.operation)] = max([level.get(id(node.operation), 0), *(a + 1 for a in above)])
    rows: dict[int, list[Any]] = {}
    for operation in graph.operations:
        rows.setdefault(level[id(operation)], []).append(operation)
    widest = max(map(len, rows.values()))
    figure = Figure(figsize=(3.2 * widest, 0.9 * len(rows) + 0.4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    at = {id(o): ((i + 0.5) / len(found), -n) for n, found in rows.items() for i, o in enumerate(found)}  # fmt: skip
    for node in graph.nodes:
        for t in node.inputs:
            axes.annotate("", at[id(node.operation)], at[id(t.node.operation)], arrowprops={"arrowstyle": "->", "color": "0.5", "shrinkA": 12, "shrinkB": 12})  # fmt: skip
    for operation in graph.operations:
        x, y = at[id(operation)]
        kind = type(operation).__name__ if isinstance(operation, Layer) else operation.fn.__name__
        text = f"{operation.name}\n{kind}" + (f" {_shape(operation)}" if show_shapes and isinstance(operation, Layer) else "")  # fmt: skip
        axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox={"boxstyle": "round", "facecolor": "white", "edgecolor": "0.3"})  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(-len(rows) + 0.4, 0.6))
    if to_file is not None:
        figure.savefig(to_file, dpi=120)
    return figure


__all__ = ["plot_model", "print_summary"]
