"""TensorBoard: curves, texts and pictures of a training, written with TensorBoard's own writer."""

from .writer import SummaryWriter

__all__ = ["SummaryWriter"]
