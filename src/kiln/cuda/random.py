"""Random numbers on CUDA devices: seeds are taken and nothing draws from them, as there is no such device."""

from __future__ import annotations

from typing import Any

from ..accelerator import nothing

default_generators: tuple[Any, ...] = ()


def manual_seed(seed: int) -> None:
    """Seed the device's generator: nothing, as there is none."""
    int(seed)


def manual_seed_all(seed: int) -> None:
    """Seed the generators of all devices: nothing, as there are none."""
    int(seed)


def seed() -> None:
    """Seed the device's generator by chance: nothing, as there is none."""


def seed_all() -> None:
    """Seed the generators of all devices by chance: nothing, as there are none."""


def get_rng_state_all() -> list[Any]:
    """The states of all devices' generators: none."""
    return []


def set_rng_state_all(new_states: Any) -> None:
    """Set the states of all devices' generators, of which there are none; an error for more."""
    for state in new_states:
        set_rng_state(state)


initial_seed = nothing("cuda", "initial_seed")
get_rng_state = nothing("cuda", "get_rng_state")
set_rng_state = nothing("cuda", "set_rng_state")

__all__ = [
    "default_generators", "get_rng_state", "get_rng_state_all", "initial_seed", "manual_seed", "manual_seed_all",
    "seed", "seed_all", "set_rng_state", "set_rng_state_all",
]  # fmt: skip
