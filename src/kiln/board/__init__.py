"""Watching training: event files for TensorBoard."""

from .records import FileWriter
from .writer import SummaryWriter

__all__ = ["FileWriter", "SummaryWriter"]
