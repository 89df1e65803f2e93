"""The little of `keras.backend` that programs ask for."""

from __future__ import annotations

from .utils import clear_session


def backend() -> str:
    """ "kiln"."""
    return "kiln"


def floatx() -> str:
    """The dtype of weights."""
    return "float32"


def image_data_format() -> str:
    """Where channels are."""
    return "channels_last"


def epsilon() -> float:
    """What is added where a number might be 0."""
    return 1e-7


__all__ = ["backend", "clear_session", "epsilon", "floatx", "image_data_format"]
