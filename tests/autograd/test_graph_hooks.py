"""The recorded graph: hooks on what is saved and on several gradients, nodes, anomaly mode."""

from __future__ import annotations

import pytest

import kiln
from kiln.autograd import detect_anomaly, graph, set_detect_anomaly


def leaf(*values: float):
    return kiln.tensor(values or 0.0, dtype=kiln.float64, requires_grad=True)


class Square(kiln.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return 2 * g * x


@pytest.mark.parametrize(
    "f",
    [
        lambda x: (x.sin() * x.exp()).sum(),  # an input, an output, both operands
        lambda x: kiln.cat([x * x, x]).prod(),
        lambda x: Square.apply(x).sum(),
        lambda x: (x * 1).mul_(x).sigmoid_().sum(),
    ],
)
def test_what_is_saved_goes_through_the_hooks(f):
    x = leaf(0.5, 1.5)
    (want,) = kiln.autograd.grad(f(x), x)
    kept = {}

    def pack(t):
        assert not t.requires_grad
        kept[len(kept)] = t.numpy().copy()
        return len(kept) - 1

    with graph.saved_tensors_hooks(pack, lambda k: kiln.tensor(kept[k])):
        out = f(x)
    assert kept
    (got,) = kiln.autograd.grad(out, x, create_graph=True)
    assert kiln.allclose(got, want)
    h = kiln.autograd.grad(got.sum(), x)[0]
    (g,) = kiln.autograd.grad(f(x), x, create_graph=True)
    assert kiln.allclose(h, kiln.autograd.grad(g.sum(), x)[0])
    with graph.saved_tensors_hooks(pack, lambda k: kiln.tensor(kept[k])):
        f(x).backward()
    assert kiln.allclose(x.grad, want)


def test_saved_hooks_of_blocks():
    x = leaf(2)
    with graph.saved_tensors_hooks(lambda t: t, lambda t: t * 10):
        with graph.saved_tensors_hooks(lambda t: t, lambda t: t * 100):
            y = x.square()
        z = x.square()
    w = x.square()
    for out, by in ((y, 100), (z, 10), (w, 1)):
        assert kiln.autograd.grad(out.sum(), x)[0] == 4 * by
    with graph.save_on_cpu():
        y = (x * 1).square_()
    y.sum().backward()
    refused = pytest.raises(RuntimeError, match="not here")
    with graph.disable_saved_tensors_hooks("not here"), refused, graph.saved_tensors_hooks(id, id):
        pass
    with graph.saved_tensors_hooks(lambda t: t, lambda t: 3):
        y = x.square()
    with pytest.raises(TypeError, match="must return a Tensor"):
        y.sum().backward()


def test_a_hook_on_several_gradients():
    a, b, c = leaf(1), leaf(2), leaf(3)
    m = a * b
    calls, firsts = [], []
    handle = graph.register_multi_grad_hook((a, b, c, m), calls.append)
    graph.register_multi_grad_hook((a, b), firsts.append, mode="any")
    (m * m).sum().backward()
    assert len(calls) == 1
    assert len(firsts) == 1
    assert [g if g is None else g.item() for g in calls[0]] == [8, 4, None, 4]
    kiln.autograd.grad((a * b * c).sum(), (b, c))
    assert [g is None for g in calls[1]] == [True, False, False, True]
    handle.remove()
    (a * b).sum().backward()
    assert len(calls) == 2
    with pytest.raises(ValueError, match="mode"):
        graph.register_multi_grad_hook((a,), print, mode="some")


def test_nodes_lead_to_leaves():
    x = leaf(1, 2)
    y = (x * 3).sum()
    mul = y.grad_fn.next_functions[0][0]
    (end, _), *_ = mul.next_functions
    assert end.variable is x
    assert end.name() == "AccumulateGrad"
    assert end == graph.get_gradient_edge(x).node
    assert graph.get_gradient_edge(y).node is y.grad_fn
    seen = []
    end.register_hook(lambda gi, go: seen.append(go[0].clone()))
    end.register_prehook(lambda gs: (gs[0] * 2,))
    y.grad_fn.metadata["name"] = "loss"
    y.backward()
    assert x.grad.tolist() == [6, 6]
    assert seen[0].tolist() == [6, 6]
    assert isinstance(y.grad_fn, graph.Node)
    with pytest.raises(RuntimeError, match="gradient edge"):
        graph.get_gradient_edge(kiln.ones(1))


def test_increment_version_is_a_change():
    x = leaf(1)
    y = x.exp()
    graph.increment_version(y)
    with pytest.raises(RuntimeError, match="modified"):
        y.sum().backward()


def test_anomaly_mode_names_the_line():
    x = leaf(0.0, 1.0)
    with detect_anomaly():
        assert kiln.is_anomaly_enabled()
        y = x.sqrt() * 0
        z = y.sum()
        with pytest.raises(RuntimeError, match="nan values in its 0th output") as e:
            z.backward()
    assert "SqrtBackward0" in str(e.value)
    assert "test_graph_hooks.py" in str(e.value)
    assert "y = x.sqrt() * 0" in str(e.value)
    assert not kiln.is_anomaly_enabled()
    (x.sqrt() * 0).sum().backward()  # off again
    with set_detect_anomaly(True, check_nan=False):
        (x.sqrt() * 0).sum().backward()
        y = x.exp()
        z = (y * y).sum()
        y.add_(1)
        with pytest.raises(RuntimeError, match="modified") as e:
            z.backward()
        assert "z = (y * y).sum()" in e.value.__notes__[0]
        assert not kiln.is_anomaly_check_nan_enabled()
    with detect_anomaly(), pytest.raises(RuntimeError, match="SquareBackward") as e:
        Square.apply(x / 0).sum().backward()


def test_nodes_have_pytorchs_names():
    x, w, b = kiln.rand(2, 3), kiln.rand(4, 3, requires_grad=True), kiln.rand(4, requires_grad=True)
    y = kiln.nn.functional.linear(x, w, b)
    loss = kiln.nn.functional.cross_entropy(y, kiln.tensor([0, 3]))
    names = {
        "Addmm": y, "Mm": x @ w.T, "View": y.view(-1), "Select": y[0], "Slice": y[:, :2], "Unsqueeze": y[None],
        "NllLoss": loss, "NativeLayerNorm": kiln.nn.functional.layer_norm(y, (4,)), "ToCopy": y.double(),
    }  # fmt: skip
    for name, t in names.items():
        assert t.grad_fn.name() == name + "Backward0"
    exact = {
        "SqueezeBackward0": y.squeeze(), "SqueezeBackward1": y.squeeze(0), "SqueezeBackward2": y.squeeze((0, 1)),
        "SplitBackward0": y.split(2, 1)[1], "SplitWithSizesBackward0": y.split([1, 3], 1)[0],
        "UnbindBackward0": y.unbind()[0], "RsubBackward1": 1 - y, "SubBackward0": y - 1, "TBackward0": y.t(),
        "MaskedFillBackward0": y.masked_fill(y > 0, 0.0), "MaskedFillBackward1": y.masked_fill(y > 0, kiln.zeros(())),
        "RepeatBackward0": y.repeat(2, 1), "TransposeBackward0": y.mT, "IndexBackward0": y[y < 9],
        "MaxBackward1": y.max(), "AmaxBackward0": y.amax(), "ProdBackward1": y.prod(0),
    }  # fmt: skip
    for name, t in exact.items():
        assert t.grad_fn.name() == name
    a, b, f = kiln.rand(3, requires_grad=True), kiln.rand(3), kiln.nn.functional
    losses = {
        "MseLoss": f.mse_loss, "BinaryCrossEntropy": f.binary_cross_entropy, "SmoothL1Loss": f.smooth_l1_loss,
        "BinaryCrossEntropyWithLogits": f.binary_cross_entropy_with_logits, "HuberLoss": f.huber_loss,
        "SoftMarginLoss": f.soft_margin_loss,
    }  # fmt: skip
    for name, fn in losses.items():
        for reduction in ("none", "mean", "sum"):
            node = fn(a, b, reduction=reduction).grad_fn
            assert node.name() == name + "Backward0"
            assert [next.name() for next, _ in node.next_functions if next] == ["AccumulateGrad"]
    assert [t.grad_fn.name()[-1] for t in (a**2, a**b, 2**a)] == ["0", "1", "2"]
    assert repr(y.sum()).endswith("grad_fn=<SumBackward0>)")
    assert y.sum(0).grad_fn.name() == "SumBackward1"
    loss.backward()
    assert y.grad_fn.name() == "AddmmBackward0"
    assert "NllLossBackward0" in repr(loss)
