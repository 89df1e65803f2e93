"""Recurrent layers: cells, `RNN` around any cell, LSTM, GRU, SimpleRNN, and wrappers for directions and steps.

Where a mask is false the state stays as it was. LSTM and GRU with Keras's own activations run as `nn.LSTM` and `nn.GRU` do: one native
loop in compiled programs.

https://keras.io/api/layers/recurrent_layers/
"""

from __future__ import annotations

from typing import Any

from ...compile.control import scan
from ...errors import KilnValueError, describe
from ...nn import functional as F
from ...nn._recurrent import recur
from ...ops.creation import ones, zeros
from ...ops.joining import cat
from ...tensor import Tensor
from .. import activations
from ..layer import Layer
from .core import Wrapper


class _Cell(Layer):
    """One step: (output, states) of (inputs, states); kernel (in, gates * units), recurrent_kernel (units, gates * units)."""

    gates = 1
    states = 1

    def __init__(
        self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform", recurrent_initializer: Any = "orthogonal", bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None, recurrent_regularizer: Any = None, bias_regularizer: Any = None, kernel_constraint: Any = None,
        recurrent_constraint: Any = None, bias_constraint: Any = None, dropout: float = 0.0, recurrent_dropout: float = 0.0,
        seed: int | None = None, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.units, self.use_bias, self.dropout, self.recurrent_dropout = units, use_bias, dropout, recurrent_dropout  # fmt: skip
        self.activation, self.recurrent_activation = activations.get(activation), activations.get(recurrent_activation)  # fmt: skip
        self._usual = activation == "tanh" and recurrent_activation == "sigmoid"
        self._kernel = kernel_initializer, kernel_regularizer, kernel_constraint
        self._recurrent = recurrent_initializer, recurrent_regularizer, recurrent_constraint
        self._bias = bias_initializer, bias_regularizer, bias_constraint

    @property
    def state_size(self) -> Any:
        """The sizes of the states."""
        return self.units if self.states == 1 else [self.units] * self.states

    output_size = property(lambda self: self.units)

    def build(self, input_shape: Any) -> None:
        n = self.gates * self.units
        self.kernel = self.add_weight((input_shape[-1], n), self._kernel[0], None, True, *self._kernel[1:], name="kernel")  # fmt: skip
        self.recurrent_kernel = self.add_weight((self.units, n), self._recurrent[0], None, True, *self._recurrent[1:], name="recurrent_kernel")  # fmt: skip
        self.bias = self.add_weight(self.bias_shape(), self._bias[0], None, True, *self._bias[1:], name="bias") if self.use_bias else None  # fmt: skip

    def bias_shape(self) -> tuple[int, ...]:
        """Of the bias."""
        return (self.gates * self.units,)

    def get_initial_state(self, batch_size: int | None = None) -> list[Tensor]:
        """Zeros."""
        return [zeros(batch_size or 1, self.units) for _ in range(self.states)]

    def call(self, inputs: Tensor, states: Any, training: bool = False, drop: Any = None) -> Any:
        states = states if isinstance(states, list | tuple) else [states]
        if drop is None and training and self.dropout and inputs.ndim == 2:
            inputs = F.dropout(inputs, self.dropout)
        new = self.step(inputs, states, drop)
        return new[0], new

    def step(self, x: Tensor, states: Any, drop: Any) -> list[Tensor]:
        """The states after a step; `drop` is what the state is multiplied by before its product."""
        raise NotImplementedError

    def native(self) -> tuple[str, tuple] | None:
        """The kind of `nn`'s recurrence and its weights, where this is one."""
        return None


class SimpleRNNCell(_Cell):
    """activation(x @ kernel + h @ recurrent_kernel + bias)."""

    def __init__(self, units: int, activation: Any = "tanh", use_bias: bool = True, *more: Any, **options: Any) -> None:  # fmt: skip
        super().__init__(units, activation, "sigmoid", use_bias, *more, **options)

    def step(self, x: Tensor, states: Any, drop: Any) -> list[Tensor]:
        h = states[0] if drop is None else states[0] * drop
        return [self.activation(F.linear(x, self.kernel.T, self.bias) + h @ self.recurrent_kernel)]

    def native(self) -> Any:
        return ("RNN_TANH", (self.kernel.T, self.recurrent_kernel.T, self.bias, None, None)) if self._usual else None  # fmt: skip


class LSTMCell(_Cell):
    """Gates i, f, c, o; with `unit_forget_bias` the bias of f begins with ones."""

    gates, states = 4, 2

    def __init__(
        self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform", recurrent_initializer: Any = "orthogonal", bias_initializer: Any = "zeros",
        unit_forget_bias: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            units, activation, recurrent_activation, use_bias, kernel_initializer, recurrent_initializer, bias_initializer, **options
        )  # fmt: skip
        self.unit_forget_bias = unit_forget_bias

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        if self.bias is not None and self.unit_forget_bias:
            self.bias.detach()[self.units : 2 * self.units].fill_(1.0)

    def step(self, x: Tensor, states: Any, drop: Any) -> list[Tensor]:
        h, c = states
        h = h if drop is None else h * drop
        i, f, g, o = (F.linear(x, self.kernel.T, self.bias) + h @ self.recurrent_kernel).chunk(4, -1)  # fmt: skip
        act, gate = self.activation, self.recurrent_activation
        c = gate(f) * c + gate(i) * act(g)
        return [gate(o) * act(c), c]

    def native(self) -> Any:
        return ("LSTM", (self.kernel.T, self.recurrent_kernel.T, self.bias, None, None)) if self._usual else None  # fmt: skip


class GRUCell(_Cell):
    """Gates z, r, h; with `reset_after` the reset gate comes after the product, with a bias of its own."""

    gates = 3

    def __init__(
        self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform", recurrent_initializer: Any = "orthogonal", bias_initializer: Any = "zeros",
        reset_after: bool = True, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(
            units, activation, recurrent_activation, use_bias, kernel_initializer, recurrent_initializer, bias_initializer, **options
        )  # fmt: skip
        self.reset_after = reset_after

    def bias_shape(self) -> tuple[int, ...]:
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def _biases(self) -> tuple[Any, Any]:
        if self.bias is None:
            return None, None
        return (self.bias[0], self.bias[1]) if self.reset_after else (self.bias, None)

    def step(self, x: Tensor, states: Any, drop: Any) -> list[Tensor]:
        h = states[0]
        before, after = self._biases()
        act, gate, u = self.activation, self.recurrent_activation, self.units
        xz, xr, xh = F.linear(x, self.kernel.T, before).chunk(3, -1)
        given = h if drop is None else h * drop
        if self.reset_after:
            hz, hr, hh = F.linear(given, self.recurrent_kernel.T, after).chunk(3, -1)
            z, new = gate(xz + hz), act(xh + gate(xr + hr) * hh)
        else:
            hz, hr = (given @ self.recurrent_kernel[:, : 2 * u]).chunk(2, -1)
            z = gate(xz + hz)
            new = act(xh + (gate(xr + hr) * given) @ self.recurrent_kernel[:, 2 * u :])
        return [z * h + (1 - z) * new]

    def native(self) -> Any:
        if not (self._usual and self.reset_after):
            return None

        def turned(w: Any) -> Any:  # nn's order of gates is r, z, h
            if w is None:
                return None
            z, r, h = w.chunk(3, -1)
            return cat([r, z, h], -1)

        before, after = (turned(b) for b in self._biases())
        return "GRU", (turned(self.kernel).T, turned(self.recurrent_kernel).T, before, after, None)


class StackedRNNCells(Layer):
    """Cells one above the other as one cell."""

    def __init__(self, cells: Any, **common: Any) -> None:
        super().__init__(**common)
        self.cells = list(cells)

    @property
    def state_size(self) -> Any:
        """Those of all cells."""
        return [c.state_size for c in self.cells]

    output_size = property(lambda self: _output(self.cells[-1]))

    def get_initial_state(self, batch_size: int | None = None) -> list[Any]:
        """Zeros."""
        return [_initial(c, batch_size) for c in self.cells]

    def call(self, inputs: Tensor, states: Any, training: bool = False) -> Any:
        new = []
        for cell, state in zip(self.cells, states, strict=True):
            inputs, state = cell(inputs, state)
            new.append(state)
        return inputs, new


class RNN(Layer):
    """A cell over the steps of (batch, steps, features): its last output, or with `return_sequences` all; then, with `return_state`, its states.

    `stateful` begins where the batch before ended; `reset_state()` forgets it.
    """

    def __init__(
        self, cell: Any, return_sequences: bool = False, return_state: bool = False, go_backwards: bool = False,
        stateful: bool = False, unroll: bool = False, zero_output_for_mask: bool = False, **common: Any,
    ) -> None:  # fmt: skip
        super().__init__(**common)
        self.supports_masking = True
        self.return_sequences, self.return_state = return_sequences, return_state
        self.go_backwards, self.stateful, self.unroll = go_backwards, stateful, unroll
        self.zero_output_for_mask = zero_output_for_mask
        self.cell = StackedRNNCells(cell) if isinstance(cell, list | tuple) else cell
        self.__dict__["_kept"] = [None]

    def build(self, sequences_shape: Any, initial_state_shape: Any = None) -> None:
        if not getattr(self.cell, "built", True):
            shape = (sequences_shape[0], *sequences_shape[2:])
            if isinstance(self.cell, StackedRNNCells):
                for cell in self.cell.cells:
                    _built(cell, shape)
                    shape = (shape[0], _output(cell))
                self.cell.__dict__["built"] = True
            else:
                _built(self.cell, shape)

    def reset_state(self) -> None:
        """Begin with zeros again."""
        self._kept[0] = None

    reset_states = reset_state

    def get_initial_state(self, batch_size: int) -> Any:
        """The states to begin with."""
        return _initial(self.cell, batch_size)

    def call(self, sequences: Tensor, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:  # fmt: skip
        if isinstance(sequences, list | tuple):  # as Keras 2 had it
            sequences, initial_state = sequences[0], list(sequences[1:])
        if isinstance(mask, list | tuple):
            mask = mask[0]
        n = sequences.shape[0]
        if initial_state is None:
            kept = self._kept[0] if self.stateful else None
            initial_state = kept if kept is not None else self.get_initial_state(n)
        state = list(initial_state) if isinstance(initial_state, list | tuple) else [initial_state]
        x = sequences.transpose(0, 1)
        m = None if mask is None else mask.transpose(0, 1)
        last, ys, y = self._recur(x, state, m, training)
        if self.stateful:
            self._kept[0] = [s.detach() for s in last]
        out: Any = ys.transpose(0, 1) if self.return_sequences else y
        return [out, *last] if self.return_state else out

    def _recur(self, x: Tensor, state: list[Any], mask: Any, training: bool) -> tuple[list[Any], Tensor, Tensor]:  # fmt: skip
        """The last states, all outputs, and the last one."""
        cell, drop = self.cell, None
        if isinstance(cell, _Cell):
            if training and cell.dropout:
                x = x * F.dropout(ones(1, *x.shape[1:], dtype=x.dtype), cell.dropout)
            if training and cell.recurrent_dropout:
                drop = F.dropout(ones(x.shape[1], cell.units, dtype=x.dtype), cell.recurrent_dropout)  # fmt: skip
            native = cell.native() if drop is None else None
            if native is not None:
                kind, weights = native
                wide = None if mask is None else mask.unsqueeze(-1)
                last, ys = recur(kind, x, tuple(state), weights, self.go_backwards, wide)
                y = last[0]
                if self.go_backwards and self.return_sequences:
                    ys = ys.flip(0)
                    mask = None if mask is None else mask.flip(0)
                return list(last), self._zeroed(ys, mask), y

        def step(now: Any, given: Any) -> Any:
            if isinstance(cell, _Cell):
                y, new = (new := cell.step(given[0], now[1], drop))[0], new
            else:
                y, new = cell(given[0], now[1])
            new = list(new) if isinstance(new, list | tuple) else [new]
            if given[1] is not None:
                keep = given[1]
                y = _where(keep, y, now[0])
                new = [_where(keep, a, b) for a, b in zip(new, now[1], strict=True)]
            return (y, new), y

        first = x.new_zeros(x.shape[1], *_sizes(_output(cell)))  # fmt: skip
        (y, last), ys = scan(step, (first, state), (x, mask), reverse=self.go_backwards)
        if self.go_backwards and self.return_sequences:
            ys = ys.flip(0)
            mask = None if mask is None else mask.flip(0)
        return list(last), self._zeroed(ys, mask), y

    def _zeroed(self, ys: Tensor, mask: Any) -> Tensor:
        if mask is None or not self.zero_output_for_mask:
            return ys
        return ys * mask.to(ys.dtype).unsqueeze(-1)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        mask = previous_mask[0] if isinstance(previous_mask, list | tuple) else previous_mask
        out = mask if self.return_sequences else None
        return [out, None, None][: 1 + _count(self.cell)] if self.return_state else out


def _built(cell: Any, shape: Any) -> None:
    if not getattr(cell, "built", True):
        cell.build(shape)
        cell.__dict__["built"] = True


def _initial(cell: Any, batch_size: Any) -> Any:
    if hasattr(cell, "get_initial_state"):
        return cell.get_initial_state(batch_size)
    sizes = cell.state_size
    return [zeros(batch_size, *_sizes(n)) for n in ([sizes] if isinstance(sizes, int) else sizes)]


def _count(cell: Any) -> int:
    sizes = cell.state_size
    return 1 if isinstance(sizes, int) else len(sizes)


def _output(cell: Any) -> Any:
    """The size of a cell's outputs: that of its first state where it does not say."""
    size = cell.state_size
    return getattr(cell, "output_size", size if isinstance(size, int) else size[0])


def _sizes(size: Any) -> tuple[int, ...]:
    return (size,) if isinstance(size, int) else tuple(size)


def _where(keep: Tensor, a: Any, b: Any) -> Any:
    if isinstance(a, list | tuple):
        return [_where(keep, x, y) for x, y in zip(a, b, strict=True)]
    return keep.reshape(-1, *(1,) * (a.ndim - 1)).where(a, b)


class _Layer(RNN):
    """A recurrent layer of one kind of cell, with the cell's options and RNN's."""

    kind: type[_Cell]

    def __init__(self, *args: Any, **options: Any) -> None:
        raise NotImplementedError

    def _made(self, units: int, options: dict[str, Any]) -> None:
        names = ("return_sequences", "return_state", "go_backwards", "stateful", "unroll", "zero_output_for_mask", "name", "trainable",
                 "activity_regularizer", "input_shape", "batch_input_shape", "input_dim", "batch_shape", "dtype")  # fmt: skip
        own = {k: options.pop(k) for k in names if k in options}
        options.pop("implementation", None)
        options.pop("use_cudnn", None)
        if not isinstance(units, int) or units < 1:
            raise KilnValueError(type(self).__name__, "units is how many states there are", describe(units), "e.g. 32")  # fmt: skip
        cell = self.kind(units, dtype=own.get("dtype"), **options)
        RNN.__init__(self, cell, **own)

    def __getattr__(self, name: str) -> Any:
        if name in ("units", "activation", "recurrent_activation", "dropout", "use_bias"):
            return getattr(self.cell, name)
        return super().__getattr__(name)


class SimpleRNN(_Layer):
    """A plain recurrent layer."""

    kind = SimpleRNNCell

    def __init__(self, units: int, activation: Any = "tanh", use_bias: bool = True, **options: Any) -> None:  # fmt: skip
        self._made(units, {"activation": activation, "use_bias": use_bias, **options})


class LSTM(_Layer):
    """Long short-term memory."""

    kind = LSTMCell

    def __init__(self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True, **options: Any) -> None:  # fmt: skip
        self._made(units, {"activation": activation, "recurrent_activation": recurrent_activation, "use_bias": use_bias, **options})  # fmt: skip


class GRU(_Layer):
    """Gated recurrent units."""

    kind = GRUCell

    def __init__(self, units: int, activation: Any = "tanh", recurrent_activation: Any = "sigmoid", use_bias: bool = True, **options: Any) -> None:  # fmt: skip
        self._made(units, {"activation": activation, "recurrent_activation": recurrent_activation, "use_bias": use_bias, **options})  # fmt: skip


class Bidirectional(Layer):
    """A recurrent layer forwards and another one backwards; `merge_mode` "concat", "sum", "mul", "ave" or None for both."""

    def __init__(
        self, layer: Any, merge_mode: str | None = "concat", weights: Any = None, backward_layer: Any = None, **common: Any
    ) -> None:  # fmt: skip
        super().__init__(**common)
        if merge_mode not in ("concat", "sum", "mul", "ave", None):
            raise KilnValueError("Bidirectional", "no such merge_mode", describe(merge_mode), "'concat', 'sum', 'mul', 'ave' or None")  # fmt: skip
        self.supports_masking, self.merge_mode = True, merge_mode
        config = layer.get_config()
        config["name"] = "forward_" + layer.name.removeprefix("forward_")
        self.forward_layer = type(layer).from_config(config)
        if backward_layer is None:
            config["name"] = "backward_" + layer.name.removeprefix("forward_")
            config["go_backwards"] = not layer.go_backwards
            backward_layer = type(layer).from_config(config)
        self.backward_layer = backward_layer
        self.return_sequences, self.return_state = layer.return_sequences, layer.return_state

    def call(self, sequences: Tensor, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:  # fmt: skip
        given: Any = (None, None)
        if initial_state is not None:
            half = len(initial_state) // 2
            given = list(initial_state[:half]), list(initial_state[half:])
        a = self.forward_layer(sequences, given[0], mask=mask)
        b = self.backward_layer(sequences, given[1], mask=mask)
        states = [*a[1:], *b[1:]] if self.return_state else []
        x, y = (a[0], b[0]) if self.return_state else (a, b)
        y = y.flip(1) if self.return_sequences else y
        if self.merge_mode is None:
            return [x, y, *states]
        out = {
            "concat": lambda: cat([x, y], -1), "sum": lambda: x + y, "mul": lambda: x * y, "ave": lambda: (x + y) / 2,
        }[self.merge_mode]()  # fmt: skip
        return [out, *states] if self.return_state else out

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        mask = previous_mask if self.return_sequences else None
        return [mask, mask] if self.merge_mode is None else mask

    def get_config(self) -> dict[str, Any]:
        given = super().get_config()
        return {**given, "layer": self.forward_layer, "backward_layer": self.backward_layer}

    def reset_state(self) -> None:
        """Begin with zeros again."""
        self.forward_layer.reset_state()
        self.backward_layer.reset_state()


class TimeDistributed(Wrapper):
    """A layer on each step of (batch, steps, …)."""

    supports_masking = True

    def call(self, inputs: Tensor, training: bool = False, mask: Any = None) -> Tensor:
        n, t = inputs.shape[:2]
        out = self.layer(inputs.reshape(n * t, *inputs.shape[2:]))
        return out.reshape(n, t, *out.shape[1:])


__all__ = [
    "GRU", "LSTM", "RNN", "Bidirectional", "GRUCell", "LSTMCell", "SimpleRNN", "SimpleRNNCell", "StackedRNNCells", "TimeDistributed",
]  # fmt: skip
