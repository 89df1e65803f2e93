"""`SummaryWriter` under the name of PyTorch's file."""

from ...board import FileWriter, SummaryWriter

__all__ = ["FileWriter", "SummaryWriter"]
