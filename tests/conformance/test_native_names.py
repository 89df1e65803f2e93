"""Functions that PyTorch has beside its modules: recurrent layers by their weights, bags, sparse products."""

from __future__ import annotations

import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


def theirs(x):
    return torch.from_numpy(x.detach().numpy().copy())


def close(ours, want):
    for a, b in zip(ours, want, strict=True):
        assert kiln.allclose(a.float(), kiln.from_numpy(b.detach().numpy()).float(), 1e-4, 1e-5)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh", "rnn_relu"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_layers_by_their_weights(name, both, packed):
    gates, ways = {"lstm": 4, "gru": 3}.get(name, 1), 2 if both else 1
    params = []
    for layer in range(2):
        for _ in range(ways):
            width = 3 if layer == 0 else 4 * ways
            shapes = [(gates * 4, width), (gates * 4, 4), (gates * 4,), (gates * 4,)]
            params += [kiln.randn(*s) * 0.3 for s in shapes]
    h = kiln.randn(2 * ways, 2, 4)
    hx = (h, kiln.randn(2 * ways, 2, 4)) if name == "lstm" else h
    start = tuple(map(theirs, hx)) if name == "lstm" else theirs(hx)
    weights = list(map(theirs, params))
    if packed:
        x, sizes = kiln.randn(8, 3), kiln.tensor([2, 2, 2, 1, 1])
        ours = getattr(kiln, name)(x, sizes, hx, params, True, 2, 0.0, False, both)
        want = getattr(torch, name)(
            theirs(x), theirs(sizes), start, weights, True, 2, 0.0, False, both
        )
    else:
        x = kiln.randn(2, 5, 3)
        ours = getattr(kiln, name)(x, hx, params, True, 2, 0.0, False, both, True)
        want = getattr(torch, name)(theirs(x), start, weights, True, 2, 0.0, False, both, True)
    close(ours, want)


def test_recurrent_layers_want_all_weights():
    with pytest.raises(RuntimeError, match="expected 4 weights"):
        kiln.gru(
            kiln.ones(1, 1, 2),
            kiln.ones(1, 1, 2),
            [kiln.ones(6, 2)],
            True,
            1,
            0.0,
            False,
            False,
            False,
        )


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("padding", [None, 1])
def test_bags_with_where_they_came_from(mode, padding):
    weight, index, offsets = kiln.randn(4, 2), kiln.tensor([0, 1, 2, 3, 1]), kiln.tensor([0, 2])
    ours = kiln.embedding_bag(weight, index, offsets, False, mode, padding_idx=padding)
    want = torch.embedding_bag(
        theirs(weight), theirs(index), theirs(offsets), False, mode, False, None, False, padding
    )
    close(ours[:1], want[:1])
    if mode:
        close(ours[1:3], want[1:3])
    if mode == 2:
        close(ours[3:], want[3:])


def test_sparse_products_that_stay_sparse():
    a, b, c = kiln.eye(3), kiln.randn(3, 2), kiln.ones(3, 2)
    sparse = kiln.sspaddmm(c.to_sparse(), a.to_sparse(), b, beta=2, alpha=3)
    want = torch.sspaddmm(theirs(c).to_sparse(), theirs(a).to_sparse(), theirs(b), beta=2, alpha=3)
    close([sparse.to_dense()], [want.to_dense()])
    close(
        [kiln.smm(a.to_sparse(), b).to_dense()],
        [torch.smm(theirs(a).to_sparse(), theirs(b)).to_dense()],
    )
    hybrid = kiln.hspmm(a.to_sparse(), b)
    assert (hybrid.sparse_dim(), hybrid.dense_dim()) == (1, 1)


def test_functionalize_keeps_results_and_refuses_what_it_does_not_know():
    fn = kiln.func.functionalize(lambda x: x.clone().add_(1))
    assert fn(kiln.zeros(2)).tolist() == [1, 1]
    with pytest.raises(RuntimeError, match="remove"):
        kiln.func.functionalize(lambda x: x, remove="views")
