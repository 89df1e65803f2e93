"""The tensor as a handle on memory: NumPy and DLPack both ways, Python protocols."""

from __future__ import annotations

import copy
import math
import pickle
from collections import deque

import numpy as np
import pytest

import kiln


def test_memory_is_shared_with_numpy_both_ways():
    a = np.zeros(3)
    x = kiln.from_numpy(a)
    a[0] = 1
    x[1] = 2
    np.testing.assert_array_equal(a, [1, 2, 0])
    assert np.shares_memory(x.numpy(), a)
    assert np.shares_memory(np.asarray(x), a)
    assert np.array(x).sum() == 3
    assert np.asarray(x, dtype=np.float32).dtype == np.float32
    with pytest.raises(RuntimeError, match="requires grad"):
        kiln.ones(2, requires_grad=True).numpy()


def test_kiln_tensor_copies():
    a = np.zeros(3)
    kiln.tensor(a)[0] = 1
    assert a[0] == 0
    assert np.shares_memory(kiln.as_tensor(a).numpy(), a)


def test_asarray_shares_or_copies():
    a, x = np.zeros(2), kiln.zeros(2, requires_grad=True) * 2
    assert kiln.asarray(x) is x
    assert not kiln.asarray(x, requires_grad=False).requires_grad
    assert kiln.asarray(x, copy=True).grad_fn is not None
    kiln.asarray(a)[0] = 1
    kiln.asarray(a, copy=True)[1] = 1
    assert a.tolist() == [1, 0]
    assert kiln.asarray(memoryview(b"ab"), dtype=kiln.int8).tolist() == [97, 98]
    assert kiln.asarray([1.0, 2.0], requires_grad=True).requires_grad
    with pytest.raises(TypeError, match="received: 'ab'"):
        kiln.asarray("ab")
    for needs in (lambda: [1, 2], lambda: x.double(), lambda: a):
        with pytest.raises(ValueError, match="without a copy"):
            kiln.asarray(needs(), dtype=kiln.float32, copy=False)


def test_dlpack_both_ways():
    x = kiln.arange(4.0)
    a = np.from_dlpack(x)
    assert np.shares_memory(a, x.numpy())
    b = np.arange(3)
    assert np.shares_memory(kiln.from_dlpack(b).numpy(), b)
    for take in (np.from_dlpack, kiln.from_dlpack):
        with pytest.raises(BufferError, match="requires grad"):
            take(kiln.ones(2, requires_grad=True))
    y, z = kiln.from_dlpack(x), kiln.from_dlpack(x, device="cpu", copy=True)
    x[0] = 9
    assert (y[0], z[0]) == (9, 0)
    with pytest.raises(RuntimeError):
        kiln.from_dlpack(object())


@pytest.mark.peers
def test_dlpack_with_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    t = torch.zeros(3)
    x = kiln.from_dlpack(t)
    x[0] = 5
    assert t[0] == 5
    assert torch.from_dlpack(kiln.ones(2))[1] == 1


def test_python_numbers():
    assert kiln.tensor(3).item() == 3
    assert float(kiln.tensor(2.5)) == 2.5
    assert int(kiln.tensor(2.7)) == 2
    assert [10, 20, 30][kiln.tensor(1)] == 20
    assert bool(kiln.tensor([True]))
    assert f"{kiln.tensor(2.5):.3f}" == "2.500"
    assert kiln.tensor([[1, 2], [3, 4]]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: kiln.ones(2).item(), RuntimeError), (lambda: bool(kiln.ones(2)), RuntimeError),
        (lambda: bool(kiln.ones(0)), RuntimeError), (lambda: len(kiln.tensor(1)), TypeError),
        (lambda: iter(kiln.tensor(1)), TypeError), (lambda: [1][kiln.tensor(0.0)], TypeError),
        (lambda: kiln.tensor([[1], [2, 3]]), (TypeError, ValueError)), (lambda: kiln.tensor("x"), TypeError),
        (lambda: kiln.zeros(-1), RuntimeError), (lambda: kiln.ones(2).cuda(), RuntimeError),
        (lambda: kiln.from_numpy([1]), TypeError),
    ],
)  # fmt: skip
def test_what_is_refused(call, error):
    with pytest.raises(error) as e:
        call()
    assert isinstance(e.value, kiln.KilnError)


def test_containers():
    x = kiln.arange(6).reshape(2, 3)
    assert len(x) == 2
    assert [row.tolist() for row in x] == [[0, 1, 2], [3, 4, 5]]
    assert 4 in x
    assert 9 not in x
    assert len({x: 1, x.clone(): 2}) == 2  # hashed by identity


def test_what_was_unpickled_multiplies_what_is_new():
    """NumPy's unpickled arrays have a copy of their dtype, which products took for another one."""
    a = pickle.loads(pickle.dumps(np.ones((10, 50), np.float32)))
    x = kiln.ones(64, 50, requires_grad=True)
    for w in (pickle.loads(pickle.dumps(kiln.ones(10, 50))), kiln.from_numpy(a), kiln.tensor(a)):
        (grad,) = kiln.autograd.grad(kiln.nn.functional.linear(x, w).sum(), x)
        assert grad[0, 0] == 10


def test_pickle():
    x = kiln.ones(2, requires_grad=True)
    y = pickle.loads(pickle.dumps(x))
    assert y.requires_grad
    assert y.tolist() == [1, 1]


def test_strides_and_views():
    x = kiln.arange(12).reshape(3, 4)
    assert x.stride() == (4, 1)
    assert x.T.stride() == (1, 4)
    assert x[1:].storage_offset() == 4
    assert x.is_contiguous()
    assert not x.T.is_contiguous()
    assert x.data_ptr() == x.T.data_ptr()
    assert x.nbytes == 96


def test_numpy_operands():
    a = np.ones(2, np.float32)
    assert isinstance(a + kiln.ones(2), kiln.Tensor)
    assert (kiln.ones(2) + a).tolist() == [2, 2]
    assert (np.float32(2) * kiln.ones(2)).tolist() == [2, 2]


def test_a_storage_may_be_a_file(tmp_path):
    path = tmp_path / "weights"
    kiln.arange(6, dtype=kiln.float32).numpy().tofile(path)
    storage = kiln.UntypedStorage.from_file(str(path), shared=False, nbytes=24)
    rest = kiln.asarray(storage[8:24], dtype=kiln.uint8).view(dtype=kiln.float32).view(size=(2, 2))
    assert rest.tolist() == [[2.0, 3.0], [4.0, 5.0]]
    rest.fill_(7.0)  # a copy is written to, not the file
    assert np.fromfile(path, np.float32).tolist() == [0, 1, 2, 3, 4, 5]
    shared = kiln.UntypedStorage.from_file(str(path), shared=True, nbytes=4)
    shared[:] = 0
    assert np.fromfile(path, np.uint8)[:4].tolist() == [0] * 4


def test_storages_are_the_whole_memory():
    x = kiln.arange(12, dtype=kiln.int32).reshape(3, 4)
    row = x[1]
    assert x.untyped_storage().data_ptr() == row.untyped_storage().data_ptr() == x.data_ptr()
    assert row.untyped_storage().nbytes() == 48
    assert row.storage().tolist() == list(range(12))
    row.storage()[4] = 100
    assert x[1, 0].item() == 100
    assert x.is_set_to(x.view(3, 4))
    assert not x.is_set_to(row)
    assert kiln.empty(0).untyped_storage().nbytes() == 0
    read = kiln.ByteStorage.from_buffer(b"\x01\x02\xff")
    assert kiln.ByteTensor(read).tolist() == [1, 2, 255]
    with pytest.raises(TypeError, match="storage"):
        kiln.FloatTensor(read)


def test_dimensions_have_no_names():
    x = kiln.ones(2, 3)
    assert x.names == (None, None)
    assert not x.has_names()
    assert x.t().dim_order() == (1, 0)
    for call in (
        lambda: x.rename("a", "b"),
        lambda: x.refine_names("a", "b"),
        lambda: setattr(x, "names", ("a", "b")),
    ):
        with pytest.raises(NotImplementedError, match="no names"):
            call()


def test_copies_lie_as_the_tensor_does():
    x = kiln.arange(6.0).reshape(2, 3).t()
    assert copy.deepcopy(x).stride() == x.stride()
    assert copy.deepcopy(kiln.nn.Parameter(x)).stride() == x.stride()


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_stack_gives_each_its_part_of_the_gradient(shape, dim):
    if dim > len(shape):
        return
    kiln.manual_seed(0)
    xs = [kiln.rand(shape, requires_grad=True) for _ in range(3)]
    out = kiln.stack([xs[0], xs[1] * 2, xs[2].double(), xs[0], kiln.ones(shape)], dim)
    assert out.dtype is kiln.float64
    weights = kiln.arange(float(out.numel())).reshape(out.shape)
    (out * weights).sum().backward()
    parts = weights.unbind(dim)
    for x, due in zip(xs, (parts[0] + parts[3], parts[1] * 2, parts[2]), strict=True):
        assert kiln.equal(x.grad, due)
    with kiln.no_grad():
        assert not kiln.stack(xs, dim).requires_grad


def test_stack_of_numbers_keeps_each_and_promotes():
    assert kiln.stack([kiln.tensor(2**53 + 1), kiln.tensor(3)]).tolist() == [2**53 + 1, 3]
    assert kiln.stack([kiln.tensor(True), kiln.tensor(2.5)]).tolist() == [1.0, 2.5]


@pytest.mark.parametrize("kind", [list, tuple, deque])
def test_sequences_of_floats_become_tensors(kind):
    numbers = [0.1, 1e30, -0.0, math.nan]
    np.testing.assert_array_equal(kiln.tensor(kind(numbers)).numpy(), np.float32(numbers))
    np.testing.assert_array_equal(kiln.tensor(kind(numbers), dtype=kiln.float64).numpy(), numbers)
    assert kiln.tensor(kind([1.5, 2.5]), dtype=kiln.int64).tolist() == [1, 2]
    assert kiln.tensor(kind([1.5, 2])).dtype is kiln.float32
    assert kiln.tensor(kind([])).dtype is kiln.float32


def test_as_tensor_of_another_dtype_is_a_copy():
    a = np.arange(4.0)
    x, same = kiln.as_tensor(a, dtype=kiln.float32), kiln.as_tensor(a)
    a[0] = 9
    assert x.tolist() == [0, 1, 2, 3]
    assert same.tolist() == [9, 1, 2, 3]
