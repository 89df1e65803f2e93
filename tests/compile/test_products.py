"""Products of (…, features) with a weight in compiled programs: any leading sizes, any epilogue."""

from __future__ import annotations

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F

r = np.random.default_rng(0)


def draw(*shape: int) -> kiln.Tensor:
    return kiln.tensor(r.standard_normal(shape), dtype=kiln.float32)


# what the product is combined with: the shape of an operand for leading sizes and columns, and how
EPILOGUES = {
    "none": (lambda lead, n: (), lambda y, z: y),
    "bias": (lambda lead, n: (n,), lambda y, z: y + z),
    "gelu": (lambda lead, n: (n,), lambda y, z: F.gelu(y + z)),
    "residual": (lambda lead, n: (*lead, n), lambda y, z: z + y),
    "row": (lambda lead, n: (*lead, 1), lambda y, z: y * z + 1),
    "position": (lambda lead, n: (*lead[1:], n), lambda y, z: y + z),
    "batch": (lambda lead, n: (lead[0], *(1,) * (len(lead) - 1), n), lambda y, z: y + z),
    "turned": (lambda lead, n: (), lambda y, z: (y + 1).transpose(0, -1) * 2),
}


@in_turn(
    "lead", [(2, 5), (1, 7), (3, 1), (1, 1), (2, 3, 4), (1, 6, 1)],
    name=EPILOGUES, transposed=[False, True],
)  # fmt: skip
def test_leading_sizes_and_epilogues(name, lead, transposed):
    x, w = draw(*lead, 24), draw(40, 24)
    if transposed:  # batches whose rows do not follow each other
        x = draw(*lead[1:], lead[0], 24).movedim(-2, 0)

    shape, combine = EPILOGUES[name]

    def step(x, w, z):
        return combine(F.linear(x, w), z)

    args = x, w, draw(*shape(lead, 40))
    np.testing.assert_allclose(kiln.compile(step)(*args), step(*args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("lead", [(4, 6), (1, 6), (2, 3, 4)], ids=str)
def test_gradients_of_a_layer_between_others(lead):
    w1, w2, b = draw(20, 24), draw(24, 20), draw(20)
    x = draw(*lead, 24)
    for t in (w1, w2, b, x):
        t.requires_grad_()

    def step(x, w1, w2, b):
        h = F.gelu(F.linear(x, w1, b))
        loss = F.layer_norm(x + F.linear(h, w2), (24,)).pow(4).sum()
        return loss, *kiln.autograd.grad(loss, [x, w1, w2, b])

    args = x, w1, w2, b
    for got, want in zip(kiln.compile(step)(*args), step(*args), strict=True):
        np.testing.assert_allclose(got.detach(), want.detach(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("size", [(6, 4), (4, 6)], ids=str)
def test_products_of_reshaped_and_turned_results(size):
    x, w = draw(2, *size, 5), draw(2, *size, 7)

    def step(x, w):
        a, b = x * 2, w + 1  # computed, so that the product reads memory of the program's own
        return a.reshape(-1, 5).transpose(0, 1) @ b.reshape(-1, 7)

    np.testing.assert_allclose(kiln.compile(step)(x, w), step(x, w), rtol=1e-4, atol=1e-4)


# operands that are computed from the number of a place, out of one of the result's shape and of picks in it
PLACES = {
    "a range": lambda p, i: kiln.arange(6)[:, None],
    "a triangle": lambda p, i: kiln.ones(6, 6).triu(),
    "padding": lambda p, i: F.pad(p, (0, 0, 2, 0), value=3)[..., :6, :],
    "random numbers": lambda p, i: kiln.rand(p.shape),
    "columns picked": lambda p, i: p[..., i[(0,) * (i.ndim - 1)]],
    "elements picked": lambda p, i: p.gather(-1, i),
    "enlarged": lambda p, i: p[..., ::2, :].repeat_interleave(2, -2),
}


@in_turn("kind", ["product", "convolution"], name=PLACES)
def test_epilogues_that_know_their_place(name, kind):
    """Batches of rows are one product, pixels of an image one row: places in them are told apart."""
    shape = (2, 6, 6) if kind == "product" else (2, 4, 6, 6)
    place, picks = draw(*shape), kiln.tensor(r.integers(0, 6, shape))
    x, w = (
        (draw(2, 6, 5), draw(5, 6)) if kind == "product" else (draw(2, 3, 6, 6), draw(4, 3, 3, 3))
    )

    def step(x, w):
        y = x @ w if kind == "product" else F.conv2d(x, w, padding=1)
        return (y + PLACES[name](place, picks)) * 2

    def run(fn):
        kiln.manual_seed(0)
        return fn(x, w)

    np.testing.assert_allclose(run(kiln.compile(step)), run(step), rtol=1e-4, atol=1e-4)
