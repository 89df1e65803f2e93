"""Random number generators: seeds and states.

The numbers themselves are drawn by `kiln.ops.drawing`. A state is an ordinary tensor, so a captured
program reads it and advances it in place like any other memory that it writes.

There are two streams. "philox", the default, is counter-based: numbers are made by kernels, in any order.
"torch" is PyTorch's own on CPU (MT19937): a seeded PyTorch program draws the same numbers, and states are
PyTorch's bytes; its numbers are drawn by NumPy one after the other, also for captured programs.
`set_stream("torch")` has the default generator and those made from then on draw PyTorch's numbers.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import dtypes as dt
from . import mersenne
from .device import CPU, as_device, device
from .errors import KilnError, KilnTypeError, KilnValueError, describe
from .tensor import Tensor, wrap

_UINT64 = np.dtype(np.uint64)
STREAMS = ("philox", "torch")
"""The streams that there are."""
_FIRST_SEED = 67280421310721


def _state_of(seed: int, stream: str) -> Tensor:
    if stream == "torch":
        return wrap(mersenne.first_state(seed))
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


def _stream(name: str, function: str) -> str:
    if name not in STREAMS:
        raise KilnValueError(
            function, "no such stream of random numbers", repr(name), f"one of {STREAMS}"
        )
    return name


class Generator:
    """A stream of random numbers, of the kind that `set_stream` chose unless given.

    The `state` of a "philox" stream is two uint64, [key, counter]: the seed, and how many blocks of four 32-bit
    words have been drawn. That of a "torch" stream is PyTorch's, 5056 bytes (`kiln.mersenne`).
    """

    def __init__(self, device: Any = "cpu", *, stream: str | None = None):
        as_device(device)
        kind = _default_stream if stream is None else _stream(stream, "Generator")
        self.state = _state_of(_FIRST_SEED, kind)

    @property
    def stream(self) -> str:
        """Which numbers it draws: "philox" or "torch"."""
        return "torch" if self.state._a.itemsize == 1 else "philox"

    @property
    def device(self) -> device:
        """Where the numbers are drawn."""
        return CPU

    def manual_seed(self, seed: int) -> Generator:
        """Begin the stream of a seed; returns the generator."""
        self.state.copy_(_state_of(_seed(seed, "manual_seed"), self.stream))
        return self

    def seed(self) -> int:
        """Begin a stream that nobody can foresee; returns its seed."""
        n = _unforeseen()
        self.manual_seed(n)
        return n

    def initial_seed(self) -> int:
        """The seed of the present stream."""
        return int(self.state._host("initial_seed").view(_UINT64)[0])

    def get_state(self) -> Tensor:
        """A copy of the state for `set_state`: a uint8 tensor, PyTorch's own of a "torch" stream."""
        return self.state.clone() if self.stream == "torch" else _to_bytes(self.state)

    def set_state(self, new_state: Tensor) -> Generator:
        """Go on from a state that `get_state` gave; returns the generator."""
        if not isinstance(new_state, Tensor) or new_state.dtype is not dt.uint8:
            raise KilnTypeError(
                "set_state", "a state of a generator is a uint8 tensor", describe(new_state),
                "pass what get_state() gave; x.cpu().byte() where it was moved or cast",
            )  # fmt: skip
        size = mersenne.SIZE if self.stream == "torch" else 16
        if new_state.shape != (size,):
            raise KilnError(
                "set_state", f"the state has the wrong size for a stream of kind {self.stream!r}", describe(new_state),
                f"{size} bytes; kiln.random.set_stream chooses the kind",
            )  # fmt: skip
        if self.stream != "torch":
            self.state.copy_(_of_bytes(new_state))
            return self
        a = new_state._a
        if isinstance(a, np.ndarray) and not mersenne.is_state(np.ascontiguousarray(a)):
            raise KilnError("set_state", "Invalid mt19937 state", describe(new_state), "pass what get_state() gave")  # fmt: skip
        self.state.copy_(new_state)
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
        out = Generator(stream=self.stream)
        out.state.copy_(self.state)
        return out

    def __deepcopy__(self, memo: dict) -> Generator:
        return self.clone_state()

    def __getstate__(self) -> np.ndarray:
        return self.state._host("pickle").copy()

    def __setstate__(self, state: np.ndarray) -> None:
        self.state = wrap(state)

    def __capture_facts__(self) -> tuple:
        return (id(self.state),)

    def __capture_trace__(self) -> list[Any]:
        return [self.state]

    def __repr__(self) -> str:
        return f"<kiln.Generator device={self.device} seed={self.initial_seed()}>"


_default_stream = "philox"
default_generator = Generator()
"""The generator of every function that is not given one."""
default_generator.state = _state_of(
    _unforeseen(), "philox"
)  # `seed` needs ops, which import this module


def set_stream(stream: str) -> None:
    """Choose what the default generator, which begins anew from its seed, and new generators draw.

    "philox" is Kiln's counter-based stream, "torch" PyTorch's on CPU: see `kiln.random`.
    """
    global _default_stream
    _default_stream = _stream(stream, "set_stream")
    if default_generator.stream != stream:
        default_generator.state = _state_of(default_generator.initial_seed(), stream)


def get_stream() -> str:
    """What `set_stream` chose: "philox" or "torch"."""
    return _default_stream


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
    state = default_generator.state
    saved = state.clone() if enabled else None
    try:
        yield
    finally:
        if saved is not None:
            default_generator.state = state
            state.copy_(saved)


__all__ = [
    "Generator",
    "default_generator",
    "fork_rng",
    "get_rng_state",
    "get_stream",
    "initial_seed",
    "manual_seed",
    "seed",
    "set_rng_state",
    "set_stream",
]
