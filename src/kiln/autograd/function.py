"""Custom differentiable functions: `Function` with `forward` and `backward` written by the user."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Sequence
from typing import Any

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, KilnTypeError, describe
from ..tensor import CAPTURING, Tensor, active_capture, differentiated, wrap
from .modes import enable_grad, mode, no_grad
from .saved import Packed, blocks
from .tape import TapeNode, edge_of
from .views import check_inplace, rebase


class _Direction(threading.local):
    """Whether a derivative is being recorded that takes tangents forward: Note [Forward mode] in `kiln.func.derivatives`."""

    forward = False


direction = _Direction()


class FunctionCtx(TapeNode):
    """What `forward` tells `backward`; it is also the node on the tape.

    Attributes may be set freely; tensors that are inputs or outputs go through
    `save_for_backward`, so that changing them in place is noticed.
    """

    def __init__(self, function: type[Function], args: tuple):
        super().__init__([], 0)
        self.metas: list[
            tuple
        ] = []  # (shape, NumPy dtype) of each output; None for what is not a tensor
        self.function = function
        self.needs_input_grad = tuple(isinstance(a, Tensor) and a.requires_grad for a in args)
        self.to_save: tuple[Tensor | None, ...] = ()
        self.to_save_forward: tuple[Tensor | None, ...] = ()
        self.materialize_grads = True
        self.dirty: tuple[Tensor, ...] = ()
        self.non_differentiable: tuple[Tensor, ...] = ()
        self.versions: list[tuple[list, int]] = []
        self._saved: list[Callable[[], Tensor] | None] = []
        self._saved_forward: list[Callable[[], Tensor] | None] = []
        self._edge_at: dict[int, int] = {}

    def name(self) -> str:
        return self.function.__name__ + "Backward"

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `ctx.saved_tensors` in `backward`; once, from `forward`."""
        _only_tensors("save_for_backward", tensors)
        self.to_save = tensors

    def save_for_forward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for `ctx.saved_tensors` in `jvp`; once, from `forward`."""
        _only_tensors("save_for_forward", tensors)
        self.to_save_forward = tensors

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What `save_for_backward` was given, in `jvp` `save_for_forward`; an error where it was changed in place since."""
        self.check()
        saved = self._saved_forward if direction.forward and self._saved_forward else self._saved
        return tuple(None if s is None else s() for s in saved)

    def mark_dirty(self, *tensors: Tensor) -> None:
        """Say which inputs `forward` changed in place; they must be returned."""
        self.dirty = tensors

    def mark_non_differentiable(self, *tensors: Tensor) -> None:
        """Say which outputs have no gradient."""
        self.non_differentiable = tensors

    def set_materialize_grads(self, value: bool) -> None:
        """Whether `backward` gets zeros (the default) or None for outputs that were not used."""
        self.materialize_grads = bool(value)

    def forward(self, args: tuple) -> Any:
        """What the function gives for these arguments."""
        cls = self.function
        if cls.setup_context is Function.setup_context:
            return cls.forward(self, *args)
        output = cls.forward(*args)
        cls.setup_context(self, args, output)
        return output

    def derivative(self, gs: Sequence[Tensor | None]) -> list[Any]:
        """What the function's backward gives for the gradients of its outputs."""
        found = _derivative(self.function)(self, *gs)
        return list(found) if isinstance(found, tuple | list) else [found]

    def finish(self, args: tuple, outputs: tuple) -> list[Any]:
        """Put the node on the tape; gives the outputs with their history."""
        executable = mode.grad and any(self.needs_input_grad)
        for x in self.dirty:
            if not any(x is o for o in outputs):
                raise KilnError(
                    self.function.__name__, "a tensor marked dirty must be returned by forward",
                    describe(x), "return it, or drop it from mark_dirty",
                )  # fmt: skip
            check_inplace(x, self.function.__name__, executable)
        tensors = [(i, a) for i, a in enumerate(args) if isinstance(a, Tensor)]
        self.edges = [edge_of(a) for _, a in tensors]
        self.inputs = [(a._a.shape, a._a.dtype) for _, a in tensors]
        self._edge_at = {i: k for k, (i, _) in enumerate(tensors)}
        results = [self._alias(o, args) for o in outputs]
        if executable:
            self.metas = [
                (o._a.shape, o._a.dtype) if isinstance(o, Tensor) else ((), None) for o in results
            ]
            self.n_out = len(results)
            for i, o in enumerate(results):
                self._connect(i, o, outputs[i], args)
            self._keep(outputs, results)
        return results

    def _alias(self, o: Any, args: tuple) -> Any:
        """An input that comes back unchanged, as a tensor of its own on the same memory."""
        changed = any(o is x for x in self.dirty)
        if not isinstance(o, Tensor) or changed or not any(o is a for a in args):
            return o
        return o.detach()

    def _connect(self, i: int, o: Any, original: Any, args: tuple) -> None:
        if not isinstance(o, Tensor) or o.dtype.category < dt.FLOAT:
            return
        if any(original is x for x in self.non_differentiable):
            return
        if any(o is x for x in self.dirty):
            position = next((self._edge_at[j] for j, a in enumerate(args) if a is o), None)
            rebase(o, self, None if position is None else self.edges[position])
        else:
            o._base = None  # a view made inside forward: its history is this node
            o._fn, o._idx, o._rg = self, i, True

    def _keep(self, outputs: tuple, results: list[Any]) -> None:
        self._saved = self._held(self.to_save, outputs, results)
        if self.function.jvp is not Function.jvp:
            self._saved_forward = self._held(self.to_save_forward, outputs, results)
        self.to_save = self.to_save_forward = ()

    def _held(
        self, tensors: tuple[Tensor | None, ...], outputs: tuple, results: list[Any]
    ) -> list[Callable[[], Tensor] | None]:
        held: list[Callable[[], Tensor] | None] = []
        for t in tensors:
            i = next((i for i, o in enumerate(outputs) if o is t), None)
            if t is None:
                held.append(None)
                continue
            differentiable = i is not None and isinstance(results[i], Tensor) and results[i]._rg
            if blocks.hooks:
                packed = Packed(t, blocks.hooks[-1])
                if differentiable:
                    packed.history = (self, i, True)
                held.append(packed.tensor)
                continue
            if t._ver is None:
                t._ver = [0, 0]
            self.versions.append((t._ver, t._ver[0]))
            if i is not None and differentiable:  # holding the output itself would be a cycle
                held.append(functools.partial(self._saved_output, t._a, t._ver, i))
            else:
                held.append(functools.partial(_itself, t))
        return held

    def _saved_output(self, a: Any, ver: list, i: int) -> Tensor:
        out = wrap(a)
        out._ver, out._fn, out._idx, out._rg = ver, self, i, True
        return out

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        if direction.forward and self.function.jvp is not Function.jvp:
            return _Tangents(self, gs).outputs()
        if self.materialize_grads:
            gs = [
                wrap_zeros(shape, d) if g is None and d is not None else g
                for g, (shape, d) in zip(gs, self.metas, strict=True)
            ]
        found = self.derivative(gs)
        n = len(self.needs_input_grad)
        if len(found) > n and all(g is None for g in found[n:]):
            found = found[:n]
        if len(found) != n:
            raise KilnError(
                self.name(), f"backward returned {len(found)} gradients for {n} inputs of forward",
                describe(found), "return one for each input, None where there is none",
            )  # fmt: skip
        out: list[Tensor | None] = [None] * len(self.edges)
        for i, g in enumerate(found):
            if g is None:
                continue
            if i not in self._edge_at:
                raise KilnError(
                    self.name(), f"backward returned a gradient for input {i}, which is not a tensor",
                    describe(g), "return None there",
                )  # fmt: skip
            out[self._edge_at[i]] = self._checked(i, g)
        return out

    def _checked(self, i: int, g: Any) -> Tensor | None:
        edge = self.edges[self._edge_at[i]]
        if not isinstance(g, Tensor):
            raise KilnTypeError(
                self.name(), f"gradient {i} is not a Tensor or None", describe(g), "return a Tensor"
            )
        if edge is None:
            return None
        due, got = tuple(edge[2]), tuple(g._a.shape)
        lead = len(got) - len(due)
        if lead < 0 or any(s not in (1, t) for s, t in zip(due, got[lead:], strict=True)):
            raise KilnError(
                self.name(), f"backward returned an invalid gradient at index {i}",
                f"{list(got)} where the input has shape {list(due)}", "sum or reshape it",
            )  # fmt: skip
        return g

    def free(self) -> None:
        super().free()
        self._saved = self._saved_forward = []


class _Tangents(TapeNode):
    """A custom function's `jvp` where its backward would stand: the map of tangents whose transpose that is.

    Forward mode goes backward through the recorded backward pass, so what is asked of this node is to take tangents of the
    inputs to those of the outputs. The values of its results are never looked at.
    """

    def __init__(self, ctx: FunctionCtx, gs: list[Tensor | None]):
        self.ctx = ctx
        self.used = [i for i, g in enumerate(gs) if g is not None]
        seeds = [edge_of(g) for g in gs if g is not None]
        super().__init__([*seeds, *ctx.edges], len(ctx.edges))  # the map depends on the inputs

    def outputs(self) -> list[Tensor | None]:
        out: list[Tensor | None] = []
        for k, edge in enumerate(self.ctx.edges):
            t = None if edge is None else wrap_zeros(edge[2], edge[3])
            if t is not None:
                t._fn, t._idx, t._rg = self, k, True
            out.append(t)
        return out

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        ctx = self.ctx
        if ctx.materialize_grads:
            gs = [
                wrap_zeros(*meta) if g is None else g
                for g, meta in zip(gs, ctx.inputs, strict=True)
            ]
        places = ctx._edge_at
        given = [gs[places[i]] if i in places else None for i in range(len(ctx.needs_input_grad))]
        before, direction.forward = direction.forward, True
        try:
            found = ctx.function.jvp(ctx, *given)
        finally:
            direction.forward = before
        found = found if isinstance(found, tuple | list) else (found,)
        if len(found) != len(ctx.metas):
            raise KilnError(
                ctx.name(), f"jvp returned {len(found)} tangents for {len(ctx.metas)} outputs of forward",
                describe(found), "return one for each output, None where there is none",
            )  # fmt: skip
        return [*(found[i] for i in self.used), *(None for _ in ctx.edges)]


def _only_tensors(name: str, tensors: tuple) -> None:
    for i, t in enumerate(tensors):
        if t is not None and not isinstance(t, Tensor):
            raise KilnTypeError(
                name, f"argument {i} is not a Tensor or None", describe(t),
                "keep other values as attributes: ctx.name = value",
            )  # fmt: skip


def _itself(t: Tensor) -> Tensor:
    return t


def wrap_zeros(shape: tuple, np_dtype: Any) -> Tensor:
    """A tensor of zeros for an output that nothing used."""
    from ..ops.creation import zeros

    return zeros(tuple(shape), dtype=dt.OF_NUMPY[np_dtype])


class Function:
    """A differentiable function with its own backward.

        class Exp(Function):
            @staticmethod
            def forward(ctx, x):
                y = x.exp()
                ctx.save_for_backward(y)
                return y

            @staticmethod
            def backward(ctx, g):
                (y,) = ctx.saved_tensors
                return g * y

        Exp.apply(x)

    `forward` runs unrecorded. In its other form it has no `ctx`, and
    `setup_context(ctx, inputs, output)` saves what `backward` needs. `backward` gets one gradient
    for each output and returns one for each input; written in differentiable operations, it can
    be differentiated again. `jvp`, where there is one, takes tangents forward.
    """

    @staticmethod
    def forward(*args: Any, **kwargs: Any) -> Any:
        """Compute the outputs; `forward(ctx, *inputs)`, or `forward(*inputs)` with `setup_context`."""
        raise KilnNotImplementedError(
            "Function", "forward is not implemented", None, "define a static method forward"
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Any) -> None:
        """Save on `ctx` what `backward` needs, where `forward` takes no `ctx`."""
        raise KilnNotImplementedError("Function", "setup_context is not implemented")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """The gradients of the inputs from those of the outputs."""
        raise KilnNotImplementedError(
            "Function", "You must implement either the backward or vjp method for your custom autograd.Function to use it "
            "with backward mode AD.", None, "define a static method backward (or vjp)",
        )  # fmt: skip

    vjp = backward

    @staticmethod
    def jvp(ctx: Any, *grad_inputs: Any) -> Any:
        """The tangents of the outputs from those of the inputs, None for what is no tensor.

        Forward mode takes it where it is defined, and the transpose of `backward` elsewhere.
        """
        raise KilnNotImplementedError(
            "Function", "You must implement the jvp function for custom autograd.Function to use it with forward mode AD.",
            None, "define a static method jvp",
        )  # fmt: skip

    @classmethod
    def apply(cls, *args: Any, **kwargs: Any) -> Any:
        """Call the function and record it."""
        if cls.setup_context is not Function.setup_context:
            bound = inspect.signature(cls.forward).bind(*args, **kwargs)
            bound.apply_defaults()
            args = bound.args
        elif kwargs:
            raise KilnTypeError(
                cls.__name__, "apply() takes no keyword arguments", ", ".join(kwargs),
                "pass them by position, or use setup_context",
            )  # fmt: skip
        ctx = FunctionCtx(cls, args)
        if CAPTURING and mode.grad and _seen_from_outside(args):
            from ..func.functions import forward

            output = forward(ctx, args)
        else:
            with no_grad():
                output = ctx.forward(args)
        several = isinstance(output, tuple)
        results = ctx.finish(args, output if several else (output,))
        return tuple(results) if several else results[0]


class InplaceFunction(Function):
    """A function that may work in place, by a flag; programs derive from it."""

    def __init__(self, inplace: bool = False):
        self.inplace = inplace


FunctionMeta, BackwardCFunction = type(Function), FunctionCtx


def _seen_from_outside(args: tuple) -> bool:
    """Whether arguments of a function under vmap require grad where the batch comes from."""
    from ..func.level import Level

    level = active_capture()
    return isinstance(level, Level) and any(
        differentiated(level.payload(a).tensor) for a in args if isinstance(a, Tensor)
    )


def _derivative(function: type[Function]) -> Callable:
    own = function.backward is not Function.backward
    if own and function.vjp is not Function.vjp:
        raise KilnError(
            function.__name__, "both backward and vjp are defined", None, "define only one of them"
        )
    return function.backward if own else function.vjp


class _OnceDifferentiable(TapeNode):
    """The end of the tape behind a backward that can't be differentiated again."""

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        raise KilnError(
            "backward", "trying to differentiate twice a function marked with @once_differentiable",
            None, "write its backward in differentiable operations and drop the decorator",
        )  # fmt: skip


def once_differentiable(fn: Callable) -> Callable:
    """A `backward` that need not be written in differentiable operations; a second one is an error."""

    @functools.wraps(fn)
    def backward(ctx: Any, *gs: Any) -> Any:
        with no_grad():
            outputs = fn(ctx, *gs)
        inputs = [g for g in gs if isinstance(g, Tensor) and g.requires_grad]
        if not mode.grad or not inputs:
            return outputs
        several = isinstance(outputs, tuple)
        results = []
        with enable_grad():
            for o in outputs if several else (outputs,):
                if isinstance(o, Tensor) and o.dtype.category >= dt.FLOAT:
                    o = o.detach()
                    node = _OnceDifferentiable([edge_of(g) for g in inputs], 1)
                    o._fn, o._idx, o._rg = node, 0, True
                results.append(o)
        return tuple(results) if several else results[0]

    return backward
