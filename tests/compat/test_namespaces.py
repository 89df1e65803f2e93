"""The namespaces that programs touch beside tensors and modules: what they answer, and what they refuse."""

from __future__ import annotations

import hashlib
import os
from datetime import timedelta

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.compat.torch import face
from kiln.errors import KilnError

# ---------------------------------------------------------------- devices that are not there


def test_programs_that_ask_for_a_gpu_compute_on_the_cpu():
    device = kiln.device("cuda" if kiln.cuda.is_available() else "cpu")
    assert device.type == "cpu"
    assert (
        kiln.cuda.device_count() == kiln.accelerator.device_count() == kiln.xpu.device_count() == 0
    )
    assert kiln.accelerator.current_accelerator() is None
    assert not kiln.mps.is_available()
    assert not kiln.backends.mps.is_available()
    assert not kiln.backends.cudnn.is_available()
    kiln.cuda.manual_seed(1)
    kiln.cuda.manual_seed_all(1)
    kiln.cuda.empty_cache()
    assert kiln.cuda.memory_allocated() == kiln.cuda.max_memory_reserved() == 0
    with kiln.cuda.device(-1), kiln.cuda.stream(None), kiln.cuda.device_of(kiln.ones(1)):
        pass


@pytest.mark.parametrize(("call", "error"), [
    (lambda: kiln.cuda.current_device(), AssertionError), (lambda: kiln.cuda.synchronize(), AssertionError),
    (lambda: kiln.cuda.set_device(0), AssertionError), (lambda: kiln.cuda.Stream(), RuntimeError),
    (lambda: kiln.cuda.Event(enable_timing=True), RuntimeError), (lambda: kiln.cuda.get_device_name(0), AssertionError),
    (lambda: kiln.accelerator.synchronize(), RuntimeError), (lambda: kiln.cuda.FloatTensor(2), TypeError),
    (lambda: kiln.ones(2).type(kiln.cuda.FloatTensor), RuntimeError), (lambda: kiln.cuda.nccl.version(), AssertionError),
    (lambda: kiln.ones(2).type("torch.cuda.FloatTensor"), RuntimeError), (lambda: kiln.mps.synchronize(), RuntimeError),
    (lambda: kiln.cuda.device(0).__enter__(), RuntimeError), (lambda: kiln.xpu.current_device(), AssertionError),
])  # fmt: skip
def test_what_needs_a_device_says_so(call, error):
    with pytest.raises(error) as e:
        call()
    assert isinstance(e.value, KilnError)
    assert "device" in str(e.value)


def test_types_of_tensors_on_a_gpu_can_be_asked_for():
    assert not isinstance(kiln.ones(2), kiln.cuda.FloatTensor)
    assert isinstance(kiln.ones(2), kiln.FloatTensor)


def test_settings_of_libraries_are_kept():
    cudnn = kiln.backends.cudnn
    before = cudnn.benchmark
    with cudnn.flags(enabled=False, benchmark=True):
        assert cudnn.benchmark
        assert not cudnn.enabled
    assert cudnn.benchmark is before
    kiln.backends.cuda.matmul.allow_tf32 = True
    assert kiln.backends.cuda.matmul.allow_tf32
    kiln.backends.cuda.matmul.allow_tf32 = False
    with kiln.backends.cuda.sdp_kernel(enable_flash=False):
        assert not kiln.backends.cuda.flash_sdp_enabled()
    assert kiln.backends.cuda.flash_sdp_enabled()


# ---------------------------------------------------------------- one process


@pytest.fixture
def group(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    dist = kiln.distributed
    dist.init_process_group("gloo", timeout=timedelta(seconds=5))
    yield dist
    if dist.is_initialized():
        dist.destroy_process_group()


def test_collectives_of_one_process(group):
    x = kiln.arange(4.0)
    assert (group.get_rank(), group.get_world_size(), group.get_backend()) == (0, 1, "gloo")
    work = group.all_reduce(x, op=group.ReduceOp.SUM, async_op=True)
    assert work.wait()
    assert work.is_completed()
    group.broadcast(x, src=0)
    assert x.tolist() == [0, 1, 2, 3]
    outs = [kiln.empty(4)]
    group.all_gather(outs, x)
    assert outs[0].tolist() == x.tolist()
    objects = [None]
    group.all_gather_object(objects, {"a": 1})
    assert objects == [{"a": 1}]
    group.barrier()
    with pytest.raises(ValueError, match="no such rank"):
        group.broadcast(x, src=1)
    with pytest.raises(RuntimeError, match="no other process"):
        group.send(x, 1)
    with pytest.raises(ValueError, match="twice"):
        group.init_process_group("gloo")


def test_a_data_parallel_module_of_one_process_is_the_module(group):
    net = nn.Linear(2, 1)
    model = nn.parallel.DistributedDataParallel(net)
    with model.no_sync():
        model(kiln.ones(3, 2)).sum().backward()
    assert net.weight.grad.tolist() == [[3.0, 3.0]]
    assert list(model.state_dict()) == ["module.weight", "module.bias"]


def test_more_than_one_process_is_refused(monkeypatch):
    dist = kiln.distributed
    with pytest.raises(NotImplementedError, match="world_size=2"):
        dist.init_process_group("gloo", rank=0, world_size=2, init_method="tcp://localhost:1")
    with pytest.raises(RuntimeError, match="no backend"):
        dist.init_process_group("nccl", rank=0, world_size=1)
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="RANK"):
        dist.init_process_group("gloo")
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="not been initialized"):
        dist.get_rank()


def test_stores_and_meshes():
    dist = kiln.distributed
    store = dist.PrefixStore("a", dist.HashStore())
    store.set("k", "1")
    assert store.add("k", 2) == 3
    assert store.get("k") == b"3"
    mesh = dist.init_device_mesh("cpu", (1,), mesh_dim_names=("dp",))
    assert mesh["dp"].size() == 1
    dist.destroy_process_group()
    with pytest.raises(NotImplementedError):
        dist.init_device_mesh("cpu", (2,))


def test_checkpoint_wrappers_compute_again_and_keep_names():
    from kiln.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    kiln.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    names, x = list(net.state_dict()), kiln.randn(5, 3)
    net(x).sum().backward()
    want = net[0].weight.grad.clone()
    apply_activation_checkpointing(net, check_fn=lambda m: isinstance(m, nn.Linear))
    net.zero_grad()
    net(x).sum().backward()
    assert kiln.equal(net[0].weight.grad, want)
    assert list(net.state_dict()) == names
    net.load_state_dict(net.state_dict())


# ---------------------------------------------------------------- programs that are captured


def test_a_traced_module_is_saved_with_its_program(tmp_path):
    kiln.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)
    ).eval()
    x = kiln.randn(2, 1, 6, 6)
    traced = kiln.jit.trace(net, x)
    assert isinstance(traced, kiln.jit.ScriptModule)
    assert traced[0].weight is net[0].weight
    kiln.testing.assert_close(traced(x), net(x))
    kiln.jit.save(traced, tmp_path / "net.pt")
    loaded = kiln.jit.load(tmp_path / "net.pt")
    with kiln.no_grad():
        kiln.testing.assert_close(loaded(x), net(x))
    assert loaded.state_dict().keys() == net.state_dict().keys()
    with pytest.raises(RuntimeError, match="other arguments"):
        loaded(x[:1])
    loaded.load_state_dict({k: v * 0 for k, v in net.state_dict().items()})
    assert loaded(x).abs().sum() == 0


def test_a_traced_function_keeps_its_containers(tmp_path):
    traced = kiln.jit.trace(
        lambda a, b: {"sum": a + b, "both": (a * 2, [b])}, (kiln.ones(2), kiln.ones(2))
    )
    assert traced(kiln.ones(3), kiln.ones(3))["sum"].tolist() == [2, 2, 2]
    with pytest.raises(RuntimeError, match="gives what it was given"):
        traced.save(tmp_path / "f.pt")
    kiln.jit.trace(lambda a: (a + 1, {"k": a * 2}), kiln.ones(2)).save(tmp_path / "f.pt")
    first, second = kiln.jit.load(tmp_path / "f.pt")(kiln.ones(2))
    assert (first.tolist(), second["k"].tolist()) == ([2, 2], [2, 2])


def test_scripted_functions_and_modules_run_as_they_are(tmp_path):
    @kiln.jit.script
    def f(x: kiln.Tensor, n: int) -> kiln.Tensor:
        for _ in range(n):
            x = x * 2 if x.sum().item() < 100 else x
        return x

    assert f(kiln.ones(2), 3).tolist() == [8, 8]
    net = nn.Linear(2, 2)
    scripted = kiln.jit.script(net)
    assert isinstance(scripted, kiln.jit.ScriptModule)
    assert isinstance(scripted, nn.Linear)
    assert scripted.weight is net.weight
    with pytest.raises(RuntimeError, match="trace it with an example"):
        f.save(tmp_path / "f.pt")
    assert kiln.jit.isinstance([1, 2], list[int])
    assert not kiln.jit.isinstance([1, "a"], list[int])


@pytest.mark.parametrize("options", [
    {"backend": "inductor"}, {"backend": "eager"}, {"backend": "aot_eager", "dynamic": True}, {"mode": "reduce-overhead"},
    {"fullgraph": False, "dynamic": False},
])  # fmt: skip
def test_compile_takes_what_programs_give_it(options):
    f = kiln.compile(lambda x: x * 2 + 1, **options)
    assert f(kiln.ones(2)).tolist() == [3, 3]
    assert f(kiln.ones(3)).tolist() == [3, 3, 3]
    with pytest.raises(ValueError, match="no such backend"):
        kiln.compile(lambda x: x, backend="mine")


def test_an_op_of_a_program_has_the_gradient_that_it_was_given():
    @kiln.library.custom_op("mine::triple", mutates_args=())
    def triple(x: kiln.Tensor) -> kiln.Tensor:
        return x * 3

    @triple.register_fake
    def _(x):
        return kiln.empty_like(x)

    x = kiln.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="no gradient"):
        triple(x).sum().backward()
    triple.register_autograd(lambda ctx, g: g * 7)
    triple(x).sum().backward()
    assert x.grad.tolist() == [7, 7]
    assert kiln.ops.mine.triple(kiln.ones(1)).item() == 3
    assert kiln.compile(lambda x: triple(x) + 1)(kiln.ones(1)).item() == 4
    with pytest.raises(ValueError, match="namespace::name"):
        kiln.library.custom_op("triple", lambda x: x)


# ---------------------------------------------------------------- files and folders


def test_hub_loads_from_folders_and_checks_downloads(tmp_path, monkeypatch):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "hubconf.py").write_text(
        "dependencies = ['numpy']\nfrom kiln import nn\ndef net(n=2):\n    'A net.'\n    return nn.Linear(n, 1)\n"
    )
    repo = str(tmp_path / "repo")
    assert kiln.hub.load(repo, "net", 3, source="local").in_features == 3
    assert "net" in kiln.hub.list(repo, source="local")
    assert kiln.hub.help(repo, "net", source="local") == "A net."
    with pytest.raises(RuntimeError, match="Cannot find callable"):
        kiln.hub.load(repo, "other", source="local")
    with pytest.raises(NotImplementedError, match="clone it"):
        kiln.hub.load("owner/repo", "net")

    kiln.save({"w": kiln.ones(2)}, tmp_path / "w.pt")
    digest = hashlib.sha256((tmp_path / "w.pt").read_bytes()).hexdigest()
    good = tmp_path / f"w-{digest[:8]}.pt"
    os.rename(tmp_path / "w.pt", good)
    bad = tmp_path / "w-00000000.pt"
    bad.write_bytes(good.read_bytes())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    found = kiln.hub.load_state_dict_from_url(good.as_uri(), check_hash=True, progress=False)
    assert found["w"].tolist() == [1, 1]
    assert (tmp_path / "home" / "hub" / "checkpoints" / good.name).exists()
    with pytest.raises(RuntimeError, match="invalid hash"):
        kiln.utils.model_zoo.load_url(bad.as_uri(), check_hash=True, progress=False)
    assert not (tmp_path / "home" / "hub" / "checkpoints" / bad.name).exists()


def test_small_helpers():
    a, b = kiln.arange(4.0).reshape(2, 2), kiln.ones(3)
    flat = kiln._utils._flatten_dense_tensors([a, b])
    assert flat.tolist() == [0, 1, 2, 3, 1, 1, 1]
    assert [t.shape for t in kiln._utils._unflatten_dense_tensors(flat, [a, b])] == [(2, 2), (3,)]
    future = kiln.futures.Future()
    later = future.then(lambda f: f.value() + 1)
    future.set_result(1)
    assert kiln.futures.wait_all([future, later]) == [1, 2]
    assert not kiln.compiler.is_compiling()
    captured = kiln.compile(lambda x: x + (1 if kiln.compiler.is_compiling() else 2))
    assert captured(kiln.ones(1)).item() == 2
    assert "numpy" in kiln.utils.collect_env.get_pretty_env_info()
    timed = kiln.utils.benchmark.Timer("x + 1", globals={"x": kiln.ones(2)}).timeit(10)
    assert timed.number_per_run == 10
    assert timed.median > 0
    assert kiln.onnx.operators.shape_as_tensor(a).tolist() == [2, 2]


# ---------------------------------------------------------------- testing, beside PyTorch's


PAIRS = [
    ((1.0, 1.0 + 1e-9), {}), ((1.0, 1.1), {}), ((1, 1.0), {}), ((1, 1.0), {"check_dtype": False}), ((float("nan"), float("nan")), {}),
    ((float("nan"), float("nan")), {"equal_nan": True}), (([1.0, 2.0], (1.0, 2.0)), {}), (([1.0], [1.0, 2.0]), {}),
    (({"a": 1}, {"b": 1}), {}), ((None, None), {}), ((None, 1), {}), (("a", "a"), {}), ((True, True), {}), ((True, False), {}),
    ((1.0, 1.2), {"rtol": 0, "atol": 0.3}), ((1.0, 1.2), {"rtol": 0.1}), ((1j, 1j), {}), ((1, 2), {}),
    ((float("inf"), float("inf")), {}), ((float("inf"), -float("inf")), {}),
]  # fmt: skip


@pytest.mark.peers
def test_assert_close_decides_as_pytorchs():
    torch = pytest.importorskip("torch")

    def tried(module, pair, options):
        try:
            module.testing.assert_close(*pair, **options)
        except Exception as e:
            return next(c for c in (AssertionError, TypeError, ValueError) if isinstance(e, c))

    for pair, options in PAIRS:
        assert tried(kiln, pair, options) is tried(torch, pair, options), (pair, options)
    arrays = [
        (np.float32([1, 2]), np.float32([1, 2 + 1e-6])), (np.float32([1, 2]), np.float32([1, 2.1])),
        (np.float32([1, 2]), np.float64([1, 2])), (np.float32([1]), np.float32([1, 2])), (np.int64([1, 2]), np.int64([1, 3])),
        (np.float32([np.nan]), np.float32([np.nan])), (np.complex64([1j]), np.complex64([1j + 1e-9])),
        (np.array([True]), np.array([False])), (np.float16([1.0]), np.float16([1.001])), (np.float32(1.0), np.float32(2.0)),
        (np.empty((0, 2), np.float32), np.empty((0, 2), np.float32)), (np.float32([np.inf]), np.float32([np.inf])),
    ]  # fmt: skip
    for a, b in arrays:
        for options in (
            {},
            {"equal_nan": True},
            {"check_dtype": False},
            {"rtol": 0.1, "atol": 0.0},
        ):
            ours = tried(kiln, (kiln.tensor(a), kiln.tensor(b)), options)
            assert ours is tried(torch, (torch.tensor(a), torch.tensor(b)), options), (
                a,
                b,
                options,
            )


def test_assert_close_says_what_differs_and_where():
    with pytest.raises(AssertionError) as e:
        kiln.testing.assert_close(
            {"a": kiln.tensor([1.0, 2.0, 3.0])}, {"a": kiln.tensor([1.0, 2.5, 3.0])}
        )
    text = str(e.value)
    assert "Mismatched elements: 1 / 3 (33.3%)" in text
    assert "Greatest absolute difference: 0.5 at index (1,)" in text
    assert "item ['a']" in text
    with pytest.raises(AssertionError, match=r"^mine$"):
        kiln.testing.assert_close(1.0, 2.0, msg="mine")
    with pytest.warns(FutureWarning), pytest.raises(AssertionError):
        kiln.testing.assert_allclose(kiln.ones(2), np.zeros(2))


@pytest.mark.parametrize(
    "dtype", ["float32", "bfloat16", "int8", "uint8", "bool", "complex64", "int64"]
)
def test_make_tensor(dtype):
    kind = getattr(kiln, dtype)
    x = kiln.testing.make_tensor(
        3, 40, dtype=kind, noncontiguous=True, exclude_zero=dtype != "bool"
    )
    assert (x.shape, x.dtype, x.is_contiguous()) == ((3, 40), kind, False)
    if dtype not in ("bool", "complex64"):
        assert x.double().abs().max() <= 9
        assert (x != 0).all()
    low = kiln.testing.make_tensor((5,), dtype=kiln.float32, low=2, high=3, requires_grad=True)
    assert low.requires_grad
    assert low.min() >= 2
    with pytest.raises(ValueError, match="less than"):
        kiln.testing.make_tensor(2, dtype=kiln.int64, low=3, high=1)


# ---------------------------------------------------------------- names that libraries import


@pytest.mark.parametrize(("call", "error"), [
    (lambda: kiln._check(False, lambda: "why"), RuntimeError), (lambda: kiln._check_index(False, lambda: "why"), IndexError),
    (lambda: kiln._check_value(False, lambda: "why"), ValueError), (lambda: kiln._check_type(False, lambda: "why"), TypeError),
    (lambda: kiln._check_not_implemented(False, lambda: "why"), NotImplementedError),
    (lambda: kiln._check_with(ZeroDivisionError, False, lambda: "why"), ZeroDivisionError),
    (lambda: kiln._check_tensor_all(kiln.tensor([True, False]), lambda: "why"), RuntimeError),
    (lambda: kiln._check_tensor_all_with(KeyError, kiln.tensor([False]), lambda: "why"), KeyError),
    (lambda: kiln._check_is_size(-1, lambda: "why"), RuntimeError),
])  # fmt: skip
def test_conditions_as_calls_raise_where_they_do_not_hold(call, error):
    with pytest.raises(error, match="why"):
        call()


def test_conditions_as_calls_pass_where_they_hold_and_take_only_truth():
    kiln._check(True)
    kiln._check_tensor_all(kiln.tensor([True, True]))
    kiln._check_is_size(3, max=3)
    for wrong in (
        lambda: kiln._check(1),
        lambda: kiln._check(False, "text"),
        lambda: kiln._check_tensor_all(kiln.ones(2)),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_the_module_of_a_device():
    assert kiln.get_device_module() is kiln.get_device_module("cpu") is kiln.cpu
    assert kiln.get_device_module(kiln.device("cuda", 1)) is kiln.cuda
    with pytest.raises(RuntimeError):
        kiln.get_device_module("meta")


def test_limits_of_types_that_can_only_be_named():
    info = kiln.finfo(kiln.float8_e4m3fn)
    assert (info.max, info.min, info.eps, info.tiny, info.bits) == (448, -448, 0.125, 2**-6, 8)
    assert "tiny=" in repr(kiln.finfo(kiln.float32))
    assert kiln.complex32.is_complex
    assert kiln.float32 not in (kiln.complex32, kiln.chalf)
    with pytest.raises(NotImplementedError, match="complex64"):
        kiln.zeros(2, dtype=kiln.complex32)


def test_gradient_of_softmax_from_its_output():
    x = kiln.tensor([[0.1, 2.0, -1.0]], requires_grad=True)
    y, g = x.softmax(-1), kiln.tensor([[1.0, -2.0, 0.5]])
    y.backward(g)
    got = kiln._softmax_backward_data(g, y.detach(), -1, kiln.float32)
    kiln.testing.assert_close(got, x.grad)


def test_functions_of_the_functional_module_are_kilns_own():
    assert kiln.functional.einsum is kiln.einsum
    assert kiln.functional.norm is kiln.norm


def test_what_is_sharded_can_be_imported():
    from kiln.distributed._composable.fsdp import FSDPModule, fully_shard

    assert not isinstance(nn.Linear(1, 1), FSDPModule)
    with pytest.raises(ValueError, match="init_process_group"):
        fully_shard(nn.Linear(1, 1))


def test_compiled_modules_are_told_apart():
    from kiln._dynamo import OptimizedModule

    layer = nn.Linear(2, 2)
    assert isinstance(kiln.compile(layer), OptimizedModule)
    assert kiln._dynamo.eval_frame.OptimizedModule is OptimizedModule
    assert issubclass(kiln._dynamo.exc.Unsupported, RuntimeError)
    assert not isinstance(layer, OptimizedModule)


def test_arguments_of_to_are_taken_apart():
    from kiln._C import _nn

    cpu = kiln.device("cpu")
    assert _nn._parse_to("cpu", kiln.float16, True) == (cpu, kiln.float16, True, None)
    assert _nn._parse_to(kiln.ones(1)) == (cpu, kiln.float32, False, None)
    assert _nn._parse_to(memory_format=kiln.channels_last) == (
        None,
        None,
        False,
        kiln.channels_last,
    )
    with pytest.raises(TypeError):
        _nn._parse_to(where="cpu")


def test_one_process_joins_nobody():
    from kiln.distributed.algorithms.join import Join, Joinable

    model = Joinable()
    with Join([model], enable=True):
        assert Join.notify_join_context(model) is None


def test_what_moves_tensors_among_gpus_is_there_and_refused():
    from kiln.nn.parallel import _functions

    for fn, given in (("Broadcast", ([0],)), ("ReduceAddCoalesced", (0, 1)), ("Gather", (0, 0)), ("Scatter", ([0], None, 0))):  # fmt: skip
        with pytest.raises(NotImplementedError, match="among GPUs"):
            getattr(_functions, fn).apply(*given, kiln.ones(2))


def test_torch_is_a_name_of_its_own():
    torch = face("torch")
    assert torch.torch is torch
    assert torch.torch.Tensor is kiln.Tensor


def test_tensors_are_fake_while_a_function_is_captured():
    from kiln._subclasses.fake_tensor import is_fake

    x = kiln.rand(3)
    assert not is_fake(x)
    assert kiln.compile(lambda x: x * 2 if is_fake(x) else x)(x).tolist() == (x * 2).tolist()
