"""`torch.utils.tensorboard`: event files for TensorBoard, written without it. See `kiln.board`."""

from ...board import FileWriter, SummaryWriter

__all__ = ["FileWriter", "SummaryWriter"]
