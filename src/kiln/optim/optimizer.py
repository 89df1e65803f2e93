"""The base of optimizers: groups of parameters, their options, and their state.

https://docs.pytorch.org/docs/stable/optim.html
"""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from copy import copy, deepcopy
from itertools import chain
from typing import Any

from ..autograd.hooks import RemovableHandle
from ..autograd.modes import enable_grad, is_grad_enabled, no_grad, set_grad_enabled
from ..backends import updates
from ..compile.hooks import eager, host_scalar, made, watch
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..formats import strided
from ..ops.complex import view_as_real
from ..tensor import Tensor

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class _Required:
    def __repr__(self) -> str:
        return "<required parameter>"


required = _Required()
"""The default of an option that every group must give."""

_global_optimizer_pre_hooks: dict[int, Callable] = OrderedDict()
_global_optimizer_post_hooks: dict[int, Callable] = OrderedDict()


def register_optimizer_step_pre_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(optimizer, args, kwargs)` before each step of any optimizer; it may return new
    (args, kwargs)."""
    return _register(_global_optimizer_pre_hooks, hook)


def register_optimizer_step_post_hook(hook: Callable) -> RemovableHandle:
    """Call `hook(optimizer, args, kwargs)` after each step of any optimizer."""
    return _register(_global_optimizer_post_hooks, hook)


def _register(hooks: dict[int, Callable], hook: Callable, prepend: bool = False) -> RemovableHandle:
    handle = RemovableHandle(hooks)
    hooks[handle.id] = hook
    if prepend:
        hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]
    return handle


def _hooked(step: Callable) -> Callable:
    """A step with the hooks registered on its optimizer around it."""

    @functools.wraps(step)
    def run(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if (
            "_optimizer_step_pre_hooks" not in self.__dict__
        ):  # it wraps one, without Optimizer's constructor
            return step(self, *args, **kwargs)
        watch(self)
        self._opt_called = True
        for hook in (
            *_global_optimizer_pre_hooks.values(),
            *self._optimizer_step_pre_hooks.values(),
        ):
            out = hook(self, args, kwargs)
            if out is not None:
                if not (isinstance(out, tuple) and len(out) == 2):
                    raise KilnError(
                        "step", "a step pre-hook must return None or a tuple of (new_args, new_kwargs)",
                        describe(out), "return (args, kwargs)",
                    )  # fmt: skip
                args, kwargs = out
        result = step(self, *args, **kwargs)
        for hook in (
            *self._optimizer_step_post_hooks.values(),
            *_global_optimizer_post_hooks.values(),
        ):
            hook(self, args, kwargs)
        return result

    run.hooked = True  # type: ignore[attr-defined]
    return run


_HOOKS = (
    "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks", "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks", "_optimizer_load_state_dict_post_hooks",
)  # fmt: skip


class Optimizer:
    """What all optimizers share; subclasses define `step`.

    `param_groups` is a list of dicts: "params" and the options of that group (`defaults` where a
    group is silent). `state[p]` holds what the optimizer remembers about a parameter.
    """

    _optimizer_step_pre_hooks: dict[int, Callable]
    _optimizer_step_post_hooks: dict[int, Callable]
    _optimizer_state_dict_pre_hooks: dict[int, Callable]
    _optimizer_state_dict_post_hooks: dict[int, Callable]
    _optimizer_load_state_dict_pre_hooks: dict[int, Callable]
    _optimizer_load_state_dict_post_hooks: dict[int, Callable]
    _opt_called = False  # whether `step` was called: schedulers warn where it was not
    _loads = 0  # how often state was replaced

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        step = cls.__dict__.get("step")
        if step is not None and not hasattr(step, "hooked"):
            cls.step = _hooked(step)  # type: ignore[method-assign]

    def __init__(self, params: ParamsT, defaults: dict[str, Any]) -> None:
        name = type(self).__name__
        if isinstance(params, Tensor):
            raise KilnTypeError(
                name, "params argument given to the optimizer should be an iterable of Tensors or dicts, "
                "but got a Tensor", describe(params), "pass [tensor], or model.parameters()",
            )  # fmt: skip
        self.defaults = defaults
        for hooks in _HOOKS:
            setattr(self, hooks, OrderedDict())
        self.state: defaultdict[Any, Any] = defaultdict(dict)
        self.param_groups: list[dict[str, Any]] = []
        groups: list[Any] = list(params)
        if not groups:
            raise KilnValueError(
                name, "optimizer got an empty parameter list", "[]", "model.parameters()"
            )
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; `closure` computes the loss again and returns it."""
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients, or fill them with zeros."""
        for group in self.param_groups:
            for p in group["params"]:
                if set_to_none:
                    p.grad = None
                elif (g := p.grad) is not None:
                    if g.grad_fn is not None:
                        g.detach_()
                    else:
                        g.requires_grad_(False)
                    g.zero_()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group: a dict with "params" and options of its own."""
        name = type(self).__name__
        if not isinstance(param_group, dict):
            raise KilnTypeError(
                name, f"param_group must be a dict, but got {type(param_group)}", None
            )
        params = param_group["params"]
        if isinstance(params, Tensor):
            params = [params]
        elif isinstance(params, set):
            raise KilnTypeError(
                name, "optimizer parameters need to be organized in ordered collections, but the "
                "ordering of tensors in sets will change between runs. Please use a list instead.", "a set",
                "use a list",
            )  # fmt: skip
        params = list(params)
        names = [p[0] for p in params if isinstance(p, tuple)]
        if names:
            if len(names) != len(params):
                raise KilnValueError(
                    name, "all optimizer params should be with/without names. Some param names are missing",
                    f"{len(names)} names for {len(params)} parameters", "model.named_parameters()",
                )  # fmt: skip
            params = [p[1] for p in params]
        for p in params:
            if not isinstance(p, Tensor):
                raise KilnTypeError(
                    name, f"optimizer can only optimize Tensors, but one of the params is {type(p).__name__}",
                    describe(p), "pass model.parameters()",
                )  # fmt: skip
            if not (self.defaults.get("differentiable") or p.is_leaf or p.retains_grad):
                raise KilnValueError(
                    name, "can't optimize a non-leaf Tensor", describe(p), "optimize leaves"
                )
        for key, default in self.defaults.items():
            if default is required and key not in param_group:
                raise KilnValueError(
                    name, f"parameter group didn't specify a value of required optimization parameter {key}",
                    describe(param_group), f"add {key}=… to the group",
                )  # fmt: skip
        ids = {id(p) for p in params}
        if any(id(p) in ids for g in self.param_groups for p in g["params"]):
            raise KilnValueError(
                name,
                "some parameters appear in more than one parameter group",
                None,
                "put each in one",
            )
        named = bool(names) or "param_names" in param_group
        if any(named != ("param_names" in g) for g in self.param_groups):
            raise KilnValueError(
                name, "all optimizer param groups should be with/without names. cannot add param group "
                f"{'with' if named else 'without'} names to the optimizer", None, "name all or none",
            )  # fmt: skip
        if len(ids) != len(params):
            warnings.warn(
                "optimizer contains a parameter group with duplicate parameters; in future, this will "
                "cause an error; each is updated once for each time it is listed",
                UserWarning, stacklevel=3,
            )  # fmt: skip
        # the caller's dict becomes the group, as in PyTorch: it sees what schedulers write
        param_group["params"] = params
        if names:
            param_group["param_names"] = names
        for key, default in self.defaults.items():
            param_group.setdefault(key, default)
        self.param_groups.append(param_group)

    # ---- hooks

    def register_step_pre_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` before a step; it may return new (args, kwargs)."""
        return _register(self._optimizer_step_pre_hooks, hook)

    def register_step_post_hook(self, hook: Callable) -> RemovableHandle:
        """Call `hook(optimizer, args, kwargs)` after a step."""
        return _register(self._optimizer_step_post_hooks, hook)

    def register_state_dict_pre_hook(
        self, hook: Callable, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer)` before `state_dict`."""
        return _register(self._optimizer_state_dict_pre_hooks, hook, prepend)

    def register_state_dict_post_hook(
        self, hook: Callable, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` after `state_dict`; it may return another dict."""
        return _register(self._optimizer_state_dict_post_hooks, hook, prepend)

    def register_load_state_dict_pre_hook(
        self, hook: Callable, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer, state_dict)` before loading; it may return another dict."""
        return _register(self._optimizer_load_state_dict_pre_hooks, hook, prepend)

    def register_load_state_dict_post_hook(
        self, hook: Callable, prepend: bool = False
    ) -> RemovableHandle:
        """Call `hook(optimizer)` after loading."""
        return _register(self._optimizer_load_state_dict_post_hooks, hook, prepend)

    # ---- state

    def state_dict(self) -> dict[str, Any]:
        """State and groups, with the parameters' numbers in place of the parameters."""
        for hook in list(self._optimizer_state_dict_pre_hooks.values()):
            hook(self)
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for p in group["params"]:
                numbers.setdefault(id(p), len(numbers))
            packed = {k: v for k, v in group.items() if k != "params"}
            packed["params"] = [numbers[id(p)] for p in group["params"]]
            groups.append(packed)
        state = {numbers[id(k)] if isinstance(k, Tensor) else k: v for k, v in self.state.items()}
        out: dict[str, Any] = {"state": state, "param_groups": groups}
        for hook in list(self._optimizer_state_dict_post_hooks.values()):
            new = hook(self, out)
            out = out if new is None else new
        return out

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over the state and options of a state dict of an optimizer of the same shape."""
        state_dict = copy(state_dict)
        for hook in list(self._optimizer_load_state_dict_pre_hooks.values()):
            new = hook(self, state_dict)
            state_dict = state_dict if new is None else new
        saved = deepcopy(state_dict["param_groups"])
        groups = self.param_groups
        if len(groups) != len(saved):
            raise KilnValueError(
                "load_state_dict", "loaded state dict has a different number of parameter groups",
                f"{len(saved)} groups for {len(groups)}", "build the optimizer as it was saved",
            )  # fmt: skip
        if any(len(g["params"]) != len(s["params"]) for g, s in zip(groups, saved, strict=True)):
            raise KilnValueError(
                "load_state_dict", "loaded state dict contains a parameter group that doesn't match the "
                "size of optimizer's group", f"{[len(s['params']) for s in saved]} parameters for "
                f"{[len(g['params']) for g in groups]}", "build the optimizer as it was saved",
            )  # fmt: skip
        mine = chain.from_iterable(g["params"] for g in groups)
        by_number = dict(zip(chain.from_iterable(s["params"] for s in saved), mine, strict=True))
        state: defaultdict[Any, Any] = defaultdict(dict)
        with eager(), no_grad():
            for key, value in state_dict["state"].items():
                if key in by_number:
                    state[by_number[key]] = _adopt(by_number[key], value)
                else:
                    state[key] = value
        for group, new in zip(groups, saved, strict=True):
            new["params"] = group["params"]
            if "param_names" in group and "param_names" not in new:
                new["param_names"] = group["param_names"]
        self.__setstate__({"state": state, "param_groups": saved})
        for hook in list(self._optimizer_load_state_dict_post_hooks.values()):
            hook(self)

    def __getstate__(self) -> dict[str, Any]:
        return {"defaults": self.defaults, "state": self.state, "param_groups": self.param_groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for hooks in _HOOKS:
            self.__dict__.setdefault(hooks, OrderedDict())
        self.defaults.setdefault("differentiable", False)
        self._loads += 1

    def __capture_facts__(self) -> Any:
        """What a captured step relies on; options count by their values."""
        groups = [
            (
                tuple(map(id, g["params"])),
                tuple((k, self._fact(k, v)) for k, v in g.items() if k != "params"),
            )
            for g in self.param_groups
        ]
        return self._loads, tuple(groups), tuple(self._step_hooks())

    def _step_hooks(self) -> Iterator[int | None]:
        """What tells whether the hooks of a step are the same."""
        yield from _global_optimizer_pre_hooks
        yield None
        yield from self._optimizer_step_pre_hooks
        yield None
        yield from self._optimizer_step_post_hooks
        yield None
        yield from _global_optimizer_post_hooks

    def __capture_trace__(self) -> list[Any]:
        """Objects that are the same ones where `__capture_facts__` can't have changed."""
        out = [self._loads, *self._step_hooks()]
        for g in self.param_groups:
            out += g
            out += g.values()
            out += g["params"]
        return out

    def _fact(self, key: str, value: Any) -> Any:
        return id(value) if isinstance(value, Tensor | list) else value

    def __repr__(self) -> str:
        text = type(self).__name__ + " ("
        for i, group in enumerate(self.param_groups):
            text += f"\nParameter Group {i}\n"
            text += "".join(f"    {k}: {group[k]}\n" for k in sorted(group) if k != "params")
        return text + ")"


def _adopt(param: Tensor, value: Any, key: Hashable = None) -> Any:
    """A saved state as state of a parameter: copies, in the parameter's dtype except for counters."""
    if isinstance(value, Tensor):
        if key == "step" or not param.is_floating_point():
            return value.detach().clone()
        return value.detach().to(param.dtype, copy=True)
    if isinstance(value, dict):
        return {k: _adopt(param, v, k) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_adopt(param, v) for v in value)
    return value


class Member:
    """group[key][i] of a tuple of options, read through the group because schedulers replace tuples."""

    def __init__(self, group: dict[str, Any], key: str) -> None:
        self.group, self.key = group, key

    def __getitem__(self, i: int) -> Any:
        return self.group[self.key][i]


class PerParameter(Optimizer):
    """An optimizer that treats each parameter by itself.

    A subclass gives `slots` (a parameter's state before its first step), `scalars` (options as
    numbers) and `update`. All three are ordinary ops, so that `kiln.compile` captures whole steps.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters once; `closure` computes the loss again and returns it."""
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        with set_grad_enabled(self.defaults.get("differentiable", False)):
            for group in self.param_groups:
                scalars = self.scalars(group)
                whole = self._whole(group, scalars)
                for p in group["params"]:
                    g = p.grad
                    if g is not None:
                        if g.__class__ is not Tensor and g.layout is not strided:
                            self.check_sparse(g, group)
                        if p.dtype.is_complex and self.complex_as is None:
                            self.refuse_complex(p)
                        state = self.state.get(p) or self._begin(p, group)
                        if whole is None or not whole(p, g, state):
                            self._move(p, g, state, group, scalars)
        return loss

    def _move(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        if group.get("maximize"):
            g = -g
        if p.dtype.is_complex and self.complex_as == "parts":
            p, g = view_as_real(p), view_as_real(g)
            state = {k: _as_real(v) for k, v in state.items()}
        self.update(p, g, state, group, scalars)

    @classmethod
    def update_lists(
        cls, params: Sequence[Tensor], grads: Sequence[Tensor], state: dict[str, Sequence[Any]],
        group: dict[str, Any], grad_scale: Tensor | None = None, found_inf: Tensor | None = None,
    ) -> None:  # fmt: skip
        """One step of parameters whose gradients and state are lists: what the functional optimizers are.

        A slot whose list is empty is one that the options don't use. Errors: KilnError where steps are no tensors.
        """
        if not all(isinstance(s, Tensor) for s in state.get("step", ())):
            raise KilnError(
                cls.__name__, "API has changed, `state_steps` argument must contain a list of singleton tensors",
                ", ".join(map(describe, state["step"])), "torch.tensor(0.0) for each parameter",
            )  # fmt: skip
        check_forms(cls.__name__, group.get("fused"), group.get("foreach"))
        if found_inf is not None and found_inf.item():
            return
        self = cls.__new__(cls)
        scalars = self.scalars(group)
        for i, (p, g) in enumerate(zip(params, grads, strict=True)):
            if grad_scale is not None:
                g.div_(grad_scale)
            if g.layout is not strided:
                self.check_sparse(g, group)
            self._move(p, g, {k: v[i] for k, v in state.items() if v}, group, scalars)

    def _whole(self, group: dict[str, Any], scalars: Any) -> Callable | None:
        """What updates a parameter of the group by one Program, where it can: see `by_element`."""
        if not self.by_element(group) or is_grad_enabled():
            return None
        numbers = updates.numbers(scalars)
        if numbers is None:
            return None
        facts = tuple([(k, self._fact(k, v)) for k, v in group.items() if k != "params"])
        of, turned = type(self), group.get("maximize")

        def run(p: Tensor, g: Tensor, state: dict[str, Any]) -> bool:
            names = tuple(state)

            def update(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
                held = dict(zip(names, tensors[2:], strict=True))
                g = -tensors[1] if turned else tensors[1]
                self.update(tensors[0], g, held, group, values)

            given = (p, g, *state.values())
            return updates.run(of.__name__, (of, names, facts), update, given, numbers)

        return run

    def by_element(self, group: dict[str, Any]) -> bool:
        """Whether `update` treats each element by itself, by its arguments and the truth of options alone."""
        return type(self).update.__module__.startswith("kiln.optim.")

    complex_as: str | None = "parts"
    """How complex parameters are updated: as their "parts", as "numbers", or not at all."""

    def refuse_complex(self, p: Tensor) -> None:
        """Say that there is no update of complex parameters."""
        name = type(self).__name__
        raise KilnError(
            name, f"{name} does not support complex parameters", describe(p), "use Adam"
        )

    def check_sparse(self, g: Tensor, group: dict[str, Any]) -> None:
        """Refuse a sparse gradient where there is no update by one."""
        raise KilnError(
            type(self).__name__, f"{type(self).__name__} does not support sparse gradients", describe(g),
            "use SparseAdam, SGD or Adagrad, or leave sparse=False in the embedding",
        )  # fmt: skip

    def _fact(self, key: str, value: Any) -> Any:
        # numbers are re-read at every call (`scalars`); Python branches ask only whether these are 0
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value != 0 if key in ("weight_decay", "momentum", "dampening") else None
        return len(value) if isinstance(value, tuple) else super()._fact(key, value)

    def _begin(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        if not self.remembers(group):
            return {}
        state = self.state[p]
        made(self.state, p)
        with eager():  # state is memory: made once, not at each call of a captured step
            state.update(self.slots(p, group))
        return state

    def remembers(self, group: dict[str, Any]) -> bool:
        """Whether parameters of a group have state."""
        return True

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """A parameter's state before its first step."""
        raise NotImplementedError

    def scalars(self, group: dict[str, Any]) -> Any:
        """The options that are numbers, re-read at each call of a captured step."""
        raise NotImplementedError

    def update(
        self, p: Tensor, g: Tensor, state: dict[str, Any], group: dict[str, Any], scalars: Any
    ) -> None:
        """Change one parameter in place by its gradient."""
        raise NotImplementedError


def _as_real(value: Any) -> Any:
    return view_as_real(value) if isinstance(value, Tensor) and value.dtype.is_complex else value


def options(group: dict[str, Any], *keys: str) -> Iterator[Any]:
    """Options of a group as numbers, or as 0-d tensors while a step is captured."""
    return (_number(host_scalar(group, key)) for key in keys)


def _number(value: Any) -> Any:
    return value.reshape(()) if isinstance(value, Tensor) and value.ndim else value


def pair(group: dict[str, Any], key: str) -> tuple[Any, Any]:
    """An option that is two numbers."""
    member = Member(group, key)
    return _number(host_scalar(member, 0)), _number(host_scalar(member, 1))


def plus(x: Tensor, y: Any) -> Tensor:
    """x + y, in the memory of a temporary x where no gradient reads it."""
    return x + y if is_grad_enabled() else x.add_(y)


def decayed(p: Tensor, g: Tensor, group: dict[str, Any], lr: Any, weight_decay: Any) -> Tensor:
    """The gradient with weight decay in it; where that is decoupled, the parameter shrinks instead."""
    if group["weight_decay"] == 0:
        return g
    if group.get("decoupled_weight_decay"):
        p.mul_(1 - lr * weight_decay)
        return g
    return g + p * weight_decay


_NAMES = {"lr": "learning rate", "eps": "epsilon value"}


def check_options(name: str, **values: Any) -> None:
    """Refuse negative options; `betas` must lie in [0, 1)."""
    for key, value in values.items():
        if key == "betas":
            if len({isinstance(b, Tensor) for b in value}) > 1:
                raise KilnValueError(
                    name, "betas must be either both floats or both Tensors", repr(value), ""
                )
            for i, b in enumerate(value):
                if not 0.0 <= b < 1.0:
                    raise KilnValueError(
                        name, f"Invalid beta parameter at index {i}: {b}", value, "0 <= beta < 1"
                    )
        elif isinstance(value, Tensor) and value.numel() != 1:
            raise KilnValueError(name, f"Tensor {key} must be 1-element", describe(value))
        elif not value >= 0.0:
            what = _NAMES.get(key, f"{key} value")
            raise KilnValueError(name, f"Invalid {what}: {value}", f"{key}={value}", f"{key} >= 0")


def check_forms(
    name: str, fused: bool | None, foreach: bool | None, differentiable: bool = False
) -> None:
    """Refuse forms of a step that exclude each other; each one taken means Kiln's only form."""
    if fused and differentiable:
        raise KilnError(name, "`fused` does not support `differentiable`", "fused=True, differentiable=True",
                        "leave fused=None")  # fmt: skip
    if fused and foreach:
        raise KilnError(name, "`fused` and `foreach` cannot be `True` together.", "fused=True, foreach=True",
                        "leave both None")  # fmt: skip
