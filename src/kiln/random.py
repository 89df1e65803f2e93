"""Random number generators: seeds and states.

The numbers themselves are drawn by `kiln.ops.random`. A state is an ordinary tensor, so a captured
program reads it and advances it in place like any other memory that it writes.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import dtypes as dt
from .device import CPU, as_device, device
from .errors import KilnError, KilnTypeError, KilnValueError, describe
from .tensor import Tensor, wrap

_UINT64 = np.dtype(np.uint64)


def _state_of(seed: int) -> Tensor:
    return wrap(np.array([seed, 0], _UINT64))


def _to_bytes(state: Tensor) -> Tensor:
    """A state as the 16 bytes that programs save; by ops, so that it can be captured."""
    from .ops.creation import arange_op

    shifts = arange_op(0, 8, 8, dt.uint64)
    return (state.unsqueeze(1) >> shifts).bitwise_and(255).to(dt.uint8).reshape(16)


def _of_bytes(state: Tensor) -> Tensor:
    from .ops.creation import arange_op

    return (state.to(dt.uint64).reshape(2, 8) << arange_op(0, 8, 8, dt.uint64)).sum(1)


def _unforeseen() -> int:
    return int.from_bytes(os.urandom(8), "little")


def _seed(seed: Any, name: str) -> int:
    try:
        n = operator.index(seed)
    except TypeError:
        if not isinstance(seed, float):
            raise KilnTypeError(
                name, "a seed is an integer", describe(seed), "e.g. manual_seed(0)"
            ) from None
        n = int(seed)
    if not -(2**63) <= n < 2**64:
        raise KilnValueError(name, "a seed has 64 bits", n, "take it modulo 2**64")
    return n % 2**64


class Generator:
    """A stream of random numbers: uint64 `state` of two elements, [key, counter].

    The key is the seed; the counter is how many blocks of four 32-bit words have been drawn.
    """

    def __init__(self, device: Any = "cpu"):
        as_device(device)
        self.state = _state_of(67280421310721)

    @property
    def device(self) -> device:
        """Where the numbers are drawn."""
        return CPU

    def manual_seed(self, seed: int) -> Generator:
        """Begin the stream of a seed; returns the generator."""
        self.state.copy_(_state_of(_seed(seed, "manual_seed")))
        return self

    def seed(self) -> int:
        """Begin a stream that nobody can foresee; returns its seed."""
        n = _unforeseen()
        self.manual_seed(n)
        return n

    def initial_seed(self) -> int:
        """The seed of the present stream."""
        return int(self.state._host("initial_seed")[0])

    def get_state(self) -> Tensor:
        """A copy of the state for `set_state`: a uint8 tensor."""
        return _to_bytes(self.state)

    def set_state(self, new_state: Tensor) -> Generator:
        """Go on from a state that `get_state` gave; returns the generator."""
        if not isinstance(new_state, Tensor) or new_state.dtype is not dt.uint8:
            raise KilnTypeError(
                "set_state", "a state of a generator is a uint8 tensor", describe(new_state),
                "pass what get_state() gave; x.cpu().byte() where it was moved or cast",
            )  # fmt: skip
        if new_state.shape != (16,):
            raise KilnError(
                "set_state", "the state has the wrong size", describe(new_state), "16 bytes"
            )
        self.state.copy_(_of_bytes(new_state))
        return self

    def graphsafe_get_state(self) -> Generator:
        """Another generator on the same state: what one draws, the other has drawn."""
        return Generator().graphsafe_set_state(self)

    def graphsafe_set_state(self, new_state: Generator) -> Generator:
        """Draw from the state of another generator from now on; returns the generator."""
        self.state = new_state.state
        return self

    def clone_state(self) -> Generator:
        """Another generator at the same place of the same stream."""
        out = Generator()
        out.state.copy_(self.state)
        return out

    def __deepcopy__(self, memo: dict) -> Generator:
        return self.clone_state()

    def __getstate__(self) -> np.ndarray:
        return self.state._host("pickle").copy()

    def __setstate__(self, state: np.ndarray) -> None:
        self.state = wrap(state)

    def __repr__(self) -> str:
        return f"<kiln.Generator device={self.device} seed={self.initial_seed()}>"


default_generator = Generator()
"""The generator of every function that is not given one."""
default_generator.state = _state_of(_unforeseen())  # `seed` needs ops, which import this module


def manual_seed(seed: int) -> Generator:
    """Begin the default generator's stream of a seed; returns it."""
    return default_generator.manual_seed(seed)


def seed() -> int:
    """Begin a stream that nobody can foresee; returns its seed."""
    return default_generator.seed()


def initial_seed() -> int:
    """The seed of the default generator's stream."""
    return default_generator.initial_seed()


def get_rng_state() -> Tensor:
    """A copy of the default generator's state."""
    return default_generator.get_state()


def set_rng_state(new_state: Tensor) -> None:
    """Go on from a state that `get_rng_state` gave."""
    default_generator.set_state(new_state)


@contextmanager
def fork_rng(devices: Any = None, enabled: bool = True, device_type: str = "cpu") -> Iterator[None]:
    """What is drawn inside leaves the default generator's state as it was."""
    saved = default_generator.state.clone() if enabled else None
    try:
        yield
    finally:
        if saved is not None:
            default_generator.state.copy_(saved)


__all__ = [
    "Generator",
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
]
