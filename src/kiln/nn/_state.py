"""State dicts of modules: taking one, and loading one whole or not at all."""

from __future__ import annotations

import functools
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Mapping
from typing import Any

from ..autograd.hooks import RemovableHandle
from ..autograd.modes import no_grad
from ..errors import KilnError, KilnTypeError, describe
from ..tensor import Tensor
from ._hooks import add_hook
from .parameter import Parameter, is_lazy

_EXTRA_STATE_KEY_SUFFIX = "_extra_state"


class _IncompatibleKeys(namedtuple("IncompatibleKeys", ["missing_keys", "unexpected_keys"])):  # noqa: PYI024
    """What `load_state_dict` found missing and unexpected."""

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return super().__repr__()

    __str__ = __repr__


class _WrappedHook:
    """A hook that is called with its module, if it has one; a copy of the module has its own."""

    def __init__(self, hook: Callable, module: Any = None):
        self.hook, self.module = hook, module
        functools.update_wrapper(self, hook, updated=())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.hook(*(() if self.module is None else (self.module,)), *args, **kwargs)


# Note [Loading whole or not at all]
# Modules may override `_load_from_state_dict`, which PyTorch defines as checking and copying in one.
# The list of error messages that is handed down also carries the writes that were found good; they
# run once the whole tree has been checked. Each gives a function that undoes it.
class _Report(list):
    """Error messages, and what to write if there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[Callable[[bool], Callable[[], None]]] = []


class State:
    """What a module offers for saving and restoring its tensors."""

    _version: int = 1
    _within: str = (
        ""  # of a compiled module: the name under which it holds the one that was compiled
    )
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]
    _modules: dict[str, Any]
    _non_persistent_buffers_set: set[str]
    _state_dict_hooks: Any
    _state_dict_pre_hooks: Any
    _load_state_dict_pre_hooks: Any
    _load_state_dict_post_hooks: Any

    def get_extra_state(self) -> Any:
        """What a module wants in its state dict besides tensors; override with set_extra_state."""
        raise KilnError("get_extra_state", "not overridden", type(self).__name__, "define it")

    def set_extra_state(self, state: Any) -> None:
        """Take what `get_extra_state` gave when the state dict was made."""
        raise KilnError("set_extra_state", "not overridden", type(self).__name__, "define it")

    def _has_extra(self, which: str) -> bool:
        return getattr(type(self), which) is not getattr(State, which)

    # ---- taking

    def state_dict(self, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Parameters and persistent buffers of this module and those in it, by dotted name.

        The tensors share the module's memory; `keep_vars` keeps them attached to autograd.
        """
        if destination is None:
            destination = OrderedDict()
            destination._metadata = OrderedDict()
        local: dict[str, Any] = {"version": self._version}
        if hasattr(destination, "_metadata"):
            destination._metadata[prefix[:-1]] = local
            if self._within:
                destination._metadata[prefix + self._within[:-1]] = local
        prefix += self._within
        for hook in list(self._state_dict_pre_hooks.values()):
            hook(self, prefix, keep_vars)
        self._save_to_state_dict(destination, prefix, keep_vars)
        for name, module in self._modules.items():
            if module is not None:
                module.state_dict(
                    destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars
                )
        for hook in list(self._state_dict_hooks.values()):
            out = hook(self, destination, prefix, local)
            if not getattr(hook, "_from_public_api", False):  # a private hook may replace the dict
                destination = destination if out is None else out
            elif out is not None:
                raise KilnError(
                    "state_dict", "state_dict post-hook must return None", describe(out),
                    "change the state dict in place",
                )  # fmt: skip
        return destination

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        for name, x in self._own_state().items():
            destination[prefix + name] = x if keep_vars or is_lazy(x) else x.detach()
        if self._has_extra("get_extra_state"):
            destination[prefix + _EXTRA_STATE_KEY_SUFFIX] = self.get_extra_state()

    def _own_state(self) -> dict[str, Tensor]:
        skip = self._non_persistent_buffers_set
        both = {**self._parameters, **{k: b for k, b in self._buffers.items() if k not in skip}}
        return {k: x for k, x in both.items() if x is not None}

    def register_state_dict_pre_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(module, prefix, keep_vars)` before this module's part of a state dict is made."""
        return add_hook(self._state_dict_pre_hooks, hook)

    def register_state_dict_post_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata)` after; it may change the dict."""
        hook._from_public_api = True  # type: ignore[attr-defined]
        return add_hook(self._state_dict_hooks, hook)

    def _register_state_dict_hook(self, hook: Callable) -> RemovableHandle:
        if getattr(hook, "_from_public_api", False):
            raise KilnError(
                "_register_state_dict_hook", "Cannot register the same function as the state dict post hook that was "
                "previously registered via register_state_dict_post_hook", describe(hook),
            )  # fmt: skip
        return add_hook(self._state_dict_hooks, hook)

    # ---- loading

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> _IncompatibleKeys:
        """Copy the tensors of a state dict into this module; nothing is changed where one doesn't fit.

        `strict` refuses missing and unexpected names; `assign` takes the dict's tensors themselves.
        Gives the missing and the unexpected names. RuntimeError lists everything that is wrong.
        """
        if not isinstance(state_dict, Mapping):
            raise KilnTypeError(
                "load_state_dict", f"expected state_dict to be dict-like, got {type(state_dict)}",
                describe(state_dict), "pass what state_dict() or kiln.load() gave",
            )  # fmt: skip
        missing: list[str] = []
        unexpected: list[str] = []
        report = _Report()
        metadata = getattr(state_dict, "_metadata", None)
        state = OrderedDict(state_dict)
        if metadata is not None:
            state._metadata = metadata  # type: ignore[attr-defined]
        hooked: list[tuple[Any, _IncompatibleKeys]] = []

        def visit(module: Any, local_state: Any, prefix: str) -> None:
            start = prefix + module._within
            if start != prefix and any(k.startswith(start) for k in local_state):
                unexpected.extend(k for k in local_state if not k.startswith(start))
                local_state = {k: v for k, v in local_state.items() if k.startswith(start)}
                prefix = start
            local = {} if metadata is None else metadata.get(prefix[:-1], {})
            if assign:
                local["assign_to_params_buffers"] = True
            module._load_from_state_dict(
                local_state, prefix, local, True, missing, unexpected, report
            )
            for name, child in module._modules.items():
                if child is not None:
                    start = f"{prefix}{name}."
                    visit(
                        child, {k: v for k, v in local_state.items() if k.startswith(start)}, start
                    )
            if module._load_state_dict_post_hooks:
                hooked.append((module, _IncompatibleKeys(missing, unexpected)))

        visit(self, state, "")
        unexpected[:] = list(dict.fromkeys(unexpected))
        if not hooked or report:
            self._refuse(report, missing, unexpected, strict)
        undo: list[Callable[[], None]] = []
        try:
            with no_grad():
                for write in report.writes:
                    undo.append(write(bool(hooked)))
            for module, keys in hooked:
                for hook in list(module._load_state_dict_post_hooks.values()):
                    if hook(module, keys) is not None:
                        raise KilnError(
                            "load_state_dict", "hooks registered with register_load_state_dict_post_hook "
                            "are not expected to return new values", type(module).__name__,
                            "change incompatible_keys in place",
                        )  # fmt: skip
            self._refuse(report, missing, unexpected, strict)
        except Exception:
            with no_grad():
                for back in reversed(undo):
                    back()
            raise
        return _IncompatibleKeys(missing, unexpected)

    def _refuse(
        self, errors: list[str], missing: list[str], unexpected: list[str], strict: bool
    ) -> None:
        lines = list(errors)
        if strict and unexpected:
            lines.insert(0, f"Unexpected key(s) in state_dict: {_quoted(unexpected)}. ")
        if strict and missing:
            lines.insert(0, f"Missing key(s) in state_dict: {_quoted(missing)}. ")
        if lines:
            name = type(self).__name__
            raise KilnError(
                "load_state_dict", f"Error(s) in loading state_dict for {name}:\n\t" + "\n\t".join(lines),
                f"a state dict for {name}; nothing was changed",
                "strict=False ignores missing and unexpected keys; shapes must match",
            )  # fmt: skip

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: dict, strict: bool,
        missing_keys: list[str], unexpected_keys: list[str], error_msgs: list[str],
    ) -> None:  # fmt: skip
        """Check this module's own part of a state dict and plan the copies; may be overridden."""
        for hook in list(self._load_state_dict_pre_hooks.values()):
            rest = (
                state_dict,
                prefix,
                local_metadata,
                strict,
                missing_keys,
                unexpected_keys,
                error_msgs,
            )
            hook(*rest)
        own = self._own_state()
        writes = getattr(error_msgs, "writes", None)
        assign = local_metadata.get("assign_to_params_buffers", False)
        for name, x in own.items():
            key = prefix + name
            if key not in state_dict:
                if strict:
                    missing_keys.append(key)
                continue
            given = state_dict[key]
            if not isinstance(given, Tensor):
                error_msgs.append(
                    f'While copying the parameter named "{key}", expected kiln.Tensor or Tensor-like '
                    f"object from checkpoint but received {type(given)}"
                )
                continue
            if not is_lazy(x):
                if x.ndim == 0 and not is_lazy(given) and given.ndim == 1 and given.shape[0] == 1:
                    given = given[0]
                if is_lazy(given) or given.shape != x.shape:
                    shape = "that is not known yet" if is_lazy(given) else given.shape
                    error_msgs.append(
                        f"size mismatch for {key}: copying a param with shape {shape} from "
                        f"checkpoint, the shape in current model is {x.shape}."
                    )
                    continue
            write = _write(self, name, x, given, assign)
            if writes is None:
                with no_grad():
                    write()
            else:
                writes.append(write)
        self._load_extra(state_dict, prefix, strict, missing_keys, unexpected_keys, writes)
        if strict:
            for key in state_dict:
                if key.startswith(prefix) and key != prefix + _EXTRA_STATE_KEY_SUFFIX:
                    head, *rest = key[len(prefix) :].split(".", 1)
                    if (rest and head not in self._modules) or (not rest and head not in own):
                        unexpected_keys.append(key)

    def _load_extra(
        self,
        state_dict: Any,
        prefix: str,
        strict: bool,
        missing: list,
        unexpected: list,
        writes: Any,
    ) -> None:
        key = prefix + _EXTRA_STATE_KEY_SUFFIX
        if self._has_extra("set_extra_state"):
            if key in state_dict:

                def write(keep: bool = False) -> Callable[[], None]:
                    self.set_extra_state(state_dict[key])
                    return lambda: None

                write() if writes is None else writes.append(write)
            elif strict:
                missing.append(key)
        elif strict and key in state_dict:
            unexpected.append(key)

    def register_load_state_dict_pre_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(module, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys,
        error_msgs)` before this module's part of a state dict is loaded."""  # fmt: skip
        return self._register_load_state_dict_pre_hook(hook, with_module=True)

    def _register_load_state_dict_pre_hook(
        self, hook: Callable, with_module: bool = False
    ) -> RemovableHandle:
        wrapped = _WrappedHook(hook, self if with_module else None)
        return add_hook(self._load_state_dict_pre_hooks, wrapped)

    def register_load_state_dict_post_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(module, incompatible_keys)` after loading; it may change the two lists in place."""
        return add_hook(self._load_state_dict_post_hooks, hook)


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{n}"' for n in names)


def _write(module: Any, name: str, x: Tensor, given: Tensor, assign: bool) -> Callable:
    """A function that stores `given` in a module and, if told to `keep` the old value, gives the one
    that brings it back."""

    def replace(keep: bool = False) -> Callable[[], None]:
        new = given
        if isinstance(x, Parameter):
            if not isinstance(new, Parameter):
                new = Parameter(new, requires_grad=x.requires_grad)
            else:
                new.requires_grad_(x.requires_grad)
        setattr(module, name, new)
        return lambda: setattr(module, name, x)

    def copy(keep: bool = False) -> Callable[[], Any]:
        if is_lazy(given):  # of a module that has not run: what is there stays as it is
            return lambda: None
        if is_lazy(x):
            x.materialize(given.shape)  # type: ignore[attr-defined]
        old = x.detach().clone() if keep else x
        x.copy_(given)
        return lambda: x.copy_(old)

    return replace if assign else copy
