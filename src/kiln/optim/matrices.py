"""Optimizers that see a parameter as a matrix: Adafactor and Muon."""

from __future__ import annotations

import math
from typing import Any

from .. import dtypes as dt
from ..errors import KilnValueError, describe
from ..ops.addmm import addmm
from ..ops.creation import tensor, zeros_like
from ..tensor import Tensor
from .optimizer import Member, ParamsT, PerParameter, check_options, options


class Adafactor(PerParameter):
    """Adam's mean square as a product of row and column means, and steps relative to the parameter.

    `eps` are the least mean square (None: the dtype's epsilon) and the least size a parameter counts
    as; `d` the largest root mean square of an update (Shazeer & Stern 2018).
    """

    complex_as = None

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-2, beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3), d: float = 1.0, weight_decay: float = 0.0, *,
        foreach: bool | None = None, maximize: bool = False,
    ) -> None:  # fmt: skip
        _check_rate("Adafactor", lr)
        for name, value, good, bound in (
            ("beta2_decay", beta2_decay, beta2_decay <= 0, "<= 0"),
            ("epsilon1", eps[0], eps[0] is None or eps[0] >= 0, ">= 0"),
            ("epsilon2", eps[1], eps[1] >= 0, ">= 0"),
            ("Clipping threshold d", d, d >= 1, ">= 1"),
            ("weight_decay", weight_decay, weight_decay >= 0, ">= 0"),
        ):
            if not good:
                raise KilnValueError(
                    "Adafactor", f"{name} should be {bound} but is: {value}", value, ""
                )
        super().__init__(params, {
            "lr": lr, "beta2_decay": beta2_decay, "eps": eps, "d": d, "weight_decay": weight_decay,
            "foreach": foreach, "maximize": maximize,
        })  # fmt: skip

    def by_element(self, group: dict[str, Any]) -> bool:
        return False

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        step = tensor(0.0, dtype=dt.float32)
        if p.ndim < 2:
            return {"step": step, "variance": zeros_like(p)}
        rows, columns = (*p.shape[:-1], 1), (*p.shape[:-2], 1, p.shape[-1])
        return {"step": step, "row_var": p.new_zeros(rows), "col_var": p.new_zeros(columns)}

    def scalars(self, group: dict[str, Any]) -> tuple:
        eps = Member(group, "eps")
        least = None if group["eps"][0] is None else next(options(eps, 0))  # type: ignore[arg-type]
        return (
            *options(group, "lr", "beta2_decay", "d", "weight_decay"),
            least,
            *options(eps, 1),  # type: ignore[arg-type]
        )

    def _fact(self, key: str, value: Any) -> Any:
        return value[0] is None if key == "eps" else super()._fact(key, value)

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, decay, clip, weight_decay, least, smallest = scalars
        least = dt.finfo(p.dtype).eps if least is None else least
        step = state["step"].add_(1).double()
        share = step**decay
        root = math.sqrt(p.numel())
        size = (p.norm(2).double() / root).clamp(min=smallest) * (step**-0.5).clamp(max=lr)
        if group["weight_decay"] != 0:
            p.mul_(1 - lr * weight_decay)
        if g.ndim < 2:
            variance = state["variance"].lerp_(g * g, share)
        else:
            rows, columns = state["row_var"], state["col_var"]
            rows.lerp_(g.norm(2, dim=-1, keepdim=True).square() / g.shape[-1], share)
            columns.lerp_(g.norm(2, dim=-2, keepdim=True).square() / g.shape[-2], share)
            variance = rows @ columns / rows.mean(dim=-2, keepdim=True).clamp(min=least)
        change = variance.clamp(min=least * least).rsqrt() * g
        excess = (change.norm(2).double() / (root * clip)).clamp(min=1.0)
        p.sub_(change * (size / excess))


class Muon(PerParameter):
    """Momentum made orthogonal by Newton-Schulz iterations in bfloat16, for weights of hidden layers.

    All parameters must be matrices; biases and embeddings belong to another optimizer. `adjust_lr_fn`
    scales steps by the shape: "original" (also None) or "match_rms_adamw".
    https://kellerjordan.github.io/posts/muon/
    """

    complex_as = None

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, weight_decay: float = 0.1,
        momentum: float = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315), eps: float = 1e-7,
        ns_steps: int = 5, adjust_lr_fn: str | None = None,
    ) -> None:  # fmt: skip
        _check_rate("Muon", lr)
        for name, value in (("momentum", momentum), ("weight decay", weight_decay)):
            if not value >= 0:
                raise KilnValueError("Muon", f"{name} should be >= 0 but is: {value}", value, "")
        if adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise KilnValueError(
                "Muon", f"Adjust learning rate function {adjust_lr_fn} is not supported",
                repr(adjust_lr_fn), "'original' or 'match_rms_adamw'",
            )  # fmt: skip
        super().__init__(params, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
        })  # fmt: skip
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise KilnValueError(
                        "Muon", "Muon only supports 2D parameters whereas we found a parameter with "
                        f"size: {tuple(p.shape)}", describe(p), "give others to AdamW",
                    )  # fmt: skip

    def by_element(self, group: dict[str, Any]) -> bool:
        return False

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"momentum_buffer": zeros_like(p)}

    def scalars(self, group: dict[str, Any]) -> tuple:
        return tuple(options(group, "lr", "weight_decay", "momentum"))

    def _fact(self, key: str, value: Any) -> Any:
        if key in ("ns_coefficients", "eps", "ns_steps"):
            return value
        return super()._fact(key, value)

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, weight_decay, momentum = scalars
        buffer = state["momentum_buffer"].lerp_(g, 1 - momentum)
        change = g.lerp(buffer, momentum) if group["nesterov"] else buffer
        change = orthogonal(change, group["ns_coefficients"], group["ns_steps"], group["eps"])
        rows, columns = p.shape
        if group["adjust_lr_fn"] == "match_rms_adamw":
            scale = 0.2 * math.sqrt(max(rows, columns))
        else:
            scale = math.sqrt(max(1, rows / columns))
        p.mul_(1 - lr * weight_decay)
        p.sub_(change.to(p.dtype) * (lr * scale))


def orthogonal(
    m: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> Tensor:
    """About the orthogonal matrix nearest to `m`, in bfloat16, by steps of a quintic iteration."""
    if steps >= 100:
        raise KilnValueError(
            "Muon", "Number of steps must be less than 100 for computational efficiency", steps, "5"
        )
    if len(coefficients) != 3:
        raise KilnValueError(
            "Muon", "Coefficients must be a tuple of exactly 3 values", coefficients, ""
        )
    a, b, c = coefficients
    tall = m.shape[0] > m.shape[1]
    x = m.bfloat16()
    x = x.T if tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = addmm(x, addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def _check_rate(name: str, lr: Any) -> None:
    if isinstance(lr, Tensor):
        check_options(name, lr=lr)
    elif not lr >= 0:
        raise KilnValueError(name, f"Learning rate should be >= 0 but is: {lr}", f"lr={lr}", "")


def adafactor(
    params: list[Tensor], grads: list[Tensor], row_vars: list[Tensor | None], col_vars: list[Tensor | None],
    variances: list[Tensor | None], state_steps: list[Tensor], foreach: bool | None = None,
    grad_scale: Tensor | None = None, found_inf: Tensor | None = None, has_complex: bool = False, *,
    d: float, lr: float | Tensor, beta2_decay: float, weight_decay: float, eps1: float | None, eps2: float,
    maximize: bool,
) -> None:  # fmt: skip
    """A step of `Adafactor` on lists of parameters, gradients and state, all changed in place."""
    Adafactor.update_lists(
        params, grads,
        {"row_var": row_vars, "col_var": col_vars, "variance": variances, "step": state_steps},
        {
            "lr": lr, "beta2_decay": beta2_decay, "eps": (eps1, eps2), "d": d, "weight_decay": weight_decay,
            "maximize": maximize,
        }, grad_scale, found_inf,
    )  # fmt: skip


def muon(
    params: list[Tensor], grads: list[Tensor], muon_momentum_bufs: list[Tensor], *,
    foreach: bool | None = None, lr: float, weight_decay: float, momentum: float, nesterov: bool,
    ns_coefficients: tuple[float, float, float], ns_steps: int, eps: float, adjust_lr_fn: str | None,
    has_complex: bool,
) -> None:  # fmt: skip
    """A step of `Muon` on lists of parameters, gradients and state, all changed in place."""
    Muon.update_lists(
        params, grads, {"momentum_buffer": muon_momentum_bufs}, {
            "lr": lr, "weight_decay": weight_decay, "momentum": momentum, "nesterov": nesterov,
            "ns_coefficients": ns_coefficients, "ns_steps": ns_steps, "eps": eps,
            "adjust_lr_fn": adjust_lr_fn,
        },
    )  # fmt: skip
