"""Looking inside: values that are not finite, values of compiled programs as they run, and who holds memory."""

from __future__ import annotations

from .numerics import NumericsError, check_numerics, disable_check_numerics, enable_check_numerics
from .stepping import Step, Stepper, step
from .watching import Seen, Watch, watch

__all__ = [
    "NumericsError", "Seen", "Step", "Stepper", "Watch", "check_numerics", "disable_check_numerics",
    "enable_check_numerics", "step", "watch",
]  # fmt: skip
