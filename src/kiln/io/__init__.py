"""Files: checkpoints of any nesting of tensors, and plain safetensors. Nothing in a file can run code."""

from . import safetensors
from .checkpoint import load, save

__all__ = ["load", "safetensors", "save"]
