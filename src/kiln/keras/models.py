"""Models and how they are written and read, under `keras.models`' names."""

from .model import Model, Sequential, clone_model
from .saving import load_model, model_from_json, save_model

__all__ = ["Model", "Sequential", "clone_model", "load_model", "model_from_json", "save_model"]
