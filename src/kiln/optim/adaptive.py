"""Step sizes from past gradients: RMSprop, Adagrad, Adadelta, Rprop; and averaged descent."""

from __future__ import annotations

from typing import Any

from .. import dtypes as dt
from ..errors import KilnError, KilnValueError
from ..formats import strided
from ..ops.creation import full_like, tensor, zeros_like
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


def _both(p: Tensor, value: float) -> float | complex:
    """A number for each part of a complex parameter."""
    return complex(value, value) if p.dtype.is_complex else value


class RMSprop(PerParameter):
    """Steps divided by the root of a running mean square (Hinton 2012)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0, momentum: float = 0, centered: bool = False, capturable: bool = False,
        foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_options(
            "RMSprop", lr=lr, eps=eps, momentum=momentum, weight_decay=weight_decay, alpha=alpha
        )
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "centered": centered,
            "weight_decay": weight_decay, "capturable": capturable, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        out = {"step": tensor(0.0, dtype=dt.float32), "square_avg": zeros_like(p)}
        if group["momentum"] > 0:
            out["momentum_buffer"] = zeros_like(p)
        if group["centered"]:
            out["grad_avg"] = zeros_like(p)
        return out

    def scalars(self, group: dict[str, Any]) -> tuple:
        return tuple(options(group, "lr", "alpha", "eps", "weight_decay", "momentum"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, alpha, eps, weight_decay, momentum = scalars
        state["step"].add_(1)
        g = decayed(p, g, group, lr, weight_decay)
        square = state["square_avg"]
        square.mul_(alpha).add_(g * g * (1 - alpha))
        if group["centered"]:
            mean = state["grad_avg"]
            mean.lerp_(g, 1 - alpha)
            spread = plus((square - mean * mean).sqrt_(), eps)
        else:
            spread = plus(square.sqrt(), eps)
        if group["momentum"] > 0:
            buffer = state["momentum_buffer"]
            buffer.mul_(momentum).add_(g / spread)
            p.sub_(buffer * lr)
        else:
            p.sub_(g / spread * lr)


class Adagrad(PerParameter):
    """Steps divided by the root of the sum of squares (Duchi et al. 2011)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-2, lr_decay: float = 0, weight_decay: float = 0,
        initial_accumulator_value: float = 0, eps: float = 1e-10, foreach: bool | None = None, *,
        maximize: bool = False, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        check_options("Adagrad", lr=lr, lr_decay=lr_decay, weight_decay=weight_decay,
                      initial_accumulator_value=initial_accumulator_value, eps=eps)  # fmt: skip
        check_forms("Adagrad", fused, foreach, differentiable)
        super().__init__(params, {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value, "foreach": foreach,
            "maximize": maximize, "differentiable": differentiable, "fused": fused,
        })  # fmt: skip
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p].update(self.slots(p, group))

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        start = _both(p, group["initial_accumulator_value"])
        return {"step": tensor(0.0, dtype=dt.float32), "sum": full_like(p, start)}

    def scalars(self, group: dict[str, Any]) -> tuple:
        return tuple(options(group, "lr", "lr_decay", "eps", "weight_decay"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, lr_decay, eps, weight_decay = scalars
        step = state["step"].add_(1).double()
        total = state["sum"]
        if g.layout is not strided:
            g = g.coalesce()
            total.add_(g * g)
            spread = total.sparse_mask(g).values().sqrt().add_(eps)
            size = lr / (1 + (step - 1) * lr_decay)
            p.sub_(g._with((g.values() / spread * size).to(p.dtype)))  # type: ignore[attr-defined]
            return
        g = decayed(p, g, group, lr, weight_decay)
        total.add_(g * g)
        p.sub_(g / plus(total.sqrt(), eps) * (lr / (1 + (step - 1) * lr_decay)))

    def check_sparse(self, g: Tensor, group: dict[str, Any]) -> None:
        if group["weight_decay"] != 0:
            raise KilnError(
                "Adagrad", "weight_decay option is not compatible with sparse gradients",
                f"weight_decay={group['weight_decay']}", "weight_decay=0",
            )  # fmt: skip


class Adadelta(PerParameter):
    """Steps by the ratio of running mean squares of updates and gradients (Zeiler 2012)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1.0, rho: float = 0.9, eps: float = 1e-6,
        weight_decay: float = 0, foreach: bool | None = None, *, capturable: bool = False,
        maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_options("Adadelta", lr=lr, rho=rho, eps=eps, weight_decay=weight_decay)
        if not rho <= 1.0:
            raise KilnValueError(
                "Adadelta", f"Invalid rho value: {rho}", f"rho={rho}", "0 <= rho <= 1"
            )
        super().__init__(params, {
            "lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "capturable": capturable, "foreach": foreach, "differentiable": differentiable,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": tensor(0.0, dtype=dt.float32),
            "square_avg": zeros_like(p),
            "acc_delta": zeros_like(p),
        }

    def scalars(self, group: dict[str, Any]) -> tuple:
        return tuple(options(group, "lr", "rho", "eps", "weight_decay"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, rho, eps, weight_decay = scalars
        state["step"].add_(1)
        g = decayed(p, g, group, lr, weight_decay)
        square, moved = state["square_avg"], state["acc_delta"]
        square.mul_(rho).add_(g * g * (1 - rho))
        delta = (moved + eps).sqrt_() / (square + eps).sqrt_() * g
        moved.mul_(rho).add_(delta * delta * (1 - rho))
        p.sub_(delta * lr)


class Rprop(PerParameter):
    """A step size for each element, grown while the gradient keeps its sign (Riedmiller 1993)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-2, etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50), *, capturable: bool = False,
        foreach: bool | None = None, maximize: bool = False, differentiable: bool = False,
    ) -> None:  # fmt: skip
        check_options("Rprop", lr=lr)
        if not 0.0 < etas[0] < 1.0 < etas[1]:
            raise KilnValueError(
                "Rprop", f"Invalid eta values: {etas[0]}, {etas[1]}", etas, "0 < a < 1 < b"
            )
        super().__init__(params, {
            "lr": lr, "etas": etas, "step_sizes": step_sizes, "foreach": foreach, "maximize": maximize,
            "differentiable": differentiable, "capturable": capturable,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        size = full_like(p, _both(p, float(group["lr"])))
        return {"step": tensor(0.0, dtype=dt.float32), "prev": zeros_like(p), "step_size": size}

    def scalars(self, group: dict[str, Any]) -> tuple:
        return (*pair(group, "etas"), *pair(group, "step_sizes"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        shrink, grow, low, high = scalars
        state["step"].add_(1)
        previous, size = state["prev"], state["step_size"]
        turned = g * previous
        one = size.new_ones(())
        factor = (turned > 0).where(one * grow, (turned < 0).where(one * shrink, one))
        size.mul_(factor).clamp_(low, high)
        previous.copy_((turned < 0).where(0.0, g))
        p.sub_(previous.sign() * size)


class ASGD(PerParameter):
    """Gradient descent that also keeps the mean of its parameters (Polyak & Juditsky 1992)."""

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-2, lambd: float = 1e-4, alpha: float = 0.75,
        t0: float = 1e6, weight_decay: float = 0, foreach: bool | None = None, maximize: bool = False,
        differentiable: bool = False, capturable: bool = False,
    ) -> None:  # fmt: skip
        check_options("ASGD", lr=lr, weight_decay=weight_decay)
        super().__init__(params, {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay,
            "foreach": foreach, "maximize": maximize, "differentiable": differentiable,
            "capturable": capturable,
        })  # fmt: skip

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {
            "step": tensor(0.0, dtype=dt.float32), "eta": tensor(float(group["lr"]), dtype=dt.float32),
            "mu": tensor(1.0, dtype=dt.float32), "ax": zeros_like(p),
        }  # fmt: skip

    def scalars(self, group: dict[str, Any]) -> tuple:
        return tuple(options(group, "lr", "lambd", "alpha", "t0", "weight_decay"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, lambd, alpha, t0, weight_decay = scalars
        step = state["step"].add_(1).double()
        g = decayed(p, g, group, lr, weight_decay)
        eta, mu, mean = state["eta"].double(), state["mu"].double(), state["ax"]
        p.mul_(1 - eta * lambd).sub_(g * eta)
        mean.add_((p - mean) * mu)
        state["eta"].copy_(lr / (1 + lambd * lr * step) ** alpha)
        state["mu"].copy_(1 / (step - t0).clamp(min=1))


def rmsprop(
    params: list[Tensor], grads: list[Tensor], square_avgs: list[Tensor], grad_avgs: list[Tensor],
    momentum_buffer_list: list[Tensor], state_steps: list[Tensor], foreach: bool | None = None,
    maximize: bool = False, differentiable: bool = False, capturable: bool = False,
    has_complex: bool = False, *, lr: float, alpha: float, eps: float, weight_decay: float,
    momentum: float, centered: bool,
) -> None:  # fmt: skip
    """A step of `RMSprop` on lists of parameters, gradients and state, all changed in place."""
    RMSprop.update_lists(
        params, grads, {
            "square_avg": square_avgs, "grad_avg": grad_avgs, "momentum_buffer": momentum_buffer_list,
            "step": state_steps,
        }, {
            "lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum,
            "centered": centered, "maximize": maximize,
        },
    )  # fmt: skip


def adagrad(
    params: list[Tensor], grads: list[Tensor], state_sums: list[Tensor], state_steps: list[Tensor],
    fused: bool | None = None, grad_scale: Tensor | None = None, found_inf: Tensor | None = None,
    has_sparse_grad: bool = False, foreach: bool | None = None, differentiable: bool = False,
    has_complex: bool = False, *, lr: float, weight_decay: float, lr_decay: float, eps: float,
    maximize: bool,
) -> None:  # fmt: skip
    """A step of `Adagrad` on lists of parameters, gradients and state, all changed in place."""
    Adagrad.update_lists(
        params, grads, {"sum": state_sums, "step": state_steps}, {
            "lr": lr, "lr_decay": lr_decay, "eps": eps, "weight_decay": weight_decay, "maximize": maximize,
            "fused": fused, "foreach": foreach,
        }, grad_scale, found_inf,
    )  # fmt: skip


def adadelta(
    params: list[Tensor], grads: list[Tensor], square_avgs: list[Tensor], acc_deltas: list[Tensor],
    state_steps: list[Tensor], capturable: bool = False, foreach: bool | None = None,
    differentiable: bool = False, has_complex: bool = False, *, lr: float, rho: float, eps: float,
    weight_decay: float, maximize: bool,
) -> None:  # fmt: skip
    """A step of `Adadelta` on lists of parameters, gradients and state, all changed in place."""
    Adadelta.update_lists(
        params, grads, {"square_avg": square_avgs, "acc_delta": acc_deltas, "step": state_steps},
        {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize},
    )  # fmt: skip


def rprop(
    params: list[Tensor], grads: list[Tensor], prevs: list[Tensor], step_sizes: list[Tensor],
    state_steps: list[Tensor], foreach: bool | None = None, capturable: bool = False,
    maximize: bool = False, differentiable: bool = False, has_complex: bool = False, *,
    step_size_min: float, step_size_max: float, etaminus: float, etaplus: float,
) -> None:  # fmt: skip
    """A step of `Rprop` on lists of parameters, gradients and state, all changed in place."""
    Rprop.update_lists(
        params, grads, {"prev": prevs, "step_size": step_sizes, "step": state_steps},
        {"etas": (etaminus, etaplus), "step_sizes": (step_size_min, step_size_max), "maximize": maximize},
    )  # fmt: skip


def asgd(
    params: list[Tensor], grads: list[Tensor], axs: list[Tensor], mus: list[Tensor], etas: list[Tensor],
    state_steps: list[Tensor], foreach: bool | None = None, maximize: bool = False,
    differentiable: bool = False, capturable: bool = False, has_complex: bool = False, *, lambd: float,
    lr: float, t0: float, alpha: float, weight_decay: float,
) -> None:  # fmt: skip
    """A step of `ASGD` on lists of parameters, gradients and state, all changed in place."""
    ASGD.update_lists(
        params, grads, {"ax": axs, "mu": mus, "eta": etas, "step": state_steps}, {
            "lr": lr, "lambd": lambd, "alpha": alpha, "t0": t0, "weight_decay": weight_decay,
            "maximize": maximize,
        },
    )  # fmt: skip
