"""Keras's way to train: `compile`, `fit`, `evaluate`, `predict` with Keras's names and defaults, over `kiln.train`.

    model = kiln.keras.Sequential([nn.Flatten(), nn.LazyLinear(128), nn.ReLU(), nn.Linear(128, 10)])
    model.compile(optimizer="adam", loss=kiln.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(x, y, epochs=5, validation_split=0.1)

Layers are those of `kiln.nn`; a Model is an nn.Module.
"""

from . import callbacks, losses, metrics, optimizers, utils
from .model import Model, Sequential

__all__ = ["Model", "Sequential", "callbacks", "losses", "metrics", "optimizers", "utils"]
