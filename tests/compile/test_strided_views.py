"""`as_strided` counts in memory, of which a Graph knows nothing but its arguments'."""

from __future__ import annotations

import pytest

import kiln


def transposed():
    return kiln.arange(4.0).reshape(2, 2).t().requires_grad_()


def row():
    return kiln.arange(5.0, requires_grad=True)


@pytest.mark.parametrize(
    ("fn", "made"),
    [
        (lambda x: x.as_strided((2,), (2,), 1), row),
        (lambda x: x.as_strided((2,), (2,), 1), transposed),
        (lambda x: (x * 2).as_strided((3, 2), (1, 1), 1), row),
        (lambda x: (x * 2)[1:].as_strided((2,), (1,)), row),
    ],
)
def test_as_in_eager_mode(fn, made):
    eager, captured = made(), made()
    want, got = fn(eager), kiln.compile(fn)(captured)
    assert kiln.equal(want, got)
    for x, y in ((eager, want), (captured, got)):
        x.retain_grad()
        (y * y).sum().backward()
    assert kiln.equal(eager.grad, captured.grad)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: (x * 2)[:4].reshape(2, 2).t().as_strided((2,), (2,)),
        lambda x: (x * 2)[1:].as_strided((2,), (1,), 0),
    ],
)
def test_memory_that_a_graph_does_not_know_is_refused(fn):
    with pytest.raises(kiln.errors.CaptureError, match="as_strided"):
        kiln.compile(fn)(row())
