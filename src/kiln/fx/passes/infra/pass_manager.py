"""Several passes, one after the other, until nothing changes. Source: torch.fx.passes.infra.pass_manager."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from ....errors import KilnError
from ....nn.modules.module import Module
from .pass_base import PassResult


def pass_result_wrapper(fn: Callable) -> Callable:
    """A pass that tells whether it changed anything: where it gives only a module, or nothing, it is said to have."""

    @wraps(fn)
    def run(gm: Module) -> PassResult | None:
        found = fn(gm)
        if found is None:
            return PassResult(gm, True)
        return PassResult(found, True) if isinstance(found, Module) else found

    return run


def this_before_that_pass_constraint(
    this: Callable, that: Callable
) -> Callable[[Callable, Callable], bool]:
    """A constraint: one pass stands before another."""
    return lambda a, b: not (a == that and b == this)


class PassManager:
    """Runs passes in their order, over and over for `steps` times or until none has changed anything."""

    def __init__(
        self, passes: list[Callable] | None = None, constraints: list[Callable] | None = None, steps: int | None = None,
        run_checks_after_each_pass: bool = False, suppress_check_failures: bool = False,
    ) -> None:  # fmt: skip
        self.passes, self.constraints = list(passes or ()), list(constraints or ())
        self.steps = steps or 1
        self.run_checks_after_each_pass = run_checks_after_each_pass
        self.suppress_check_failures = suppress_check_failures
        self._check: Callable | None = None

    def add_pass(self, _pass: Callable) -> None:
        """Put a pass at the end."""
        self.passes.append(_pass)

    def add_constraint(self, constraint: Callable) -> None:
        """Say what must hold for any two passes, the first of which stands before the second."""
        self.constraints.append(constraint)

    def add_checks(self, check: Callable) -> None:
        """Say what is called with the module after each pass."""
        self._check = check

    def validate_constraints(self) -> None:
        """KilnError where the passes stand in an order that a constraint forbids."""
        for constraint in self.constraints:
            for i, a in enumerate(self.passes):
                for b in self.passes[i + 1 :]:
                    if not constraint(a, b):
                        raise KilnError(
                            "fx.PassManager",
                            "passes stand in a forbidden order",
                            f"{a}, {b}",
                            "swap them",
                        )

    def check(self, module: Module) -> None:
        """What is called after each pass where that was asked for."""

    def __call__(self, module: Any) -> PassResult:
        self.validate_constraints()
        changed = False
        for _ in range(self.steps):
            again = False
            for fn in self.passes:
                result = pass_result_wrapper(fn)(module)
                if not isinstance(result, PassResult):
                    raise TypeError(f"The result of the pass {fn} should be type PassResult.")
                module, again = result.graph_module, again or bool(result.modified)
                if self.run_checks_after_each_pass:
                    (self._check or self.check)(module)
            changed = changed or again
            if not again:
                break
        return PassResult(module, changed)
