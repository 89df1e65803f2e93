"""Data sets to learn from."""

from .digits import Digits, load_digits

__all__ = ["Digits", "load_digits"]
