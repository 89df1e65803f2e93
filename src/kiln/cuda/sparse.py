"""The types of sparse tensors on a CUDA device: no tensor is of them."""

from . import _type

for _name in ("BFloat16", "Byte", "Char", "Double", "Float", "Half", "Int", "Long", "Short"):
    globals()[_name + "Tensor"] = _type(_name + "Tensor")
