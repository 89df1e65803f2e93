"""What samples can't say about the ops behind layers: state that changes, gradients that are cut."""

from __future__ import annotations

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln.config import context


def test_batch_norm_moves_its_running_statistics():
    x = kiln.tensor([[1.0, 2.0], [3.0, 6.0], [5.0, 4.0]])
    mean, var = kiln.zeros(2), kiln.ones(2)
    F.batch_norm(x, mean, var, training=True, momentum=0.5)
    np.testing.assert_allclose(mean.numpy(), [1.5, 2.0])
    np.testing.assert_allclose(var.numpy(), [2.5, 2.5])  # the variance is unbiased: 4 and 4


@pytest.mark.parametrize("shape", [(16, 8), (4, 8, 2, 2)])
def test_batch_norm_of_few_elements_is_the_references(shape):
    rest = (1, 8, *(1,) * (len(shape) - 2))
    for needed in ((True, True), (True, False), (False, True)):
        found = []
        for eager in ("cpu", "reference"):
            kiln.manual_seed(0)
            with context(eager=eager):
                x = kiln.randn(*shape, dtype=kiln.float64).requires_grad_(needed[0])
                w, b = (
                    kiln.rand(8, dtype=kiln.float64).requires_grad_(needed[1]) for _ in range(2)
                )
                mean, var = kiln.zeros(8, dtype=kiln.float64), kiln.ones(8, dtype=kiln.float64)
                y = F.batch_norm(x, mean, var, w, b, True)
                leaves = [t for t in (x, w, b) if t.requires_grad]
                (y * x.detach()).sum().backward()
                found.append(
                    [y, mean, var, F.batch_norm(x, mean, var, w, b), *(t.grad for t in leaves)]
                )
        for got, want in zip(*found, strict=True):
            np.testing.assert_allclose(
                got.detach().numpy(), want.detach().numpy(), rtol=1e-9, atol=1e-12
            )
    flat = x.detach().transpose(0, 1).reshape(8, -1)
    want = (x.detach() - flat.mean(1).reshape(rest)) / (
        flat.var(1, unbiased=False).reshape(rest) + 1e-5
    ).sqrt()
    np.testing.assert_allclose(
        y.detach().numpy(),
        (want * w.reshape(rest) + b.reshape(rest)).detach().numpy(),
        rtol=1e-9,
        atol=1e-12,
    )


def test_batch_norm_in_evaluation_leaves_its_statistics_alone():
    mean, var = kiln.tensor([1.0]), kiln.tensor([4.0])
    out = F.batch_norm(kiln.tensor([[3.0], [5.0]]), mean, var, eps=0.0)
    np.testing.assert_allclose(out.numpy(), [[1.0], [2.0]])
    assert mean.item() == 1.0
    assert var.item() == 4.0


def test_embedding_gives_no_gradient_to_its_padding_row():
    weight = kiln.ones(4, 2).requires_grad_()
    F.embedding(kiln.tensor([0, 1, 1, 3]), weight, padding_idx=1).sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy()[:, 0], [1, 0, 0, 1])


def test_embedding_scales_gradients_by_frequency():
    weight = kiln.ones(3, 2).requires_grad_()
    F.embedding(kiln.tensor([2, 2, 0]), weight, scale_grad_by_freq=True).sum().backward()
    np.testing.assert_array_equal(weight.grad.numpy()[:, 0], [1, 0, 1])


def test_embedding_renormalizes_only_the_rows_in_use():
    weight = kiln.tensor([[3.0, 4.0], [3.0, 4.0], [0.3, 0.4]])
    F.embedding(kiln.tensor([0, 2]), weight, max_norm=1.0)
    np.testing.assert_allclose(weight.numpy(), [[0.6, 0.8], [3, 4], [0.3, 0.4]], rtol=1e-5)


def test_embedding_may_change_its_weight_before_backward():
    weight = kiln.ones(3, 2).requires_grad_()
    out = F.embedding(kiln.tensor([0, 1]), weight)
    with kiln.no_grad():
        weight.mul_(2)
    out.sum().backward()
    assert weight.grad.sum().item() == 4


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "elu", "silu", "hardtanh", "mish", "relu6"])
def test_the_inplace_flag_stores_and_differentiates(name):
    fn = getattr(F, name)
    x = kiln.tensor([-2.0, -0.5, 0.5, 8.0], dtype=kiln.float64).requires_grad_()
    y = x * 2
    assert fn(y, inplace=True) is y
    y.sum().backward()
    plain = x.detach().requires_grad_()
    out = fn(plain * 2)
    out.sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), out.detach().numpy())
    np.testing.assert_allclose(x.grad.numpy(), plain.grad.numpy())


def test_relu_drops_gradients_that_are_not_finite():
    x = kiln.tensor([-1.0, 2.0]).requires_grad_()
    F.relu(x).backward(kiln.tensor([float("nan"), 3.0]))
    np.testing.assert_array_equal(x.grad.numpy(), [0, 3])


def test_max_pool_gives_its_gradient_to_the_first_of_equals():
    x = kiln.ones(1, 1, 2, 2).requires_grad_()
    F.max_pool2d(x, 2).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy().ravel(), [1, 0, 0, 0])


def test_attention_on_a_row_that_is_masked_out_is_zero():
    q = kiln.ones(1, 2, 3)
    mask = kiln.tensor([[True, True], [False, False]])
    out = F.scaled_dot_product_attention(q, q, q, mask)
    np.testing.assert_allclose(out.numpy()[0], [[1, 1, 1], [0, 0, 0]])


def test_ctc_of_an_impossible_target_is_infinite_or_dropped():
    x = kiln.zeros(2, 1, 3).log_softmax(2).requires_grad_()
    call = (x, kiln.tensor([[1, 1]]), (2,), (2,))  # a repeated label needs a blank between
    assert F.ctc_loss(*call).item() == float("inf")
    loss = F.ctc_loss(*call, zero_infinity=True)
    loss.backward()
    assert loss.item() == 0
    assert not x.grad.any()


def test_kl_div_warns_that_the_mean_is_not_the_divergence():
    p = kiln.tensor([[0.5, 0.5]])
    with pytest.warns(UserWarning, match="batchmean"):
        assert F.kl_div(p.log(), p).item() == pytest.approx(0, abs=1e-7)


def test_gumbel_softmax_when_hard_is_one_hot_with_a_gradient():
    x = kiln.zeros(5, 4).requires_grad_()
    y = F.gumbel_softmax(x, hard=True)
    np.testing.assert_allclose(np.sort(y.detach().numpy(), 1), [[0, 0, 0, 1]] * 5, atol=1e-6)
    (y * kiln.arange(4.0)).sum().backward()
    assert x.grad.abs().sum().item() > 0


@pytest.mark.parametrize("loss", [F.nll_loss, F.cross_entropy])
def test_a_weight_of_classes_has_no_gradient_and_says_so(loss):
    """The gradient of a smoothed loss would be that of a part of it."""
    weight = kiln.ones(3).requires_grad_()
    args = kiln.zeros(2, 3), kiln.tensor([0, 2]), weight
    with pytest.raises(
        kiln.KilnError, match="not differentiable with respect to argument 'weight'"
    ):
        loss(*args)
    with kiln.no_grad():
        loss(*args)
    if loss is F.cross_entropy:
        loss(args[0], kiln.full((2, 3), 1 / 3), weight).backward()
        assert weight.grad is not None


@pytest.mark.parametrize(
    ("argument", "call"),
    {
        "weight": lambda x, w: F.binary_cross_entropy(x, x, w),
        "weight ": lambda x, w: F.binary_cross_entropy_with_logits(x, x, w),
        "pos_weight": lambda x, w: F.binary_cross_entropy_with_logits(x, x, pos_weight=w),
        "weight  ": lambda x, w: F.multi_margin_loss(x, kiln.tensor([0, 2]), weight=w),
        "target": lambda x, w: F.soft_margin_loss(x[0], w),
        "random_samples": lambda x, w: F.fractional_max_pool2d(
            kiln.ones(1, 1, 4, 4), 2, 2, _random_samples=w[:2].reshape(1, 1, 2)
        ),
        "running_mean": lambda x, w: F.batch_norm(x, w, kiln.ones(3)),
        "running_var": lambda x, w: F.instance_norm(x[None], kiln.ones(2), w[:2]),
    }.items(),
)
def test_arguments_without_a_gradient_say_so(argument, call):
    x, w = kiln.full((2, 3), 0.5), kiln.full((3,), 0.5)
    call(x, w)
    w.requires_grad_()
    with pytest.raises(
        kiln.KilnError, match=f"not differentiable with respect to argument '{argument.strip()}'"
    ):
        call(x, w)
    with kiln.no_grad():
        call(x, w)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_has_no_gradient_for_its_statistics(training):
    x, mean = kiln.tensor([[3.0], [5.0]]), kiln.ones(1, requires_grad=True)
    with pytest.raises(RuntimeError, match="running_mean"):
        F.batch_norm(x, mean, kiln.ones(1), training=training)
    with kiln.no_grad():
        F.batch_norm(x, mean, kiln.ones(1), training=training)


def test_positions_of_the_nearest_elements_have_a_gradient_of_zero():
    maps, grid = (
        kiln.rand(1, 1, 3, 3, requires_grad=True),
        kiln.zeros(1, 2, 2, 2, requires_grad=True),
    )
    F.grid_sample(maps, grid, mode="nearest", align_corners=False).sum().backward()
    assert grid.grad.tolist() == kiln.zeros(1, 2, 2, 2).tolist()
    assert maps.grad.sum() == 4


def test_lengths_of_ctc_are_inputs_of_a_captured_program():
    x = kiln.tensor(np.random.default_rng(3).normal(size=(8, 2, 5)), dtype=kiln.float32)
    labels = kiln.tensor([[1, 2, 2], [3, 4, 1]])

    def loss(ends, lengths):
        return F.ctc_loss(x.log_softmax(2), labels, ends, lengths)

    compiled = kiln.compile(loss, fullgraph=True)
    for ends, lengths in (([8, 6], [3, 2]), ([5, 8], [1, 0])):
        given = kiln.tensor(ends), kiln.tensor(lengths)
        assert float(compiled(*given)) == pytest.approx(float(loss(ends, lengths)), rel=1e-6)
    assert "1 captures" in repr(compiled)
    with pytest.raises(RuntimeError, match="at most 8"):
        compiled(kiln.tensor([9, 8]), kiln.tensor([1, 1]))
    with pytest.raises(RuntimeError, match="integral"):
        loss(kiln.tensor([8.0, 8.0]), [1, 1])
