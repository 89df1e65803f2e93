"""An optimizer that acts on other parameters and other state for a while."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import KilnError, describe
from ..tensor import Tensor
from .optimizer import Optimizer

_NAME = "swap_in_optimizer_params_and_state"


@contextmanager
def swap_in_optimizer_params_and_state(
    optimizer: Optimizer, swapin_parameters: dict[str, Tensor], swapin_optim_state: dict[str, Any]
) -> Iterator[None]:
    """Let `optimizer` hold these parameters, in its own order, and the state of this state dict.

    At the end of the block it holds its own again. Tensors of the given state are changed in place;
    what is put in their stead is forgotten. RuntimeError where state and groups don't fit.
    """
    state = _checked(optimizer, swapin_parameters, swapin_optim_state)
    own_state, own_groups = optimizer.state, [dict(g) for g in optimizer.param_groups]
    try:
        swapped: defaultdict[Any, Any] = defaultdict(dict)
        params = iter(swapin_parameters.values())
        for group, new in zip(
            optimizer.param_groups, swapin_optim_state["param_groups"], strict=True
        ):
            mine = [next(params) for _ in new["params"]]
            group.update({**new, "params": mine})
            for p, number in zip(mine, new["params"], strict=True):
                swapped[p] = dict(state.get(number, {}))
        optimizer.state = swapped
        optimizer._loads += 1
        yield
    finally:
        for group, own in zip(optimizer.param_groups, own_groups, strict=True):
            group.clear()
            group.update(own)
        optimizer.state = own_state
        optimizer._loads += 1


def _checked(optimizer: Optimizer, params: dict[str, Tensor], given: Any) -> dict[Any, Any]:
    """The state of a state dict that fits the optimizer."""
    groups = given.get("param_groups") if isinstance(given, dict) else None
    state = given.get("state") if isinstance(given, dict) else None
    if not optimizer.state:
        raise _error("the optimizer has no state yet", "take a step before")
    if not isinstance(state, dict) or not isinstance(groups, list):
        raise _error("the state must be a dict of 'state' and 'param_groups'", describe(given))
    if any(not isinstance(v, dict) for v in state.values()):
        raise _error("the state of each parameter must be a dict", "see optimizer.state_dict()")
    if len(groups) != len(optimizer.param_groups):
        raise _error(
            "the state has another number of parameter groups than the optimizer",
            f"{len(groups)} groups for {len(optimizer.param_groups)}",
        )
    for i, (new, own) in enumerate(zip(groups, optimizer.param_groups, strict=True)):
        numbers = new.get("params") if isinstance(new, dict) else None
        if not isinstance(numbers, list) or not all(isinstance(n, int) for n in numbers):
            raise _error(f"group {i} must be a dict whose 'params' are numbers", describe(new))
        if len(numbers) != len(own["params"]):
            raise _error(
                f"group {i} has another number of parameters than the optimizer's",
                f"{len(numbers)} for {len(own['params'])}",
            )
        if new.keys() != own.keys():
            raise _error(
                f"group {i} has other options than the optimizer's", sorted(new.keys() ^ own.keys())
            )
    known = {n for g in groups for n in g["params"]}
    if any(k not in known for k in state):
        raise _error(
            "there is state of parameters that are in no group",
            [k for k in state if k not in known],
        )
    if len(params) < sum(len(g["params"]) for g in groups):
        raise _error("there are fewer parameters than the groups list", len(params))
    return state


def _error(what: str, received: Any) -> KilnError:
    return KilnError(_NAME, what, received, "give optimizer.state_dict() and as many parameters")
