"""Hooks on tensors, leaves and tape nodes, and the handles that remove them."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Self

from ..errors import KilnError, KilnTypeError, describe
from ..tensor import Tensor, _fresh

_ids = itertools.count()


class RemovableHandle:
    """Removes a hook: `handle.remove()`, or at the end of a `with` block."""

    def __init__(self, hooks: dict):
        self.hooks, self.id = hooks, next(_ids)

    def remove(self) -> None:
        """Remove the hook; more than once is fine."""
        self.hooks.pop(self.id, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _add(table: dict, key: Any, hook: Callable) -> RemovableHandle:
    hooks = table.setdefault(key, OrderedDict())
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    return handle


def register_tensor_hook(t: Tensor, hook: Callable) -> RemovableHandle:
    """See `Tensor.register_hook`."""
    if not _fresh(t)._rg:
        raise KilnError(
            "register_hook", "cannot register a hook on a tensor that doesn't require gradient",
            describe(t), "set requires_grad=True first",
        )  # fmt: skip
    if t._fn is None:
        if t._hooks is None:
            t._hooks = {}
        return _add(t._hooks, "grad", hook)
    if t._fn.hooks is None:
        t._fn.hooks = {}
    return _add(t._fn.hooks, ("grad", t._idx), hook)


def register_post_accumulate_hook(t: Tensor, hook: Callable) -> RemovableHandle:
    """See `Tensor.register_post_accumulate_grad_hook`."""
    if not _fresh(t)._rg or t._fn is not None:
        raise KilnError(
            "register_post_accumulate_grad_hook", "only leaf tensors that require grad accumulate",
            describe(t), "use register_hook on other tensors",
        )  # fmt: skip
    if t._hooks is None:
        t._hooks = {}
    return _add(t._hooks, "post", hook)


def retain_grad(t: Tensor) -> None:
    """See `Tensor.retain_grad`."""
    if not _fresh(t)._rg:
        raise KilnError(
            "retain_grad", "can't retain_grad on a tensor that has requires_grad=False",
            describe(t), "set requires_grad=True first",
        )  # fmt: skip
    if t._fn is None or (t._hooks is not None and "retain" in t._hooks):
        return
    if t._hooks is None:
        t._hooks = {}
    t._hooks["retain"] = True
    if t._fn.hooks is None:
        t._fn.hooks = {}
    t._fn.hooks.setdefault(("retain", t._idx), []).append(t)


def register_node_hook(node: Any, kind: str, hook: Callable) -> RemovableHandle:
    """See `TapeNode.register_hook` and `register_prehook`."""
    if node.hooks is None:
        node.hooks = {}
    return _add(node.hooks, kind, hook)


def _run(hooks: dict | None, key: Any, g: Tensor) -> Tensor:
    for hook in list((hooks or {}).get(key, {}).values()):
        out = hook(g)
        if out is not None:
            if not isinstance(out, Tensor):
                raise KilnTypeError(
                    "hook", "a gradient hook returns a Tensor or None", describe(out), ""
                )
            g = out
    return g


def run_tensor_hooks(leaf: Tensor, g: Tensor) -> Tensor:
    """The gradient of a leaf after its hooks."""
    return g if leaf._hooks is None else _run(leaf._hooks, "grad", g)


def run_post_accumulate(leaf: Tensor) -> None:
    """Tell a leaf's hooks that its `.grad` is up to date."""
    for hook in list((leaf._hooks or {}).get("post", {}).values()):
        hook(leaf)


def run_output_hooks(node: Any, gs: list) -> list:
    """Gradients of a node's outputs after tensor hooks and node pre-hooks; fills retained grads."""
    gs = list(gs)
    for i, g in enumerate(gs):
        if g is None:
            continue
        gs[i] = g = _run(node.hooks, ("grad", i), g)
        for t in node.hooks.get(("retain", i), ()):
            t.grad = g if t._grad is None else t._grad + g
    for hook in list(node.hooks.get("pre", {}).values()):
        out = hook(tuple(gs))
        if out is not None:
            gs = list(out) if isinstance(out, list | tuple) else [out]
    return gs


def run_node_hooks(node: Any, results: list, gs: list) -> list:
    """Gradients for a node's inputs after its post hooks."""
    for hook in list(node.hooks.get("post", {}).values()):
        out = hook(tuple(results), tuple(gs))
        if out is not None:
            results = list(out) if isinstance(out, list | tuple) else [out]
    return results
