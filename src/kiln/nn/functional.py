"""Functions on tensors that neural networks are made of."""

from ..ops.registry import FUNCTIONS


def __getattr__(name):
    key = f"nn.functional.{name}"
    if key in FUNCTIONS:
        return FUNCTIONS[key]
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise AttributeError(name)
