"""Adam for sparse gradients: rows without a gradient are left alone."""

from __future__ import annotations

from typing import Any

from ..errors import KilnError, KilnValueError, describe
from ..formats import strided
from ..ops.creation import zeros_like
from ..tensor import Tensor
from .optimizer import ParamsT, PerParameter, check_options, options, pair


class SparseAdam(PerParameter):
    """Adam whose running means and steps are those of the elements that have a gradient.

    https://docs.pytorch.org/docs/stable/generated/torch.optim.SparseAdam.html
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, maximize: bool = False,
    ) -> None:  # fmt: skip
        check_options("SparseAdam", lr=lr, eps=eps, betas=betas)
        if not lr > 0:
            raise KilnValueError("SparseAdam", f"Invalid learning rate: {lr}", f"lr={lr}", "lr > 0")
        if not eps > 0:
            raise KilnValueError(
                "SparseAdam", f"Invalid epsilon value: {eps}", f"eps={eps}", "eps > 0"
            )
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize})
        params = [p for group in self.param_groups for p in group["params"]]
        for what, wrong, need in (
            ("Sparse", [i for i, p in enumerate(params) if p.layout is not strided],
             "requires dense parameter tensors"),
            ("Complex", [i for i, p in enumerate(params) if p.dtype.is_complex],
             "does not support complex parameters"),
        ):  # fmt: skip
            if wrong:
                raise KilnValueError(
                    "SparseAdam", f"{what} params at indices {wrong}: SparseAdam {need}",
                    describe(params[wrong[0]]), "real, dense parameters with sparse gradients",
                )  # fmt: skip

    def check_sparse(self, g: Tensor, group: dict[str, Any]) -> None:
        pass

    def by_element(self, group: dict[str, Any]) -> bool:
        return False

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"step": 0, "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p)}

    def scalars(self, group: dict[str, Any]) -> tuple:
        return (*options(group, "lr", "eps"), *pair(group, "betas"))

    def update(self, p: Tensor, g: Any, state: dict, group: dict, scalars: Any) -> None:
        if g.layout is strided:
            raise KilnError(
                "SparseAdam", "SparseAdam does not support dense gradients, please consider Adam instead",
                describe(g), "Embedding(…, sparse=True) has sparse ones",
            )  # fmt: skip
        lr, eps, beta1, beta2 = scalars
        state["step"] += 1
        g = g.coalesce()
        values = g.values()
        if values.numel() == 0:
            return
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        old, old_square = mean.sparse_mask(g).values(), square.sparse_mask(g).values()
        change = (values - old) * (1 - beta1)
        square_change = (values * values - old_square) * (1 - beta2)
        mean.add_(g._with(change))
        square.add_(g._with(square_change))
        spread = (old_square + square_change).sqrt().add_(eps)
        size = lr * (1 - beta2 ** state["step"]) ** 0.5 / (1 - beta1 ** state["step"])
        p.sub_(g._with((old + change) / spread * size))
