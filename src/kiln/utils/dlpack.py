"""Memory shared with other libraries by DLPack."""

from ..ops.registry import FUNCTIONS as _FUNCTIONS

from_dlpack, to_dlpack = _FUNCTIONS["from_dlpack"], _FUNCTIONS["to_dlpack"]
