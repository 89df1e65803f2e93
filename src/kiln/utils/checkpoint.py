"""Checkpointing: memory of forward given up, and computed again in backward. PyTorch's `torch.utils.checkpoint`.

What backward needs of a checkpointed function is not kept. When backward asks for the first of it, the
function runs once more, from the same random state, and what it saves then is handed out. In a compiled
function the second run is the same computation as the first, which is then kept: there
`kiln.compile(max_memory=)` decides what is computed again.
"""

from __future__ import annotations

import typing
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import get_ident
from typing import Any

from ..amp import autocast
from ..autograd.modes import enable_grad
from ..autograd.saved import saved_tensors_hooks
from ..compile.pytree import flatten, unflatten
from ..errors import KilnError, KilnValueError, describe
from ..random import default_generator, fork_rng
from ..refusal import refuse
from ..tensor import ACTIVE, Tensor, alias

_DEFAULT = "default"
_early_stop = [True]


class CheckpointError(KilnError):
    """The second run of a checkpointed function saved other tensors than the first."""


class _Enough(BaseException):
    """All that backward needs has been computed again."""


class _Frame:
    """A checkpointed call: what it saves by number, while and where that is known."""

    def __init__(self, again: Callable[[], Any], check: str):
        self.again, self.check, self.early = again, check, _early_stop[0]
        self.kinds: list[str] = []
        self.found: dict[int, Tensor] = {}

    def pack(self, t: Tensor) -> int:
        self.kinds.append(describe(t))
        return len(self.kinds) - 1

    def unpack(self, i: int) -> Tensor:
        if i not in self.found:
            self.compute()
        return self.found[i]

    def compute(self) -> None:
        """Run the function again for what it saves."""
        values: list[Tensor] = []

        def keep(t: Tensor) -> Tensor:
            values.append(alias(t))
            if self.early and len(values) == len(self.kinds):
                raise _Enough
            return values[-1]

        try:
            with saved_tensors_hooks(keep, lambda t: t), enable_grad():
                self.again()
        except _Enough:
            pass
        kinds = [describe(t) for t in values]
        if len(kinds) != len(self.kinds) or (self.check == _DEFAULT and kinds != self.kinds):
            at = next((i for i, (a, b) in enumerate(zip(self.kinds, kinds, strict=False)) if a != b), None)  # fmt: skip
            raise CheckpointError(
                "checkpoint", "the function saved other tensors when it was computed again",
                f"{len(self.kinds)} tensors, then {len(kinds)}" if at is None else f"number {at}: {self.kinds[at]}, then {kinds[at]}",
                "it must do the same each time it is called with the same arguments",
            )  # fmt: skip
        self.found = dict(enumerate(values))


def checkpoint(
    function: Callable,
    *args: Any,
    use_reentrant: bool | None = None,
    context_fn: Callable[[], tuple[AbstractContextManager, AbstractContextManager]] | None = None,
    determinism_check: str = _DEFAULT,
    debug: bool = False,
    preserve_rng_state: bool = True,
    early_stop: bool = True,
    **kwargs: Any,
) -> Any:
    """`function(*args, **kwargs)`, of which backward computes again what it needs instead of keeping it.

    `preserve_rng_state` has both runs draw the same random numbers; `context_fn` gives a context for
    each; `determinism_check` "none" does not compare what they save. Gradients are the same whatever
    `use_reentrant` says; there is one way to do it here. Errors: CheckpointError (a KilnError) in backward
    where the runs differ. Source: torch.utils.checkpoint.checkpoint.
    """
    if determinism_check not in (_DEFAULT, "none"):
        raise KilnValueError(
            "checkpoint", "determinism_check should be one of ['default', 'none']", determinism_check, ""
        )  # fmt: skip
    first, second = (nullcontext(), nullcontext()) if context_fn is None else context_fn()
    state = default_generator.get_state() if preserve_rng_state else None
    lower = ACTIVE.get(get_ident())
    leaves: list[Any] = []
    structure = flatten((args, kwargs), leaves)

    def again() -> Any:
        given, named = unflatten(structure, iter(leaves).__next__)
        region = nullcontext() if lower is None else autocast("cpu", lower)
        with fork_rng(enabled=state is not None), region, second:
            if state is not None:
                default_generator.set_state(state)
            return function(*given, **named)

    frame = _Frame(again, determinism_check)
    frame.early = frame.early and early_stop
    with saved_tensors_hooks(frame.pack, frame.unpack), first:
        return function(*args, **kwargs)


def checkpoint_sequential(
    functions: Any, segments: int, input: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """The functions one after the other, in as many segments, each but the last a checkpoint.

    `functions` is a Sequential or a list. Source: torch.utils.checkpoint.checkpoint_sequential.
    """
    preserve = kwargs.pop("preserve_rng_state", True)
    if kwargs:
        raise KilnValueError(
            "checkpoint_sequential", "Unexpected keyword arguments", list(kwargs), ""
        )
    steps = list(functions.children()) if hasattr(functions, "children") else list(functions)
    size = len(steps) // segments

    def run(part: list[Callable]) -> Callable:
        def segment(x: Any) -> Any:
            for f in part:
                x = f(x)
            return x

        return segment

    for k in range(segments - 1):
        part = steps[k * size : (k + 1) * size]
        input = checkpoint(run(part), input, use_reentrant=use_reentrant, preserve_rng_state=preserve)  # fmt: skip
    return run(steps[(segments - 1) * size :])(input)


@contextmanager
def set_checkpoint_early_stop(enable: bool) -> Iterator[None]:
    """Whether checkpoints made in the block stop their second run as soon as all that is needed is there."""
    old, _early_stop[0] = _early_stop[0], enable
    try:
        yield
    finally:
        _early_stop[0] = old


def noop_context_fn() -> tuple[AbstractContextManager, AbstractContextManager]:
    """A `context_fn` that changes nothing."""
    return nullcontext(), nullcontext()


def detach_variable(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tensors without their history, which require grad as they did."""
    if not isinstance(inputs, tuple):
        raise KilnError("detach_variable", "Only tuple of tensors is supported. Got Unsupported input type: ", describe(inputs), "(x,)")  # fmt: skip
    return tuple(
        x.detach().requires_grad_(x.requires_grad) if isinstance(x, Tensor) else x for x in inputs
    )


refuse(
    __name__, "CheckpointFunction CheckpointPolicy SelectiveCheckpointContext create_selective_checkpoint_contexts",
    "a choice of ops whose results checkpoints keep", "checkpoint smaller parts of the model",
)  # fmt: skip

__all__ = ["CheckpointError", "checkpoint", "checkpoint_sequential", "set_checkpoint_early_stop"]


def check_backward_validity(inputs: Any) -> None:
    """Warn where no input requires grad, so that nothing would be differentiated."""
    if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        warnings.warn(
            "None of the inputs have requires_grad=True. Gradients will be None", stacklevel=2
        )


def get_device_states(*args: Any) -> tuple[list[int], list[Tensor]]:
    """The generators' states of the devices that arguments lie on: none, beside the CPU's."""
    return [], []


def set_device_states(devices: Any, states: Any, *, device_type: str | None = None) -> None:
    """Restore what `get_device_states` gave."""


class DefaultDeviceType:
    """The kind of device that is assumed where no argument tells."""

    _kind = "cuda"

    @staticmethod
    def set_device_type(device: str = "cuda") -> None:
        """Assume another."""
        DefaultDeviceType._kind = device

    @staticmethod
    def get_device_type() -> str:
        """What is assumed: "cuda" unless set."""
        return DefaultDeviceType._kind


def __getattr__(name: str) -> Any:
    if name == "tree_map":
        from ._pytree import tree_map

        return tree_map
    if (
        name in typing.__all__
    ):  # PyTorch's module has all of these, and programs take some from there
        return getattr(typing, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
