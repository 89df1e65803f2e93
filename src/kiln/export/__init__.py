"""Modules as programs without their code: `torch.export`'s names.

`export` traces a module with example inputs; the `ExportedProgram` runs, is trained, saved and loaded where the
module's code is not there. https://docs.pytorch.org/docs/stable/export.html
"""

from __future__ import annotations

from ..refusal import refuse
from .dynamic_shapes import Dim, ShapesCollection, dims
from .exported_program import ExportedProgram, export, load, save
from .graph_signature import ExportBackwardSignature, ExportGraphSignature

refuse(
    __name__,
    "draft_export unflatten UnflattenedModule FlatArgsAdapter AdditionalInputs CustomDecompTable default_decompositions "
    "ModuleCallEntry ModuleCallSignature Constraint register_dataclass",
    "a program's calls are of Kiln's functions and layers, and keep the paths of the modules that they came from",
    "use export(module, args), and its module()",
)

__all__ = [
    "Dim", "ExportBackwardSignature", "ExportGraphSignature", "ExportedProgram", "ShapesCollection", "dims", "export",
    "load", "save",
]  # fmt: skip
