"""Steps of optimizers as functions on lists: parameters, gradients and state. PyTorch's `torch.optim._functional`."""

from __future__ import annotations

from ..tensor import Tensor
from .adam import adam, adamax, adamw, nadam, radam
from .adaptive import adadelta, adagrad, asgd, rmsprop, rprop
from .matrices import adafactor, muon
from .sgd import sgd
from .sparse_adam import SparseAdam


def sparse_adam(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    state_steps: list[int], *, eps: float, beta1: float, beta2: float, lr: float, maximize: bool,
) -> None:  # fmt: skip
    """A step of `SparseAdam` on lists of parameters, sparse gradients and state; the steps are those that have begun."""
    optimizer = SparseAdam.__new__(SparseAdam)
    group = {"lr": lr, "betas": (beta1, beta2), "eps": eps, "maximize": maximize}
    scalars = optimizer.scalars(group)
    lists = zip(params, grads, exp_avgs, exp_avg_sqs, state_steps, strict=True)
    for p, g, mean, square, step in lists:
        state = {"step": step - 1, "exp_avg": mean, "exp_avg_sq": square}
        optimizer.update(p, -g if maximize else g, state, group, scalars)


__all__ = [
    "adadelta", "adafactor", "adagrad", "adam", "adamax", "adamw", "asgd", "muon", "nadam", "radam",
    "rmsprop", "rprop", "sgd", "sparse_adam",
]  # fmt: skip
