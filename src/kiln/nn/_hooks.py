"""Hooks of modules: before and after forward, and around backward."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from ..autograd.hooks import RemovableHandle
from ..autograd.modes import mode
from ..autograd.tape import TapeNode, edge_of
from ..errors import KilnError, describe
from ..tensor import Tensor

CONFIG_VERSION = [0]
"""Counts every change of any module that a captured program may have read: flags, submodules,
hooks, tensors replaced by others. Equal counts mean that nothing about any module has changed."""


class HookHandle(RemovableHandle):
    """Removes a module's hook, and what is noted about it."""

    def __init__(self, hooks: dict, notes: Iterable[dict] = ()):
        super().__init__(hooks)
        self.notes = tuple(notes)

    def remove(self) -> None:
        """Remove the hook; more than once is fine."""
        if self.hooks.pop(self.id, None) is not None:
            for note in self.notes:
                note.pop(self.id, None)
            CONFIG_VERSION[0] += 1


def add_hook(
    hooks: Any, hook: Callable, prepend: bool = False, notes: Iterable[tuple[dict, bool]] = ()
) -> HookHandle:
    """Put a hook last in (or first in) an OrderedDict of hooks, and its number in the notes that hold for it."""
    notes = list(notes)
    handle = HookHandle(hooks, [note for note, _ in notes])
    hooks[handle.id] = hook
    if prepend:
        hooks.move_to_end(handle.id, last=False)
    for note, holds in notes:
        if holds:
            note[handle.id] = True
    CONFIG_VERSION[0] += 1
    return handle


class GlobalHooks:
    """Hooks of all modules, which run before a module's own."""

    def __init__(self) -> None:
        self.forward_pre: OrderedDict[int, Callable] = OrderedDict()
        self.forward: OrderedDict[int, Callable] = OrderedDict()
        self.with_kwargs: dict[int, bool] = {}
        self.always_called: dict[int, bool] = {}
        self.backward_pre: OrderedDict[int, Callable] = OrderedDict()
        self.backward: OrderedDict[int, Callable] = OrderedDict()
        self.full_backward: bool | None = None
        self.registration: dict[str, OrderedDict[int, Callable]] = {
            kind: OrderedDict() for kind in ("buffer", "module", "parameter")
        }
        self.calls: dict[int, bool] = {}
        """The numbers of those that concern calls; empty where calls need not look further."""


GLOBAL = GlobalHooks()


def registered(kind: str, module: Any, name: str, value: Any) -> Any:
    """What is registered under a name, once all modules' hooks for that have seen it."""
    for hook in list(GLOBAL.registration[kind].values()):
        out = hook(module, name, value)
        value = value if out is None else out
    return value


class Hooks:
    """What a module offers for watching and changing its calls."""

    _forward_hooks: Any
    _forward_hooks_with_kwargs: Any
    _forward_hooks_always_called: Any
    _forward_pre_hooks: Any
    _forward_pre_hooks_with_kwargs: Any
    _backward_hooks: Any
    _backward_pre_hooks: Any
    _is_full_backward_hook: bool | None

    def register_forward_pre_hook(
        self, hook: Callable, *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, args)` before forward; what it returns replaces the arguments.

        `with_kwargs`: `hook(module, args, kwargs)` returns None or (args, kwargs).
        """
        notes = [(self._forward_pre_hooks_with_kwargs, with_kwargs)]
        return add_hook(self._forward_pre_hooks, hook, prepend, notes)

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
        notes = [
            (self._forward_hooks_with_kwargs, with_kwargs),
            (self._forward_hooks_always_called, always_call),
        ]
        return add_hook(self._forward_hooks, hook, prepend, notes)

    def register_full_backward_pre_hook(
        self, hook: Callable, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(module, grad_output)` before gradients of the inputs are computed."""
        return add_hook(self._backward_pre_hooks, hook, prepend)

    def register_full_backward_hook(self, hook: Callable, prepend: bool = False) -> RemovableHandle:
        """Call `hook(module, grad_input, grad_output)` when gradients of the inputs are known.

        What it returns replaces `grad_input`. Arguments that are not tensors have None.
        """
        self._is_full_backward_hook = _one_kind(self._is_full_backward_hook, True)
        return add_hook(self._backward_hooks, hook, prepend)

    def register_backward_hook(self, hook: Callable) -> RemovableHandle:
        """The former name of `register_full_backward_hook`; a module has hooks of one kind.

        PyTorch's calls the hook with the gradients of the module's last operation; here they are those of the
        module's own inputs.
        """
        self._is_full_backward_hook = _one_kind(self._is_full_backward_hook, False)
        return add_hook(self._backward_hooks, hook)


def _one_kind(now: bool | None, full: bool) -> bool:
    if now is not None and now is not full:
        raise KilnError(
            "backward_hook", "Cannot use both regular backward hooks and full backward hooks on a single Module. "
            "Please use only one of them.", None, "register_full_backward_hook",
        )  # fmt: skip
    return full


def register_module_forward_pre_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(module, args)` before the forward of every module."""
    return add_hook(GLOBAL.forward_pre, hook, notes=[(GLOBAL.calls, True)])


def register_module_forward_hook(
    hook: Callable, *, with_kwargs: bool = False, always_call: bool = False
) -> RemovableHandle:
    """Call `hook(module, args, output)` after the forward of every module."""
    notes = [
        (GLOBAL.calls, True),
        (GLOBAL.with_kwargs, with_kwargs),
        (GLOBAL.always_called, always_call),
    ]
    return add_hook(GLOBAL.forward, hook, notes=notes)


def register_module_full_backward_pre_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(module, grad_output)` before the gradients of every module's inputs are computed."""
    return add_hook(GLOBAL.backward_pre, hook, notes=[(GLOBAL.calls, True)])


def register_module_full_backward_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(module, grad_input, grad_output)` when the gradients of a module's inputs are known."""
    GLOBAL.full_backward = _one_kind(GLOBAL.full_backward if GLOBAL.backward else None, True)
    return add_hook(GLOBAL.backward, hook, notes=[(GLOBAL.calls, True)])


def register_module_backward_hook(hook: Callable) -> RemovableHandle:
    """The former name of `register_module_full_backward_hook`; there are hooks of one kind at a time."""
    GLOBAL.full_backward = _one_kind(GLOBAL.full_backward if GLOBAL.backward else None, False)
    return add_hook(GLOBAL.backward, hook, notes=[(GLOBAL.calls, True)])


def register_module_buffer_registration_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(module, name, buffer)` where a buffer is registered; what it returns takes its place."""
    return add_hook(GLOBAL.registration["buffer"], hook)


def register_module_module_registration_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(module, name, submodule)` where a submodule is registered; what it returns takes its place."""
    return add_hook(GLOBAL.registration["module"], hook)


def register_module_parameter_registration_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(module, name, parameter)` where a parameter is registered; what it returns takes its place."""
    return add_hook(GLOBAL.registration["parameter"], hook)


def call(module: Any, args: tuple, kwargs: dict) -> Any:
    """A module's forward with its hooks."""
    ran: set[int] = set()
    result = None
    try:
        for key, hook in [*GLOBAL.forward_pre.items(), *module._forward_pre_hooks.items()]:
            with_kwargs = key in module._forward_pre_hooks_with_kwargs
            args, kwargs = _before(module, hook, with_kwargs, args, kwargs)
        watch = None
        pre = [*GLOBAL.backward_pre.values(), *module._backward_pre_hooks.values()]
        after = [*GLOBAL.backward.values(), *module._backward_hooks.values()]
        if pre or after:
            watch = _Watch(module, pre, after)
            args = watch.inputs(args)
        result = module.forward(*args, **kwargs)
        for key, hook in [*GLOBAL.forward.items(), *module._forward_hooks.items()]:
            ran.add(key)
            result = _after(module, key, hook, args, kwargs, result)
        return result if watch is None else watch.outputs(result)
    except Exception:
        for always, hooks, where in (
            (GLOBAL.always_called, GLOBAL.forward, "global module"),
            (module._forward_hooks_always_called, module._forward_hooks, "module"),
        ):
            for key, hook in list(hooks.items()):
                if key in always and key not in ran:
                    try:
                        result = _after(module, key, hook, args, kwargs, result)
                    except Exception as e:
                        warnings.warn(
                            f"{where} forward hook with ``always_call=True`` raised an exception that was "
                            f"silenced as another error was raised in forward: {e}", stacklevel=3,
                        )  # fmt: skip
        raise


def _before(
    module: Any, hook: Callable, with_kwargs: bool, args: tuple, kwargs: dict
) -> tuple[tuple, dict]:
    if not with_kwargs:
        out = hook(module, args)
        if out is None:
            return args, kwargs
        return (out if isinstance(out, tuple) else (out,)), kwargs
    out = hook(module, args, kwargs)
    if out is None:
        return args, kwargs
    if not (isinstance(out, tuple) and len(out) == 2):
        raise KilnError(
            "forward_pre_hook", "forward pre-hook must return None or a tuple of (new_args, new_kwargs), but got "
            f"{out}.", describe(out), "return (args, kwargs)",
        )  # fmt: skip
    return out


def _after(module: Any, key: int, hook: Callable, args: tuple, kwargs: dict, result: Any) -> Any:
    if key in module._forward_hooks_with_kwargs or key in GLOBAL.with_kwargs:
        out = hook(module, args, kwargs, result)
    else:
        out = hook(module, args, result)
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

    def __init__(self, module: Any, before: list[Callable], after: list[Callable]):
        self.module, self.before, self.after = module, before, after
        self.n_in = self.n_out = 0
        self.in_at: list[int] | None = None
        self.out_at: list[int] | None = None
        self.grad_outputs: tuple | None = None

    def inputs(self, args: tuple) -> tuple:
        self.n_in = len(args)
        args, self.in_at = _gate(args, self.leave)
        return args

    def outputs(self, result: Any) -> Any:
        if not isinstance(result, Tensor | tuple):
            warnings.warn(
                "For backward hooks to be called, module output should be a Tensor or a tuple of Tensors but "
                f"received {type(result)}", stacklevel=5,
            )  # fmt: skip
            return result
        values = result if isinstance(result, tuple) else (result,)
        self.n_out = len(values)
        values, self.out_at = _gate(values, self.enter)
        return values if isinstance(result, tuple) else values[0]

    def enter(self, gs: list) -> list:
        """Gradients of the outputs have arrived."""
        assert self.out_at is not None
        grads = _spread(gs, self.out_at, self.n_out)
        for hook in self.before:
            grads = self._replace(hook(self.module, grads), grads, "grad_output")
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
        for hook in self.after:
            out = hook(self.module, grads, self.grad_outputs)
            grads = self._replace(out, grads, "grad_input")
        self.grad_outputs = None
        return [grads[i] for i in self.in_at]

    def _without_inputs(self, grads: tuple) -> None:
        for hook in self.after:
            out = hook(self.module, (None,) * self.n_in, grads)
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
