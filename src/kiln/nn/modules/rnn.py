"""Recurrent layers: RNN, LSTM, GRU and their cells."""

from __future__ import annotations

import math
import warnings
from threading import get_ident
from typing import Any

from ...errors import KilnError, KilnTypeError, KilnValueError, describe
from ...ops.creation import empty, zeros
from ...tensor import ACTIVE, Tensor
from .. import functional as F
from .. import init
from .._recurrent import State, advance, recur_all
from ..parameter import Parameter
from ..utils.rnn import PackedSequence, pad_steps, repacked, unpad_steps
from .module import Module, held

GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 4, "GRU": 3}


def apply_permutation(tensor: Tensor, permutation: Tensor, dim: int = 1) -> Tensor:
    """A tensor with what lies along a dimension in another order."""
    return tensor.index_select(dim, permutation)


class RNNBase(Module):
    """What RNN, LSTM and GRU share: the parameters of all layers and directions, and the loop over them."""

    def __init__(
        self, mode: str, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True, batch_first: bool = False,
        dropout: float = 0.0, bidirectional: bool = False, proj_size: int = 0, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        _check_sizes(mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, proj_size)  # fmt: skip
        self.mode = mode
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}", stacklevel=3,
            )  # fmt: skip
        rows, out = GATES[mode] * hidden_size, proj_size or hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * self._directions
            for direction in range(self._directions):
                names = self._names(layer, direction)
                shapes = [(rows, width), (rows, out), (rows,), (rows,), (proj_size, hidden_size)]
                for name, shape in zip(names, shapes, strict=True):
                    if name is not None:
                        setattr(self, name, Parameter(empty(*shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _names(self, layer: int, direction: int) -> list[str | None]:
        """Names of w_ih, w_hh, b_ih, b_hh and w_hr; None for those that this layer does not have."""
        end = f"_l{layer}" + ("_reverse" if direction else "")
        kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr"]
        has = [True, True, self.bias, self.bias, self.proj_size > 0]
        return [kind + end if h else None for kind, h in zip(kinds, has, strict=True)]

    def _weights(self, layer: int, direction: int) -> tuple[Tensor | None, ...]:
        return tuple(None if n is None else getattr(self, n) for n in self._names(layer, direction))

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction."""
        places = [(k, d) for k in range(self.num_layers) for d in range(self._directions)]
        return [[w for w in self._weights(*p) if w is not None] for p in places]

    def flatten_parameters(self) -> None:
        """Nothing to do: only cuDNN wants the parameters in one piece of memory."""

    def reset_parameters(self) -> None:
        """Fill all parameters uniformly in +-1/sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size)
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        usual = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0, "bidirectional": False}  # fmt: skip
        for name, value in usual.items():
            if getattr(self, name) != value:
                text += f", {name}={getattr(self, name)}"
        return text

    def forward(self, input: Any, hx: Any = None) -> tuple[Any, Any]:
        """(T, N, input_size) or (N, T, input_size) if batch_first, (T, input_size) or a PackedSequence.

        Gives the last layer's outputs, of the same layout, and the last state of every layer and
        direction, (layers * directions, N, hidden_size); an LSTM's state is a pair. `hx` is the first
        state, zeros if None.
        """
        packed = input if isinstance(input, PackedSequence) else None
        mask = None
        x: Any
        if packed is not None:
            x, mask = pad_steps(packed)
        else:
            x = input
            if x.ndim not in (2, 3):
                raise KilnValueError(type(self).__name__, f"Expected input to be 2D or 3D, got {x.ndim}D instead", describe(x))  # fmt: skip
        single = x.ndim == 2
        if single:
            x = x.unsqueeze(1)
        elif self.batch_first and packed is None:
            x = x.transpose(0, 1)
        self._check_input(x, input)
        states = self._first_states(x, hx, single, packed)
        weights = [
            self._weights(i, d) for i in range(self.num_layers) for d in range(self._directions)
        ]
        dropout = self.dropout if self.training else 0.0
        y, last = recur_all(self.mode, x, states, weights, self.bidirectional, dropout, mask)
        if packed is not None:
            index = packed.unsorted_indices
            y = repacked(unpad_steps(y, packed), packed)
            if index is not None:
                last = tuple(s.index_select(1, index) for s in last)
        elif single:
            y, last = y.squeeze(1), tuple(s.squeeze(1) for s in last)
        elif self.batch_first:
            y = y.transpose(0, 1)
        return y, last if self.mode == "LSTM" else last[0]

    def _check_input(self, x: Tensor, given: Any) -> None:
        name, weight = type(self).__name__, self.weight_ih_l0
        if x.dtype is not weight.dtype and get_ident() not in ACTIVE:
            raise KilnValueError(
                name, f"RNN input dtype ({x.dtype}) does not match weight dtype ({weight.dtype})", describe(given),
                f"convert the input: input.to({weight.dtype}), or the model: model.to({x.dtype})",
            )  # fmt: skip
        if x.shape[-1] != self.input_size:
            raise KilnError(
                name, f"input.size(-1) must be equal to input_size. Expected {self.input_size}, got {x.shape[-1]}", describe(given),
            )  # fmt: skip

    def _first_states(self, x: Tensor, hx: Any, single: bool, packed: Any) -> State:
        """h (and c), each (layers * directions, batch, size)."""
        name, lstm = type(self).__name__, self.mode == "LSTM"
        count = self.num_layers * self._directions
        sizes = [self.proj_size or self.hidden_size] + [self.hidden_size] * lstm
        if hx is None:
            return tuple(zeros(count, x.shape[1], s, dtype=x.dtype) for s in sizes)
        states = tuple(hx) if lstm else (hx,)
        out = []
        for s, size in zip(states, sizes, strict=True):
            if s.ndim != (2 if single else 3):
                raise KilnError(
                    name, f"For {'unbatched 2-D' if single else 'batched 3-D'} input, hx should also be {2 if single else 3}-D but got {s.ndim}-D tensor",
                    describe(s), "",
                )  # fmt: skip
            s = s.unsqueeze(1) if single else s
            want = (count, x.shape[1], size)
            if tuple(s.shape) != want:
                raise KilnError(name, f"Expected hidden size {want}, got {list(s.shape)}", describe(s), "")  # fmt: skip
            if packed is not None and packed.sorted_indices is not None:
                s = s.index_select(1, packed.sorted_indices)
            out.append(s)
        return tuple(out)


def _check_sizes(
    mode: str, input_size: Any, hidden_size: Any, num_layers: Any, bias: Any, batch_first: Any, dropout: Any, proj_size: Any,
) -> None:  # fmt: skip
    name = mode.split("_")[0]
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout <= 1:
        raise KilnValueError(
            name, "dropout should be a number in range [0, 1] representing the probability of an element being zeroed", dropout,
        )  # fmt: skip
    for what, value in (("bias", bias), ("batch_first", batch_first)):
        if not isinstance(value, bool):
            raise KilnTypeError(name, f"{what} should be of type bool", describe(value))
    for what, value in (("input_size", input_size), ("hidden_size", hidden_size)):
        if not isinstance(value, int):
            raise KilnTypeError(name, f"{what} should be of type int", describe(value))
        if value <= 0:
            raise KilnValueError(name, f"{what} must be greater than zero", value)
    if num_layers <= 0:
        raise KilnValueError(name, "num_layers must be greater than zero", num_layers)
    if proj_size < 0 or proj_size >= hidden_size:
        raise KilnValueError(
            name, "proj_size should be zero (no projection) or positive and smaller than hidden_size", proj_size,
        )  # fmt: skip


def _no_projection(name: str, kwargs: dict[str, Any]) -> None:
    if "proj_size" in kwargs:
        raise KilnValueError(name, "proj_size argument is only supported for LSTM, not RNN or GRU", kwargs["proj_size"])  # fmt: skip


class RNN(RNNBase):
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or relu: torch.nn.RNN, arguments as there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _no_projection("RNN", kwargs)
        if len(args) > 3:
            nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise KilnValueError("RNN", f"Unknown nonlinearity {nonlinearity!r}. Select from 'tanh' or 'relu'.", nonlinearity)  # fmt: skip
        super().__init__(f"RNN_{nonlinearity.upper()}", *args, **kwargs)
        self.nonlinearity = nonlinearity


class LSTM(RNNBase):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997): torch.nn.LSTM, arguments as there.

    The gates are in the order i, f, g, o. With `proj_size` the hidden state is W_hr h.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__("LSTM", *args, **kwargs)


class GRU(RNNBase):
    """Gated recurrent unit (Cho et al., 2014), the reset gate after the product: torch.nn.GRU, arguments as there.

    The gates are in the order r, z, n.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _no_projection("GRU", kwargs)
        super().__init__("GRU", *args, **kwargs)


class RNNCellBase(Module):
    """What the cells share: one layer's parameters, and one step."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool, num_chunks: int, device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        rows = num_chunks * hidden_size

        def fresh(*shape: int) -> Parameter:
            return Parameter(empty(*shape, device=device, dtype=dtype))

        self.weight_ih, self.weight_hh = fresh(rows, input_size), fresh(rows, hidden_size)
        if bias:
            self.bias_ih, self.bias_hh = fresh(rows), fresh(rows)
        else:
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fill all parameters uniformly in +-1/sqrt(hidden_size)."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for p in self.parameters():
            init.uniform_(p, -bound, bound)

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        text += "" if self.bias is True else f", bias={self.bias}"
        kind = getattr(self, "nonlinearity", "tanh")
        return text if kind == "tanh" else f"{text}, nonlinearity={kind}"

    def _step(self, mode: str, input: Tensor, hx: Any, count: int) -> State:
        name = type(self).__name__
        rank = len(input._a.shape)
        if rank not in (1, 2):
            raise KilnValueError(name, f"Expected input to be 1D or 2D, got {rank}D instead", describe(input))  # fmt: skip
        single = rank == 1
        states = () if hx is None else tuple(hx) if count == 2 else (hx,)
        for s in states:
            if len(s._a.shape) not in (1, 2):
                raise KilnValueError(name, f"Expected hidden to be 1D or 2D, got {s.ndim}D instead", describe(s))  # fmt: skip
        x = input.unsqueeze(0) if single else input
        n, features = x._a.shape
        if hx is None:
            h = zeros(n, self.hidden_size, dtype=x.dtype)
            states = (h,) * count
        elif single:
            states = tuple(s.unsqueeze(0) for s in states)
        if features != self.input_size:
            raise KilnError(name, f"input has inconsistent input_size: got {features} expected {self.input_size}", describe(input))  # fmt: skip
        for s in states:
            if tuple(s._a.shape) != (n, self.hidden_size):
                raise KilnError(
                    name, f"hidden has inconsistent size: got {list(s.shape)}, expected {[n, self.hidden_size]}", describe(s),
                )  # fmt: skip
        w_ih, w_hh, b_ih, b_hh = held(
            self, (RNNCell, LSTMCell, GRUCell), "weight_ih", "weight_hh", "bias_ih", "bias_hh"
        )
        out = advance(mode, F.linear(x, w_ih, b_ih), states, w_hh, b_hh, None)
        return tuple(s.squeeze(0) for s in out) if single else out


class RNNCell(RNNCellBase):
    """One step of an RNN: (N, input_size) or (input_size,), and the state or None, give the next state."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", device: Any = None, dtype: Any = None,
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 1, device, dtype)
        self.nonlinearity = nonlinearity

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        if self.nonlinearity not in ("tanh", "relu"):
            raise KilnError("RNNCell", f"Unknown nonlinearity: {self.nonlinearity}", self.nonlinearity, "tanh or relu")  # fmt: skip
        return self._step(f"RNN_{self.nonlinearity.upper()}", input, hx, 1)[0]


class LSTMCell(RNNCellBase):
    """One step of an LSTM: (N, input_size) or (input_size,), and (h, c) or None, give the next (h, c)."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 4, device, dtype)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> State:
        return self._step("LSTM", input, hx, 2)


class GRUCell(RNNCellBase):
    """One step of a GRU: (N, input_size) or (input_size,), and the state or None, give the next state."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:  # fmt: skip
        super().__init__(input_size, hidden_size, bias, 3, device, dtype)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        return self._step("GRU", input, hx, 1)[0]
