"""Transforms of functions: PyTorch's `torch.func`. They nest, and work inside `kiln.compile`.

grads = vmap(grad(loss), (None, 0, 0))(parameters, xs, ys)      # one gradient for each sample
"""

from .derivatives import (
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    value_and_grad,
    vjp,
)
from .mapping import functionalize, vmap
from .modules import (
    functional_call,
    replace_all_batch_norm_modules_,
    stack_module_state,
)

__all__ = [
    "functional_call", "functionalize", "grad", "grad_and_value", "hessian", "jacfwd", "jacrev", "jvp", "linearize",
    "replace_all_batch_norm_modules_", "stack_module_state", "value_and_grad", "vjp", "vmap",
]  # fmt: skip
