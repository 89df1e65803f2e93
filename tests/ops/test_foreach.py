"""Functions of lists of tensors, which optimizers written for PyTorch call."""

from __future__ import annotations

import pytest

import kiln
from kiln.errors import KilnError, KilnTypeError


def pair():
    return [kiln.tensor([1.0, 2.0]), kiln.tensor([3.0, 0.5, 0.25])]


def test_results_are_those_of_each_tensor():
    a, b = pair(), pair()[::-1]
    b = [b[1] * 2, b[0] + 1]
    for got, want in [
        (kiln._foreach_sqrt(a), [t.sqrt() for t in a]),
        (kiln._foreach_add(a, 2), [t + 2 for t in a]),
        (kiln._foreach_mul(a, [2, 3]), [a[0] * 2, a[1] * 3]),
        (kiln._foreach_add(a, b, alpha=0.5), [t + 0.5 * u for t, u in zip(a, b, strict=True)]),
        (kiln._foreach_div(a, kiln.tensor(2.0)), [t / 2 for t in a]),
        (kiln._foreach_maximum(a, b), [t.maximum(u) for t, u in zip(a, b, strict=True)]),
        (kiln._foreach_lerp(a, b, 0.25), [t.lerp(u, 0.25) for t, u in zip(a, b, strict=True)]),
        (kiln._foreach_addcmul(a, b, b, kiln.tensor([2.0, 3.0])), [a[0] + 2 * b[0] ** 2, a[1] + 3 * b[1] ** 2]),
        (kiln._foreach_pow(2.0, a), [2**t for t in a]),
        (kiln._foreach_norm(a, 1), [t.abs().sum() for t in a]),
    ]:  # fmt: skip
        assert isinstance(got, tuple)
        for x, y in zip(got, want, strict=True):
            kiln.testing.assert_close(x, y)


def test_in_place_the_list_itself_is_written_and_returned():
    a, b = pair(), pair()
    assert kiln._foreach_mul_(a, 2) is a
    assert kiln._foreach_addcdiv_(a, b, b, value=1) is a
    assert a[0].tolist() == [3.0, 5.0]
    kiln._foreach_copy_(a, b)
    assert a[1].tolist() == b[1].tolist()
    kiln._foreach_zero_(a)
    assert [t.sum().item() for t in a] == [0.0, 0.0]


def test_gradients_flow_through_lists():
    x = kiln.ones(2, requires_grad=True)
    kiln._foreach_mul([x], 3)[0].sum().backward()
    assert x.grad.tolist() == [3.0, 3.0]


def test_wrong_lists_are_refused_before_anything_is_written():
    a = pair()
    with pytest.raises(KilnError, match="same number of tensors, got 2 and 1"):
        kiln._foreach_add_(a, a[:1])
    with pytest.raises(KilnError, match="at least one tensor"):
        kiln._foreach_add([], 1)
    with pytest.raises(KilnError, match="scalar tensor expected to be 0 dim"):
        kiln._foreach_add_(a, kiln.ones(2))
    for wrong in (kiln.ones(2), None, [1, 2]):
        with pytest.raises(KilnTypeError, match="list of tensors"):
            kiln._foreach_sqrt(wrong)
    with pytest.raises(TypeError):
        kiln._foreach_sqrt(a, 1)
    assert a[0].tolist() == [1.0, 2.0]
