"""Memory formats and strides as PyTorch has them, in eager mode and in compiled functions."""

from __future__ import annotations

import numpy as np
import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


def image(m, *shape):
    n = 1
    for s in shape:
        n *= s
    return m.arange(n).reshape(shape).to(m.float32)


CALLS = {
    "contiguous": lambda m: image(m, 2, 3, 4, 5).contiguous(memory_format=m.channels_last),
    "contiguous 3d": lambda m: image(m, 2, 3, 2, 2, 3).contiguous(memory_format=m.channels_last_3d),
    "back": lambda m: image(m, 2, 3, 4, 5).contiguous(memory_format=m.channels_last).contiguous(),
    "clone": lambda m: image(m, 2, 3, 4, 5).permute(0, 2, 3, 1).clone(),
    "clone row-major": lambda m: image(m, 2, 3, 4).mT.clone(memory_format=m.contiguous_format),
    "clone of a slice": lambda m: image(m, 4, 6).t()[::2].clone(),
    "clone expanded": lambda m: image(m, 1, 4).expand(3, 4).clone(),
    "clone expanded 3d": lambda m: image(m, 2, 1, 4).permute(2, 1, 0).expand(4, 3, 2).clone(),
    "to": lambda m: image(m, 2, 3, 4, 5).to(memory_format=m.channels_last),
    "to dtype": lambda m: image(m, 2, 3, 4, 5).to(m.float64, memory_format=m.channels_last),
    "to dtype kept": lambda m: image(m, 2, 3, 4).permute(2, 0, 1).double(),
    "to copy": lambda m: image(m, 3, 4).t().to(m.float32, copy=True),
    "to positional": lambda m: image(m, 3, 4).t().to("cpu", m.float64, False, True),
    "zeros_like": lambda m: m.zeros_like(image(m, 2, 3, 4).permute(2, 0, 1)),
    "ones_like format": lambda m: m.ones_like(image(m, 2, 3, 4, 5), memory_format=m.channels_last),
    "full_like row-major": lambda m: m.full_like(image(m, 2, 3).t(), 2.0, memory_format=m.contiguous_format),
    "empty_like": lambda m: m.empty_like(image(m, 2, 3, 4).permute(1, 2, 0)),
    "rand_like": lambda m: m.rand_like(image(m, 2, 3, 4).permute(1, 2, 0)),
    "empty": lambda m: m.empty(2, 3, 4, 5, memory_format=m.channels_last),
    "relu": lambda m: image(m, 2, 3, 4).permute(1, 2, 0).relu(),
    "add": lambda m: image(m, 2, 3, 4).permute(1, 2, 0) + image(m, 2, 3, 4).permute(1, 2, 0),
    "add broadcast": lambda m: image(m, 2, 3, 4).permute(1, 2, 0) + image(m, 1, 1, 2),
    "add number": lambda m: image(m, 3, 4).t() * 2 + 1,
    "compare": lambda m: image(m, 3, 4).t() > 3,
    "view of it": lambda m: image(m, 3, 4).t().exp().t(),
    "orders differ": lambda m: image(m, 3, 4).t() + image(m, 4, 3),
    "orders differ, other way": lambda m: image(m, 4, 3) * image(m, 3, 4).t(),
    "first broadcast": lambda m: image(m, 1, 3) + image(m, 3, 4).t(),
    "where": lambda m: m.where(image(m, 3, 4).t() > 2, image(m, 4, 3), image(m, 4, 3)),
    "ternary": lambda m: m.addcmul(image(m, 4, 1), image(m, 3, 4).t(), image(m, 4, 3)),
    "cast of a part": lambda m: image(m, 6, 4).t()[:, ::2].to(m.float64),
    "two images": lambda m: last(m) + image(m, 2, 4, 6, 6),
    "conv": lambda m: m.conv2d(last(m), image(m, 8, 4, 3, 3)),
    "conv of filters": lambda m: m.conv2d(image(m, 2, 4, 6, 6), last(m, 8, 4, 3, 3)),
    "conv transposed": lambda m: m.conv_transpose2d(last(m), image(m, 4, 8, 3, 3)),
    "depthwise": lambda m: m.conv2d(last(m), image(m, 4, 1, 3, 3), groups=4),
    "max pool": lambda m: m.max_pool2d(last(m), 2),
    "avg pool": lambda m: m.nn.functional.avg_pool2d(last(m), 2),
    "adaptive": lambda m: m.nn.functional.adaptive_avg_pool2d(last(m), 3),
    "batch norm": lambda m: m.nn.functional.batch_norm(last(m), m.zeros(4), m.ones(4)),
    "batch norm, training": lambda m: m.nn.functional.batch_norm(last(m), None, None, training=True),
    "group norm": lambda m: m.nn.functional.group_norm(last(m), 2),
    "interpolate": lambda m: m.nn.functional.interpolate(last(m), scale_factor=2, mode="bilinear"),
    "pixel shuffle": lambda m: m.nn.functional.pixel_shuffle(last(m, 2, 8, 6, 6), 2),
    "pad": lambda m: m.nn.functional.pad(last(m), (1, 1)),
    "cat": lambda m: m.cat([last(m), last(m)], 1),
    "cat of both": lambda m: m.cat([last(m), image(m, 2, 4, 6, 6)], 1),
    "block": lambda m: m.relu(m.conv2d(last(m), image(m, 8, 4, 1, 1))) + 1,
    "mean": lambda m: last(m).mean((2, 3)),
}  # fmt: skip


def last(m, *shape):
    return image(m, *(shape or (2, 4, 6, 6))).contiguous(memory_format=m.channels_last)


def layout(t):
    return tuple(t.shape), tuple(t.stride()), t.is_contiguous()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_strides_are_those_of_torch(name, compiled):
    call = CALLS[name]
    want = call(torch)
    got = kiln.compile(lambda: call(kiln))() if compiled else call(kiln)
    assert layout(got) == layout(want)
    if "empty" not in name and "rand" not in name:
        np.testing.assert_allclose(got.numpy(), want.numpy(), 1e-5, 1e-5)


CHECKS = [
    lambda m: image(m, 2, 3, 4, 5).is_contiguous(memory_format=m.channels_last),
    lambda m: image(m, 2, 1, 4, 5).is_contiguous(memory_format=m.channels_last),
    lambda m: image(m, 2, 3, 1, 1).is_contiguous(memory_format=m.channels_last),
    lambda m: image(m, 3, 4).is_contiguous(memory_format=m.channels_last),
    lambda m: image(m, 2, 3, 4, 5).permute(0, 3, 1, 2).is_contiguous(memory_format=m.channels_last),
    lambda m: m.empty(0, 3, 2, 2).is_contiguous(memory_format=m.channels_last),
    lambda m: image(m, 3, 4).contiguous(memory_format=m.channels_last),
    lambda m: image(m, 3, 4).contiguous(memory_format=m.preserve_format),
    lambda m: image(m, 3, 4).clone(memory_format=m.channels_last_3d),
    lambda m: (x := image(m, 2, 3, 4, 5)).contiguous(memory_format=m.contiguous_format) is x,
    lambda m: (x := image(m, 2, 3, 4, 5)).to(memory_format=m.preserve_format) is x,
    lambda m: repr(m.channels_last).partition(".")[2],
    lambda m: isinstance(m.channels_last, m.memory_format) and isinstance(m.strided, m.layout),
    lambda m: str(image(m, 2).layout).partition(".")[2],
    lambda m: image(m, 2).contiguous(memory_format="channels_last"),
]  # fmt: skip


@pytest.mark.parametrize("call", CHECKS, ids=range(len(CHECKS)))
def test_questions_and_refusals(call):
    try:
        want = call(torch)
    except Exception as e:
        with pytest.raises(type(e)):
            call(kiln)
    else:
        got = call(kiln)
        assert got == want if not isinstance(want, torch.Tensor) else layout(got) == layout(want)


def test_gradients_pass_formats_and_modules_take_them():
    x = image(kiln, 2, 3, 4, 5).requires_grad_()
    y = x.to(memory_format=kiln.channels_last)
    (y * image(kiln, 2, 3, 4, 5)).sum().backward()
    assert x.grad.tolist() == image(kiln, 2, 3, 4, 5).tolist()
    net = kiln.nn.Sequential(kiln.nn.Conv2d(3, 4, 3), kiln.nn.ReLU(), kiln.nn.BatchNorm2d(4))
    want = net(image(kiln, 2, 3, 6, 6))
    net.to(memory_format=kiln.channels_last)
    assert net[0].weight.is_contiguous(memory_format=kiln.channels_last)
    got = net(image(kiln, 2, 3, 6, 6).contiguous(memory_format=kiln.channels_last))
    assert kiln.allclose(got, want, atol=1e-5)


class Net(kiln.nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = kiln.nn.Conv2d(3, 4, 3), kiln.nn.Conv2d(4, 2, 3, bias=False)

    def forward(self, x):
        return self.two(self.one(x).relu())


def trained(channels_last):
    kiln.manual_seed(3)
    net = Net()
    x = image(kiln, 2, 3, 8, 8) / 100
    if channels_last:
        net.to(memory_format=kiln.channels_last)
        x = x.contiguous(memory_format=kiln.channels_last)
    opt = kiln.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    @kiln.compile
    def step(x):
        opt.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        opt.step()
        return loss

    losses = [step(x).item() for _ in range(3)]
    with kiln.no_grad():
        infer = kiln.compile(net)
        out = infer(x)
        net.one.weight.mul_(2)
        again = infer(x)
    return losses, net, out, again


def test_channels_last_parameters_train_and_infer_compiled_as_others_do():
    losses, net, out, again = trained(True)
    assert net.one.weight.is_contiguous(memory_format=kiln.channels_last)
    expected, other, plain, doubled = trained(False)
    np.testing.assert_allclose(losses, expected, 1e-4)
    for a, b in zip(net.parameters(), other.parameters(), strict=True):
        assert kiln.allclose(a, b, 1e-4, 1e-5)
    assert kiln.allclose(out, plain, 1e-3, 1e-5)
    assert kiln.allclose(again, doubled, 1e-3, 1e-5)


def test_gradients_of_compiled_functions_with_permuted_results():
    """Each output's gradient has the output's shape, one that nobody uses too."""
    x = image(kiln, 2, 3, 4, 5).contiguous(memory_format=kiln.channels_last).requires_grad_()
    f = kiln.compile(lambda x: (x * 2, x.permute(3, 0, 1, 2) * 3, (x * x).sum()))
    turned, moved, _ = f(x)
    assert turned.is_contiguous(memory_format=kiln.channels_last)
    (moved * image(kiln, 5, 2, 3, 4)).sum().backward()
    want = 3 * image(kiln, 5, 2, 3, 4).permute(1, 2, 3, 0)
    assert kiln.equal(x.grad, want)
    x.grad = None
    f(x)[2].backward()
    assert kiln.allclose(x.grad, 2 * x.detach())
    view = kiln.compile(lambda x: x[0])(x.detach())
    assert view.data_ptr() == x.data_ptr()
    assert view.stride() == x[0].stride()
