"""Schedules that rise and fall, momentum against them."""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from typing import Any

from ...errors import KilnValueError
from ..optimizer import Optimizer
from .base import LRScheduler, need_optimizer, per_group, set_option


class _Cyclic(LRScheduler):
    """Schedules that may move momentum (or beta1) against the learning rate."""

    use_beta1: bool

    def _find_momentum(self, optimizer: Optimizer) -> None:
        self.use_beta1 = "betas" in optimizer.defaults
        if self.use_beta1 or "momentum" in optimizer.defaults:
            return
        raise KilnValueError(
            type(self).__name__, "optimizer must support momentum or beta1 with `cycle_momentum` option enabled",
            type(optimizer).__name__, "cycle_momentum=False",
        )  # fmt: skip

    def _set_momentum(self, group: dict[str, Any], value: Any) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value


class CyclicLR(_Cyclic):
    """lr going up and down between base_lr and max_lr (Smith 2017)."""

    def __init__(
        self, optimizer: Optimizer, base_lr: Any, max_lr: Any, step_size_up: int = 2000,
        step_size_down: int | None = None, mode: str = "triangular", gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None, scale_mode: str = "cycle",
        cycle_momentum: bool = True, base_momentum: Any = 0.8, max_momentum: Any = 0.9,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        need_optimizer(self, optimizer)
        self.optimizer = optimizer
        if mode not in ("triangular", "triangular2", "exp_range") and scale_fn is None:
            raise KilnValueError("CyclicLR", "mode is invalid and scale_fn is None", repr(mode))
        base_lrs = per_group("base_lr", optimizer, base_lr)
        if last_epoch == -1:
            for lr, group in zip(base_lrs, optimizer.param_groups, strict=True):
                set_option(group, "lr", lr)
        self.max_lrs = per_group("max_lr", optimizer, max_lr)
        self.total_size = float(
            step_size_up + (step_size_up if step_size_down is None else step_size_down)
        )
        self.step_ratio = step_size_up / self.total_size
        self.mode, self.gamma, self._scale_fn_custom = mode, gamma, scale_fn
        self.scale_mode = scale_mode if scale_fn is not None else (
            "iterations" if mode == "exp_range" else "cycle"
        )  # fmt: skip
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            self.base_momentums = per_group("base_momentum", optimizer, base_momentum)
            self.max_momentums = per_group("max_momentum", optimizer, max_momentum)
            if last_epoch == -1:
                pairs = zip(self.base_momentums, self.max_momentums, strict=True)
                for (low, high), group in zip(pairs, optimizer.param_groups, strict=True):
                    self._set_momentum(group, high)
                    group["max_momentum"], group["base_momentum"] = high, low
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """The height of a cycle (or of an iteration, for "exp_range")."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        if self.mode == "triangular2":
            return 1 / 2.0 ** (x - 1)
        return self.gamma**x if self.mode == "exp_range" else 1.0

    def get_lr(self) -> list[Any]:
        self._warn_outside_step()
        cycle = math.floor(1 + self.last_epoch / self.total_size)
        x = 1.0 + self.last_epoch / self.total_size - cycle
        slope = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        scale = self.scale_fn(cycle if self.scale_mode == "cycle" else self.last_epoch)
        if self.cycle_momentum:
            ends = zip(self.base_momentums, self.max_momentums, strict=True)
            for (low, high), group in zip(ends, self.optimizer.param_groups, strict=True):
                self._set_momentum(group, high - (high - low) * slope * scale)
        return [
            low + (high - low) * slope * scale
            for low, high in zip(self.base_lrs, self.max_lrs, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """The state; a custom scale function is left out unless it is an object with state."""
        out = super().state_dict()
        fn = out.pop("_scale_fn_custom")
        own = None if fn is None or isinstance(fn, types.FunctionType) else fn.__dict__.copy()
        return {**out, "_scale_fn_custom": own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the state; a custom scale function stays what it is."""
        own = state_dict.get("_scale_fn_custom")
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "_scale_fn_custom"})
        if own is not None and self._scale_fn_custom is not None:
            self._scale_fn_custom.__dict__.update(own)


# as PyTorch's state dicts have them
_PHASE = ("end_step", "start_lr", "end_lr", "start_momentum", "end_momentum")


class OneCycleLR(_Cyclic):
    """One rise to max_lr and one long fall, step by step (Smith & Topin 2018)."""

    def __init__(
        self, optimizer: Optimizer, max_lr: Any, total_steps: int | None = None, epochs: int | None = None,
        steps_per_epoch: int | None = None, pct_start: float = 0.3, anneal_strategy: str = "cos",
        cycle_momentum: bool = True, base_momentum: Any = 0.85, max_momentum: Any = 0.95,
        div_factor: float = 25.0, final_div_factor: float = 1e4, three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:  # fmt: skip
        need_optimizer(self, optimizer)
        self.optimizer = optimizer
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise KilnValueError(
                    "OneCycleLR",
                    "You must define either total_steps OR (epochs AND steps_per_epoch)",
                    None,
                )
            for name, n in (("epochs", epochs), ("steps_per_epoch", steps_per_epoch)):
                if not isinstance(n, int) or n <= 0:
                    raise KilnValueError(
                        "OneCycleLR", f"Expected positive integer {name}, but got {n}", n
                    )
            total_steps = epochs * steps_per_epoch
        elif not isinstance(total_steps, int) or total_steps <= 0:
            raise KilnValueError(
                "OneCycleLR",
                f"Expected positive integer total_steps, but got {total_steps}",
                total_steps,
            )
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise KilnValueError(
                "OneCycleLR",
                f"Expected float between 0 and 1 pct_start, but got {pct_start}",
                pct_start,
            )
        if anneal_strategy not in ("cos", "linear"):
            raise KilnValueError(
                "OneCycleLR",
                "anneal_strategy must be one of 'cos' or 'linear'",
                repr(anneal_strategy),
            )
        self.total_steps, self._anneal_func_type = total_steps, anneal_strategy
        rise = float(pct_start * total_steps) - 1
        phases = [(rise, "initial_lr", "max_lr", "max_momentum", "base_momentum")]
        if three_phase:
            phases.append((float(2 * pct_start * total_steps) - 2, "max_lr", "initial_lr",
                           "base_momentum", "max_momentum"))  # fmt: skip
            phases.append((total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"))
        else:
            phases.append((total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum"))
        self._schedule_phases: list[dict[str, Any]] = [
            dict(zip(_PHASE, phase, strict=True)) for phase in phases
        ]
        if last_epoch == -1:
            for group, high in zip(
                optimizer.param_groups, per_group("max_lr", optimizer, max_lr), strict=True
            ):
                group["initial_lr"] = high / div_factor
                group["max_lr"] = high
                group["min_lr"] = group["initial_lr"] / final_div_factor
        self.cycle_momentum = cycle_momentum
        if cycle_momentum:
            self._find_momentum(optimizer)
            if last_epoch == -1:
                lows = per_group("base_momentum", optimizer, base_momentum)
                highs = per_group("max_momentum", optimizer, max_momentum)
                for low, high, group in zip(lows, highs, optimizer.param_groups, strict=True):
                    self._set_momentum(group, high)
                    group["max_momentum"], group["base_momentum"] = high, low
        super().__init__(optimizer, last_epoch)

    def _anneal(self, start: float, end: float, share: float) -> float:
        if self._anneal_func_type == "linear":
            return (end - start) * share + start
        return end + (start - end) / 2.0 * (math.cos(math.pi * share) + 1)

    def get_lr(self) -> list[Any]:
        self._warn_outside_step()
        step = self.last_epoch
        if step > self.total_steps:
            raise KilnValueError(
                "OneCycleLR", f"Tried to step {step} times. The specified number of total steps is "
                f"{self.total_steps}", step, "raise total_steps",
            )  # fmt: skip
        start = 0.0
        for phase in self._schedule_phases:
            end, lr0, lr1, m0, m1 = (phase[key] for key in _PHASE)
            if step <= end or phase is self._schedule_phases[-1]:
                break
            start = end
        share = (step - start) / (end - start)
        out = []
        for group in self.optimizer.param_groups:
            out.append(self._anneal(group[lr0], group[lr1], share))
            if self.cycle_momentum:
                self._set_momentum(group, self._anneal(group[m0], group[m1], share))
        return out
