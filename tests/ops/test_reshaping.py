"""In-place changes of shape, under autograd and in memory: `t_`, `squeeze_`, `resize_`, `set_`, …"""

from __future__ import annotations

import math

import numpy as np
import pytest

import kiln
from kiln.errors import CaptureError


def matrix() -> kiln.Tensor:
    return kiln.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("name", "args"),
    [("t", ()), ("transpose", (0, 1)), ("swapaxes", (0, -1)), ("swapdims", (1, 0)), ("squeeze", ()),
     ("unsqueeze", (1,)), ("as_strided", ((3,), (2,), 1))],
)  # fmt: skip
def test_the_tensor_becomes_the_view_and_keeps_its_memory(name, args):
    x = matrix()
    want = getattr(x, name)(*args)
    at = x.data_ptr()
    assert getattr(x, name + "_")(*args) is x
    assert x.shape == want.shape
    assert x.stride() == want.stride()
    assert kiln.equal(x, want)
    if name != "as_strided":
        assert x.data_ptr() == at
    assert x._version == 1


def test_gradients_flow_through_views_in_place():
    leaf = kiln.randn(2, 3, requires_grad=True)
    weight = kiln.randn(3, 2)
    x = leaf * 2
    x.t_()
    x.mul_(weight)
    x.unsqueeze_(0)
    x.sum().backward()
    np.testing.assert_allclose(leaf.grad.numpy(), 2 * weight.t().numpy())


def test_as_strided_in_place_has_a_gradient_and_refusals_change_nothing():
    leaf = kiln.randn(2, 3, requires_grad=True)
    x = leaf * 2
    x.as_strided_((2,), (4,), 1)
    x.sum().backward()
    assert leaf.grad.tolist() == [[0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]
    y = matrix()
    with pytest.raises(IndexError):
        y.transpose_(0, 2)
    assert y._version == 0
    assert y.shape == (2, 3)


def test_views_taken_before_keep_their_shape_and_history():
    leaf = kiln.randn(2, 3, requires_grad=True)
    x = leaf * 1
    row = x[0]
    x.t_()
    x.mul_(3)  # seen by both
    assert row.shape == (3,)
    assert kiln.equal(row, 3 * leaf[0])
    row.mul_(2)
    assert kiln.equal(x[:, 0], 6 * leaf[0])
    x.sum().backward()
    np.testing.assert_allclose(leaf.grad.numpy(), [[6.0] * 3, [3.0] * 3])


def test_a_view_of_a_tensor_turned_in_place_writes_into_it():
    x = matrix()
    y = x[:, 1:]
    y.t_()
    y.zero_()
    assert x.tolist() == [[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]


def test_leaves_that_require_grad_are_refused_unless_in_no_grad():
    p = kiln.ones(2, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="leaf"):
        p.t_()
    with kiln.no_grad():
        p.t_()
    assert p.shape == (3, 2)
    assert p.is_leaf
    assert p.requires_grad


def test_inside_a_compiled_function_own_tensors_turn_and_arguments_do_not():
    def own(x):
        y = x * 2
        y.t_()
        y.add_(1)
        return y.unsqueeze_(0)

    x = matrix()
    assert kiln.equal(kiln.compile(own)(x), (x * 2).t().add(1).unsqueeze(0))
    with pytest.raises(CaptureError, match="t_"):
        kiln.compile(lambda x: x.t_())(x)


def test_resize_uses_its_memory_and_grows_it():
    x = matrix()
    at = x.data_ptr()
    assert x.resize_(2, 2).tolist() == [[0.0, 1.0], [2.0, 3.0]]
    assert x.data_ptr() == at
    assert x.resize_((3, 2)).tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]
    assert x.resize_(8)[:6].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert x.resize_as_(kiln.zeros(2, 1)).shape == (2, 1)
    with pytest.raises(RuntimeError, match="resize variables that require grad"):
        kiln.ones(2, requires_grad=True).resize_(3)


def test_set_shows_other_memory():
    x, y = kiln.zeros(3), matrix()
    assert x.set_(y) is x
    assert x.is_set_to(y)
    y[0, 0] = 9
    assert x[0, 0] == 9
    x.set_(y, 1, (2, 2), (3, 1))
    assert x.tolist() == [[1.0, 2.0], [4.0, 5.0]]
    assert not x.is_set_to(y)
    assert x.set_().shape == (0,)
    with pytest.raises(RuntimeError, match="dtype"):
        x.set_(kiln.arange(3))


def test_writes_through_as_strided_are_recorded():
    leaf = kiln.randn(3, 4, requires_grad=True)
    src = kiln.randn(2, 2, requires_grad=True)
    kiln.as_strided_scatter(leaf, src, (2, 2), (4, 2), 1).sum().backward()
    want = np.ones((3, 4))
    want.reshape(-1)[[1, 3, 5, 7]] = 0
    np.testing.assert_array_equal(leaf.grad.numpy(), want)
    np.testing.assert_array_equal(src.grad.numpy(), np.ones((2, 2)))


def test_storages_are_the_memory():
    x = matrix()[:, 1:]
    assert x.storage().tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert x.storage_offset() == 1
    assert x.untyped_storage().nbytes() == 24
    assert len(x.storage()) == 6
    assert x.untyped_storage().data_ptr() == x.data_ptr() - 4
    x.storage()[1] = 7.0
    assert x[0, 0] == 7
    assert kiln.is_storage(x.storage())
    assert not kiln.is_storage(x)


def test_strided_empties():
    x = kiln.empty_strided((2, 3), (1, 2))
    assert x.stride() == (1, 2)
    assert x.shape == (2, 3)
    assert kiln.empty_permuted((2, 3, 4), (2, 0, 1)).stride() == (3, 1, 6)
    assert x.new_empty_strided((2,), (5,), dtype=kiln.int64).dtype is kiln.int64


def test_python_functions_of_elements():
    x = kiln.tensor([1.0, 2.0])
    assert x.apply_(lambda v: v + 1).tolist() == [2.0, 3.0]
    assert x.map_(kiln.tensor(2.0), lambda a, b: a * b).tolist() == [4.0, 6.0]
    assert x.map2_(x, kiln.tensor([1.0, 0.0]), lambda a, b, c: a + b + c).tolist() == [9.0, 12.0]


@pytest.mark.parametrize("flipped", [False, True])
def test_windows_changed_in_place_are_known_to_their_base(flipped):
    a = np.arange(4.0)
    x = kiln.from_numpy(a[::-1] if flipped else a.copy()).requires_grad_()
    base = x.clone() if not flipped else x * 1
    base.unfold(0, 2, 2)[:, 1].mul_(3)
    base.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [1, 3, 1, 3])


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("second", [kiln.float32, kiln.float64, kiln.bfloat16, kiln.int64])
def test_stacks_of_tensors_with_and_without_history(dim, second):
    a = kiln.arange(6.0).reshape(2, 3)
    b = (a.T.contiguous().T * 2).to(second)
    want = np.stack([a.numpy(), b.float().numpy()], dim)
    plain = kiln.stack([a, b], dim)
    tracked = kiln.stack([a.clone().requires_grad_(), b], dim)
    assert plain.dtype is tracked.dtype is kiln.promote_types(a.dtype, second)
    assert plain.stride() == tracked.stride()
    for x in (plain, tracked):
        np.testing.assert_array_equal(x.detach().float().numpy(), want)
    assert plain._base is None
    assert not plain.requires_grad
    plain.zero_()
    assert float(a.sum()) == 15


def test_a_stack_of_views_of_what_requires_grad_has_history():
    w = kiln.ones(3, 2, requires_grad=True)
    kiln.stack(list(w.unbind()), 1).mul(kiln.arange(6.0).reshape(2, 3)).sum().backward()
    np.testing.assert_array_equal(w.grad.numpy(), [[0, 3], [1, 4], [2, 5]])
    late = kiln.zeros(2, 2)
    row = late[0]
    late.mul_(kiln.ones(2, requires_grad=True))  # the view's history is its base's
    assert kiln.stack([row, row]).requires_grad
    batched = kiln.vmap(lambda x: kiln.stack([x, kiln.ones(2)]))(kiln.zeros(3, 2))
    assert batched.shape == (3, 2, 2)


def test_in_place_ops_with_operands_that_broadcast():
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for shape in ((4,), (3, 1), (1, 1, 1), (2, 1, 4), ()):
        b = np.arange(3, 3 + math.prod(shape), dtype=np.float32).reshape(shape)
        x = kiln.tensor(base)
        view = x[0]
        x.sub_(kiln.tensor(b)).div_(kiln.tensor(b))
        np.testing.assert_array_equal(x.numpy(), (base - b) / b)
        np.testing.assert_array_equal(view.numpy(), x[0].numpy())
    x = kiln.tensor(base)
    for bad in ((2, 2, 3, 4), (1, 2, 3, 4), (2,), (3, 4, 1)):
        with pytest.raises(RuntimeError):
            x.add_(kiln.ones(bad))
    with pytest.raises(RuntimeError, match="single memory location"):
        x.add_(x[:1])
    np.testing.assert_array_equal(x.numpy(), base)


def test_what_expand_does_not_repeat_may_be_written_to():
    base = kiln.arange(4)
    row = base.expand(1, -1)
    row.copy_(kiln.arange(4) + 1)
    assert base.tolist() == [1, 2, 3, 4]
    assert row.stride() == (4, 1)
    base[::2].expand((1, 1, 2)).zero_()
    assert base.tolist() == [0, 2, 0, 4]
    kiln.nn.init.constant_(base.expand(1, 4), 7)
    assert base.tolist() == [7] * 4
    one = kiln.tensor(3.0)
    one.expand(1, 1).mul_(2)
    assert one.item() == 6
    with pytest.raises(RuntimeError, match="share memory"):
        base.expand(2, 4).add_(1)


def test_the_method_split_calls_its_sizes_split_size_and_the_function_does_not():
    x = kiln.arange(6)
    assert [p.tolist() for p in x.split(split_size=[2, 4], dim=0)] == [[0, 1], [2, 3, 4, 5]]
    assert len(kiln.split(tensor=x, split_size_or_sections=4)) == len(x.split(4)) == 2
    for wrong in (lambda: kiln.split(x, split_size=2), lambda: x.split(split_size_or_sections=2)):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize("requires_grad", [False, True])
def test_tensors_are_filled_with_the_value_of_one(requires_grad):
    x = kiln.tensor([1.5, -2.0, 3.0], requires_grad=requires_grad)
    for made in (x.new_full((2,), x.min()), kiln.full_like(x, x.min())):
        assert set(made.tolist()) == {-2.0}
        assert not made.requires_grad
    assert x.new_full((2,), x.max(), dtype=kiln.int64).tolist() == [3, 3]
    rows = kiln.vmap(lambda r: kiln.full_like(r, r.max()))(kiln.arange(4.0).reshape(2, 2))
    assert rows.tolist() == [[1, 1], [3, 3]]
    assert kiln.compile(lambda t: t.new_full((2,), t.min()))(x.detach()).tolist() == [-2, -2]
