"""The classes of results that have names: `torch.return_types`. What `kiln.topk` returns is a `return_types.topk`."""

from __future__ import annotations

from typing import Any

from .ops.registry import named

_VALUES = "max min median nanmedian mode sort topk kthvalue cummax cummin"
_FIELDS = {
    **dict.fromkeys(_VALUES.split(), "values indices"),
    "aminmax": "min max", "frexp": "mantissa exponent", "geqrf": "a tau",
    "histogram": "hist bin_edges", "histogramdd": "hist bin_edges",
    "linalg_cholesky_ex": "L info", "linalg_eig": "eigenvalues eigenvectors", "linalg_eigh": "eigenvalues eigenvectors",
    "linalg_inv_ex": "inverse info", "linalg_ldl_factor": "LD pivots", "linalg_ldl_factor_ex": "LD pivots info",
    "linalg_lstsq": "solution residuals rank singular_values", "linalg_lu": "P L U", "linalg_lu_factor": "LU pivots",
    "linalg_lu_factor_ex": "LU pivots info", "linalg_qr": "Q R", "linalg_slogdet": "sign logabsdet",
    "linalg_solve_ex": "result info", "linalg_svd": "U S Vh", "lu_unpack": "P L U", "lu_with_info": "LU pivots info",
    "svd": "U S V", "triangular_solve": "solution cloned_coefficient",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _FIELDS:
        raise AttributeError(f"module 'kiln.return_types' has no attribute {name!r}")
    return named(name, _FIELDS[name])


def __dir__() -> list[str]:
    return list(_FIELDS)
