"""Extensions in C++: Kiln has none to build against."""

from ..refusal import refuse

CUDA_HOME = ROCM_HOME = None
refuse(
    __name__, "BuildExtension CppExtension CUDAExtension SyclExtension include_paths library_paths load load_inline",
    "extensions in C++ or CUDA are built against PyTorch's C++", "write the op in Python: kiln.library.custom_op",
)  # fmt: skip
