"""What models are made of others with."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from ... import nn
from ...errors import KilnValueError


class IntermediateLayerGetter(nn.ModuleDict):
    """A module's children up to the last of `return_layers`; gives what these give, under new names."""

    _version = 2

    def __init__(self, model: nn.Module, return_layers: dict[str, str]) -> None:
        names = [name for name, _ in model.named_children()]
        if not set(return_layers) <= set(names):
            raise KilnValueError("IntermediateLayerGetter", "return_layers are not present in model", sorted(return_layers), ", ".join(names))  # fmt: skip
        last = max(names.index(n) for n in return_layers)
        super().__init__(dict(list(model.named_children())[: last + 1]))
        self.return_layers = {str(k): str(v) for k, v in return_layers.items()}

    def forward(self, x: Any) -> OrderedDict[str, Any]:
        out: OrderedDict[str, Any] = OrderedDict()
        for name, module in self.items():
            x = module(x)
            if name in self.return_layers:
                out[self.return_layers[name]] = x
        return out
