"""How sparse tensors print: PyTorch's form."""

from __future__ import annotations

from .. import dtypes as dt
from ..printing import array_text, suffixed
from ..tensor import Tensor
from .tensor import COMPRESSED, SparseTensor

_PREFIX = "tensor("


def _part(name: str, t: Tensor, more: str = "") -> str:
    prefix = f"{name}=tensor("
    text = "..." if t.is_meta else array_text(t._host("print"), len(_PREFIX) + len(prefix))
    if t.numel() == 0 or t.is_meta:
        text += f", size={tuple(t.shape)}"
    return prefix + text + more + ")"


def sparse_repr(t: SparseTensor) -> str:
    """The text of a sparse tensor: its parts, size and layout."""
    a = t._a
    names = (*COMPRESSED.get(a.layout, ("indices",)), "values")
    between = ",\n" + " " * len(_PREFIX)
    text = _PREFIX + between.join(_part(n, p.detach()) for n, p in zip(names, a.parts, strict=True))
    suffixes = [f"size={tuple(t.shape)}", f"nnz={t._nnz()}"]
    if a.parts[-1].is_meta:
        suffixes = ["device='meta'", suffixes[0]]
    default = dt.get_default_dtype()
    if t.dtype not in (default, default.to_complex(), dt.int64, dt.bool_):
        suffixes.append(f"dtype={t.dtype!r}")
    suffixes.append(f"layout={a.layout!r}")
    return suffixed(text, suffixes, t, len(_PREFIX), newline=t.is_sparse)
