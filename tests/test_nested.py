"""Nested tensors: batches of sequences of different lengths, beside PyTorch's."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested:UserWarning"),
]

LENGTHS = (2, 4, 1)


def sequences(m, d=6):
    return [
        ((m.arange(n * d).reshape(n, d) % 7).to(m.float32) - 3) / (i + 2)
        for i, n in enumerate(LENGTHS)
    ]


def nest(m, **options):
    return m.nested.nested_tensor(sequences(m), **options)


WEIGHT = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)

CALLS = {
    "padded": lambda m: nest(m).to_padded_tensor(-1.0),
    "padded to": lambda m: m.nested.to_padded_tensor(nest(m), 0.0, (3, 5, 6)),
    "unbind": lambda m: nest(m).unbind(),
    "linear": lambda m: m.nn.functional.linear(nest(m), m.tensor(WEIGHT)).to_padded_tensor(0.0),
    "relu": lambda m: m.relu(nest(m)).to_padded_tensor(0.0),
    "gelu": lambda m: m.nn.functional.gelu(nest(m)).to_padded_tensor(0.0),
    "add": lambda m: (nest(m) + nest(m) * 2).to_padded_tensor(0.0),
    "softmax": lambda m: nest(m).softmax(-1).to_padded_tensor(0.0),
    "layer norm": lambda m: m.nn.functional.layer_norm(nest(m), (6,), m.ones(6), m.zeros(6)).to_padded_tensor(0.0),
    "double": lambda m: nest(m).double().to_padded_tensor(0.0),
    "facts": lambda m: (nest(m).is_nested, m.ones(2).is_nested, nest(m).dim(), nest(m).size(0), nest(m).size(2), nest(m).numel()),
    "ragged size": lambda m: nest(m).size(1),
    "too small": lambda m: nest(m).to_padded_tensor(0.0, (3, 3, 6)),
    "not nested": lambda m: m.nested.nested_tensor(3),
    "jagged": lambda m: nest(m, layout=m.jagged).values(),
    "offsets": lambda m: nest(m, layout=m.jagged).offsets(),
    "from jagged": lambda m: m.nested.nested_tensor_from_jagged(m.cat(sequences(m)), m.tensor([0, 2, 6, 7])).unbind(),
    "attention": lambda m: attend(m, nest(m, layout=m.jagged)).unbind(),
}  # fmt: skip


def attend(m, x):
    q = x.unflatten(-1, [2, 3]).transpose(1, 2)
    out = m.nn.functional.scaled_dot_product_attention(q, q * 0.5, q)
    return out.transpose(1, 2).flatten(-2) if m is torch else out.transpose(1, 2).flatten(2)


def numbers(r):
    parts = r if isinstance(r, tuple | list) else [r]
    return [np.round(t.numpy(), 4).tolist() if hasattr(t, "numpy") else t for t in parts]


@pytest.mark.parametrize("name", CALLS)
def test_nested_tensors_are_those_of_torch(name):
    try:
        want = CALLS[name](torch)
    except Exception as e:
        with pytest.raises(type(e)):
            CALLS[name](kiln)
    else:
        assert numbers(CALLS[name](kiln)) == numbers(want)


def test_printing():
    assert repr(nest(kiln)) == repr(nest(torch))


def test_gradients_reach_the_sequences_and_the_weights():
    xs = [x.requires_grad_() for x in sequences(kiln)]
    w = kiln.tensor(WEIGHT[:3]).requires_grad_()

    def loss(rows):
        return F.linear(rows, w).tanh()

    loss(kiln.nested.as_nested_tensor(xs)).to_padded_tensor(0.0).square().sum().backward()
    got = [x.grad for x in xs] + [w.grad]
    for x in (*xs, w):
        x.grad = None
    sum(loss(x).square().sum() for x in xs).backward()
    for g, x in zip(got, (*xs, w), strict=True):
        assert kiln.allclose(g, x.grad, atol=1e-6)
    leaf = nest(kiln, requires_grad=True)
    (leaf * 3).to_padded_tensor(0.0).sum().backward()
    assert leaf.grad.is_nested
    assert leaf.grad.to_padded_tensor(0.0).sum().item() == 3 * 6 * sum(LENGTHS)


def test_a_transformer_layer_over_lengths_is_the_one_over_each_sequence():
    kiln.manual_seed(0)
    norm, mix = kiln.nn.LayerNorm(6), kiln.nn.Linear(6, 6)

    def layer(x):
        q = mix(norm(x))
        return x + q * kiln.sigmoid(q)

    for a, b in zip(layer(nest(kiln)).unbind(), map(layer, sequences(kiln)), strict=True):
        assert kiln.allclose(a, b, atol=1e-6)


def test_what_is_not_implemented_is_named():
    for call in (
        lambda x: x.sum(1), lambda x: x + kiln.ones(3, 4, 6), lambda x: x.cumsum(1), lambda x: x[:, 1],
        lambda x: x + kiln.nested.nested_tensor(sequences(kiln)[::-1]), lambda x: x.numpy(),
        lambda x: kiln.nested.nested_tensor([kiln.ones(2, 3), kiln.ones(2, 4)]), lambda x: x.softmax(1),
    ):  # fmt: skip
        with pytest.raises(kiln.KilnError) as e:
            call(nest(kiln))
        assert len(str(e.value).splitlines()) == 3
    again = pickle.loads(pickle.dumps(nest(kiln)))
    assert again.to_padded_tensor(0.0).tolist() == nest(kiln).to_padded_tensor(0.0).tolist()
