"""Mixed precision beside PyTorch's: which functions take which dtype, regions, scaling, and captured steps."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import kiln
from kiln import amp

LOWER: dict[str, Callable] = {
    "mm": lambda m, a, b: m.mm(a, b), "matmul": lambda m, a, b: a @ b, "bmm": lambda m, a, b: m.bmm(a[None], b[None]),
    "addmm": lambda m, a, b: m.addmm(a, a, b), "baddbmm": lambda m, a, b: m.baddbmm(a[None], a[None], b[None]),
    "linear": lambda m, a, b: m.nn.functional.linear(a, b), "einsum": lambda m, a, b: m.einsum("ij,jk", a, b),
    "attention": lambda m, a, b: m.nn.functional.scaled_dot_product_attention(a[None, None], b[None, None], b[None, None]),
    "conv1d": lambda m, a, b: m.nn.functional.conv1d(a[None], b[:, :, None]),
    "conv2d": lambda m, a, b: m.nn.functional.conv2d(a[None, None], b[None, None]),
    "conv_transpose2d": lambda m, a, b: m.nn.functional.conv_transpose2d(a[None, None], b[None, None]),
    "prelu": lambda m, a, b: m.nn.functional.prelu(a, b[0]),
}  # fmt: skip
SINGLE: dict[str, Callable] = {
    "mse_loss": lambda m, a, b: m.nn.functional.mse_loss(a, b), "prod": lambda m, a, b: a.prod(),
    "cross_entropy": lambda m, a, b: m.nn.functional.cross_entropy(a, m.tensor([0, 1, 2, 3])),
    "bce": lambda m, a, b: m.nn.functional.binary_cross_entropy_with_logits(a, b), "cdist": lambda m, a, b: m.cdist(a, b),
    "kl_div": lambda m, a, b: m.nn.functional.kl_div(a, b), "inv": lambda m, a, b: m.linalg.inv(a),
    "solve": lambda m, a, b: m.linalg.solve(a, b), "qr": lambda m, a, b: m.linalg.qr(a)[0], "trace": lambda m, a, b: m.trace(a),
    "fft": lambda m, a, b: m.fft.rfft(a), "grid_sample": lambda m, a, b: m.nn.functional.grid_sample(a[None, None], b[:, :2].reshape(1, 2, 2, 2)),
    "reflect": lambda m, a, b: m.nn.functional.pad(a[None], (1, 1), mode="reflect"),
    "max_pool3d": lambda m, a, b: m.nn.functional.max_pool3d(a[None, None], (1, 2, 2)),
}  # fmt: skip
AS_GIVEN: dict[str, Callable] = {
    "add": lambda m, a, b: a + b, "softmax": lambda m, a, b: a.softmax(-1), "mv": lambda m, a, b: m.mv(a, a[0]),
    "dot": lambda m, a, b: m.dot(a[0], a[0]), "layer_norm": lambda m, a, b: m.nn.functional.layer_norm(a, (4,)),
    "exp": lambda m, a, b: a.exp(), "sum": lambda m, a, b: a.sum(), "cat": lambda m, a, b: m.cat([a, b]),
    "stack": lambda m, a, b: m.stack([a, b]), "gelu": lambda m, a, b: m.nn.functional.gelu(a),
    "constant": lambda m, a, b: m.nn.functional.pad(a, (1, 1)), "area": lambda m, a, b: m.nn.functional.interpolate(a[None], scale_factor=2, mode="area"),
    "index_copy": lambda m, a, b: a.index_copy(0, m.tensor([0]), b[:1]), "max_pool2d": lambda m, a, b: m.nn.functional.max_pool2d(a[None], 2),
}  # fmt: skip


def dtypes(m: Any, f: Callable) -> list[str]:
    """The dtypes of results for float32, lower, mixed and float64 arguments."""
    rows = (m.arange(16.0).reshape(4, 4) + m.eye(4) * 7) / 20
    low, wide = rows.bfloat16(), rows.double()
    out = []
    for a, b in ((rows, rows), (low, low), (rows, low), (low, rows), (wide, wide)):
        with m.autocast("cpu", dtype=m.bfloat16), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            out.append(str(f(m, a, b).dtype).split(".")[-1])
    return out


@pytest.mark.peers
@pytest.mark.parametrize("name", [*LOWER, *SINGLE, *AS_GIVEN])
def test_dtypes_are_those_of_pytorch(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    f = (LOWER | SINGLE | AS_GIVEN)[name]
    assert dtypes(kiln, f) == dtypes(torch, f)


@pytest.mark.parametrize("dtype", [kiln.bfloat16, kiln.float16])
def test_lower_dtypes(dtype: Any) -> None:
    x = kiln.randn(4, 4)
    with kiln.autocast("cpu", dtype):
        assert (x @ x).dtype is dtype
        assert (x.double() @ x.double()).dtype is kiln.float64
        assert kiln.nn.functional.mse_loss((x @ x), x).dtype is kiln.float32
        with kiln.autocast("cpu", enabled=False):
            assert (x @ x).dtype is kiln.float32
        assert (x @ x).dtype is dtype
    assert (x @ x).dtype is kiln.float32
    assert kiln.tensor(0).dtype is kiln.int64


def model() -> Any:
    kiln.manual_seed(3)
    return kiln.nn.Sequential(kiln.nn.Linear(6, 5), kiln.nn.GELU(), kiln.nn.Linear(5, 3))


def gradients(net: Any, step: Callable) -> list[np.ndarray]:
    net.zero_grad()
    step(net).backward()
    return [p.grad.numpy() for p in net.parameters()]


def test_gradients_reach_float32_parameters() -> None:
    net, x = model(), kiln.linspace(-1, 1, 24).reshape(4, 6)

    def step(net: Any) -> Any:
        with kiln.autocast("cpu"):
            h = net(x)
            assert h.dtype is kiln.bfloat16
            return kiln.nn.functional.mse_loss(h, x[:, :3])

    def by_hand(net: Any) -> Any:
        h, low = x.bfloat16(), [p.bfloat16() for p in net.parameters()]
        h = kiln.nn.functional.gelu(kiln.nn.functional.linear(h, *low[:2]))
        return kiln.nn.functional.mse_loss(kiln.nn.functional.linear(h, *low[2:]).float(), x[:, :3])

    for a, b in zip(gradients(net, step), gradients(net, by_hand), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


def test_a_parameter_is_cast_once_in_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = kiln.nn.Parameter(kiln.randn(4, 4)), kiln.randn(4, 4)
    for kept in (True, False):
        casts = []
        with kiln.autocast("cpu", cache_enabled=kept):
            for _ in range(3):
                casts.append((x @ w).grad_fn.next_functions[-1][0])
            with kiln.no_grad():
                assert not (x @ w).requires_grad
        assert (len(set(casts)) == 1) is kept
    with kiln.autocast("cpu"):
        y = x @ w
        with kiln.no_grad():
            w.mul_(2)
        assert kiln.equal(x @ w, (x.bfloat16() @ w.bfloat16()))
    del y


def test_captured() -> None:
    """Regions inside of a captured function, and programs of their own inside of a region."""
    net, x = model(), kiln.linspace(-1, 1, 24).reshape(4, 6)

    def inside(x: Any) -> Any:
        with kiln.autocast("cpu"):
            return net(x)

    fast, plain = kiln.compile(inside), kiln.compile(lambda x: net(x))
    assert fast(x).dtype is kiln.bfloat16
    np.testing.assert_allclose(fast(x).float().detach(), inside(x).float().detach(), atol=2e-2)
    for _ in range(2):
        assert plain(x).dtype is kiln.float32
        with kiln.autocast("cpu"):
            assert plain(x).dtype is kiln.bfloat16


def test_decorator_and_threads() -> None:
    x = kiln.randn(3, 3)

    @kiln.autocast("cpu")
    def product(depth: int = 0) -> Any:
        return product(depth - 1) if depth else x @ x

    assert product(2).dtype is kiln.bfloat16
    assert not kiln.is_autocast_enabled("cpu")
    import threading

    found = []
    with kiln.autocast("cpu"):
        assert kiln.is_autocast_enabled("cpu")
        t = threading.Thread(target=lambda: found.append((x @ x).dtype))
        t.start()
        t.join()
    assert found == [kiln.float32]


def test_devices_that_are_not_there() -> None:
    with pytest.warns(UserWarning, match="not available"), kiln.autocast("cuda"):
        assert not kiln.is_autocast_enabled()
    with pytest.warns(UserWarning, match="not supported"):
        amp.autocast("cpu", dtype=kiln.float32)
    with pytest.raises(RuntimeError):
        amp.autocast("foo")
    with pytest.raises(ValueError, match="device_type"):
        amp.autocast(3)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="not available"):
        scaler = amp.GradScaler()
    assert not scaler.is_enabled()
    assert scaler.get_scale() == 1.0
    assert scaler.state_dict() == {}


def test_custom_functions() -> None:
    seen = []

    class Product(kiln.autograd.Function):
        @staticmethod
        @amp.custom_fwd(device_type="cpu")
        def forward(ctx: Any, a: Any, b: Any) -> Any:
            ctx.save_for_backward(a, b)
            return a @ b

        @staticmethod
        @amp.custom_bwd(device_type="cpu")
        def backward(ctx: Any, g: Any) -> Any:
            a, b = ctx.saved_tensors
            seen.append(kiln.is_autocast_enabled("cpu"))
            return (g @ b.mT).float(), (a.mT @ g).float()

    class Single(kiln.autograd.Function):
        @staticmethod
        @amp.custom_fwd(device_type="cpu", cast_inputs=kiln.float32)
        def forward(ctx: Any, a: Any) -> Any:
            seen.append((a.dtype, kiln.is_autocast_enabled("cpu")))
            return a * 2

    a, b = kiln.randn(3, 3, requires_grad=True), kiln.randn(3, 3, requires_grad=True)
    with kiln.autocast("cpu"):
        y = Product.apply(a, b)
        assert y.dtype is kiln.bfloat16
        Single.apply(a.bfloat16())
    y.sum().backward()
    assert seen == [(kiln.float32, False), True]
    assert a.grad is not None


# ---------------------------------------------------------------- scaling


def steps(m: Any, compiled: bool = False) -> list[Any]:
    """What becomes of a parameter and the scale where some gradients are not finite."""
    p = m.nn.Parameter(m.ones(2))
    opt = m.optim.SGD([p], 1.0)
    scaler = m.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2)

    def step(x: Any) -> None:
        opt.zero_grad()
        scaler.scale((p * x).sum()).backward()
        scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()

    run = kiln.compile(step) if compiled else step
    out = []
    for x in (1.0, float("inf"), 1.0, 1.0, float("nan"), 2.0, 2.0, 2.0):
        run(m.tensor(x))
        out.append((p.detach().tolist(), scaler.get_scale(), scaler.state_dict()))
    return out


@pytest.mark.peers
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_scaling(compiled: bool) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    assert steps(kiln, compiled) == steps(torch)


def test_scaler_says_what_is_wrong() -> None:
    p = kiln.nn.Parameter(kiln.ones(2))
    opt = kiln.optim.SGD([p], 1.0)
    s = amp.GradScaler("cpu", init_scale=8.0)
    with pytest.raises(AssertionError, match="_scale is None"):
        s.update()
    s.scale(p.sum()).backward()
    s.unscale_(opt)
    assert p.grad.tolist() == [1.0, 1.0]
    with pytest.raises(RuntimeError, match="already been called"):
        s.unscale_(opt)
    with pytest.raises(AssertionError, match="pickled"):
        pickle.dumps(s)
    s.step(opt)
    with pytest.raises(RuntimeError, match=r"step\(\) has already"):
        s.step(opt)
    s.update()
    with pytest.raises(RuntimeError, match="Closure"):
        s.step(opt, closure=lambda: None)
    with pytest.raises(ValueError, match="iterable of Tensors"):
        s.scale(3)
    opt.zero_grad()
    with pytest.raises(AssertionError, match="No inf checks"):
        s.step(opt)
    with pytest.raises(AssertionError, match="growth factor"):
        amp.GradScaler("cpu", growth_factor=0.5)
    half = kiln.nn.Parameter(kiln.ones(2, dtype=kiln.float16))
    half.grad = kiln.ones(2, dtype=kiln.float16)
    with pytest.raises(ValueError, match="FP16"):
        s.unscale_(kiln.optim.SGD([half], 1.0))


def test_scaler_goes_on_from_a_state() -> None:
    s = amp.GradScaler("cpu", init_scale=8.0)
    s.scale(kiln.ones(1))
    s.update(32.0)
    for other in (pickle.loads(pickle.dumps(s)), copy.deepcopy(s)):
        assert other.state_dict() == s.state_dict()
        assert float(other.scale(kiln.ones(()))) == 32.0
    fresh = amp.GradScaler("cpu")
    fresh.load_state_dict(s.state_dict())
    assert fresh.get_scale() == 32.0
    with pytest.raises(RuntimeError, match="empty"):
        fresh.load_state_dict({})


def test_old_names() -> None:
    import kiln.cpu.amp
    import kiln.cuda.amp

    x = kiln.randn(2, 2)
    with pytest.warns(FutureWarning, match="deprecated"), kiln.cpu.amp.autocast():
        assert (x @ x).dtype is kiln.bfloat16
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with kiln.cuda.amp.autocast():
            assert (x @ x).dtype is kiln.float32
        assert not kiln.cuda.amp.GradScaler().is_enabled()
    assert {w.category for w in said} == {FutureWarning, UserWarning}


def test_checkpoints_run_again_as_they_ran() -> None:
    from kiln.utils.checkpoint import checkpoint

    net, x, seen = model(), kiln.linspace(-1, 1, 24).reshape(4, 6).requires_grad_(), []

    def part(x: Any) -> Any:
        y = net(x)
        seen.append(y.dtype)
        return y

    with kiln.autocast("cpu"):
        loss = checkpoint(part, x, use_reentrant=False, early_stop=False).float().sum()
    loss.backward()
    assert seen == [kiln.bfloat16, kiln.bfloat16]
