"""Looking inside: values that are not finite, values of compiled programs as they run, and who holds memory."""

from __future__ import annotations

from .memory import Holding, MemoryReport, memory_report
from .numerics import NumericsError, check_numerics, disable_check_numerics, enable_check_numerics
from .stepping import Step, Stepper, step
from .watching import Seen, Watch, watch

__all__ = [
    "Holding", "MemoryReport", "NumericsError", "Seen", "Step", "Stepper", "Watch", "check_numerics", "disable_check_numerics",
    "enable_check_numerics", "memory_report", "step", "watch",
]  # fmt: skip
