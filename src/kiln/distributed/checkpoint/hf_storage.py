"""Files of Hugging Face's models that are spread over processes: not built yet."""

from ...refusal import refuse
from . import _WHY

refuse(
    __name__,
    "HuggingFaceStorageReader HuggingFaceStorageWriter",
    _WHY,
    "kiln.load reads a model's files and their index",
)
