"""From strided tensors to sparse ones: thin methods, as `kiln.sparse` is imported when first used."""

from __future__ import annotations

from typing import Any

from .. import formats
from ..errors import KilnError, KilnNotImplementedError, describe
from ..tensor import Tensor
from .registry import method


@method("to_sparse")
def to_sparse(self: Tensor, sparse_dim: int | None = None, *, layout: Any = None, blocksize: Any = None,
              dense_dim: int | None = None) -> Tensor:  # fmt: skip
    """The elements that are not zero as a sparse tensor; `sparse_dim`, or `dense_dim`, leaves the last dimensions dense."""
    from ..sparse.convert import to_layout

    layout = layout or formats.sparse_coo
    if dense_dim is not None:
        most = self.ndim - (1 if layout is formats.sparse_coo else 2)
        if sparse_dim is not None or not 0 <= dense_dim <= most:
            raise KilnError(
                "to_sparse", f"dense_dim argument must be in [0,{most}] range, but {dense_dim} is given", describe(self),
                "give one of sparse_dim and dense_dim",
            )  # fmt: skip
        sparse_dim = self.ndim - dense_dim
    return to_layout(self, layout, blocksize, sparse_dim)


def _to(layout: Any, doc: str) -> None:
    name = "to_" + layout.name

    def convert(self: Tensor, *args: Any, dense_dim: int | None = None) -> Tensor:
        return self.to_sparse(
            layout=layout, blocksize=args[0] if args else None, dense_dim=dense_dim
        )

    convert.__name__, convert.__doc__ = name, doc
    method(name)(convert)


_to(formats.sparse_coo, "The elements that are not zero as a COO tensor.")
_to(formats.sparse_csr, "A matrix with compressed rows.")
_to(formats.sparse_csc, "A matrix with compressed columns.")
_to(
    formats.sparse_bsr,
    "A matrix of blocks, `to_sparse_bsr((height, width))`, with compressed rows.",
)
_to(
    formats.sparse_bsc,
    "A matrix of blocks, `to_sparse_bsc((height, width))`, with compressed columns.",
)


@method("to_dense")
def to_dense(self: Tensor, dtype: Any = None, *, masked_grad: bool | None = None) -> Tensor:
    """This tensor as a strided one."""
    return self if dtype is None else self.to(dtype)


@method("sparse_mask")
def sparse_mask(self: Tensor, mask: Tensor) -> Tensor:
    """The elements at the places of a sparse tensor."""
    if mask.layout is formats.strided:
        raise KilnError("sparse_mask", "the mask is not sparse", describe(mask), "mask.to_sparse()")
    from ..sparse.calls import mask as masked

    return masked(self, mask)  # type: ignore[arg-type]


@method("sparse_dim")
def sparse_dim(self: Tensor) -> int:
    """How many dimensions are sparse."""
    return 0


@method("dense_dim")
def dense_dim(self: Tensor) -> int:
    """How many dimensions are dense."""
    return self.ndim


def _none(name: str) -> None:
    def refuse(self: Tensor) -> Any:
        raise KilnNotImplementedError(
            name, "not defined for strided tensors", describe(self), "x.to_sparse()"
        )

    refuse.__name__, refuse.__doc__ = name, "Of sparse tensors only."
    method(name)(refuse)


for _name in ("coalesce", "is_coalesced", "indices", "values", "crow_indices", "col_indices", "ccol_indices",
              "row_indices", "_nnz", "_indices", "_values"):  # fmt: skip
    _none(_name)
