"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ..errors import KilnValueError
from ..ops.creation import tensor, zeros_like
from ..tensor import Tensor
from .optimizer import ParamsT, PerParameter, check_forms, check_options, decayed, options


class SGD(PerParameter):
    """p -= lr * g, with momentum (PyTorch's form: the buffer is not scaled by lr) and weight decay."""

    complex_as = "numbers"

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1e-3, momentum: float = 0, dampening: float = 0,
        weight_decay: float = 0, nesterov: bool = False, *, maximize: bool = False,
        foreach: bool | None = None, differentiable: bool = False, fused: bool | None = None,
    ) -> None:  # fmt: skip
        check_options("SGD", lr=lr, momentum=momentum, weight_decay=weight_decay)
        check_forms("SGD", fused, foreach, differentiable)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise KilnValueError(
                "SGD", "Nesterov momentum requires a momentum and zero dampening",
                f"momentum={momentum}, dampening={dampening}", "SGD(…, momentum=0.9, nesterov=True)",
            )  # fmt: skip
        self._shares: dict[Tensor, Tensor] = {}
        super().__init__(params, {
            "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
            "nesterov": nesterov, "maximize": maximize, "foreach": foreach,
            "differentiable": differentiable, "fused": fused,
        })  # fmt: skip

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._shares = {}
        for held in self.state.values():
            if held.get("momentum_buffer", 0) is None:  # PyTorch's state before the first gradient
                del held["momentum_buffer"]

    def remembers(self, group: dict[str, Any]) -> bool:
        return group["momentum"] != 0

    def slots(self, p: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        self._shares[p] = tensor(1.0, dtype=p.dtype)
        return {"momentum_buffer": zeros_like(p)}

    def by_element(self, group: dict[str, Any]) -> bool:
        return group["dampening"] == 0 and super().by_element(group)  # see Note [Dampening]

    def check_sparse(self, g: Tensor, group: dict[str, Any]) -> None:
        pass  # all it does is defined for them

    def scalars(self, group: dict[str, Any]) -> tuple:
        return tuple(options(group, "lr", "momentum", "weight_decay", "dampening"))

    def update(self, p: Tensor, g: Tensor, state: dict, group: dict, scalars: Any) -> None:
        lr, momentum, weight_decay, dampening = scalars
        g = decayed(p, g, group, lr, weight_decay)
        if group["momentum"] != 0:
            part = g if group["dampening"] == 0 else g * self._share(p, 1 - dampening)
            buffer = state["momentum_buffer"]
            buffer.mul_(momentum).add_(part)
            g = g + buffer * momentum if group["nesterov"] else buffer
        p.sub_(g * lr)

    # Note [Dampening]
    # The first gradient enters the buffer whole, later ones times 1 - dampening. Which step is the
    # first is no Python fact in a captured step, so the factor is a tensor that each step rewrites.
    def _share(self, p: Tensor, later: Any) -> Tensor:
        share = getattr(self, "_shares", {}).get(p)  # `sgd` has none
        if share is None:  # the buffer came from a state dict: it has started
            return later
        now = share.clone()
        share.fill_(later)
        return now


def sgd(
    params: list[Tensor], d_p_list: list[Tensor], momentum_buffer_list: list[Tensor | None],
    has_sparse_grad: bool = False, foreach: bool | None = None, fused: bool | None = None,
    grad_scale: Tensor | None = None, found_inf: Tensor | None = None, *, weight_decay: float,
    momentum: float, lr: float, dampening: float, nesterov: bool, maximize: bool,
) -> None:  # fmt: skip
    """A step of `SGD` on lists of parameters, gradients and buffers, all changed in place.

    A buffer that is None starts as the gradient, and is put into the list.
    """
    group = {
        "lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay,
        "nesterov": nesterov, "maximize": maximize, "foreach": foreach, "fused": fused,
    }  # fmt: skip
    for i, p in enumerate(params):
        buffer = momentum_buffer_list[i] if momentum != 0 else None
        started = momentum == 0 or buffer is not None
        if not started:
            momentum_buffer_list[i] = buffer = zeros_like(p)
        SGD.update_lists(
            [p], [d_p_list[i]], {"momentum_buffer": [buffer]},
            group if started else group | {"dampening": 0.0}, grad_scale, found_inf,
        )  # fmt: skip
