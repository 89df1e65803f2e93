"""What the tape records of a compiled function's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..autograd.modes import mode
from ..autograd.tape import TapeNode, edge_of
from ..errors import CaptureError
from ..tensor import Tensor, wrap
from .gradient import Joint
from .inputs import Input


class SpentNode(TapeNode):
    """The history of an output whose backward ran inside the program: it can't run again."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__([], 1)
        self.freed = True

    def name(self) -> str:
        return "CompiledBackward0"

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        return []


class ProgramNode(TapeNode):
    """The tape's record of a compiled forward: its backward is one Program too."""

    __slots__ = ("joint", "metas", "position", "saved")

    def __init__(
        self, joint: Joint, inputs: list[Input], leaves: Sequence[Any], slots: dict[int, np.ndarray]
    ):
        sources = [leaves[t] if isinstance(t, int) else t for t in joint.wanted]
        super().__init__([edge_of(t) for t in sources], len(joint.outputs))
        self.metas = joint.metas
        self.joint = joint
        self.position = {k: j for j, k in enumerate(joint.outputs)}
        self.saved: Any = [slots[k] for k in joint.saved]
        for i in joint.saved_inputs:
            t = leaves[inputs[i].leaf] if inputs[i].kind == "arg" else inputs[i].tensor
            if t._ver is None:
                t._ver = [0, 0]
            self.versions.append((t._ver, t._ver[0]))
        self.saved += [inputs[i].fetch(leaves) for i in joint.saved_inputs]

    def name(self) -> str:
        return "CompiledBackward0"

    def backward(self, gs: list[Tensor | None]) -> list[Tensor | None]:
        self.check()
        if mode.grad:
            raise CaptureError(
                "compile", "a compiled function's gradient can't be differentiated again", self.name(),
                "compile the function that takes the gradient too, or run it eagerly for create_graph=True",
            )  # fmt: skip
        return [wrap(a) for a in self.joint.program.run(self.inputs(gs))]

    def inputs(self, gs: list[Tensor | None]) -> list[np.ndarray]:
        """The inputs of the backward program for these gradients."""
        arrays = [
            np.zeros(shape, d) if g is None else g._a
            for g, (shape, d) in zip(gs, self.metas, strict=True)
        ]
        return [*self.saved, *arrays]

    def free(self) -> None:
        super().free()
        self.saved = None
