"""Recurrent layers as functions of their weights: `lstm`, `gru`, `rnn_tanh`, `rnn_relu`.

What `nn.LSTM` and its like compute, for programs that keep the weights themselves. `params` holds, for each layer
and direction, w_ih, w_hh, the biases b_ih and b_hh if `has_biases`, and w_hr where an LSTM projects its state.
Sequences of different lengths are given packed: `lstm(data, batch_sizes, hx, params, …)` without `batch_first`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import KilnError, describe
from ..tensor import Tensor
from ._recurrent import recur_all
from .utils.rnn import PackedSequence, pad_steps, repacked, unpad_steps


def _run(mode: str, args: Sequence[Any]) -> tuple[Tensor, ...]:
    name = mode.lower()
    packed = None
    if not isinstance(args[3], list | tuple):
        input, hx, params, biased, layers, dropout, train, both, batch_first = args
        x = input.transpose(0, 1) if batch_first else input
        mask = None
    else:
        data, batch_sizes, hx, params, biased, layers, dropout, train, both = args
        packed, batch_first = PackedSequence(data, batch_sizes), False
        x, mask = pad_steps(packed)
    states = list(hx) if mode == "LSTM" else [hx]
    projected = states[0].shape[-1] != states[-1].shape[-1]
    count, places = 2 + 2 * bool(biased) + projected, layers * (2 if both else 1)
    if len(params) != count * places or any(s.shape[0] != places for s in states):
        raise KilnError(
            name, f"expected {count} weights, and a first state, for each of {places} layers and directions",
            f"{len(params)} weights, states {describe(states)}", "w_ih, w_hh, b_ih, b_hh of each, in order",
        )  # fmt: skip
    weights = []
    for k in range(places):
        given = params[k * count : (k + 1) * count]
        biases = given[2:4] if biased else (None, None)
        weights.append((*given[:2], *biases, given[-1] if projected else None))
    x, last = recur_all(mode, x, tuple(states), weights, both, dropout if train else 0.0, mask)
    if packed is not None:
        x = repacked(unpad_steps(x, packed), packed).data
    elif batch_first:
        x = x.transpose(0, 1)
    return x, *last


def lstm(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """(outputs, h, c) of `lstm(input, (h, c), params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`."""
    return _run("LSTM", args)  # type: ignore[return-value]


def gru(*args: Any) -> tuple[Tensor, Tensor]:
    """(outputs, h) of `gru(input, h, params, has_biases, num_layers, dropout, train, bidirectional, batch_first)`."""
    return _run("GRU", args)  # type: ignore[return-value]


def rnn_tanh(*args: Any) -> tuple[Tensor, Tensor]:
    """(outputs, h) of a plain network, with the arguments of `gru`."""
    return _run("RNN_TANH", args)  # type: ignore[return-value]


def rnn_relu(*args: Any) -> tuple[Tensor, Tensor]:
    """(outputs, h) of a plain network whose states are not negative, with the arguments of `gru`."""
    return _run("RNN_RELU", args)  # type: ignore[return-value]


__all__ = ["gru", "lstm", "rnn_relu", "rnn_tanh"]
