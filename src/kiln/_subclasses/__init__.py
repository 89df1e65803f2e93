"""Where PyTorch has its fake tensors: shapes without data, of which `meta` tensors are Kiln's form."""

from .fake_tensor import FakeTensor

__all__ = ["FakeTensor"]
