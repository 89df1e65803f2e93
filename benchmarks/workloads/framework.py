"""What the worker needs to know of a framework, and the kinds in which each is measured."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Batch = tuple[Any, ...]


@dataclass(frozen=True)
class Prepared:
    """A step ready to run: `call(*batch)` runs it to its end, `read` gives its results as arrays."""

    call: Callable[..., Any]
    batches: list[Batch]
    read: Callable[[Any], list[Any]]


class Missing(Exception):
    """The framework lacks what the workload needs; the text names it."""


@dataclass(frozen=True)
class Kind:
    """One way to run a framework: `package` must be installed, `module` prepares workloads."""

    name: str
    title: str
    package: str
    module: str
    trains: bool = True

    def lacking(self) -> str:
        """Why it can't run here; empty where it can."""
        if importlib.util.find_spec(self.package) is None:
            return f"{self.package} is not installed"
        if self.name == "torch-compile" and not _compiler():
            return "torch.compile needs a C++ compiler, and there is none"
        return ""


KINDS = {
    k.name: k
    for k in (
        Kind("kiln", "Kiln compiled", "kiln", "torchlike"),
        Kind("torch", "PyTorch eager", "torch", "torchlike"),
        Kind("torch-tuned", "PyTorch tuned", "torch", "torchlike"),
        Kind("torch-compile", "torch.compile", "torch", "torchlike"),
        Kind("jax", "JAX jit", "jax", "jaxlike"),
        Kind("tf", "TensorFlow graph", "tensorflow", "tflike"),
        Kind("tf-xla", "TensorFlow XLA", "tensorflow", "tflike"),
        Kind("ort", "ONNX Runtime", "onnxruntime", "ortlike", trains=False),
    )
}


def _compiler() -> bool:
    return any(shutil.which(c) for c in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if c)


def prepare(kind: str, workload: Any, weights: Any, batches: Any, threads: int) -> Prepared:
    """The workload in the framework of this kind; raises Missing."""
    module = importlib.import_module(f".{KINDS[kind].module}", __package__)
    return module.prepare(kind, workload, weights, batches, threads)


def load(kind: str, threads: int) -> None:
    """Import the framework and tell it its number of threads."""
    module = importlib.import_module(f".{KINDS[kind].module}", __package__)
    module.load(kind, threads)
