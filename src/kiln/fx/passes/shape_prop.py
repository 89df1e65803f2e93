"""What each node of a Graph gives for example inputs: its shape, dtype and layout. Source: torch.fx.passes.shape_prop."""

from __future__ import annotations

from typing import Any, NamedTuple

from ...dtypes import dtype
from ...formats import channels_last, channels_last_3d, contiguous_format
from ...shape import Size
from ...tensor import Tensor
from ..interpreter import Interpreter
from ..node import Node, map_aggregate


class TensorMetadata(NamedTuple):
    """What is known of a tensor without its values."""

    shape: Size
    dtype: dtype
    requires_grad: bool
    stride: tuple[int, ...]
    memory_format: Any
    is_quantized: bool
    qparams: dict[str, Any]


def _metadata_of(x: Tensor) -> TensorMetadata:
    formats = (contiguous_format, channels_last, channels_last_3d)
    lies = next((f for f in formats if x.is_contiguous(memory_format=f)), None)
    return TensorMetadata(x.shape, x.dtype, x.requires_grad, x.stride(), lies, False, {})


class ShapeProp(Interpreter):
    """Runs a module's Graph; `meta["tensor_meta"]` of each node tells of the tensors that it gives, `meta["type"]` its type."""

    def __init__(self, gm: Any, fake_mode: Any = None) -> None:
        super().__init__(gm)

    def run_node(self, n: Node) -> Any:
        """What a node gives, told in its `meta`."""
        result = super().run_node(n)
        found: list[Tensor] = []

        def tell(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            found.append(x)
            return _metadata_of(x)

        told = map_aggregate(result, tell)
        if found:
            n.meta["tensor_meta"] = told
        n.meta["type"] = type(result)
        return result

    def propagate(self, *args: Any) -> Any:
        """What the module gives for these arguments."""
        return super().run(*args)


__all__ = ["ShapeProp", "TensorMetadata"]
