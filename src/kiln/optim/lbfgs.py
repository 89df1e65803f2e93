"""Limited-memory BFGS (Nocedal & Wright 2006, chapters 3 and 7).

https://docs.pytorch.org/docs/stable/generated/torch.optim.LBFGS.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ..autograd.modes import enable_grad, no_grad
from ..compile.hooks import refuse
from ..errors import KilnError, KilnValueError
from ..formats import strided
from ..ops.complex import view_as_real
from ..ops.joining import cat
from ..tensor import Tensor
from .optimizer import Optimizer, ParamsT, check_options

# Note [Order of rounding]
# Near a minimum the tests below compare numbers that differ by their last bits. Slopes and step
# lengths are therefore 0-d tensors of the parameters' dtype, as in PyTorch, and losses are floats.


class _Point(NamedTuple):
    """What is known after a step of length `t` along the search direction."""

    t: Any
    loss: float
    grad: Tensor
    slope: Any


class LBFGS(Optimizer):
    """Quasi-Newton steps from the last `history_size` changes of parameters and gradients.

    Takes one group of parameters. `step(closure)` computes the loss several times: up to `max_iter`
    iterations of `max_eval` evaluations in all, with steps of length `lr` or, with
    `line_search_fn="strong_wolfe"`, of a length that a line search finds. How many it takes depends on
    values, so a step can't be captured; the closure can be a compiled function.
    """

    def __init__(
        self, params: ParamsT, lr: float | Tensor = 1, max_iter: int = 20, max_eval: int | None = None,
        tolerance_grad: float = 1e-7, tolerance_change: float = 1e-9, history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:  # fmt: skip
        check_options("LBFGS", lr=lr)
        super().__init__(params, {
            "lr": lr, "max_iter": max_iter, "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad, "tolerance_change": tolerance_change,
            "history_size": history_size, "line_search_fn": line_search_fn,
        })  # fmt: skip
        if len(self.param_groups) != 1:
            raise KilnValueError(
                "LBFGS", "LBFGS doesn't support per-parameter options (parameter groups)",
                f"{len(self.param_groups)} groups", "give all parameters in one list",
            )  # fmt: skip

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def _gradient(self) -> Tensor:
        """All gradients in one vector; complex ones as their parts."""
        parts = []
        for p in self._params:
            g = p.new_zeros(p.shape) if p.grad is None else p.grad
            g = g if g.layout is strided else g.to_dense()
            parts.append((view_as_real(g) if g.dtype.is_complex else g).reshape(-1))
        return cat(parts, 0)

    def _move(self, t: Any, direction: Tensor) -> None:
        """Go `t` times the direction."""
        start = 0
        for p in self._params:
            p = view_as_real(p) if p.dtype.is_complex else p
            part = direction[start : start + p.numel()]
            p.add_(part.reshape(p.shape), alpha=float(t))
            start += p.numel()

    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Iterate; `closure` clears the gradients, computes the loss, calls backward and returns it.

        Returns the loss before the first iteration.
        """
        refuse("LBFGS.step()", "compile the closure, and call opt.step(closure) outside")
        with no_grad():
            return self._iterate(enable_grad()(closure))

    def _iterate(self, closure: Callable[[], Any]) -> Any:
        group = self.param_groups[0]
        state = self.state[self._params[0]]  # of them all: there `load_state_dict` casts it
        state.setdefault("func_evals", 0)
        state.setdefault("n_iter", 0)
        first = closure()
        loss, grad, evals = float(first), self._gradient(), 1
        state["func_evals"] += 1
        if grad.abs().max() <= group["tolerance_grad"]:
            return first
        for iteration in range(1, group["max_iter"] + 1):
            state["n_iter"] += 1
            d = state["d"] = self._direction(state, grad, group["history_size"])
            state["prev_flat_grad"], before = grad.clone(), loss
            state["prev_loss"] = loss
            if state["n_iter"] == 1:
                t = min(1.0, 1.0 / grad.abs().sum()) * group["lr"]
            else:
                t = group["lr"]
            state["t"] = t = t.reshape(()) if isinstance(t, Tensor) else t
            slope = grad.dot(d)
            if slope > -group["tolerance_change"]:
                break
            used = 0
            if group["line_search_fn"] is not None:
                start = _Point(0, loss, grad, slope)
                point, used = self._search(closure, t, d, start, group["max_eval"] - evals)
                loss, grad, t = point.loss, point.grad, point.t
                state["t"] = t
                self._move(t, d)
            else:
                self._move(t, d)
                if (
                    iteration != group["max_iter"]
                ):  # a stochastic loss would be computed for nothing
                    loss, grad, used = float(closure()), self._gradient(), 1
            evals += used
            state["func_evals"] += used
            if (
                evals >= group["max_eval"]
                or grad.abs().max() <= group["tolerance_grad"]
                or (d * t).abs().max() <= group["tolerance_change"]
                or abs(loss - before) < group["tolerance_change"]
            ):
                break
        return first

    def _direction(self, state: dict[str, Any], grad: Tensor, longest: int) -> Tensor:
        """Minus the gradient times the inverse Hessian that the history stands for (two loops)."""
        if state["n_iter"] == 1:
            state["old_dirs"], state["old_stps"], state["ro"], state["H_diag"] = [], [], [], 1
            return grad.neg()
        changes, steps, inverses = state["old_dirs"], state["old_stps"], state["ro"]
        y, s = grad - state["prev_flat_grad"], state["d"] * state["t"]
        ys = y.dot(s)
        if ys > 1e-10:
            if len(changes) == longest:
                for kept in (changes, steps, inverses):
                    kept.pop(0)
            changes.append(y)
            steps.append(s)
            inverses.append(1.0 / ys)
            state["H_diag"] = ys / y.dot(y)
        shares = state.setdefault("al", [None] * longest)
        q = grad.neg()
        for i in reversed(range(len(changes))):
            shares[i] = steps[i].dot(q) * inverses[i]
            q.add_(changes[i] * -shares[i])
        r = q * state["H_diag"]
        for i in range(len(changes)):
            r.add_(steps[i] * (shares[i] - changes[i].dot(r) * inverses[i]))
        return r

    def _search(
        self, closure: Callable[[], Any], t: Any, d: Tensor, start: _Point, limit: int
    ) -> tuple[_Point, int]:
        """A point by line search, and how often the loss was computed."""
        group = self.param_groups[0]
        if group["line_search_fn"] != "strong_wolfe":
            raise KilnError(
                "LBFGS", "only 'strong_wolfe' is supported", repr(group["line_search_fn"]),
                "line_search_fn='strong_wolfe', or None",
            )  # fmt: skip
        here = [p.clone() for p in self._params]
        used = 0

        def evaluate(t: Any) -> _Point:
            nonlocal used
            used += 1
            self._move(t, d)
            loss, grad = float(closure()), self._gradient()
            for p, kept in zip(self._params, here, strict=True):
                p.copy_(kept)
            return _Point(t, loss, grad, grad.dot(d))

        reach = d.abs().max()
        return strong_wolfe(evaluate, t, start, reach, group["tolerance_change"], limit), used


def strong_wolfe(
    evaluate: Callable[[Any], _Point], t: Any, start: _Point, reach: Any, smallest: float, limit: int,
    decrease: float = 1e-4, flatness: float = 0.9,
) -> _Point:  # fmt: skip
    """A point that lies low and flat enough (the strong Wolfe conditions), or the best one seen.

    First the step grows until a bracket holds such a point; then the bracket shrinks around it.
    `reach` is the largest element of the direction.
    """

    def too_high(p: _Point) -> bool:
        return bool(p.loss > start.loss + decrease * p.t * start.slope)

    def flat(p: _Point) -> bool:
        return bool(abs(p.slope) <= -flatness * start.slope)

    before, point, steps = start, evaluate(t), 0
    bracket = None
    while steps < limit:
        if too_high(point) or (steps > 1 and point.loss >= before.loss):
            bracket = [before, point]
            break
        if flat(point):
            return point
        if point.slope >= 0:
            bracket = [before, point]
            break
        bounds = (point.t + 0.01 * (point.t - before.t), point.t * 10)
        before, point = point, evaluate(cubic_minimum(before, point, *bounds))
        steps += 1
    if bracket is None:
        bracket = [start, point]
    low = 0 if bracket[0].loss <= bracket[1].loss else 1
    close = False
    while steps < limit:
        near, far = sorted((bracket[0].t, bracket[1].t))
        if abs(far - near) * reach < smallest:
            break
        t = cubic_minimum(bracket[0], bracket[1], near, far)
        margin = 0.1 * (far - near)
        if min(far - t, t - near) < margin:
            if close or t >= far or t <= near:
                t = far - margin if abs(t - far) < abs(t - near) else near + margin
                close = False
            else:
                close = True
        else:
            close = False
        point = evaluate(t)
        steps += 1
        if too_high(point) or point.loss >= bracket[low].loss:
            bracket[1 - low] = point
            low = 0 if bracket[0].loss <= bracket[1].loss else 1
            continue
        if not (done := flat(point)) and point.slope * (bracket[1 - low].t - bracket[low].t) >= 0:
            bracket[1 - low] = bracket[low]
        bracket[low] = point
        if done:
            break
    return bracket[low]


def cubic_minimum(a: _Point, b: _Point, low: Any, high: Any) -> Any:
    """Where the cubic through two points with these slopes is least, within bounds."""
    a, b = (a, b) if a.t <= b.t else (b, a)
    mean = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = mean * mean - a.slope * b.slope
    if not square >= 0:
        return (low + high) / 2.0
    root = square.sqrt()
    t = b.t - (b.t - a.t) * ((b.slope + root - mean) / (b.slope - a.slope + 2 * root))
    return min(max(t, low), high)
