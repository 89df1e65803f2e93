"""Seeing what a model is and needs before it runs: summaries and drawings."""

from __future__ import annotations

from .drawing import draw
from .table import Summary, summary

__all__ = ["Summary", "draw", "summary"]
