"""Training loops: the Trainer and its callbacks."""

from .callbacks import Callback, EarlyStopping
from .trainer import History, Trainer

__all__ = ["Callback", "EarlyStopping", "History", "Trainer"]
