"""Utilities beside the framework: PyTorch's `torch.utils`."""

from . import checkpoint

__all__ = ["checkpoint"]
