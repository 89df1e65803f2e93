"""Watching training: event files for TensorBoard, and the same calls to MLflow and Weights & Biases."""

from .records import FileWriter
from .services import MLflowWriter, WandbWriter
from .writer import SummaryWriter

__all__ = ["FileWriter", "MLflowWriter", "SummaryWriter", "WandbWriter"]
