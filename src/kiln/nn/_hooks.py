"""Hooks of modules: before and after forward, and around backward."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from ..autograd.hooks import RemovableHandle
from ..autograd.modes import mode
from ..autograd.tape import TapeNode, edge_of
from ..errors import KilnError, describe
from ..tensor import Tensor

CONFIG_VERSION = [0]
"""Counts every change of any module that a captured program may have read: flags, submodules,
hooks, tensors replaced by others. Equal counts mean that nothing about any module has changed."""


class Hook:
    """A hook and how to call it."""

    __slots__ = ("always_call", "fn", "with_kwargs")

    def __init__(self, fn: Callable, with_kwargs: bool = False, always_call: bool = False):
        self.fn, self.with_kwargs, self.always_call = fn, with_kwargs, always_call


class HookHandle(RemovableHandle):
    """Removes a module's hook."""

    def remove(self) -> None:
        """Remove the hook; more than once is fine."""
        if self.hooks.pop(self.id, None) is not None:
            CONFIG_VERSION[0] += 1


def add_hook(hooks: Any, hook: Hook, prepend: bool = False) -> HookHandle:
    """Put a hook last in (or first in) an OrderedDict of hooks."""
    handle = HookHandle(hooks)
    hooks[handle.id] = hook
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    CONFIG_VERSION[0] += 1
    return handle


class Hooks:
    """What a module offers for watching and changing its calls."""

    _forward_hooks: Any
    _forward_pre_hooks: Any
    _backward_hooks: Any
    _backward_pre_hooks: Any

    def register_forward_pre_hook(
        self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before forward; what it returns replaces the arguments.

        `with_kwargs`: `hook(module, args, kwargs)` returns None or (args, kwargs).
        """
        return add_hook(self._forward_pre_hooks, Hook(hook, with_kwargs), prepend)

    def register_forward_hook(
        self,
        hook: Callable,
        *,
        prepend: bool = False,
        with_kwargs: bool = False,
        always_call: bool = False,
    ) -> RemovableHandle:
        """Call `hook(module, args, output)` after forward; what it returns replaces the output.

        `with_kwargs`: `hook(module, args, kwargs, output)`. `always_call`: also when forward fails.
        """
        return add_hook(self._forward_hooks, Hook(hook, with_kwargs, always_call), prepend)

    def register_full_backward_pre_hook(
        self, hook: Callable, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_output)` before gradients of the inputs are computed."""
        return add_hook(self._backward_pre_hooks, Hook(hook), prepend)

    def register_full_backward_hook(self, hook: Callable, prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` when gradients of the inputs are known.

        What it returns replaces `grad_input`. Arguments that are not tensors have None.
        """
        return add_hook(self._backward_hooks, Hook(hook), prepend)

    register_backward_hook = register_full_backward_hook


def call(module: Any, args: tuple, kwargs: dict) -> Any:
    """A module's forward with its hooks."""
    ran: set[int] = set()
    result = None
    try:
        for hook in list(module._forward_pre_hooks.values()):
            args, kwargs = _before(module, hook, args, kwargs)
        watch = None
        if module._backward_hooks or module._backward_pre_hooks:
            watch = _Watch(module)
            args = watch.inputs(args)
        result = module.forward(*args, **kwargs)
        for key, hook in list(module._forward_hooks.items()):
            ran.add(key)
            result = _after(module, hook, args, kwargs, result)
        return result if watch is None else watch.outputs(result)
    except Exception:
        for key, hook in list(module._forward_hooks.items()):
            if hook.always_call and key not in ran:
                try:
                    result = _after(module, hook, args, kwargs, result)
                except Exception as e:
                    warnings.warn(
                        f"a forward hook with always_call=True raised and was silenced: {e}",
                        stacklevel=3,
                    )
        raise


def _before(module: Any, hook: Hook, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    if not hook.with_kwargs:
        out = hook.fn(module, args)
        if out is None:
            return args, kwargs
        return (out if isinstance(out, tuple) else (out,)), kwargs
    out = hook.fn(module, args, kwargs)
    if out is None:
        return args, kwargs
    if not (isinstance(out, tuple) and len(out) == 2):
        raise KilnError(
            "forward_pre_hook", "a hook with kwargs must return None or a tuple of (new_args, new_kwargs)",
            describe(out), "return (args, kwargs)",
        )  # fmt: skip
    return out


def _after(module: Any, hook: Hook, args: tuple, kwargs: dict, result: Any) -> Any:
    if hook.with_kwargs:
        out = hook.fn(module, args, kwargs, result)
    else:
        out = hook.fn(module, args, result)
    return result if out is None else out


class _Gate(TapeNode):
    """A tape node through which gradients pass, shown to `visit` on their way."""

    __slots__ = ("visit",)

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        return self.visit(gs)


def _gate(values: tuple, visit: Callable) -> tuple[tuple, list[int] | None]:
    """The values with their tensors behind one gate, and the tensors' positions; None without grad."""
    where = [i for i, v in enumerate(values) if isinstance(v, Tensor)]
    edges = [edge_of(values[i]) for i in where]
    if not mode.grad or all(e is None for e in edges):
        return values, None
    node = _Gate(edges, len(where))
    node.visit = visit
    out = list(values)
    for n, i in enumerate(where):
        out[i] = twin = values[i].detach()
        if edges[n] is not None:
            twin._fn, twin._idx, twin._rg = node, n, True
    kind = type(values)
    return (tuple(out) if kind is tuple else kind(*out)), where


class _Watch:
    """One call of a module whose backward is watched: gates before its inputs and after its outputs."""

    def __init__(self, module: Any):
        self.module = module
        self.n_in = self.n_out = 0
        self.in_at: list[int] | None = None
        self.out_at: list[int] | None = None
        self.grad_outputs: tuple | None = None

    def inputs(self, args: tuple) -> tuple:
        self.n_in = len(args)
        args, self.in_at = _gate(args, self.leave)
        return args

    def outputs(self, result: Any) -> Any:
        values = result if isinstance(result, tuple) else (result,)
        self.n_out = len(values)
        values, self.out_at = _gate(values, self.enter)
        return values if isinstance(result, tuple) else values[0]

    def enter(self, gs: list) -> list:
        """Gradients of the outputs have arrived."""
        assert self.out_at is not None
        grads = _spread(gs, self.out_at, self.n_out)
        for hook in list(self.module._backward_pre_hooks.values()):
            grads = self._replace(hook.fn(self.module, grads), grads, "grad_output")
        self.grad_outputs = grads
        if self.in_at is None:
            self._without_inputs(grads)
        return [grads[i] for i in self.out_at]

    def leave(self, gs: list) -> list:
        """Gradients of the inputs are known."""
        if self.grad_outputs is None:
            return gs
        assert self.in_at is not None
        grads = _spread(gs, self.in_at, self.n_in)
        for hook in list(self.module._backward_hooks.values()):
            out = hook.fn(self.module, grads, self.grad_outputs)
            grads = self._replace(out, grads, "grad_input")
        self.grad_outputs = None
        return [grads[i] for i in self.in_at]

    def _without_inputs(self, grads: tuple) -> None:
        for hook in list(self.module._backward_hooks.values()):
            out = hook.fn(self.module, (None,) * self.n_in, grads)
            if out is not None and any(g is not None for g in out):
                raise KilnError(
                    "backward_hook",
                    "a hook of a module none of whose inputs requires grad can't return gradients",
                    type(self.module).__name__, "return None",
                )  # fmt: skip
        self.grad_outputs = None

    def _replace(self, new: Any, old: tuple, what: str) -> tuple:
        if new is None:
            return old
        new = new if isinstance(new, tuple | list) else (new,)
        if len(new) != len(old):
            raise KilnError(
                "backward_hook", f"a hook returned an invalid number of {what}, "
                f"got {len(new)}, but expected {len(old)}",
                type(self.module).__name__, f"return one for each {what}",
            )  # fmt: skip
        return tuple(new)


def _spread(values: list, at: list[int], n: int) -> tuple:
    out: list[Any] = [None] * n
    for i, v in zip(at, values, strict=True):
        out[i] = v
    return tuple(out)
