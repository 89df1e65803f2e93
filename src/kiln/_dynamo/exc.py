"""Errors of PyTorch's capture, by the names under which programs catch them: Kiln has one."""

from __future__ import annotations

from ..errors import CaptureError

TorchDynamoException = InternalTorchDynamoError = Unsupported = UserError = CaptureError

__all__ = ["InternalTorchDynamoError", "TorchDynamoException", "Unsupported", "UserError"]
