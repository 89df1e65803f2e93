"""The names of `torch.utils.hooks`."""

from ..autograd.hooks import RemovableHandle as RemovableHandle
