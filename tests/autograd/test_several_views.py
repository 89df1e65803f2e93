"""Views of which one call gave several: autograd lets nobody write to them, as PyTorch does."""

from __future__ import annotations

import pytest

import kiln

SEVERAL = {
    "split": lambda x: x.split(2),
    "one part": lambda x: x.split(4),
    "split_with_sizes": lambda x: kiln.split_with_sizes(x, [1, 3]),
    "chunk": lambda x: x.chunk(2),
    "unbind": lambda x: x.unbind(),
    "rows": lambda x: list(x),
    "view of one": lambda x: [x.unbind()[0][:1]],
}
APART = {
    "tensor_split": lambda x: x.tensor_split(2),
    "unsafe_split": lambda x: kiln.unsafe_split(x, 2),
    "unsafe_chunk": lambda x: x.unsafe_chunk(2),
    "index": lambda x: [x[0]],
}


def base():
    return kiln.ones(4, 3, requires_grad=True) * 1


@pytest.mark.parametrize("name", SEVERAL)
def test_refused(name):
    for change in (lambda v: v.mul_(2), lambda v: v.zero_(), lambda v: v.__setitem__(0, 1.0)):
        x = base()
        view = SEVERAL[name](x)[0]
        with pytest.raises(RuntimeError, match="several results"):
            change(view)
        assert x.tolist() == [[1.0] * 3] * 4  # nothing was written
    with pytest.raises(RuntimeError, match="several results"):
        SEVERAL[name](kiln.ones(4, 3))[0].mul_(kiln.ones(1, requires_grad=True))


@pytest.mark.parametrize("name", SEVERAL)
def test_a_changed_base_spoils_them(name):
    x = base()
    view = SEVERAL[name](x)[0]
    x.mul_(2)
    with pytest.raises(RuntimeError, match="several results"):
        view.sum()


@pytest.mark.parametrize("name", SEVERAL)
def test_without_gradients_they_are_views_as_others(name):
    x = kiln.ones(4, 3)
    SEVERAL[name](x)[0].mul_(2)
    assert x[0, 0] == 2
    y = base()
    with kiln.no_grad():
        SEVERAL[name](y)[0].mul_(2)
    SEVERAL[name](y)[0].detach().mul_(2)
    assert y[0, 0] == 4


@pytest.mark.parametrize("name", APART)
def test_allowed(name):
    leaf = kiln.ones(4, 3, requires_grad=True)
    x = leaf * 1
    APART[name](x)[0].mul_(2)
    x.sum().backward()
    assert leaf.grad[0].tolist() == [2.0] * 3
    assert leaf.grad[3].tolist() == [1.0] * 3
