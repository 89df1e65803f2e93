"""Scaling of losses, so that small gradients survive float16: `GradScaler`."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable
from enum import Enum
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import no_grad
from ..device import device as Device
from ..errors import CaptureError, KilnAssertionError, KilnError, KilnValueError, describe
from ..tensor import Tensor, captured, wrap


class OptState(Enum):
    """How far an optimizer's step has come since the last update."""

    READY = 0
    UNSCALED = 1
    STEPPED = 2


def _demand(ok: bool, what: str, received: Any = None) -> None:
    if not ok:
        raise KilnAssertionError("GradScaler", what, received, "see its documentation")


class GradScaler:
    """Multiplies losses before backward, divides gradients before steps, and skips steps that would not be finite.

    The scale begins at `init_scale`, is multiplied by `backoff_factor` after gradients that were not finite and by
    `growth_factor` after `growth_interval` steps without any. On CPU it works as on other devices; for a device that
    is not there it is off, with a warning, as `enabled=False` has it. A whole step may be captured by `kiln.compile`.
    """

    def __init__(self, device: str = "cuda", init_scale: float = 2.0**16, growth_factor: float = 2.0,
                 backoff_factor: float = 0.5, growth_interval: int = 2000, enabled: bool = True):  # fmt: skip
        self._device = Device(device).type
        self._enabled = bool(enabled)
        if enabled and self._device != "cpu":
            kind = "CUDA" if self._device == "cuda" else self._device.upper()
            warnings.warn(
                f"GradScaler is enabled, but {kind} is not available.  Disabling.", stacklevel=2
            )
            self._enabled = False
        if self._enabled:
            _demand(growth_factor > 1.0, "The growth factor must be > 1.0.", growth_factor)
            _demand(backoff_factor < 1.0, "The backoff factor must be < 1.0.", backoff_factor)
        self._init_scale, self._init_growth_tracker = init_scale, 0
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._scale: Tensor | None = None
        self._growth_tracker: Tensor | None = None
        self._per_optimizer_states: dict[int, dict[str, Any]] = defaultdict(_fresh_state)

    def _states(self) -> dict[int, dict[str, Any]]:
        """By optimizer how far a step has come; a captured one, whose capture may be given up, by itself."""
        capture = captured()
        if capture is None:
            return self._per_optimizer_states
        if any(s["stage"] is not OptState.READY for s in self._per_optimizer_states.values()):
            raise CaptureError(
                "GradScaler", "a captured function begins between unscale_() and update()", capture.where(),
                "call scale, unscale_, step and update inside of it",
            )  # fmt: skip
        return capture.scratch.setdefault(id(self), defaultdict(_fresh_state))

    # ---- scaling

    def _begin(self) -> Tensor:
        if (
            self._scale is None
        ):  # memory of its own also in a captured function, which finds it here
            self._scale = wrap(np.array(self._init_scale, np.float32))
            self._growth_tracker = wrap(np.array(self._init_growth_tracker, np.int32))
        return self._scale

    def _known(self, what: str) -> tuple[Tensor, Tensor]:
        if self._scale is None or self._growth_tracker is None:
            raise KilnAssertionError(
                "GradScaler", f"Attempted {what} but _scale is None.  This may indicate your script did not use "
                "scaler.scale(loss or outputs) earlier in the iteration.", None, "scaler.scale(loss).backward()",
            )  # fmt: skip
        return self._scale, self._growth_tracker

    def scale(self, outputs: Any) -> Any:
        """A tensor, or an iterable of tensors, multiplied by the scale."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, Tensor):
            return outputs * self._begin()
        if isinstance(outputs, Iterable):
            scaled = [self.scale(x) for x in outputs]
            return type(outputs)(scaled) if isinstance(outputs, list | tuple) else iter(scaled)
        raise KilnValueError(
            "GradScaler", "outputs must be a Tensor or an iterable of Tensors", describe(outputs), ""
        )  # fmt: skip

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of an optimizer's parameters by the scale, to clip them, say, before `step`."""
        if not self._enabled:
            return
        scale, _ = self._known("unscale_")
        state = self._states()[id(optimizer)]
        if state["stage"] is OptState.UNSCALED:
            raise KilnError("GradScaler", "unscale_() has already been called on this optimizer since the last update().", None, "")  # fmt: skip
        if state["stage"] is OptState.STEPPED:
            raise KilnError("GradScaler", "unscale_() is being called after step().", None, "call it before step()")  # fmt: skip
        inverse = scale.double().reciprocal().float()
        state["found_inf_per_device"] = self._unscale_grads_(optimizer, inverse, False)
        state["stage"] = OptState.UNSCALED

    def _unscale_grads_(self, optimizer: Any, inverse: Tensor, allow_fp16: bool) -> dict[Any, Tensor]:  # fmt: skip
        found = None
        with no_grad():
            for p in (p for g in optimizer.param_groups for p in g["params"]):
                if p.grad is None:
                    continue
                if not allow_fp16 and p.grad.dtype is dt.float16:
                    raise KilnValueError("GradScaler", "Attempting to unscale FP16 gradients.", describe(p.grad), "keep parameters in float32")  # fmt: skip
                if p.grad.is_sparse:
                    p.grad = p.grad.coalesce()
                values = p.grad._values() if p.grad.is_sparse else p.grad
                bad = values.isfinite().all().logical_not()
                found = bad if found is None else found | bad
                values.mul_(inverse.to(values.dtype))
        return {} if found is None else {Device("cpu"): found.float()}

    # ---- steps

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step(…)` where all gradients are finite, after `unscale_` if that was not called."""
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise KilnError("GradScaler", "Closure use is not currently supported if GradScaler is enabled.", "closure", "")  # fmt: skip
        self._known("step")
        state = self._states()[id(optimizer)]
        if state["stage"] is OptState.STEPPED:
            raise KilnError("GradScaler", "step() has already been called since the last update().", None, "call update()")  # fmt: skip
        if state["stage"] is OptState.READY:
            self.unscale_(optimizer)
        found = state["found_inf_per_device"]
        _demand(len(found) > 0, "No inf checks were recorded for this optimizer.")
        result = None
        if not sum(found.values()):
            result = optimizer.step(*args, **kwargs)
        state["stage"] = OptState.STEPPED
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Set the scale for the next iteration by what was found in this one's gradients, or to a new value."""
        if not self._enabled:
            return
        scale, tracker = self._known("update")
        with no_grad():
            if new_scale is not None:
                if isinstance(new_scale, Tensor):
                    scale.copy_(new_scale)
                else:
                    scale.fill_(new_scale)
            else:
                found = [x for s in self._states().values() for x in s["found_inf_per_device"].values()]  # fmt: skip
                _demand(len(found) > 0, "No inf checks were recorded prior to update.")
                bad = sum(found[1:], start=found[0]) > 0
                clean = tracker + 1
                grown = scale * self._growth_factor
                grows = (clean == self._growth_interval) & grown.isfinite()
                scale.copy_(bad.where(scale * self._backoff_factor, grows.where(grown, scale)))
                over = bad | (clean == self._growth_interval)
                tracker.copy_(over.where(tracker.new_zeros(()), clean))
        self._states().clear()

    def _check_inf_per_device(self, optimizer: Any) -> dict[Any, Tensor]:
        scale, _ = self._known("_check_inf_per_device")
        found = self._unscale_grads_(optimizer, scale.new_ones(()), True)
        self._states()[id(optimizer)]["found_inf_per_device"] = found
        return found

    def _found_inf_per_device(self, optimizer: Any) -> dict[Any, Tensor]:
        return self._states()[id(optimizer)]["found_inf_per_device"]

    # ---- facts

    def _get_scale_async(self) -> Tensor | None:
        return self._scale

    def _get_growth_tracker(self) -> int:
        t = self._growth_tracker
        return self._init_growth_tracker if t is None else int(t.item())

    def get_scale(self) -> float:
        """The scale; 1.0 where the scaler is off."""
        if not self._enabled:
            return 1.0
        return self._init_scale if self._scale is None else float(self._scale.item())

    def get_growth_factor(self) -> float:
        """What the scale is multiplied by to grow."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by to grow."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """What the scale is multiplied by after gradients that were not finite."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set what the scale is multiplied by after gradients that were not finite."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """After how many finite steps the scale grows."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set after how many finite steps the scale grows."""
        self._growth_interval = new_interval

    def is_enabled(self) -> bool:
        """Whether the scaler does anything."""
        return self._enabled

    def state_dict(self) -> dict[str, Any]:
        """The scale, its factors and how many finite steps there were; empty where the scaler is off."""
        if not self._enabled:
            return {}
        return {
            "scale": self.get_scale(), "growth_factor": self._growth_factor, "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval, "_growth_tracker": self._get_growth_tracker(),
        }  # fmt: skip

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if not self._enabled:
            return
        if not state_dict:
            raise KilnError(
                "GradScaler", "The source state dict is empty, possibly because it was saved from a disabled instance "
                "of GradScaler.", state_dict, "",
            )  # fmt: skip
        self._init_scale = state_dict["scale"]
        self._init_growth_tracker = state_dict["_growth_tracker"]
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        if self._scale is not None and self._growth_tracker is not None:
            self._scale.fill_(self._init_scale)
            self._growth_tracker.fill_(self._init_growth_tracker)

    def __getstate__(self) -> dict[str, Any]:
        _demand(
            not self._enabled or not self._per_optimizer_states,
            "A GradScaler instance may only be pickled at the beginning of an iteration, or at the end after scaler.update().",
        )
        state = self.__dict__.copy()
        if self._enabled:
            state["_init_scale"] = self.get_scale()
            state["_init_growth_tracker"] = self._get_growth_tracker()
            state["_scale"] = state["_growth_tracker"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _fresh_state() -> dict[str, Any]:
    return {"stage": OptState.READY, "found_inf_per_device": {}}


__all__ = ["GradScaler", "OptState"]
