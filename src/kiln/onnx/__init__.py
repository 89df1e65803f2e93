"""ONNX files: not written yet."""

from __future__ import annotations

import importlib
from typing import Any

from ..refusal import refuse

_WHY = "ONNX files are not written yet"
_HELP = "kiln.save(model.state_dict(), 'weights.pt') writes weights that PyTorch reads, and it exports ONNX"
refuse(
    __name__, "ONNXProgram _export dynamo_export export register_custom_op_symbolic", _WHY, _HELP
)


class OnnxExporterError(RuntimeError):
    """What goes wrong where ONNX files are written."""


def is_in_onnx_export() -> bool:
    """Whether a model is being exported: False."""
    return False


def __getattr__(name: str) -> Any:
    if name != "operators":
        raise AttributeError(f"module 'kiln.onnx' has no attribute {name!r}")
    return importlib.import_module(".operators", __name__)
