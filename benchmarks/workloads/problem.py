"""Weights and batches of a workload as arrays in a file, made once, and the work that a step is.

Run as a process of its own: `python -m benchmarks.workloads.problem NAME FILE`, as it builds the model.
"""

from __future__ import annotations

import importlib
import math
import sys
from typing import Any

import numpy as np

from .catalog import KERNELS, WORKLOADS, Workload

# A training step in units of its forward pass: the gradient of the data and that of the weights cost
# a pass each. In a GAN's step the judge is run thrice and differentiated thrice, once for data only.
PASSES = {"training": 3, "inference": 1}
JUDGED = 8


def weights(net: Any) -> dict[str, np.ndarray]:
    """Initial values by name: scaled noise, ones for the scales of norms; buffers as they are."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, p in net.named_parameters():
        shape = tuple(p.shape)
        if len(shape) > 1:
            value = rng.standard_normal(shape, np.float32) / math.sqrt(math.prod(shape[1:]))
        elif name.endswith("weight"):
            value = np.ones(shape, np.float32)
        else:
            value = 0.05 * rng.standard_normal(shape, np.float32)
        arrays[name] = value.astype(np.float32)
    for name, b in net.named_buffers():
        arrays[name] = np.asarray(b.detach().numpy())
    return arrays


def _layer(module: Any, x: Any, y: Any) -> float:
    """Floating-point operations of one module's forward pass; 0 for what isn't a contraction."""
    kind = type(module).__name__
    if kind == "Linear":
        return 2.0 * y.numel() * module.in_features
    if kind == "Conv2d":
        return 2.0 * y.numel() * module.weight[0].numel()
    if kind == "ConvTranspose2d":
        return 2.0 * x.numel() * module.weight[0].numel()
    if kind in ("LSTM", "GRU"):
        places = x.shape[0] * x.shape[1]
        return 2.0 * places * sum(p.numel() for p in module.parameters() if p.dim() == 2)
    if kind == "TransformerEncoderLayer":
        places, width = x.shape[0] * x.shape[1], x.shape[2]
        # both products of attention: places x places, for each of the width
        linear = sum(p.numel() for p in module.parameters() if p.dim() == 2)
        return 2.0 * places * linear + 4.0 * places * x.shape[1] * width
    return 0.0


def flops(lib: Any, workload: Workload, net: Any, batch: tuple[np.ndarray, ...]) -> float:
    """Floating-point operations of a step, counted from the shapes that one forward pass shows."""
    if workload.family == "kernel":
        return KERNELS[workload.name].flops
    counts: list[tuple[str, float]] = []

    def count(name: str) -> Any:
        def hook(module: Any, args: Any, out: Any) -> None:
            work = _layer(module, args[0], out[0] if isinstance(out, tuple) else out)
            if work:
                counts.append((name, work))

        return hook

    handles = []
    inside = ()
    for name, module in net.named_modules():
        if not name.startswith(inside or "\0"):
            handles.append(module.register_forward_hook(count(name)))
        if type(module).__name__ == "TransformerEncoderLayer":
            inside = (*inside, name + ".")
    net.eval()
    with lib.no_grad():
        net(lib.from_numpy(batch[0]))
    for h in handles:
        h.remove()
    total = sum(work for _, work in counts)
    if workload.name == "dcgan":
        judge = sum(work for name, work in counts if name.startswith("judge"))
        return 3 * (total - judge) + JUDGED * judge
    if workload.name == "gpt":  # both products of attention, half of each behind the causal mask
        b, t = batch[0].shape
        total += 4 * 2.0 * b * t * t * 256
    first = counts[0][1] if batch[0].dtype == np.float32 else 0.0
    # the gradient of what is fed in is not needed
    return PASSES[workload.family] * total - (first if workload.family == "training" else 0.0)


def problem(workload: Workload) -> dict[str, np.ndarray]:
    """Everything that a file holds: `w:NAME` weights, `b:BATCH:INPUT` batches, `flops`."""
    lib, net = _build(workload)
    rng = np.random.default_rng(2)
    arrays = {f"w:{name}": value for name, value in weights(net).items()}
    batches = [workload.inputs(rng) for _ in range(workload.batches)]
    for i, batch in enumerate(batches):
        arrays |= {f"b:{i}:{j}": np.ascontiguousarray(a) for j, a in enumerate(batch)}
    arrays["flops"] = np.array(flops(lib, workload, net, batches[0]))
    return arrays


def _build(workload: Workload) -> tuple[Any, Any]:
    """The model in Kiln; in torch where Kiln lacks a part of it."""
    import kiln

    try:
        return kiln, workload.net(kiln)
    except AttributeError:
        lib = importlib.import_module("torch")
        return lib, workload.net(lib)


def read(file: str) -> tuple[dict[str, np.ndarray], list[tuple[np.ndarray, ...]]]:
    """Weights by name and the batches of a file."""
    with np.load(file) as data:
        weights = {k[2:]: data[k] for k in data.files if k.startswith("w:")}
        batches: list[list[np.ndarray]] = []
        for k in (k for k in data.files if k.startswith("b:")):
            _, i, j = k.split(":")
            if j == "0":
                batches.append([])
            batches[int(i)].append(data[k])
    return weights, [tuple(b) for b in batches]


if __name__ == "__main__":
    np.savez(sys.argv[2], **problem(WORKLOADS[sys.argv[1]]))
