"""Dense, Embedding, activations as layers, and what wraps functions and modules.

https://keras.io/api/layers/core_layers/
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...dtypes import int64
from ...errors import KilnValueError, describe
from ...nn import functional as F
from ...nn.modules.module import Module
from ...ops.einsum import einsum
from ...tensor import Tensor
from .. import activations
from ..layer import Layer


class Dense(Layer):
    """activation(x @ kernel + bias) over the last dimension; kernel (in, units)."""

    supports_masking = True

    def __init__(
        self, units: int, activation: Any = None, use_bias: bool = True, kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros", kernel_regularizer: Any = None, bias_regularizer: Any = None,
        activity_regularizer: Any = None, kernel_constraint: Any = None, bias_constraint: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(activity_regularizer=activity_regularizer, **common)
        self.units, self.use_bias = units, use_bias
        self.activation = activations.get(activation)
        self._kernel = kernel_initializer, kernel_regularizer, kernel_constraint
        self._bias = bias_initializer, bias_regularizer, bias_constraint

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight((input_shape[-1], self.units), self._kernel[0], None, True, *self._kernel[1:], name="kernel")  # fmt: skip
        self.bias = self.add_weight((self.units,), self._bias[0], None, True, *self._bias[1:], name="bias") if self.use_bias else None  # fmt: skip

    def call(self, inputs: Tensor) -> Tensor:
        if inputs.shape[-1] != self.kernel.shape[0]:
            raise KilnValueError(
                self.name, "the input's last dimension is another one", describe(inputs), f"{self.kernel.shape[0]}, for which it was built"
            )  # fmt: skip
        return self.activation(F.linear(inputs.to(self.kernel.dtype), self.kernel.T, self.bias))


class EinsumDense(Layer):
    """activation(einsum(equation, x, kernel) + bias): `EinsumDense("abc,cd->abd", output_shape=(None, 64), bias_axes="d")`."""

    def __init__(
        self, equation: str, output_shape: Any, activation: Any = None, bias_axes: str | None = None,
        kernel_initializer: Any = "glorot_uniform", bias_initializer: Any = "zeros", kernel_regularizer: Any = None,
        bias_regularizer: Any = None, kernel_constraint: Any = None, bias_constraint: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.equation, self.bias_axes = equation, bias_axes
        self.partial_output_shape = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)  # fmt: skip
        self.activation = activations.get(activation)
        self._kernel = kernel_initializer, kernel_regularizer, kernel_constraint
        self._bias = bias_initializer, bias_regularizer, bias_constraint

    def build(self, input_shape: Any) -> None:
        inputs, rest = self.equation.replace(" ", "").split(",")
        kernel, output = rest.split("->")
        sizes: dict[str, Any] = {}
        for letters, shape in ((inputs, input_shape), (output, (None, *self.partial_output_shape))):
            before, dots, after = letters.partition("...")
            sizes.update(zip(before, shape[: len(before)], strict=True) if dots else zip(letters, shape, strict=False))  # fmt: skip
            if dots:
                sizes.update(zip(reversed(after), reversed(shape), strict=False))
            sizes = {k: v for k, v in sizes.items() if v is not None}
        self.kernel = self.add_weight([sizes[c] for c in kernel], self._kernel[0], None, True, *self._kernel[1:], name="kernel")  # fmt: skip
        self.bias = None
        if self.bias_axes:
            first = min(output.index(c) for c in self.bias_axes)
            shape = [sizes[c] if c in self.bias_axes else 1 for c in output[first:]]
            self.bias = self.add_weight(shape, self._bias[0], None, True, *self._bias[1:], name="bias")  # fmt: skip

    def call(self, inputs: Tensor) -> Tensor:
        x = einsum(self.equation, inputs, self.kernel)
        return self.activation(x if self.bias is None else x + self.bias)


class Embedding(Layer):
    """Rows of a table by number; with `mask_zero` 0 stands for nothing, which layers behind it leave out."""

    def __init__(
        self, input_dim: int, output_dim: int, embeddings_initializer: Any = "uniform", embeddings_regularizer: Any = None,
        embeddings_constraint: Any = None, mask_zero: bool = False, weights: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.input_dim, self.output_dim, self.mask_zero = input_dim, output_dim, mask_zero
        self.supports_masking = mask_zero
        self._table = embeddings_initializer, embeddings_regularizer, embeddings_constraint
        self._first = weights

    def build(self, input_shape: Any = None) -> None:
        self.embeddings = self.add_weight((self.input_dim, self.output_dim), self._table[0], None, True, *self._table[1:], name="embeddings")  # fmt: skip
        if self._first is not None:
            self.set_weights(self._first if isinstance(self._first, list) else [self._first])

    def call(self, inputs: Tensor) -> Tensor:
        return F.embedding(inputs.to(int64), self.embeddings)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return inputs != 0 if self.mask_zero else None


class Masking(Layer):
    """Steps whose features all are `mask_value` are zeros, and layers behind leave them out."""

    supports_masking = True

    def __init__(self, mask_value: float = 0.0, **common: Any) -> None:
        super().__init__(**common)
        self.mask_value = mask_value

    def call(self, inputs: Tensor) -> Tensor:
        return inputs * (inputs != self.mask_value).any(-1, keepdim=True).to(inputs.dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return (inputs != self.mask_value).any(-1)


class Activation(Layer):
    """A function by name: `Activation("relu")`."""

    supports_masking = True

    def __init__(self, activation: Any, **common: Any) -> None:
        super().__init__(**common)
        self.activation = activations.get(activation)

    def call(self, inputs: Tensor) -> Tensor:
        return self.activation(inputs)


class ReLU(Layer):
    """relu, with a slope below `threshold` and at most `max_value`."""

    supports_masking = True

    def __init__(self, max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0, **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.max_value, self.negative_slope, self.threshold = max_value, negative_slope, threshold

    def call(self, inputs: Tensor) -> Tensor:
        return activations.relu(inputs, self.negative_slope, self.max_value, self.threshold)


class LeakyReLU(Layer):
    """x where it is positive, `negative_slope` times x elsewhere."""

    supports_masking = True

    def __init__(self, negative_slope: float = 0.3, **common: Any) -> None:
        super().__init__(**common)
        self.negative_slope = negative_slope

    def call(self, inputs: Tensor) -> Tensor:
        return F.leaky_relu(inputs, self.negative_slope)


class ELU(Layer):
    """x where it is positive, alpha * (e^x - 1) elsewhere."""

    supports_masking = True

    def __init__(self, alpha: float = 1.0, **common: Any) -> None:
        super().__init__(**common)
        self.alpha = alpha

    def call(self, inputs: Tensor) -> Tensor:
        return F.elu(inputs, self.alpha)


class PReLU(Layer):
    """x where it is positive, alpha * x elsewhere; alpha is learned, for each place but those of `shared_axes`."""

    supports_masking = True

    def __init__(
        self, alpha_initializer: Any = "zeros", alpha_regularizer: Any = None, alpha_constraint: Any = None,
        shared_axes: Any = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self._alpha = alpha_initializer, alpha_regularizer, alpha_constraint
        self.shared_axes = [shared_axes] if isinstance(shared_axes, int) else shared_axes or []

    def build(self, input_shape: Any) -> None:
        shape = [1 if i in self.shared_axes else n for i, n in enumerate(input_shape)][1:]
        self.alpha = self.add_weight(shape, self._alpha[0], None, True, *self._alpha[1:], name="alpha")  # fmt: skip

    def call(self, inputs: Tensor) -> Tensor:
        return F.relu(inputs) - self.alpha * F.relu(-inputs)


class Softmax(Layer):
    """Softmax along an axis; where `mask` is false there is no share."""

    supports_masking = True

    def __init__(self, axis: int = -1, **common: Any) -> None:
        super().__init__(**common)
        self.axis = axis

    def call(self, inputs: Tensor, mask: Any = None) -> Tensor:
        if mask is not None:
            inputs = inputs + (1.0 - mask.to(inputs.dtype)) * -3e38
        return inputs.softmax(self.axis)


class Identity(Layer):
    """The inputs."""

    supports_masking = True

    def call(self, inputs: Any) -> Any:
        return inputs


class Lambda(Layer):
    """A function as a layer."""

    supports_masking = True

    def __init__(self, function: Callable, output_shape: Any = None, mask: Any = None, arguments: Any = None, **common: Any) -> None:  # fmt: skip
        super().__init__(**common)
        self.function, self.arguments, self._mask = function, arguments or {}, mask

    def call(self, inputs: Any, mask: Any = None, training: Any = None) -> Any:
        import inspect

        names = inspect.signature(self.function).parameters
        more = {k: v for k, v in (("mask", mask), ("training", training)) if k in names}
        return self.function(inputs, **self.arguments, **more)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self._mask(inputs, previous_mask) if callable(self._mask) else self._mask


class Wrapper(Layer):
    """What holds another layer, `layer`."""

    def __init__(self, layer: Any, **common: Any) -> None:
        super().__init__(**common)
        self.layer = layer


class TorchModuleWrapper(Layer):
    """Any nn.Module as a layer, for functional models."""

    def __init__(self, module: Module, name: str | None = None, **common: Any) -> None:
        super().__init__(name=name, **common)
        self.module = module

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


__all__ = [
    "ELU", "Activation", "Dense", "EinsumDense", "Embedding", "Identity", "Lambda", "LeakyReLU", "Masking", "PReLU", "ReLU", "Softmax",
    "TorchModuleWrapper", "Wrapper",
]  # fmt: skip
