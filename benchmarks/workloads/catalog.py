"""The workloads, by name: what they compute, on what, and how their results are compared.

A workload's computation is written once in PyTorch's API (`models`, `kernels`); JAX, TensorFlow and
ONNX Runtime have theirs by the same name in their own files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import kernels, models
from .kernels import Kernel

Arrays = tuple[Any, ...]  # NumPy arrays


@dataclass(frozen=True)
class Workload:
    """One computation that all frameworks repeat.

    `inputs(rng)` draws one batch as arrays. `net(lib)` builds the module, `step(lib, net)` the function
    of a batch that is timed: a training step, which gives its loss, or an inference. `tolerance` bounds
    the distance of two frameworks' results, relative to the largest of them.
    """

    name: str
    title: str
    family: str
    net: Callable[[Any], Any]
    inputs: Callable[[Any], Arrays]
    step: Callable[[Any, Any], Callable[..., Any]]
    batches: int = 4
    tolerance: float = 1e-3
    optimizer: dict[str, Any] = field(default_factory=dict)


def _adam(lr: float = 1e-4, **more: Any) -> dict[str, Any]:
    return {"name": "Adam", "lr": lr, **more}


def _train(name: str, title: str, net: Any, inputs: Any, optimizer: dict[str, Any]) -> Workload:
    return Workload(
        name, title, "training", net, inputs, models.training(optimizer), optimizer=optimizer
    )


_sgd = {"name": "SGD", "lr": 1e-4, "momentum": 0.9}
_adamw = {"name": "AdamW", "lr": 1e-4, "weight_decay": 1e-2}
_dcgan = _adam(2e-4, betas=(0.5, 0.999))

MODELS = [
    _train("mlp", "MLP 784-512-512-10, batch 128, Adam", models.mlp(784, 512, 512, 10),
           models.classes(10, 128, 784), _adam()),
    _train("mlp-small", "MLP 64-32-10, batch 32, Adam", models.mlp(64, 32, 10),
           models.classes(10, 32, 64), _adam()),
    _train("mnist-cnn", "MNIST CNN, batch 64, Adam", models.mnist_cnn,
           models.classes(10, 64, 1, 28, 28), _adam()),
    _train("cifar-cnn", "CIFAR CNN with batch norm, batch 64, SGD", models.cifar_cnn,
           models.classes(10, 64, 3, 32, 32), _sgd),
    _train("resnet18", "ResNet-18 training, 8x3x64x64, SGD", models.resnet18,
           models.classes(10, 8, 3, 64, 64), _sgd),
    _train("lstm", "LSTM 64-256, sequence 64, batch 32, Adam", models.recurrent("LSTM"),
           models.classes(10, 32, 64, 64), _adam()),
    _train("gru", "GRU 64-256, sequence 64, batch 32, Adam", models.recurrent("GRU"),
           models.classes(10, 32, 64, 64), _adam()),
    _train("gpt", "GPT 4 layers, d 256, context 128, batch 8, AdamW", models.GPT,
           models.tokens(models.VOCABULARY, 8, 128), _adamw),
    Workload("dcgan", "DCGAN step, 28x28, batch 32, Adam", "training", models.dcgan,
             models.noise_and_images(32), models.adversarial(_dcgan), optimizer=_dcgan),
    Workload("resnet50", "ResNet-50 inference, 1x3x224x224, batch norm folded", "inference",
             models.resnet50, models.normal((1, 3, 224, 224)), models.inference),
    Workload("bert", "BERT-like encoder inference, 4 layers, d 256, sequence 128, batch 1", "inference",
             models.Bert, models.words(models.VOCABULARY, 1, 128), models.inference),
]  # fmt: skip


def _kernel(name: str, kernel: Kernel) -> Workload:
    return Workload(
        name, kernel.title, "kernel", lambda lib: kernels.net(lib, kernel), kernel.inputs,
        lambda lib, net: kernels.function(lib, kernel, net), batches=1, tolerance=kernel.tolerance,
    )  # fmt: skip


KERNELS: dict[str, Kernel] = dict(kernels.catalog())
WORKLOADS = {w.name: w for w in [*MODELS, *(_kernel(n, k) for n, k in KERNELS.items())]}


def choose(pattern: str) -> list[Workload]:
    """The workloads whose name the regular expression finds something in, in the catalog's order."""
    found = re.compile(pattern)
    return [w for w in WORKLOADS.values() if found.search(w.name)]
