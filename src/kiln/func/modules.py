"""Modules as functions of their parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..compile.hooks import watch
from ..errors import KilnError, KilnValueError, describe
from ..nn.modules.batchnorm import _BatchNorm
from ..nn.modules.module import Module
from ..ops.joining import stack
from ..tensor import CAPTURING, Tensor

_ABSENT = object()


def functional_call(
    module: Module,
    parameter_and_buffer_dicts: dict[str, Tensor] | Sequence[dict[str, Tensor]],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """`module(*args, **kwargs)` with other parameters and buffers, by dotted name; its own are left alone.

    What is not named keeps its own tensor, unless `strict`. Names of one tensor (tied weights) all take
    what one of them is given. A buffer that the call puts another tensor in is put in the dict. Errors:
    KilnError for missing or unexpected names with `strict`, KilnValueError for a name given twice.
    Source: torch.func.functional_call.
    """
    dicts = parameter_and_buffer_dicts
    if isinstance(dicts, dict):
        dicts = (dicts,)
    if not isinstance(dicts, list | tuple) or not all(isinstance(d, dict) for d in dicts):
        raise KilnValueError(
            "functional_call", "Expected parameter_and_buffer_dicts to be a dict, or a list/tuple of dicts",
            describe(parameter_and_buffer_dicts), "dict(module.named_parameters())",
        )  # fmt: skip
    owners: dict[str, dict[str, Tensor]] = {}
    for d in dicts:
        for name in d:
            if name in owners:
                raise KilnValueError(
                    "functional_call", f"{name} appeared in multiple dictionaries; behavior of functional call "
                    "is ambiguous", name, "give each name once",
                )  # fmt: skip
            owners[name] = d
    given = {name: d[name] for name, d in owners.items()}
    args = () if args is None else args if isinstance(args, tuple) else (args,)
    with _swapped(module, _tied(module, given, tie_weights, strict), owners):
        return module(*args, **(kwargs or {}))


def _members(module: Module) -> dict[str, Tensor]:
    """All parameters and buffers under all their names."""
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _tied(module: Module, given: dict[str, Tensor], tie: bool, strict: bool) -> dict[str, Tensor]:
    """What is given, under the other names of the same tensors too."""
    members = _members(module)
    out = dict(given)
    if tie:
        by_tensor: dict[int, str] = {}
        for name in given:
            if name in members:
                first = by_tensor.setdefault(id(members[name]), name)
                if given[first] is not given[name]:
                    raise KilnValueError(
                        "functional_call", "functional_call got multiple values for keys "
                        f"{sorted((first, name))}, which are tied", name,
                        "give one value, or consider using tie_weights=False",
                    )  # fmt: skip
        for name, x in members.items():
            if name not in out and id(x) in by_tensor:
                out[name] = given[by_tensor[id(x)]]
    if strict and (wrong := sorted(set(members) ^ set(out))):
        missing = [n for n in wrong if n in members]
        extra = [n for n in wrong if n not in members]
        raise KilnError(
            "functional_call", "Error(s) in loading the given tensors with strict=True",
            f"Unexpected key(s): {extra}. Missing key(s): {missing}", "name each parameter and buffer once",
        )  # fmt: skip
    return out


@contextmanager
def _swapped(
    module: Module, values: dict[str, Tensor], owners: dict[str, dict[str, Tensor]]
) -> Iterator[None]:
    """A module with other tensors in it for a while."""
    if (
        CAPTURING
    ):  # programs are guarded on what the modules hold, which is their own again at the end
        for m in module.modules():
            watch(m)
    places = []
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        own = module.get_submodule(path).__dict__
        table = next((own[k] for k in ("_parameters", "_buffers") if leaf in own[k]), own)
        places.append((name, table, leaf, table.get(leaf, _ABSENT), value))
    for _, table, leaf, _, value in places:
        table[leaf] = value
    try:
        yield
    finally:
        for name, table, leaf, old, value in places:
            now = table.get(leaf, _ABSENT)
            if old is _ABSENT:
                table.pop(leaf, None)
            else:
                table[leaf] = old
            if now is not value and now is not _ABSENT and name in owners:
                owners[name][name] = now


def stack_module_state(
    models: Sequence[Module],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The parameters and the buffers of several models alike, each stacked along a new first dimension.

    What an ensemble of them is made of: `vmap(lambda p, b, x: functional_call(base, (p, b), (x,)), (0, 0,
    None))`. Parameters are leaves that require grad where those of the models do. Errors: KilnError for
    models of different classes or training modes. Source: torch.func.stack_module_state.
    """
    if not len(models):
        raise KilnError("stack_module_state", "Expected at least one model, got 0", "[]", "")
    if any(m.training != models[0].training for m in models):
        raise KilnError(
            "stack_module_state", "Expected all models to have the same training/eval mode",
            describe([m.training for m in models]), "call train() or eval() on all of them",
        )  # fmt: skip
    if any(type(m) is not type(models[0]) for m in models):
        raise KilnError(
            "stack_module_state", "Expected all models to be of the same class",
            ", ".join(type(m).__name__ for m in models), "",
        )  # fmt: skip
    params = [dict(m.named_parameters()) for m in models]
    buffers = [dict(m.named_buffers()) for m in models]
    return _stacked(params), _stacked(buffers)


def _stacked(dicts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    out = {}
    for name, first in dicts[0].items():
        xs = [d[name] for d in dicts]
        if any(x.requires_grad != first.requires_grad for x in xs):
            raise KilnError(
                "stack_module_state", "Expected all parameters to have the same .requires_grad state",
                name, "freeze the same ones in all models",
            )  # fmt: skip
        out[name] = stack([x.detach() for x in xs]).requires_grad_(first.requires_grad)
    return out


def replace_all_batch_norm_modules_(root: Module) -> Module:
    """Have all batch norms in a module, in place, use the statistics of each batch and keep none; returns it.

    What they keep can't be updated under vmap, where each of the batch has statistics of its own. Source:
    torch.func.replace_all_batch_norm_modules_.
    """
    for m in root.modules():
        if isinstance(m, _BatchNorm):
            m.running_mean = m.running_var = m.num_batches_tracked = None
            m.track_running_stats = False
    return root
