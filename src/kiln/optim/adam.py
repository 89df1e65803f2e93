"""Adam and AdamW (Kingma & Ba 2015; Loshchilov & Hutter 2019)."""

from __future__ import annotations

from typing import Any

from .. import dtypes as dt
from ..autograd.modes import is_grad_enabled
from ..errors import KilnValueError, describe
from ..ops.creation import tensor, zeros_like
from ..tensor import Tensor
from .optimizer import (
    ParamsT,
    PerParameter,
    check_forms,
    check_options,
    decayed,
    options,
    pair,
    plus,
)


class Adam(PerParameter):
    """Steps by running means of the gradient and of its square, both corrected for their start at 0.

    `amsgrad` uses the largest mean square seen; `decoupled_weight_decay` shrinks the weights
    themselves (AdamW) in place of adding to the gradient.
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, amsgrad: bool = False, *,
        foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None, decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        name = type(self).__name__
        check_options(name, lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        check_forms(name, fused, foreach, differentiable)
        if foreach and not capturable:
            for what, value in (("lr", lr), ("betas[0]", betas[0]), ("betas[1]", betas[1])):
                if isinstance(value, Tensor):
                    raise KilnValueError(
                        name, f"{what} as a Tensor is not supported for capturable=False and foreach=True",
                        describe(value), "leave foreach=None",
                    )  # fmt: skip
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "foreach": foreach, "capturable": capturable,
            "differentiable": differentiable, "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        out = {
            "step": tensor(0.0, dtype=dt.float32),
            "exp_avg": zeros_like(p),
            "exp_avg_sq": zeros_like(p),
        }
        if group["amsgrad"]:
            out["max_exp_avg_sq"] = zeros_like(p)
        return out

    def scalars(self, group: dict[str, Any]) -> tuple:
        return (*options(group, "lr", "eps", "weight_decay"), *pair(group, "betas"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, eps, weight_decay, beta1, beta2 = scalars
        step = state["step"].add_(1).double()
        g = decayed(p, g, group, lr, weight_decay)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(g, 1 - beta1)
        square.mul_(beta2).add_(g * g * (1 - beta2))
        if group["amsgrad"]:
            largest = state["max_exp_avg_sq"]
            square = (largest.clone() if is_grad_enabled() else largest).maximum(square)
            largest.copy_(square)
        # both corrections are in scalars: a division for each element less
        spread = (1 - beta2**step).sqrt()
        size = lr * spread / (1 - beta1**step)
        p.sub_(mean / plus(square.sqrt(), eps * spread) * size)


class AdamW(Adam):
    """Adam with decoupled weight decay."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 1e-2, amsgrad: bool = False, *,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False,
        differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, foreach=foreach, maximize=maximize,
            capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=True,
        )  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True


class NAdam(PerParameter):
    """Adam with Nesterov momentum (Dozat 2016)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False, *, foreach: bool | None = None, maximize: bool = False,
        capturable: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_options("NAdam", lr=lr, eps=eps, betas=betas, weight_decay=weight_decay,
                      momentum_decay=momentum_decay)  # fmt: skip
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
            "momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize, "foreach": foreach, "capturable": capturable,
            "differentiable": differentiable,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": tensor(0.0, dtype=dt.float32), "mu_product": tensor(1.0, dtype=dt.float32),
            "exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p),
        }  # fmt: skip

    def scalars(self, group: dict[str, Any]) -> tuple:
        return (
            *options(group, "lr", "eps", "weight_decay", "momentum_decay"),
            *pair(group, "betas"),
        )

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, eps, weight_decay, decay, beta1, beta2 = scalars
        step = state["step"].add_(1).double()
        g = decayed(p, g, group, lr, weight_decay)
        mu = beta1 * (1.0 - 0.5 * (0.96 ** (step * decay)))
        next_mu = beta1 * (1.0 - 0.5 * (0.96 ** ((step + 1) * decay)))
        product = state["mu_product"].mul_(mu).double()
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(g, 1 - beta1)
        square.mul_(beta2).add_(g * g * (1 - beta2))
        spread = plus((square / (1 - beta2**step)).sqrt(), eps)
        p.sub_(g / spread * (lr * (1.0 - mu) / (1.0 - product)))
        p.sub_(mean / spread * (lr * next_mu / (1.0 - product * next_mu)))


class Adamax(PerParameter):
    """Adam with the largest gradient in place of the mean square (Kingma & Ba 2015)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 2e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, capturable: bool = False,
    ) -> None:  # fmt: skip
        check_options("Adamax", lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": tensor(0.0, dtype=dt.float32),
            "exp_avg": zeros_like(p),
            "exp_inf": zeros_like(p),
        }

    def scalars(self, group: dict[str, Any]) -> tuple:
        return (*options(group, "lr", "eps", "weight_decay"), *pair(group, "betas"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, eps, weight_decay, beta1, beta2 = scalars
        step = state["step"].add_(1).double()
        g = decayed(p, g, group, lr, weight_decay)
        mean, largest = state["exp_avg"], state["exp_inf"]
        mean.lerp_(g, 1 - beta1)
        largest.copy_((largest * beta2).maximum(g.abs() + eps))
        p.sub_(mean / largest * (lr / (1 - beta1**step)))


class RAdam(PerParameter):
    """Adam whose first steps, of too uncertain a variance, are plain momentum (Liu et al. 2020)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0, decoupled_weight_decay: bool = False, *,
        foreach: bool | None = None, maximize: bool = False, capturable: bool = False,
        differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_options("RAdam", lr=lr, eps=eps, betas=betas, weight_decay=weight_decay)
        super().__init__(params, {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "foreach": foreach, "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay, "differentiable": differentiable,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": tensor(0.0, dtype=dt.float32),
            "exp_avg": zeros_like(p),
            "exp_avg_sq": zeros_like(p),
        }

    def scalars(self, group: dict[str, Any]) -> tuple:
        return (*options(group, "lr", "eps", "weight_decay"), *pair(group, "betas"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, eps, weight_decay, beta1, beta2 = scalars
        step = state["step"].add_(1).double()
        g = decayed(p, g, group, lr, weight_decay)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(g, 1 - beta1)
        square.mul_(beta2).add_(g * g * (1 - beta2))
        left = 1 - beta2**step
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * step * beta2**step / left
        known = ((length - 4) * (length - 2) * longest).clamp(min=0)
        rectify = (known / ((longest - 4) * (longest - 2) * length)).abs().sqrt()
        adapted = left.sqrt() / (square.sqrt() + eps) * rectify
        p.sub_(mean / (1 - beta1**step) * lr * (length > 5).where(adapted, 1.0))


def adam(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor], state_steps: list[Tensor], foreach: bool | None = None,
    capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
    grad_scale: Tensor | None = None, found_inf: Tensor | None = None, has_complex: bool = False,
    decoupled_weight_decay: bool = False, *, amsgrad: bool, beta1: float | Tensor, beta2: float | Tensor,
    lr: float | Tensor, weight_decay: float, eps: float, maximize: bool,
) -> None:  # fmt: skip
    """A step of `Adam` on lists of parameters, gradients and state, all changed in place."""
    Adam.update_lists(
        params, grads, {
            "exp_avg": exp_avgs, "exp_avg_sq": exp_avg_sqs, "max_exp_avg_sq": max_exp_avg_sqs, "step": state_steps,
        }, {
            "lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad,
            "maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay, "fused": fused, "foreach": foreach,
        }, grad_scale, found_inf,
    )  # fmt: skip


def adamw(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    max_exp_avg_sqs: list[Tensor], state_steps: list[Tensor], foreach: bool | None = None,
    capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
    grad_scale: Tensor | None = None, found_inf: Tensor | None = None, has_complex: bool = False, *,
    amsgrad: bool, beta1: float | Tensor, beta2: float | Tensor, lr: float | Tensor, weight_decay: float,
    eps: float, maximize: bool,
) -> None:  # fmt: skip
    """A step of `AdamW` on lists of parameters, gradients and state, all changed in place."""
    adam(
        params, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps, foreach, capturable, differentiable,
        fused, grad_scale, found_inf, has_complex, True, amsgrad=amsgrad, beta1=beta1, beta2=beta2, lr=lr,
        weight_decay=weight_decay, eps=eps, maximize=maximize,
    )  # fmt: skip


def nadam(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    mu_products: list[Tensor], state_steps: list[Tensor], decoupled_weight_decay: bool = False,
    foreach: bool | None = None, capturable: bool = False, differentiable: bool = False,
    has_complex: bool = False, maximize: bool = False, *, beta1: float, beta2: float, lr: float,
    weight_decay: float, momentum_decay: float, eps: float,
) -> None:  # fmt: skip
    """A step of `NAdam` on lists of parameters, gradients and state, all changed in place."""
    NAdam.update_lists(
        params, grads,
        {"exp_avg": exp_avgs, "exp_avg_sq": exp_avg_sqs, "mu_product": mu_products, "step": state_steps},
        {
            "lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay,
        },
    )  # fmt: skip


def adamax(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_infs: list[Tensor],
    state_steps: list[Tensor], foreach: bool | None = None, maximize: bool = False,
    differentiable: bool = False, capturable: bool = False, has_complex: bool = False, *, eps: float,
    beta1: float, beta2: float, lr: float, weight_decay: float,
) -> None:  # fmt: skip
    """A step of `Adamax` on lists of parameters, gradients and state, all changed in place."""
    Adamax.update_lists(
        params, grads, {"exp_avg": exp_avgs, "exp_inf": exp_infs, "step": state_steps},
        {"lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay, "maximize": maximize},
    )  # fmt: skip


def radam(
    params: list[Tensor], grads: list[Tensor], exp_avgs: list[Tensor], exp_avg_sqs: list[Tensor],
    state_steps: list[Tensor], decoupled_weight_decay: bool = False, foreach: bool | None = None,
    differentiable: bool = False, capturable: bool = False, has_complex: bool = False,
    maximize: bool = False, *, beta1: float, beta2: float, lr: float, weight_decay: float, eps: float,
) -> None:  # fmt: skip
    """A step of `RAdam` on lists of parameters, gradients and state, all changed in place."""
    RAdam.update_lists(
        params, grads, {"exp_avg": exp_avgs, "exp_avg_sq": exp_avg_sqs, "step": state_steps},
        {
            "lr": lr, "betas": (beta1, beta2), "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "decoupled_weight_decay": decoupled_weight_decay,
        },
    )  # fmt: skip
