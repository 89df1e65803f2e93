"""State of models and optimizers under the names of parameters, however these are wrapped.

Source: torch.distributed.checkpoint.state_dict.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ...autograd.modes import no_grad
from ...errors import KilnError
from ...nn.modules.module import Module
from ...nn.parallel import DataParallel
from ...ops.creation import zeros_like
from ...tensor import Tensor
from ..parallel import DistributedDataParallel


@dataclass
class StateDictOptions:
    """What a state dict holds; tensors are whole and on the CPU in any case."""

    full_state_dict: bool = False
    cpu_offload: bool = False
    ignore_frozen_params: bool = False
    keep_submodule_prefixes: bool = True
    strict: bool = True
    broadcast_from_rank0: bool = False
    flatten_optimizer_state_dict: bool = False
    dsd_fqn_modifiers: str = "_fqn_modifiers"


def _bare(model: Module) -> Any:
    """A model without what it is wrapped in."""
    while True:
        if hasattr(type(model), "_orig_mod"):
            model = model._orig_mod
        elif isinstance(model, DataParallel | DistributedDataParallel):
            model = model.module
        else:
            return model


def _clean(name: str) -> str:
    return ".".join(p for p in name.split(".") if p != "_orig_mod")


def _names(model: Module) -> dict[int, str]:
    return {id(p): _clean(n) for n, p in _bare(model).named_parameters()}


def get_model_state_dict(
    model: Module, *, submodules: set[Module] | None = None, options: StateDictOptions | None = None
) -> dict[str, Any]:  # fmt: skip
    """The state of a model, under the names that its parameters have without wrappers."""
    o, bare = options or StateDictOptions(), _bare(model)
    state = {_clean(n): v for n, v in bare.state_dict().items()}
    if o.ignore_frozen_params:
        frozen = {_clean(n) for n, p in bare.named_parameters() if not p.requires_grad}
        state = {n: v for n, v in state.items() if n not in frozen}
    if submodules is None:
        return state
    found = {}
    for prefix, m in bare.named_modules():
        if m in submodules:
            start = f"{_clean(prefix)}."
            keep = 0 if o.keep_submodule_prefixes else len(start)
            found |= {n[keep:]: v for n, v in state.items() if n.startswith(start)}
    return found


def set_model_state_dict(
    model: Module, model_state_dict: dict[str, Any], *, options: StateDictOptions | None = None
) -> Any:
    """Take what `get_model_state_dict` gave."""
    bare = _bare(model)
    given = {_clean(n): v for n, v in model_state_dict.items()}
    state = {n: given[_clean(n)] for n in bare.state_dict() if _clean(n) in given}
    known = set(map(_clean, state))
    state |= {n: v for n, v in given.items() if n not in known}
    return bare.load_state_dict(state, strict=(options or StateDictOptions()).strict)


def _several(optimizers: Any) -> list[Any]:
    return list(optimizers) if isinstance(optimizers, Iterable) else [optimizers]


def _init_optim_state(optim: Any) -> None:
    """Have an optimizer make its state, by a step that changes nothing."""
    if optim.state or any(p.grad is not None for g in optim.param_groups for p in g["params"]):
        return
    rates = [g.get("lr") for g in optim.param_groups]
    parameters = [p for g in optim.param_groups for p in g["params"] if p.requires_grad]
    for p in parameters:
        p.grad = zeros_like(p)
    for g in optim.param_groups:
        if "lr" in g:
            g["lr"] = g["lr"] * 0 if isinstance(g["lr"], Tensor) else 0.0
    with no_grad():
        before = [p.detach().clone() for p in parameters]
        optim.step(closure=None)
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    for g, rate in zip(optim.param_groups, rates, strict=True):
        if rate is not None:
            g["lr"] = rate
    optim.zero_grad(set_to_none=True)


def get_optimizer_state_dict(
    model: Module, optimizers: Any, *, submodules: set[Module] | None = None, options: StateDictOptions | None = None
) -> dict[str, Any]:  # fmt: skip
    """The state of optimizers, filed under the names of a model's parameters."""
    names = _names(model)
    wanted = set(names)
    if submodules is not None:
        wanted = {id(p) for m in submodules for p in m.parameters()}
    state: dict[str, Any] = {}
    groups = []
    for optim in _several(optimizers):
        _init_optim_state(optim)
        for group in optim.param_groups:
            members = [p for p in group["params"] if id(p) in wanted]
            unknown = [p for p in members if id(p) not in names]
            if unknown:
                raise KilnError("get_optimizer_state_dict", "a parameter of the optimizer is none of the model's", len(unknown), "")  # fmt: skip
            for p in members:
                if p in optim.state:
                    state[names[id(p)]] = dict(optim.state[p])
            others = {k: v for k, v in group.items() if k != "params"}
            groups.append({**others, "params": [names[id(p)] for p in members]})
    if (options or StateDictOptions()).flatten_optimizer_state_dict:
        flat = {f"state.{n}.{k}": v for n, own in state.items() for k, v in own.items()}
        for group in groups:
            for name in group["params"]:
                flat |= {f"param_groups.{name}.{k}": v for k, v in group.items() if k != "params"}
        return flat
    return {"state": state, "param_groups": groups}


def set_optimizer_state_dict(
    model: Module, optimizers: Any, optim_state_dict: dict[str, Any], *, options: StateDictOptions | None = None
) -> None:  # fmt: skip
    """Take what `get_optimizer_state_dict` gave; optimizers take the part of their parameters."""
    names = _names(model)
    for optim in _several(optimizers):
        _init_optim_state(optim)
        state, groups, number = {}, [], 0
        for group in optim.param_groups:
            called = [names[id(p)] for p in group["params"]]
            others = _options_of(optim_state_dict, called, group)
            for name, p in zip(called, group["params"], strict=True):
                own = _state_of(optim_state_dict, name, optim.state.get(p, {}))
                if own:
                    state[number + called.index(name)] = own
            groups.append({**others, "params": list(range(number, number + len(called)))})
            number += len(called)
        optim.load_state_dict({"state": state, "param_groups": groups})


def _state_of(given: dict[str, Any], name: str, own: Any) -> dict[str, Any]:
    if "state" in given:
        return given["state"].get(name, {})
    return {k: given[f"state.{name}.{k}"] for k in own if f"state.{name}.{k}" in given}


def _options_of(given: dict[str, Any], names: list[str], group: dict[str, Any]) -> dict[str, Any]:
    own = {k: v for k, v in group.items() if k != "params"}
    if "param_groups" in given:
        fits = [g for g in given["param_groups"] if set(names) & set(g["params"])]
        found = fits[0] if fits else {}
    else:
        start = f"param_groups.{names[0]}." if names else ""
        found = {k: given[start + k] for k in own if start + k in given}
    return {k: found.get(k, v) for k, v in own.items()}


def get_state_dict(
    model: Module, optimizers: Any, *, submodules: set[Module] | None = None, options: StateDictOptions | None = None
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """The state of a model, and that of its optimizers."""
    return get_model_state_dict(model, submodules=submodules, options=options), get_optimizer_state_dict(
        model, optimizers, submodules=submodules, options=options
    )  # fmt: skip


def set_state_dict(
    model: Module, optimizers: Any, *, model_state_dict: dict[str, Any], optim_state_dict: dict[str, Any],
    options: StateDictOptions | None = None,
) -> Any:  # fmt: skip
    """Take what `get_state_dict` gave."""
    set_optimizer_state_dict(model, optimizers, optim_state_dict, options=options)
    return set_model_state_dict(model, model_state_dict, options=options)


__all__ = [
    "StateDictOptions", "get_model_state_dict", "get_optimizer_state_dict", "get_state_dict", "set_model_state_dict",
    "set_optimizer_state_dict", "set_state_dict",
]  # fmt: skip
