"""Gradients from and to sparse tensors themselves."""

from __future__ import annotations

import kiln


def test_backward_begins_at_a_sparse_tensor_with_a_dense_or_a_sparse_gradient():
    x = kiln.tensor([[1.0, 0.0], [0.0, 2.0]], requires_grad=True)
    weights = kiln.tensor([[3.0, 4.0], [5.0, 6.0]])
    assert kiln.autograd.grad(x.to_sparse(), x, weights)[0].tolist() == [[3, 0], [0, 6]]
    x.to_sparse().backward(weights.to_sparse())
    assert x.grad is not None
    assert x.grad.tolist() == [[3, 0], [0, 6]]


def test_the_gradient_of_a_sparse_tensor_has_its_places():
    c = kiln.tensor([[1.0, 0.0], [0.0, 2.0]]).to_sparse_csr().requires_grad_()
    b = kiln.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    gc, gb = kiln.autograd.grad(kiln.sparse.mm(c, b, "sum").sum(), [c, b])
    assert gc.layout is kiln.sparse_csr
    assert gc.to_dense().tolist() == [[3, 0], [0, 7]]
    assert gb.tolist() == [[1, 1], [2, 2]]
    gc, _ = kiln.autograd.grad(kiln.sparse.sampled_addmm(c, b, b), [c, b], kiln.ones(2, 2))
    assert gc.to_dense().tolist() == [[1, 0], [0, 1]]
