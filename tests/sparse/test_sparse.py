"""Sparse tensors as PyTorch has them: parts, layouts, products, gradients, printing, errors."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore:Sparse:UserWarning")]

I, V = [[0, 1, 1, 0], [2, 0, 2, 2]], [3.0, 4.0, 5.0, 6.0]
A = [[0.0, 2.0, 0.0, 1.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 4.0, 5.0], [0.0, 0.0, 0.0, 6.0]]
LAYOUTS = ["sparse_coo", "sparse_csr", "sparse_csc", "sparse_bsr", "sparse_bsc"]


def dense(m, rows=4, columns=3):
    return (m.arange(rows * columns).reshape(rows, columns).to(m.float32) - 4) / 3


def made(m, layout, a=A):
    block = {"blocksize": (2, 2)} if "bs" in layout else {}
    return m.tensor(a).to_sparse(layout=getattr(m, layout), **block)


def facts(r):
    """What a result is, in numbers."""
    if isinstance(r, kiln.Tensor | torch.Tensor):
        layout = str(r.layout).partition(".")[2]
        d = r.detach().to_dense() if layout != "strided" else r.detach()
        return (
            layout,
            tuple(r.shape),
            str(r.dtype).partition(".")[2],
            np.round(d.numpy(), 4).tolist(),
        )
    return r


def agree(call):
    """Kiln gives what torch gives, or raises what torch raises."""

    def run(m):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            r = call(m)
        return [facts(x) for x in r] if isinstance(r, tuple | list) else facts(r)

    try:
        want = run(torch)
    except Exception as e:
        with pytest.raises(type(e)):
            run(kiln)
    else:
        assert run(kiln) == want


def coo(m, **options):
    return m.sparse_coo_tensor(m.tensor(I), m.tensor(V), (2, 3), **options)


CALLS = [
    lambda m: coo(m), lambda m: coo(m).coalesce(), lambda m: coo(m).coalesce().indices(), lambda m: coo(m).coalesce().values(),
    lambda m: (coo(m).is_coalesced(), coo(m).coalesce().is_coalesced(), coo(m)._nnz(), coo(m).coalesce()._nnz()),
    lambda m: (coo(m).sparse_dim(), coo(m).dense_dim(), coo(m).is_sparse, m.ones(2).is_sparse, coo(m).is_sparse_csr),
    lambda m: (coo(m).numel(), coo(m).dim(), tuple(coo(m).size()), coo(m).requires_grad, coo(m).is_leaf),
    lambda m: coo(m)._indices(), lambda m: coo(m)._values(), lambda m: coo(m).values(), lambda m: coo(m).indices(),
    lambda m: m.sparse_coo_tensor(I, V), lambda m: m.sparse_coo_tensor(I, V, dtype=m.float64), lambda m: m.sparse_coo_tensor((2, 3)),
    lambda m: m.sparse_coo_tensor(I, m.ones(4, 5), (2, 3, 5)), lambda m: m.sparse_coo_tensor([[0, 2]], V), lambda m: m.sparse_coo_tensor([0, 1], [1.0, 2.0]),
    lambda m: m.sparse_coo_tensor(I, V, (2, 2), check_invariants=True), lambda m: m.sparse_coo_tensor([[-1]], [1.0], (2,), check_invariants=True),
    lambda m: m.sparse_coo_tensor(I, V, (2, 3, 1)),
    lambda m: m.sparse_csr_tensor([0, 2, 4], [0, 1, 0, 1], [1.0, 2, 3, 4]), lambda m: m.sparse_csc_tensor([0, 2, 4], [0, 1, 0, 1], [1.0, 2, 3, 4], (2, 2)),
    lambda m: m.sparse_csr_tensor(crow_indices=[0, 1, 1], col_indices=[2], values=[1.0], size=(2, 3)).crow_indices(),
    lambda m: m.sparse_bsr_tensor([0, 1, 2], [0, 1], m.ones(2, 2, 2)), lambda m: m.sparse_csr_tensor([0, 1], [0], [1.0]).ccol_indices(),
    lambda m: m.sparse_csr_tensor([0, 3, 2], [0, 1], [1.0, 2.0], check_invariants=True), lambda m: m.sparse_csr_tensor([0, 2], [1, 1], [1.0, 2.0], check_invariants=True),
    lambda m: m.sparse_compressed_tensor([0, 1], [0], [1.0], layout=m.sparse_csr), lambda m: m.ones(2).indices(), lambda m: m.ones(2).is_coalesced(),
    lambda m: m.tensor(A).to_sparse(1), lambda m: m.tensor(A).to_sparse(1).values(), lambda m: m.tensor(A).to_sparse_csr().col_indices(),
    lambda m: m.tensor(A).to_sparse_bsr((2, 2)).values(), lambda m: m.tensor(A).to_sparse_csc().row_indices(),
    lambda m: m.tensor(A).to_sparse().to_sparse_csr().to_sparse_csc().to_sparse().to_dense(), lambda m: m.tensor(A).sparse_mask(m.eye(4).to_sparse()),
    lambda m: m.tensor(3.0).to_sparse(), lambda m: m.zeros(2, 3).to_sparse(), lambda m: m.zeros(2, 0).to_sparse(), lambda m: m.eye(3, dtype=m.bool).to_sparse(),
    lambda m: coo(m) + coo(m), lambda m: coo(m) - coo(m) * 2, lambda m: coo(m) * 2, lambda m: 2 * coo(m), lambda m: coo(m) / 2, lambda m: -coo(m),
    lambda m: coo(m) * coo(m), lambda m: dense(m, 2) + coo(m), lambda m: m.add(coo(m), coo(m), alpha=3), lambda m: coo(m) * dense(m, 2),
    lambda m: coo(m).abs(), lambda m: coo(m).sqrt(), lambda m: coo(m).pow(2), lambda m: coo(m).float().double(), lambda m: coo(m).exp(),
    lambda m: coo(m).t(), lambda m: coo(m).transpose(0, 1), lambda m: coo(m).clone(), lambda m: coo(m).detach(), lambda m: coo(m).zero_(),
    lambda m: coo(m).sum(), lambda m: m.sparse.sum(coo(m)), lambda m: m.sparse.sum(coo(m), 0), lambda m: m.sparse.sum(coo(m), (0, 1)),
    lambda m: m.sparse.sum(m.tensor(A).to_sparse(1), 0), lambda m: m.sparse.sum(m.tensor(A).to_sparse(1), 1), lambda m: coo(m).coalesce().norm(),
    lambda m: m.sparse.softmax(coo(m), 1), lambda m: m.sparse.log_softmax(coo(m), 0), lambda m: m.sparse.softmax(m.tensor(A).to_sparse(1), 1),
    lambda m: coo(m)[1], lambda m: coo(m)[0][2], lambda m: coo(m).index_select(1, m.tensor([2, 0])), lambda m: coo(m)[5],
    lambda m: m.cat([coo(m), coo(m)], 1), lambda m: coo(m).mul_(2), lambda m: coo(m).add_(coo(m)), lambda m: dense(m, 2).add_(coo(m)), lambda m: dense(m, 2).sub_(coo(m), alpha=2),
    lambda m: m.mm(coo(m), dense(m, 3)), lambda m: coo(m) @ dense(m, 3), lambda m: m.sparse.mm(coo(m), dense(m, 3)), lambda m: m.spmm(coo(m), dense(m, 3)),
    lambda m: m.mv(coo(m), m.ones(3)), lambda m: m.addmm(dense(m, 2), coo(m), dense(m, 3), beta=2, alpha=3), lambda m: m.sparse.addmm(dense(m, 2), coo(m), dense(m, 3)),
    lambda m: m.sparse.mm(coo(m), coo(m).t()), lambda m: m.mm(coo(m), dense(m, 2)),
    lambda m: m.bmm(m.eye(3).expand(2, 3, 3).clone().to_sparse(), m.ones(2, 3, 2)), lambda m: dense(m, 4, 2) @ coo(m),
    lambda m: m.sparse.sampled_addmm(m.eye(3).to_sparse_csr(), dense(m, 3, 4), dense(m, 4, 3), beta=0.5, alpha=2.0),
    lambda m: m.sparse.spdiags(m.tensor([[1.0, 2, 3], [4, 5, 6]]), m.tensor([0, 1]), (3, 3)), lambda m: m.sparse.FloatTensor(m.tensor(I), m.tensor(V), m.ones(2, 3).size()),
    lambda m: coo(m).requires_grad_().requires_grad, lambda m: coo(m, requires_grad=True).is_leaf, lambda m: coo(m).numpy(),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
def test_calls_are_those_of_torch(call):
    agree(call)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_and_products(layout):
    for call in (
        lambda m: made(m, layout), lambda m: made(m, layout).to_dense(), lambda m: made(m, layout).values(),
        lambda m: (made(m, layout) if "bsc" not in layout else m.tensor(A)) @ dense(m), lambda m: made(m, layout).t() if "coo" not in layout else made(m, layout),
        lambda m: made(m, layout)._nnz(), lambda m: made(m, layout).to_sparse_coo(),
    ):  # fmt: skip
        agree(call)
    x = made(kiln, layout)  # its name is a letter shorter, so lines may end elsewhere
    assert repr(x).replace("kiln", "torch").split() == repr(made(torch, layout)).split()
    for y in (copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert facts(y) == facts(x)
        assert y.values().data_ptr() != x.values().data_ptr()


PRINTED = [
    lambda m: coo(m), lambda m: coo(m).coalesce().double(), lambda m: coo(m, requires_grad=True), lambda m: m.sparse_coo_tensor((2, 3)),
    lambda m: m.tensor(A).to_sparse(1), lambda m: coo(m, requires_grad=True).values if False else coo(m) * 2,
]  # fmt: skip


@pytest.mark.parametrize("call", PRINTED, ids=range(len(PRINTED)))
def test_printing(call):
    assert repr(call(kiln)).replace("kiln", "torch") == repr(call(torch))


GRADIENTS = [
    lambda m, v, d: m.sparse.mm(m.sparse_coo_tensor(m.tensor(I), v, (2, 3)), d).square().sum(),
    lambda m, v, d: (m.sparse_coo_tensor(m.tensor(I), v, (2, 3)).to_dense() * d.t()[:2]).square().sum(),
    lambda m, v, d: m.sparse.mm(m.sparse_coo_tensor(m.tensor(I), v, (2, 3)).coalesce(), d).square().sum(),
    lambda m, v, d: m.sparse.sum(m.sparse_coo_tensor(m.tensor(I), v, (2, 3)), 1).to_dense().square().sum(),
    lambda m, v, d: m.sparse.softmax(m.sparse_coo_tensor(m.tensor(I), v, (2, 3)), 1).to_dense().square().sum(),
    lambda m, v, d: d.to_sparse().coalesce().values().square().sum() + v.sum(),
    lambda m, v, d: (m.sparse_coo_tensor(m.tensor(I), v, (2, 3)) * 3).to_dense().square().sum() + d.sum(),
]  # fmt: skip


@pytest.mark.parametrize("call", GRADIENTS, ids=range(len(GRADIENTS)))
def test_gradients(call):
    got = []
    for m in (kiln, torch):
        v = m.tensor([0.5, -1.0, 2.0, 0.25]).requires_grad_()
        d = m.tensor(dense(kiln, 3, 3).tolist()).requires_grad_()
        call(m, v, d).backward()
        got.append([g.numpy() for g in (v.grad, d.grad) if g is not None])
    for ours, theirs in zip(*got, strict=True):
        np.testing.assert_allclose(ours, theirs, 1e-5, 1e-6)


def test_the_gradient_of_a_sparse_leaf_is_sparse():
    got = []
    for m in (kiln, torch):
        s = coo(m).coalesce().detach().requires_grad_()
        m.sparse.mm(s, dense(m, 3)).square().sum().backward()
        assert s.grad.is_sparse
        got.append(s.grad.to_dense().numpy() * (s.detach().to_dense().numpy() != 0))
    np.testing.assert_allclose(*got, 1e-5)


def test_products_are_captured_with_their_gradients():
    adjacency = kiln.tensor(A).to_sparse()
    w = kiln.tensor(dense(kiln).tolist()).requires_grad_()

    def step(x):
        return (adjacency @ (x @ w)).square().sum()

    x = kiln.ones(4, 4)
    want = step(x)
    want.backward()
    expected, w.grad = w.grad, None
    got = kiln.compile(step)(x)
    got.backward()
    assert kiln.allclose(got, want)
    assert kiln.allclose(w.grad, expected)


def test_what_is_not_implemented_is_named():
    for call in (
        lambda x: x.exp(),
        lambda x: x.softmax(0),
        lambda x: kiln.nn.functional.conv1d(x, x),
        lambda x: x.cumsum(0),
    ):
        with pytest.raises(kiln.KilnError, match=r"sparse_coo|layouts") as e:
            call(coo(kiln))
        assert len(str(e.value).splitlines()) == 3
    with pytest.raises(kiln.KilnError, match="sparse"):
        kiln.compile(lambda x: x @ dense(kiln, 3))(coo(kiln))


# ---------------------------------------------------------------- sparse gradients


def table(m, bag=False):
    kind = m.nn.EmbeddingBag if bag else m.nn.Embedding
    options = {"mode": "sum"} if bag else {"padding_idx": 2}
    net = kind(6, 3, sparse=True, **options)
    with m.no_grad():
        net.weight.copy_(m.tensor(dense(kiln, 6, 3).tolist()))
    return net


BATCHES = [[[0, 1], [1, 2]], [[5, 5], [0, 2]], [[2, 2], [3, 1]]]


@pytest.mark.parametrize("bag", [False, True], ids=["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize(
    "make",
    [
        lambda m, p: m.optim.SGD(p, lr=0.5), lambda m, p: m.optim.SGD(p, lr=0.5, momentum=0.9), lambda m, p: m.optim.Adagrad(p, lr=0.5),
        lambda m, p: m.optim.SparseAdam(list(p), lr=0.5), lambda m, p: m.optim.SparseAdam(list(p), lr=0.5, maximize=True),
    ],
    ids=["SGD", "momentum", "Adagrad", "SparseAdam", "maximize"],
)  # fmt: skip
def test_embeddings_train_by_sparse_gradients(make, bag):
    weights = []
    for m in (kiln, torch):
        net = table(m, bag)
        opt = make(m, net.parameters())
        for batch in BATCHES:
            opt.zero_grad()
            net(m.tensor(batch)).square().sum().backward()
            assert net.weight.grad.is_sparse
            opt.step()
        weights.append(net.weight.detach().numpy())
    np.testing.assert_allclose(*weights, 1e-5, 1e-6)


def test_sparse_gradients_add_up():
    got = []
    for m in (kiln, torch):
        net = table(m)
        for batch in BATCHES[:2]:
            net(m.tensor(batch)).sum().backward()
        assert net.weight.grad.is_sparse
        twice = net(m.tensor(BATCHES[0])).sum() + net(m.tensor(BATCHES[1])).square().sum()
        twice.backward()
        mixed = net(m.tensor(BATCHES[0])).sum() + net.weight.square().sum()
        got.append(
            [net.weight.grad.to_dense().numpy(), m.autograd.grad(mixed, net.weight)[0].numpy()]
        )
        net.zero_grad()
        assert net.weight.grad is None
    np.testing.assert_allclose(got[0], got[1], 1e-5)


def test_other_optimizers_refuse_sparse_gradients():
    net = table(kiln)
    net(kiln.tensor([0])).sum().backward()
    with pytest.raises(RuntimeError, match="does not support sparse"):
        kiln.optim.Adam(net.parameters()).step()
    with pytest.raises(RuntimeError, match="not compatible"):
        kiln.optim.Adagrad(net.parameters(), weight_decay=0.1).step()
    with pytest.raises(ValueError, match="learning rate"):
        kiln.optim.SparseAdam(net.parameters(), lr=0.0)
    net.weight.grad = net.weight.grad.to_dense()
    with pytest.raises(RuntimeError, match="dense gradients"):
        kiln.optim.SparseAdam(net.parameters()).step()


@pytest.mark.parametrize(
    "name", ["to_sparse_csr", "to_sparse_csc", "to_sparse_bsr", "to_sparse_bsc"]
)
def test_last_dimensions_stay_dense(name):
    x = kiln.arange(48.0).reshape(4, 4, 3)
    blocks = ((2, 2),) if "bs" in name else ()
    s = getattr(x, name)(*blocks, dense_dim=1)
    assert (s.shape, s.dense_dim()) == (x.shape, 1)
    assert kiln.equal(s.to_dense(), x)
    assert kiln.equal(
        x.to_sparse(
            layout=s.layout, blocksize=blocks[0] if blocks else None, dense_dim=1
        ).to_dense(),
        x,
    )
    assert s.values().shape == (
        (4, 2, 2, 3) if blocks else (15, 3) if x[0, 0].sum() == 0 else (16, 3)
    )
    for wrong in (2, -1):
        with pytest.raises(RuntimeError, match="dense_dim argument must be in"):
            getattr(x, name)(*blocks, dense_dim=wrong)
    with pytest.raises(RuntimeError, match="dense_dim argument given is not supported"):
        getattr(s, name)(*blocks, dense_dim=1)
    with pytest.raises(NotImplementedError, match="without batches"):
        getattr(x, name)(*blocks)
    assert x.to_sparse(layout=kiln.sparse_coo, dense_dim=2).sparse_dim() == 1
