"""The kind of modules that `kiln.compile` gives, under the name by which libraries ask for it."""

from __future__ import annotations

from . import OptimizedModule, optimize

__all__ = ["OptimizedModule", "optimize"]
