"""How many multiplications and additions a program makes: `torch.utils.flop_counter`."""

from __future__ import annotations

from typing import Any, Self

from ..recording import Recorder

COUNTED = (
    "mm", "bmm", "matmul", "linear", "linear_weight_grad", "addmm", "baddbmm", "convolution", "conv_input_grad", "conv_weight_grad", "attention", "attention_grad",
)  # fmt: skip


class FlopCounterMode:
    """Counts the operations of products, convolutions and attention, forward and backward, in a `with` block.

    Functions that are compiled count nothing: their programs are no calls. `mods` and `depth` are taken: there is one total.
    Source: torch.utils.flop_counter.FlopCounterMode.
    """

    def __init__(
        self, mods: Any = None, depth: int = 2, display: bool = True, custom_mapping: Any = None
    ):
        self.display, self._counts = display, {}
        self._recorder = Recorder(flops=True)

    def __enter__(self) -> Self:
        self._recorder = Recorder(flops=True)
        self._recorder.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._recorder.stop()
        self._counts = {}
        for e in self._recorder.events:
            name = e.name.rpartition("::")[2]
            if name in COUNTED and e.flops:
                self._counts[name] = self._counts.get(name, 0) + e.flops
        if self.display:
            print(self.get_table())

    def get_total_flops(self) -> int:
        """All of them."""
        return sum(self._counts.values())

    def get_flop_counts(self) -> dict[str, dict[str, int]]:
        """Operations by function, of the whole block."""
        return {"Global": dict(self._counts)}

    def get_table(self, depth: int | None = None) -> str:
        """The counts as text."""
        rows = [
            ("Global", self.get_total_flops()),
            *((f" - {n}", c) for n, c in sorted(self._counts.items())),
        ]
        return "\n".join(f"{name:<30} {count:>20,}" for name, count in rows)


__all__ = ["FlopCounterMode"]
