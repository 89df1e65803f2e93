"""Keras's way to build and train: its layers, functional models, `compile`, `fit`, `evaluate` and `predict`, over `kiln.nn` and `kiln.train`.

    inputs = keras.Input((784,))
    x = keras.layers.Dense(128, activation="relu")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(x_train, y_train, epochs=5, validation_split=0.1)

A Model and a Layer are nn.Modules; modules of `kiln.nn` go into a Sequential as they are.
"""

from . import (
    activations,
    backend,
    callbacks,
    constraints,
    initializers,
    layers,
    losses,
    metrics,
    models,
    ops,
    optimizers,
    random,
    regularizers,
    saving,
    utils,
)
from .layer import Layer, Variable
from .model import Input, Model, Sequential
from .symbolic import KerasTensor

__all__ = [
    "Input", "KerasTensor", "Layer", "Model", "Sequential", "Variable", "activations", "backend", "callbacks", "constraints", "initializers", "layers",
    "losses", "metrics", "models", "ops", "optimizers", "random", "regularizers", "saving", "utils",
]  # fmt: skip
