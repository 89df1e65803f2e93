"""One call in PyTorch and in Kiln: values, gradients, second gradients."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .compare import Comparison, tensors
from .crossing import Crossing, Missing, Target

PASSED, FAILED, MISSING = "passed", "failed", "missing"
DRAWN = "drawn"  # random or uninitialised: shapes and dtypes agree, and nothing else can
REFUSED = "refused"  # by PyTorch itself

# What these give is one of many right answers; a function of it, which the entry names, is the same for all.
ONE_OF_MANY = re.compile(r"^(linalg\.)?(svd|eig|eigh|qr)$|lowrank$")
UNINITIALISED = re.compile(r"^(new_)?empty|^resize_")


@dataclass
class Outcome:
    """What came of a call in one aspect (`values float32`, `method`, …), and what differs."""

    aspect: str
    kind: str
    message: str = ""


class Call:
    """A sample of an entry, for `theirs` and for `ours`."""

    def __init__(
        self, entry: Any, sample: Any, theirs: Callable, ours: Callable, target: Target
    ) -> None:
        self.entry, self.sample, self.theirs, self.ours = entry, sample, theirs, ours
        self.target, self.crossing = target, Crossing(target)
        self.comparison = Comparison(entry, target)

    def outcomes(
        self, aspect: str, smooth: bool = False, second: bool = False
    ) -> Iterator[Outcome]:
        """What the call gives and, where `smooth`, its gradients and `second` ones."""
        s = self.sample
        try:
            args, kwargs = self.crossing((s.input, *s.args)), self.crossing(s.kwargs)
        except Missing as e:
            yield Outcome(aspect, MISSING, str(e))
            return
        try:
            want, drawn = self._theirs()
        except Exception as e:
            yield Outcome(aspect, REFUSED, told(e))
            return
        made: Any = None

        def values() -> str:
            nonlocal made
            made = self.ours(*args, **kwargs)
            if drawn:
                return self.comparison.differs(want, made, blind=True)
            if re.fullmatch(r"linalg\.eig(vals)?", self.entry.name):
                made = self.comparison.paired(want, made, self.crossing)
            if ONE_OF_MANY.search(self.entry.name):
                process = s.output_process_fn_grad
                return self.comparison.differs(process(want), self.target.function(process)(made))
            settled = self.comparison.settled(want, made, s, self.crossing)
            return self.comparison.differs(want, settled)

        outcome = attempt(aspect, values)
        if drawn and outcome.kind == PASSED:
            outcome.kind = DRAWN
        yield outcome
        if smooth and outcome.kind == PASSED:
            yield from self._gradients(aspect.replace("values", "gradients"), want, made, second)

    def _theirs(self) -> tuple[Any, bool]:
        """PyTorch's result, and whether another seed gives another one."""
        s = self.sample

        def seeded(n: int) -> Any:
            seed(n)
            return self.theirs(s.input, *s.args, **s.kwargs)

        seed(0)
        before = torch.get_rng_state()
        want = seeded(0)
        if UNINITIALISED.search(self.entry.name):
            return want, True
        if torch.equal(before, torch.get_rng_state()):
            return want, False
        first = [x.clone() for x in tensors(want)]
        return want, any(not same(first, tensors(seeded(n))) for n in range(1, 9))

    def _gradients(self, aspect: str, want: Any, made: Any, second: bool) -> Iterator[Outcome]:
        process = self.sample.output_process_fn_grad
        leaves = [x for x, _ in self.crossing.tensors.values() if x.requires_grad]
        try:
            outs = [t for t in tensors(process(want)) if t.requires_grad]
            if not outs or not leaves:
                return
            weights = [weight(t, k) for k, t in enumerate(outs)]
            first = gradients(torch.autograd, outs, leaves, weights, second)
        except Exception as e:
            yield Outcome(aspect, REFUSED, told(e))
            return
        ours, got = [self.crossing(x) for x in leaves], []

        def backward() -> str:
            mine = tensors(self.target.function(process)(made), self.target.is_tensor)
            mine = [t for t in mine if t.requires_grad]
            if len(mine) != len(outs):
                return f"{len(mine)} results require grad, in PyTorch {len(outs)}"
            engine = self.target.find("autograd")
            got.extend(gradients(engine, mine, ours, self.crossing(weights), second))
            return self._gradients_differ(first, got, 10.0)

        outcome = attempt(aspect, backward)
        yield outcome
        if second and outcome.kind == PASSED:
            yield from self._second(f"second {aspect}", leaves, first, ours, got)

    def _second(
        self, aspect: str, leaves: list, first: list, ours: list, got: list
    ) -> Iterator[Outcome]:
        tracked = [i for i, g in enumerate(first) if g is not None and g.requires_grad]
        try:
            if not tracked:
                return
            weights = {i: weight(first[i], 50 + i) for i in tracked}
            outs = [first[i] for i in tracked]
            want = gradients(torch.autograd, outs, leaves, list(weights.values()), False)
        except Exception as e:
            yield Outcome(aspect, REFUSED, told(e))
            return

        def backward() -> str:
            mine = [i for i in tracked if got[i] is not None and got[i].requires_grad]
            vs = [self.crossing(weights[i]) for i in mine]
            engine = self.target.find("autograd")
            again = gradients(engine, [got[i] for i in mine], ours, vs, False) if mine else [None] * len(ours)  # fmt: skip
            return self._gradients_differ(want, again, 100.0)

        yield attempt(aspect, backward)

    def _gradients_differ(self, want: list, got: list, slack: float) -> str:
        """Empty where gradients agree; none is the same as zeros."""
        for i, (w, g) in enumerate(zip(want, got, strict=True)):
            where = f"gradient of input {i}"
            if w is None or g is None:
                other = g if w is None else w
                if other is not None and bool((other != 0).any()):
                    return f"{where}: {'one where PyTorch has none' if w is None else 'none'}"
            elif error := self.comparison.tensor_differs(w, g, where, slack):
                return error
        return ""


def seed(n: int) -> None:
    """Seed PyTorch's numbers; its `manual_seed` takes 5 ms, most of it for devices that are not there."""
    torch.default_generator.manual_seed(n)


def attempt(aspect: str, check: Callable[[], str]) -> Outcome:
    """What comes of a check that gives a difference, or raises."""
    try:
        error = check()
    except Missing as e:
        return Outcome(aspect, MISSING, str(e))
    except MemoryError:
        raise
    except Exception as e:
        error = told(e)
    return Outcome(aspect, FAILED if error else PASSED, error)


def gradients(engine: Any, outs: list, inputs: list, weights: list, create: bool) -> list:
    """Gradients of the weighted sum of `outs`; None for an input that it does not depend on."""
    return list(engine.grad(outs, inputs, weights, create_graph=create, allow_unused=True))


def weight(t: torch.Tensor, seed: int) -> torch.Tensor:
    """Random numbers in the form of an output, for its gradient."""
    kind = torch.complex128 if t.is_complex() else torch.float64
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(t.shape, dtype=kind, generator=generator).to(t.dtype)


def same(a: list, b: list) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def told(e: BaseException) -> str:
    """An exception in a line."""
    return f"{type(e).__name__}: {' / '.join(str(e).splitlines()[:3])[:240]}"
