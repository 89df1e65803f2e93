"""`kiln.summary`: the layers of a model as a table, with what a step takes, found without running anything."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

from .. import optim
from ..amounts import bytes_of, in_bytes, in_flops
from ..autograd.modes import no_grad
from ..dtypes import float32
from ..errors import KilnMemoryError, KilnTypeError, KilnValueError, describe
from ..nn import functional as F
from ..nn.modules.module import Module
from . import rehearsal
from .rehearsal import BACKWARD, Layer, Rehearsal, nbytes, tensors, total


class Row:
    """A layer: `path` and `name` (its last part), `kind`, `depth`, shapes of its output, and what is its own and no row's below it.

    `parameters` of which `trainable` can be trained, `flops` of forward, `kept` bytes for backward, `calls`; `shared` is
    the path of the row that the same module has already.
    """

    def __init__(self, layer: Layer, depth: int, name: str):
        self.path, self.name, self.depth = layer.path, name, depth
        self.kind, self.calls, self.output = type(layer.module).__name__, layer.calls, layer.output
        self.parameters = self.trainable = self.flops = self.kept = 0
        self.shared = ""

    @property
    def shape(self) -> str:
        """The output's shape as text."""
        if not self.output:
            return "–"
        first = str(list(self.output[0][0]))
        return first if len(self.output) == 1 else f"{first}, +{len(self.output) - 1}"


class Summary:
    """What a model is and what a step takes; its text is a table.

    `rows` are the layers. Totals: `parameters`, `trainable`, `flops`, `backward_flops`, and in bytes `parameter_memory`
    (buffers too), `gradient_memory`, `optimizer_memory`, `input_memory`, `activation_memory` (what forward keeps for
    backward, outputs too) and `peak_memory` of all at the fullest moment of a step in eager mode, or of a compiled one where
    `compiled` says so, whose `holders` are (name, bytes).
    """

    rows: list[Row]

    def __init__(self, name: str, training: bool, compiled: bool = False):
        self.name, self.training, self.compiled, self.rows = name, training, compiled, []
        self.parameters = self.trainable = self.flops = self.backward_flops = 0
        self.parameter_memory = self.gradient_memory = self.optimizer_memory = 0
        self.input_memory = self.activation_memory = self.peak_memory = 0
        self.holders: list[tuple[str, int]] = []

    def check(self, memory: int | str | None = None) -> Summary:
        """Refuse a step that needs more than `memory`, in bytes or as "2GiB"; the machine's without. Gives the summary itself.

        Errors: KilnMemoryError that names the largest holders.
        """
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if memory is None else 0
        limit = machine or bytes_of(memory, "summary", "memory")
        if self.peak_memory <= limit:
            return self
        most = ", ".join(f"{who} {in_bytes(n)}" for who, n in self.holders[:5])
        raise KilnMemoryError(
            "summary", f"{self._step} of {self.name} needs about {in_bytes(self.peak_memory)}, more than {in_bytes(limit)}",
            most, "smaller batches, kiln.utils.checkpoint for layers that keep much, or kiln.compile(step, max_memory=…)",
        )  # fmt: skip

    @property
    def _step(self) -> str:
        return ("a compiled " if self.compiled else "a ") + ("training step" if self.training else "forward pass")  # fmt: skip

    def __str__(self) -> str:
        head = ("layer", "output", "parameters", "FLOPs", "kept")
        body = [self._cells(r) for r in self.rows]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

        def line(cells: tuple[str, ...]) -> str:
            pairs = zip(cells, widths, strict=True)
            return "  ".join(c.ljust(w) if i < 2 else c.rjust(w) for i, (c, w) in enumerate(pairs)).rstrip()  # fmt: skip

        rule = "─" * (sum(widths) + 2 * (len(head) - 1))
        return "\n".join([line(head), rule, *map(line, body), rule, *self._totals()])

    __repr__ = __str__

    def _cells(self, r: Row) -> tuple[str, ...]:
        label = "  " * r.depth + (f"{r.name}: {r.kind}" if r.name else r.kind)
        if r.calls > 1:
            label += f" ×{r.calls}"
        if r.shared:
            return f"{label} (as {r.shared})", r.shape, "", "", ""
        count = f"{r.parameters:,}" if r.parameters else ""
        if r.trainable < r.parameters:
            count += " frozen" if not r.trainable else f" ({r.trainable:,} trainable)"
        return (
            label,
            r.shape,
            count,
            in_flops(r.flops) if r.flops else "",
            in_bytes(r.kept) if r.kept else "",
        )

    def _totals(self) -> list[str]:
        frozen = self.parameters - self.trainable
        flops = f"FLOPs        forward {in_flops(self.flops)}"
        memory = [("parameters and buffers", self.parameter_memory)]
        if self.training:
            flops += f", backward {in_flops(self.backward_flops)}"
            memory += [("gradients", self.gradient_memory), ("optimizer state", self.optimizer_memory)]  # fmt: skip
        memory += [("inputs", self.input_memory), ("activations", self.activation_memory)]
        most = ", ".join(f"{who} {in_bytes(n)}" for who, n in self.holders[:3])
        return [
            f"parameters   {self.parameters:,} ({self.trainable:,} trainable, {frozen:,} not)",
            flops,
            "memory       " + ", ".join(f"{k} {in_bytes(n)}" for k, n in memory),
            f"peak         {in_bytes(self.peak_memory)} in {self._step}: {most}",
        ]


def summary(
    model: Module, inputs: Any, *, loss: str | Callable | None = None, target: Any = None, optimizer: Any = None,
    training: bool = True, depth: int | None = None, dtype: Any = float32, compiled: bool = False,
) -> Summary:  # fmt: skip
    """The layers of a model, and what a step takes, before anything runs: `print(kiln.summary(model, (32, 3, 224, 224)))`.

    `inputs`: a shape with the batch (of `dtype`), (shape, dtype), a tensor or array; a tuple or list of these for several arguments; a dict
    for arguments by name, or where forward has none of these names, one argument. Only shapes and dtypes are looked at: the
    step runs on meta tensors and a copy without data, so a model of any size will do, lazy layers too.
    `loss` is a function of (output, target) or a name of `nn.functional`, with `target` given like an input; without one
    backward begins at the outputs' sum. `optimizer` is one of the model's, a class or a name. `training=False` is a forward pass alone,
    in evaluation mode. `depth` is how deep the table goes; what lies deeper counts where it ends.
    FLOPs are those of products, convolutions and attention, an addition and a multiplication being two, as in PyTorch's
    flop counter. Modules and parameters that occur twice count once. The peak is that of eager mode, of the step after the first, with what kernels need while they run and what is
    kept for reuse; with `compiled` it is that of the compiled step, whose program is made for that, and found on disk when it is compiled to run.
    Errors: KilnError where the model reads values of tensors or the optimizer those of gradients.
    """
    model = getattr(model, "_orig_mod", model)
    if not isinstance(model, Module):
        raise KilnTypeError("summary", "the model must be an nn.Module", describe(model), "")
    given = optimizer if isinstance(optimizer, optim.Optimizer) else None
    copied, stepping = rehearsal.twin(model, given)
    args, kwargs = arguments(model, inputs, dtype)
    wanted = None if target is None else rehearsal.example(target, dtype)
    fn = _loss(loss, wanted)
    if (isinstance(loss, str) and target is None) or (loss is None and target is not None):
        raise KilnValueError(
            "summary", "a loss and its target go together", f"loss={loss!r}, target={target!r}",
            "e.g. loss='cross_entropy', target=((32,), kiln.int64)",
        )  # fmt: skip
    seen = Rehearsal(copied)
    seen.run(args, kwargs, fn, training)
    out = Summary(type(model).__name__, training, compiled)
    _rows(out, copied, seen, depth)
    known = {id(p): p for p in copied.parameters()}.values()
    out.parameters = sum(p.numel() for p in known)
    out.trainable = sum(p.numel() for p in known if p.requires_grad)
    out.parameter_memory = nbytes(known) + nbytes({id(b): b for b in copied.buffers()}.values())
    out.gradient_memory = nbytes(p.grad for p in known if p.grad is not None)
    out.input_memory = nbytes(tensors((args, kwargs)))
    out.flops = seen.flops[""]
    out.backward_flops = seen.flops[BACKWARD]
    out.activation_memory = seen.kept
    if optimizer is not None:
        out.optimizer_memory = rehearsal.optimizer_state(
            _optimizer(optimizer, copied) if given is None else stepping
        )
    fixed = {
        "parameters": out.parameter_memory, "optimizer state": out.optimizer_memory, "inputs": out.input_memory,
    }  # fmt: skip
    if compiled:
        program = _planned(copied, (args, kwargs, wanted), loss, optimizer, stepping, training)
        fixed |= {"gradients": out.gradient_memory, "values between kernels": program.program, "outputs": program.results}  # fmt: skip
    else:
        _holders(fixed, seen)
    out.peak_memory = sum(fixed.values())
    out.holders = sorted(((k, n) for k, n in fixed.items() if n), key=lambda x: -x[1])
    return out


def _planned(
    model: Module, inputs: Any, loss: Any, optimizer: Any, given: Any, training: bool
) -> rehearsal.Compiled:
    """The step of a model as a compiled function."""
    model, stepping = rehearsal.twin(model, given, data=True)
    if given is None and optimizer is not None:
        stepping = _optimizer(optimizer, model)
    model.train(training)

    def step(inputs: Any) -> Any:
        args, kwargs, target = inputs
        if not training:
            with no_grad():
                return model(*args, **kwargs)
        for p in model.parameters():
            p.grad = None
        value = total(model(*args, **kwargs), _loss(loss, target))
        value.backward()
        if stepping is not None:
            stepping.step()
        return value

    return rehearsal.Compiled(step, inputs)


def _holders(fixed: dict[str, int], seen: Rehearsal) -> None:
    """Who holds what at the fullest moment of a step in eager mode."""
    kinds = {layer.path: type(layer.module).__name__ for layer in seen.layers.values()}
    for who, n in seen.peak().items():
        name = f"{who or 'outside of layers'} ({kinds[who]})" if who in kinds else who
        fixed[name if who != BACKWARD else "values of backward"] = n


def _rows(out: Summary, model: Module, seen: Rehearsal, depth: int | None) -> None:
    """A row for each module down to a depth; what is deeper counts in the last row above it."""
    met: dict[int, str] = {}
    counted: set[int] = set()

    def walk(m: Module, path: str, name: str, level: int, above: Row | None) -> None:
        layer = seen.layers[m]
        row = above
        if depth is None or level <= depth or above is None:
            row = Row(layer, level, name)
            row.path = path
            out.rows.append(row)
        assert row is not None
        if id(m) in met:
            row.shared = met[id(m)] if row is not above else row.shared
            return
        met[id(m)] = path
        for p in m._parameters.values():
            if p is not None and id(p) not in counted:
                counted.add(id(p))
                row.parameters += p.numel()
                row.trainable += p.numel() * p.requires_grad
        row.flops += layer.flops
        row.kept += layer.kept
        for child, x in m._modules.items():
            if x is not None:
                walk(x, f"{path}.{child}".lstrip("."), child, level + 1, row)

    walk(model, "", "", 0, None)


def arguments(model: Module, inputs: Any, dtype: Any) -> tuple[tuple, dict[str, Any]]:
    given = rehearsal.example(inputs, dtype)
    args, kwargs = _by_name_or_place(model, given)
    takes = inspect.signature(model.forward)
    try:
        takes.bind(*args, **kwargs)
    except TypeError as e:
        raise KilnTypeError(
            "summary", f"the inputs are not those of {type(model).__name__}.forward({', '.join(takes.parameters)}): {e}", repr(inputs),
            "several in a tuple or list are several arguments; (shape, dtype) is one, with a dtype such as kiln.int64",
        ) from None  # fmt: skip
    return args, kwargs


def _by_name_or_place(model: Module, given: Any) -> tuple[tuple, dict[str, Any]]:
    if isinstance(given, dict):
        names = inspect.signature(model.forward).parameters
        takes = any(p.kind is p.VAR_KEYWORD for p in names.values())
        return ((), given) if takes or set(given) <= set(names) else ((given,), {})
    return (tuple(given) if isinstance(given, list | tuple) else (given,)), {}


def _loss(loss: Any, target: Any) -> Callable | None:
    if loss is None:
        return None
    fn = getattr(F, loss, None) or getattr(F, loss + "_loss", None) if isinstance(loss, str) else loss  # fmt: skip
    if not callable(fn):
        raise KilnValueError(
            "summary", "no loss has this name", describe(loss), "pass a function of (output, target), or e.g. 'cross_entropy'"
        )  # fmt: skip
    return lambda output: fn(output, target)


def _optimizer(optimizer: Any, model: Module) -> optim.Optimizer:
    if isinstance(optimizer, str):
        kinds = {k.lower(): v for k, v in vars(optim).items() if isinstance(v, type)}
        optimizer = kinds.get(optimizer.lower(), optimizer)
    if not (isinstance(optimizer, type) and issubclass(optimizer, optim.Optimizer)):
        raise KilnValueError(
            "summary", "no optimizer has this name", describe(optimizer), "pass an optimizer, its class, or e.g. 'adam'"
        )  # fmt: skip
    return optimizer([p for p in model.parameters() if p.requires_grad])  # type: ignore[call-arg]


__all__ = ["Row", "Summary", "summary"]
