"""Steps that Keras writes otherwise than PyTorch: where epsilon stands, and what the learning rate scales."""

from __future__ import annotations

from typing import Any

from ..ops.creation import as_tensor, full_like, ones, zeros_like
from ..ops.joining import stack
from ..ops.selection import where
from ..optim.optimizer import ParamsT, PerParameter, decayed, options
from ..tensor import Tensor


class _Rule(PerParameter):
    """Options that are numbers, in the order of `numbers`; weight decay is decoupled."""

    numbers: tuple[str, ...]

    def __init__(self, params: ParamsT, lr: float, weight_decay: float = 0.0, **given: Any) -> None:  # fmt: skip
        super().__init__(
            params, {"lr": lr, "weight_decay": weight_decay, "maximize": False, **given}
        )

    def scalars(self, group: dict[str, Any]) -> tuple:
        return tuple(options(group, "lr", "weight_decay", *self.numbers))


class SGD(_Rule):
    """The momentum holds steps: a new learning rate does not scale what is under way, as it does in PyTorch."""

    numbers = ("momentum",)

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": zeros_like(p)} if group["momentum"] else {}

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, weight_decay, momentum = scalars
        step = decayed(p, g, group, lr, weight_decay) * lr
        if group["momentum"]:
            buffer = state["momentum_buffer"]
            buffer.mul_(momentum).sub_(step)
            p.add_(buffer * momentum - step if group["nesterov"] else buffer)
        else:
            p.sub_(step)


class RMSprop(_Rule):
    """Epsilon stands under the root, and the momentum holds steps."""

    numbers = ("alpha", "eps", "momentum")

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        names = ["square_avg"]
        names += ["momentum_buffer"] if group["momentum"] > 0 else []
        names += ["grad_avg"] if group["centered"] else []
        return {name: zeros_like(p) for name in names}

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, weight_decay, alpha, eps, momentum = scalars
        g = decayed(p, g, group, lr, weight_decay)
        square = state["square_avg"]
        square.mul_(alpha).add_(g * g * (1 - alpha))
        spread = square
        if group["centered"]:
            mean = state["grad_avg"]
            mean.mul_(alpha).add_(g * (1 - alpha))
            spread = square - mean * mean
        step = g * lr / (spread + eps).sqrt()
        if group["momentum"] > 0:
            buffer = state["momentum_buffer"]
            step = buffer.mul_(momentum).add_(step)
        p.sub_(step)


class Lion(_Rule):
    """Steps of one size, by the sign of a running mean of gradients (Chen et al. 2023)."""

    numbers = ("beta_1", "beta_2")

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"exp_avg": zeros_like(p)}

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, weight_decay, beta_1, beta_2 = scalars
        g = decayed(p, g, group, lr, weight_decay)
        mean = state["exp_avg"]
        p.sub_((mean * beta_1 + g * (1 - beta_1)).sign() * lr)
        mean.mul_(beta_2).add_(g * (1 - beta_2))


class Ftrl(_Rule):
    """Follow the regularized leader (McMahan et al. 2013), with weights drawn to 0 by l1 and l2."""

    numbers = ("learning_rate_power", "l1", "l2", "beta", "l2_shrinkage")

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"accumulator": full_like(p, group["initial_accumulator_value"]), "linear": zeros_like(p)}  # fmt: skip

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, weight_decay, power, l1, l2, beta, shrinkage = scalars
        g = decayed(p, g, group, lr, weight_decay)
        old, linear = state["accumulator"], state["linear"]
        l2 = l2 + beta / (2 * lr)
        new = old + g * g
        shrunk = g + 2 * shrinkage * p if group["l2_shrinkage"] else g
        linear.add_(shrunk - (new ** (-power) - old ** (-power)) / lr * p)
        quadratic = new ** (-power) / lr + 2 * l2
        p.copy_((linear.clamp(-l1, l1) - linear) / quadratic)
        old.copy_(new)


class Lamb(_Rule):
    """Adam's step as long as the parameter's norm, layer by layer (You et al. 2019)."""

    numbers = ("beta_1", "beta_2", "eps")

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"exp_avg": zeros_like(p), "exp_avg_sq": zeros_like(p), "powers": ones(2)}

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, weight_decay, beta_1, beta_2, eps = scalars
        g = decayed(p, g, group, lr, weight_decay)
        m, v, powers = state["exp_avg"], state["exp_avg_sq"], state["powers"]
        m.add_((g - m) * (1 - beta_1))
        v.add_((g * g - v) * (1 - beta_2))
        powers.mul_(stack([as_tensor(beta_1).float(), as_tensor(beta_2).float()]))
        step = (m / (1 - powers[0])) / ((v / (1 - powers[1])).sqrt() + eps)
        size, length = p.square().sum().sqrt(), step.square().sum().sqrt()
        ratio = where((size > 0) & (length > 0), size / length, 1.0)
        p.sub_(ratio * step * lr)


__all__ = ["SGD", "Ftrl", "Lamb", "Lion", "RMSprop"]
