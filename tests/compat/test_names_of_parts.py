"""Names of PyTorch's smaller parts: devices that are not there, files, older tensors' methods, ops of one's own."""

from __future__ import annotations

import importlib
import threading

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.compat.torch import face

# ---------------------------------------------------------------- devices that are not there


@pytest.mark.parametrize("move", [
    lambda x: x.cuda(), lambda x: x.to("cuda:0"), lambda x: nn.Linear(2, 2).cuda(), lambda x: kiln.ones(2, device="cuda"),
    lambda x: x.xpu(), lambda x: kiln.tensor([1.0], device="cuda"), lambda x: kiln.cuda.synchronize(),
])  # fmt: skip
def test_a_gpu_that_is_not_there_fails_an_assertion(move):
    with pytest.raises(AssertionError, match=r"not compiled with (CUDA|XPU) enabled") as e:
        move(kiln.ones(2))
    assert isinstance(e.value, RuntimeError)


def test_what_is_known_of_a_gpu_that_is_not_there():
    cuda = kiln.cuda
    for name in (
        "reset_peak_memory_stats",
        "reset_peak_host_memory_stats",
        "caching_allocator_enable",
    ):
        assert getattr(cuda, name)() is None
    assert cuda.host_memory_stats() == cuda.host_memory_stats_as_nested_dict() == {}
    assert not cuda.tunable.is_enabled()
    assert cuda.check_error(cuda.cudaStatus.SUCCESS) is None
    assert not isinstance(kiln.ones(2), cuda.sparse.FloatTensor)
    for call in (cuda.profiler.start, cuda.caching_allocator_alloc, cuda.get_allocator_backend, cuda.FloatStorage,
                 cuda.tunable.enable, cuda.nccl.all_reduce, cuda.use_mem_pool, cuda.GreenContext, cuda.nvtx.range_start):  # fmt: skip
        with pytest.raises(RuntimeError, match="no cuda device"):
            call()
    assert not kiln.mtia.is_available()
    assert kiln.mtia.device_count() == 0
    with pytest.raises(AssertionError):
        kiln.mtia.current_device()
    assert kiln.xpu.get_arch_list() == []
    assert str(kiln.device("hpu", 1)) == "hpu:1"
    with pytest.raises(RuntimeError, match="no hpu device"):
        kiln.ones(2, device="hpu")


def test_parts_of_the_build():
    assert kiln.backends.cpu.get_cpu_capability() in ("AVX512", "AVX2", "DEFAULT")
    assert kiln.backends.mha.get_fastpath_enabled()
    assert not kiln.backends.cuda.is_ck_sdpa_available()
    assert kiln.has_lapack
    assert not kiln.has_mkl
    assert kiln.get_file_path("__init__.py") == kiln.__file__
    with pytest.raises(RuntimeError, match="no extension"):
        kiln.classes.anything


def test_a_baton_is_held_by_one(tmp_path):
    from kiln.utils.file_baton import FileBaton

    one, other = (FileBaton(str(tmp_path / "lock"), 0.001, 0) for _ in range(2))
    assert one.try_acquire()
    assert not other.try_acquire()
    later = threading.Timer(0.02, one.release)
    later.start()
    with pytest.warns(UserWarning, match="waiting for the lock file"):
        other.wait()
    later.join()
    assert other.try_acquire()
    other.release()


# ---------------------------------------------------------------- files


def test_names_of_files():
    files = kiln.serialization
    storage = kiln.ones(3).storage()
    assert files.default_restore_location(storage, files.location_tag(storage)) is storage
    with pytest.raises(AssertionError):
        files.default_restore_location(storage, "cuda:0")
    assert files.normalize_storage_type("torch.FloatStorage") is kiln.FloatStorage
    assert files.storage_to_tensor_type(storage) is kiln.FloatTensor
    assert files.StorageType("DoubleStorage").dtype is kiln.float64
    with files.set_default_mmap_options(files.MAP_PRIVATE):
        assert files.get_default_mmap_options() == files.MAP_PRIVATE
    with pytest.raises(NotImplementedError):
        files.set_default_mmap_options(files.MAP_SHARED)


# ---------------------------------------------------------------- tensors and autograd


def test_names_of_older_tensors():
    x = kiln.arange(4.0, requires_grad=True)
    with pytest.warns(UserWarning, match="non-inplace resize is deprecated"):
        assert x.resize(2, 2).shape == (2, 2)
    with pytest.warns(UserWarning, match="resize_as"):
        assert x.resize_as(kiln.ones(4, 1)).shape == (4, 1)
    with pytest.warns(UserWarning, match="volatile"):
        assert x.volatile is False
    assert x.storage_type() is kiln.FloatStorage
    assert x.dequantize() is x
    assert x.name is None
    assert x._backward_hooks is None
    x.register_hook(lambda g: g)
    assert len(x._backward_hooks) == 1
    for call, error in (
        (lambda: x.reinforce(1), RuntimeError),
        (lambda: x.int_repr(), NotImplementedError),
    ):
        with pytest.raises(error):
            call()
    with pytest.raises(TypeError):
        del x[0]
    assert isinstance(x.detach().__array_wrap__(np.ones(2)), kiln.Tensor)


def test_tensors_are_swapped_whole():
    a, b = nn.Parameter(kiln.ones(2)), kiln.zeros(3)
    a.grad, b.note = kiln.ones(2), "b"
    holder = a
    kiln.utils.swap_tensors(a, b)
    assert (type(holder), holder.tolist(), holder.note) == (kiln.Tensor, [0, 0, 0], "b")
    assert (type(b), b.grad.tolist(), b.requires_grad) == (nn.Parameter, [1, 1], True)


def test_what_is_saved_may_be_changed_in_place():
    x = kiln.tensor([1.0, 2.0], requires_grad=True)
    with kiln.autograd.graph.allow_mutation_on_saved_tensors():
        y = x * 1
        z = y.sin()
        y.zero_()
        e = x.exp()
        f = e * 2
        e.mul_(0)
    (z.sum() + f.sum()).backward()
    assert kiln.allclose(x.grad, x.detach().cos() + 2 * x.detach().exp())


def test_a_function_with_a_flag_for_in_place():
    class Double(kiln.autograd.function.InplaceFunction):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, g):
            return g * 2

    x = kiln.ones(1, requires_grad=True)
    Double.apply(x).backward()
    assert x.grad.item() == 2


def test_modules_that_are_running():
    seen = []

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.fc.register_forward_pre_hook(lambda m, args: seen.append(set(tracker.parents)))

        def forward(self, x):
            return self.fc(x)

    tracker = importlib.import_module("kiln.utils.module_tracker").ModuleTracker()
    with tracker:
        Block()(kiln.ones(1, 2))
    assert seen == [{"Global", "Block", "Block.fc"}]
    assert tracker.parents == {"Global"}


# ---------------------------------------------------------------- ops of one's own


def test_the_schema_of_a_function():
    def crop(
        x: kiln.Tensor,
        sizes: list[int],
        weight: kiln.Tensor | None = None,
        *,
        scale: float = 1.0,
        mode: str = "in",
    ) -> kiln.Tensor:
        return x

    crop.__annotations__ = {"x": kiln.Tensor, "sizes": list[int], "weight": kiln.Tensor | None, "scale": float, "mode": str,
                            "return": kiln.Tensor}  # fmt: skip
    assert kiln.library.infer_schema(crop, mutates_args=()) == (
        '(Tensor x, SymInt[] sizes, Tensor? weight=None, *, float scale=1.0, str mode="in") -> Tensor'
    )
    assert kiln.library.infer_schema(crop, mutates_args=("x",)).startswith("(Tensor(a0!) x, ")


def test_an_op_is_defined_tried_and_cast():
    kiln.library.define("parts::twice", "(Tensor x) -> Tensor")
    kiln.library.impl("parts::twice", "cpu", lambda x: x * 2)
    op = kiln.ops.parts.twice
    assert op(kiln.ones(2)).tolist() == [2, 2]
    assert set(kiln.library.opcheck(op, (kiln.ones(2),)).values()) == {"SUCCESS"}
    kiln.library.register_autocast("parts::twice", "cpu", kiln.float16)
    with kiln.autocast("cpu"):
        assert op(kiln.ones(2)).dtype is kiln.float16

    @kiln.library.custom_op("parts::spoils", mutates_args=())
    def spoils(x: kiln.Tensor) -> kiln.Tensor:
        x.add_(1)
        return x.clone()

    assert (
        "changed in place"
        in kiln.library.opcheck(spoils, (kiln.ones(2),), raise_exception=False)["test_schema"]
    )


def test_collectives_with_gradients():
    with pytest.raises(ValueError, match="all_gather"):
        kiln.distributed.nn.all_gather(kiln.ones(1))
    dist = kiln.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        x = kiln.ones(2, requires_grad=True)
        (y,) = dist.nn.all_gather(x)
        (y.sum() + dist.nn.functional.all_reduce(x * 2).sum()).backward()
        assert x.grad.tolist() == [3, 3]
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", [
    "torch.utils.mobile_optimizer", "torch.utils.deterministic", "torch.utils._python_dispatch", "torch.cuda.jiterator",
    "torch.backends.xnnpack", "torch.cuda.comm", "torch.distributed.nn.functional", "torch.cuda.green_contexts",
])  # fmt: skip
def test_modules_can_be_imported(name):
    assert face(name)
