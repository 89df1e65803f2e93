"""What is computed for a batch: the training, validation and prediction steps, captured or eager."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from ..amp import autocast
from ..autograd.modes import no_grad
from ..errors import KilnError, KilnTypeError, KilnValueError, describe
from ..nn.modules.module import Module
from ..nn.parameter import is_lazy
from ..ops.creation import tensor
from ..optim import Optimizer
from ..tensor import Tensor
from .callbacks import Callback
from .module import told_to
from .objective import Objective

PRECISIONS = {"float32": None, "32": None, "bfloat16": "bfloat16", "bf16": "bfloat16", "bf16-mixed": "bfloat16"}  # fmt: skip


def autocast_dtype(name: Any) -> str | None:
    """The dtype of autocast that a name stands for; None is none."""
    key = str(name).removeprefix("kiln.")
    if key not in PRECISIONS:
        raise KilnValueError("Trainer", "no such precision", repr(name), "'float32' or 'bfloat16'")
    return PRECISIONS[key]


class Steps:
    """The steps of one model with one way to train it; each is captured once for each kind of batch."""

    def __init__(
        self, model: Module, objective: Objective, optimizers: Callable[[], Sequence[Optimizer]],
        inside: Sequence[Callback], compiled: bool | Mapping[str, Any], accumulate: int, cast: str | None,
    ) -> None:  # fmt: skip
        self.model, self.objective, self.optimizers = model, objective, optimizers
        self.inside, self.compiled, self.accumulate = list(inside), compiled, accumulate
        self.cast = cast
        self.added = getattr(model, "_added_losses", None)
        self.own = callable(getattr(model, "training_step", None))
        self.manual = self.own and not getattr(model, "automatic_optimization", True)
        self._numbered = {n: _takes(getattr(model, n, None), 2) for n in ("training_step", "validation_step", "test_step", "predict_step")}  # fmt: skip
        self._made: dict[str, Callable] = {}
        self.reduced: dict[str, dict[str, str]] = {"train": {}, "val": {}}

    def run(self, name: str, *args: Any) -> Any:
        """A step by name: "train", "own_train", "validate", "own_validate", "own_test", "predict", "own_predict" or "update"."""
        step = self._made.get(name)
        if step is None:
            step = getattr(self, name)
            if self.compiled:
                from .. import compile

                # What can't be captured runs eagerly, which the compiler says in a warning.
                options = self.compiled if isinstance(self.compiled, Mapping) else {}
                step = compile(step, **{"fullgraph": False, **options})
            self._made[name] = step
        return step(*args)

    def number(self, i: int) -> Any:
        """A batch's number as a step is given it: a tensor where steps are captured, as it varies."""
        return tensor(i) if self.compiled else i

    def _casting(self) -> Any:
        return nullcontext() if self.cast is None else autocast("cpu", dtype=_dtype(self.cast))

    # ---- training

    def train(
        self, args: tuple, kwargs: dict, target: Any, weight: Any, first: bool, last: bool
    ) -> tuple[dict[str, Tensor], Any]:
        """Forward, backward and, on the last batch of those whose gradients are added up, the optimizer's step."""
        if first:
            self.zero_grad()
        with self._casting():
            output = self.model(*args, **kwargs)
            loss, told = self.objective.loss(output, target, weight)
            loss = self._with_added(loss)
        self.backward(loss)
        if last:
            self.update()
        self.objective.measure(output, target, weight)
        values = {"loss": loss.detach(), **told}
        return values, _detached(output) if self.objective.outside else None

    def _with_added(self, loss: Tensor) -> Tensor:
        """The loss with what a model adds to it by itself (`kiln.keras`)."""
        return loss if self.added is None else sum(self.added(), loss)

    def own_train(self, batch: Any, i: Any, first: bool, last: bool) -> dict[str, Tensor]:
        """The same around the model's own `training_step`."""
        if self.manual:
            return self._told("training_step", batch, i)[1]
        if first:
            self.zero_grad()
        loss, values = self._told("training_step", batch, i)
        if loss is None:
            raise KilnTypeError(
                "training_step", "gave no loss", "None", "return the loss, or a dict with a 'loss'"
            )
        self._hook("on_before_backward", loss)
        self.backward(loss)
        self._hook("on_after_backward")
        if last:
            self.update()
        return values

    def _hook(self, name: str, *args: Any) -> None:
        """One of the model's own hooks, where it has it."""
        if hook := getattr(self.model, name, None):
            hook(*args)

    def zero_grad(self) -> None:
        """Forget gradients."""
        for optimizer in self.optimizers():
            if self.own:
                self._hook("on_before_zero_grad", optimizer)
            optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Gradients of a batch's share of the loss."""
        (loss if self.accumulate == 1 else loss / self.accumulate).backward()

    def update(self) -> None:
        """Step the optimizers, with the callbacks that are part of it."""
        for optimizer in self.optimizers():
            for c in self.inside:
                c.on_before_optimizer_step(optimizer)
            optimizer.step()
            for c in self.inside:
                c.on_after_optimizer_step(optimizer)

    # ---- validation and prediction

    def validate(
        self, args: tuple, kwargs: dict, target: Any, weight: Any
    ) -> tuple[dict[str, Tensor], Any]:
        """Loss and metrics."""
        with no_grad(), self._casting():
            output = self.model(*args, **kwargs)
            loss, told = self.objective.loss(output, target, weight, by_class=False)
            loss = self._with_added(loss)
        self.objective.measure(output, target, weight, by_class=False)
        values = {"loss": loss, **told}
        return values, output if self.objective.outside else None

    def own_validate(self, batch: Any, i: Any) -> dict[str, Tensor]:
        """What the model's `validation_step` tells; without one, its `training_step` does."""
        with no_grad():
            name = "validation_step" if hasattr(self.model, "validation_step") else "training_step"
            return self._told(name, batch, i)[1]

    def own_test(self, batch: Any, i: Any) -> dict[str, Tensor]:
        """What the model's `test_step` tells."""
        with no_grad():
            return self._told("test_step", batch, i)[1]

    def predict(self, args: tuple, kwargs: dict) -> Any:
        """The outputs."""
        with no_grad(), self._casting():
            return self.model(*args, **kwargs)

    def own_predict(self, batch: Any, i: Any) -> Any:
        """The outputs of the model's `predict_step`."""
        with no_grad(), self._casting():
            return self._call("predict_step", batch, i)

    # ---- the model's own steps

    def _call(self, name: str, batch: Any, i: Any) -> Any:
        step = getattr(self.model, name)
        return step(batch, i) if self._numbered[name] else step(batch)

    def _told(self, name: str, batch: Any, i: Any) -> tuple[Tensor | None, dict[str, Tensor]]:
        """The loss that a step of the model's gives, and all that it tells: returned in a dict, or logged."""
        with told_to(self.model) as (logged, reduced), self._casting():
            out = self._call(name, batch, i)
        loss = out.get("loss") if isinstance(out, Mapping) else out
        told = dict(out) if isinstance(out, Mapping) else {} if out is None else {"loss": out}
        for key, value in told.items():
            if not isinstance(value, Tensor | int | float) or (isinstance(value, Tensor) and value.numel() != 1):  # fmt: skip
                raise KilnTypeError(
                    name, f"gave {key!r}, which is not a number", describe(value),
                    "return the loss, or a dict of numbers with a 'loss'",
                )  # fmt: skip
        told.update(logged)
        # "val_loss" from a validation_step would become "val_val_loss"
        if name == "validation_step":
            told = {k.removeprefix("val_"): v for k, v in told.items()}
            reduced = {k.removeprefix("val_"): v for k, v in reduced.items()}
        self.reduced["train" if name == "training_step" else "val"].update(reduced)
        return loss, {k: v.detach() if isinstance(v, Tensor) else tensor(float(v)) for k, v in told.items()}  # fmt: skip


def _dtype(name: str) -> Any:
    from .. import dtypes

    return getattr(dtypes, name)


def _detached(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.detach()
    if isinstance(output, Mapping):
        return {k: _detached(v) for k, v in output.items()}
    return tuple(map(_detached, output)) if isinstance(output, tuple | list) else output


def _takes(fn: Any, n: int) -> bool:
    """Whether a bound function takes `n` arguments by position."""
    if fn is None:
        return False
    try:
        inspect.signature(fn).bind(*range(n))
    except TypeError:
        return False
    return True


def has_lazy(model: Module) -> bool:
    """Whether layers wait for their sizes."""
    return any(
        is_lazy(x) for m in model.modules() for x in (*m._parameters.values(), *m._buffers.values())
    )


def explain(e: Exception, what: str, where: str, received: str, help: str) -> Exception:
    """An error of a step with where it happened: of its own class where it is one of Kiln's, else with a note."""
    if isinstance(e, KilnError):
        inner = "; ".join(filter(None, (e.brief or str(e)).split("\n")))
        return type(e)(what, f"{where}: {inner}", received, help)
    e.add_note(f"[{what}] {where}\nreceived: {received}\nhelp: {help}")
    return e


__all__ = ["Steps", "autocast_dtype", "explain", "has_lazy"]
