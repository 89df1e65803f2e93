"""Names of PyTorch's code generator that programs touch."""

from . import config

__all__ = ["config"]
