"""Names that programs touch beside tensors and modules: streams, facts of tensors, passes over Graphs, compiled names."""

from __future__ import annotations

import json

import pytest

import kiln
from kiln import fx, nn
from kiln.compat.torch import face


def test_streams_and_events_of_the_cpu():
    event, stream = kiln.Event(), kiln.Stream("cpu")
    event.record(stream)
    event.synchronize()
    stream.wait_stream(kiln.cpu.current_stream())
    assert event.query()
    assert stream.record_event().query()
    with stream, kiln.cpu.stream(kiln.cpu.Stream()):
        kiln.cpu.synchronize()
    assert (kiln.cpu.is_available(), kiln.cpu.device_count(), kiln.cpu.current_device()) == (
        True,
        1,
        "cpu",
    )
    for make in (kiln.Event, kiln.Stream):
        with pytest.raises(RuntimeError, match="not linked with support for cuda"):
            make("cuda")
    assert "sse2" in kiln.cpu.get_capabilities() or kiln.cpu.get_capabilities()["architecture"]


@pytest.mark.parametrize(
    ("shape", "check", "clear"),
    [
        ((2, 2), True, True), ((2, 1), True, False), ((2, 1), False, True), ((2, 3, 4, 5), ["row", "last"], True),
        ((2, 1, 4, 5), ["row", "last"], False), ((1, 2, 1, 1), ["row", "last"], False),
    ],
)  # fmt: skip
def test_orders_of_dimensions_that_are_not_clear(shape, check, clear):
    if isinstance(check, list):
        check = [kiln.contiguous_format, kiln.channels_last]
    x = kiln.ones(shape)
    if clear:
        assert x.dim_order(ambiguity_check=check) == tuple(range(len(shape)))
    else:
        with pytest.raises(RuntimeError, match="unique dim order"):
            x.dim_order(ambiguity_check=check)


def test_wrong_checks_of_order():
    with pytest.raises(TypeError, match="bool or a list"):
        kiln.ones(2).dim_order(ambiguity_check=3)
    with pytest.raises(RuntimeError, match="unique"):
        kiln.ones(1).expand(3, 2).dim_order(ambiguity_check=True)


def test_the_dtype_of_a_gradient():
    x = kiln.ones(2, requires_grad=True)
    assert x.grad_dtype is kiln.float32
    x.grad_dtype = kiln.float16
    for n in (2, 4):
        (x * 2).sum().backward()
        assert x.grad.dtype is kiln.float16
        assert x.grad.tolist() == [n, n]
    with pytest.raises(RuntimeError, match="already a gradient"):
        x.grad_dtype = kiln.float64
    x.grad = None
    x.grad_dtype = kiln.float64
    x.sum().backward()
    assert x.grad.dtype is kiln.float64
    with pytest.raises(RuntimeError, match="leaf"):
        _ = (x * 2).grad_dtype


def test_state_of_compiled_modules_has_pytorchs_names():
    plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    outer = nn.Sequential(kiln.compile(plain))
    names = [f"0._orig_mod.{n}" for n in plain.state_dict()]
    state = outer.state_dict()
    assert list(state) == names
    assert [n for n, _ in outer.named_parameters()] == names[:4]
    assert [n for n, _ in outer.named_buffers()] == names[4:]
    assert not any(outer.load_state_dict(state))
    assert state._metadata["0._orig_mod.1"] == {"version": 2}
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"0.0.weight"'):
        outer.load_state_dict({**state, "0.0.weight": kiln.ones(2, 2)})
    del state["0._orig_mod.0.bias"]
    with pytest.raises(RuntimeError, match=r'Missing key.*"0._orig_mod.0.bias"'):
        outer.load_state_dict(state)
    # names from before `compile` are taken as well
    assert not any(outer[0].load_state_dict(plain.state_dict()))


@pytest.mark.peers
def test_pytorchs_programs_are_refused_by_name(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    path = tmp_path / "p.pt2"
    torch.export.save(torch.export.export(torch.nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    with pytest.raises(RuntimeError, match=r"a program of PyTorch's torch\.export"):
        kiln.export.load(path)
    with open(path, "rb") as f, pytest.raises(RuntimeError, match=r"torch\.export"):
        kiln.export.load(f)


def test_shapes_through_a_graph():
    from kiln.fx.passes.shape_prop import ShapeProp

    gm = fx.symbolic_trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()))
    out = ShapeProp(gm).propagate(kiln.rand(2, 3, 8, 8))
    metas = [n.meta["tensor_meta"] for n in gm.graph.nodes]
    assert [tuple(m.shape) for m in metas] == [(2, 3, 8, 8), (2, 4, 6, 6), (2, 144), (2, 144)]
    assert metas[1].memory_format is kiln.contiguous_format
    assert metas[-1].requires_grad
    assert out.shape == (2, 144)


def test_arguments_of_nodes_that_can_not_be_changed():
    from kiln.fx.immutable_collections import immutable_dict, immutable_list

    x, d = immutable_list([1, 2]), immutable_dict(a=1)
    assert (x, d) == ([1, 2], {"a": 1})
    for change in (lambda: x.append(3), lambda: d.update(b=2), lambda: x.__setitem__(0, 1)):
        with pytest.raises(NotImplementedError, match="mutation"):
            change()


def test_errors_of_a_process_are_recorded(tmp_path, monkeypatch):
    record = face("torch.distributed.elastic.multiprocessing.errors").record
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "e.json"))

    @record
    def main(n):
        return 1 / n

    assert main(2) == 0.5
    with pytest.raises(ZeroDivisionError):
        main(0)
    told = json.loads((tmp_path / "e.json").read_text())
    assert "ZeroDivisionError" in told["message"]["message"]


@pytest.mark.parametrize(
    "name",
    [
        "torch._VF.lstm", "torch.cuda.amp.autocast_mode.autocast", "torch.cuda.amp.grad_scaler.GradScaler",
        "torch.cuda.streams.Stream", "torch.cpu.amp.autocast_mode.autocast", "torch.accelerator.memory.empty_cache",
        "torch.utils.benchmark.utils.timer.Timer", "torch.signal.windows.windows.hann",
    ],
)  # fmt: skip
def test_modules_within_modules(name):
    module, _, last = name.rpartition(".")
    assert callable(getattr(face(module), last))


def test_an_import_of_nothing_from_a_module_gives_the_module():
    import subprocess
    import sys

    text = "assert __import__('torch.cuda', fromlist=['']).is_available() is False"
    code = f"from kiln.compat.torch import install; install(); {text}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_numpys_word_for_dimensions_is_taken_by_keyword():
    x = kiln.tensor([[3.0, 0.0], [1.0, 5.0]])
    alike = [
        lambda **d: kiln.stack([x, x], **d), lambda **d: x.unsqueeze(**d), lambda **d: x[None].squeeze(**d),
        lambda **d: x.chunk(2, **d)[0], lambda **d: x.unbind(**d)[0], lambda **d: x.sort(**d)[0], lambda **d: x.argsort(**d),
        lambda **d: x.repeat_interleave(2, **d), lambda **d: x.median(**d)[0], lambda **d: x.nanmedian(**d)[0],
        lambda **d: x.nanmean(**d), lambda **d: x.nansum(**d), lambda **d: x.count_nonzero(**d), lambda **d: x.diff(**d),
        lambda **d: x.cumsum(**d), lambda **d: x.cumprod(**d), lambda **d: x.tensor_split(2, **d)[0],
    ]  # fmt: skip
    for f in alike:
        assert f(axis=0).equal(f(dim=0))
    for f in (x.unsqueeze, x.cumsum):
        with pytest.raises(TypeError):
            f()


def test_arguments_by_the_names_that_pytorch_gives_them():
    x = kiln.tensor([[3.0, 0.0], [1.0, 5.0]])
    assert x.where(condition=x > 1, other=0).tolist() == [[3, 0], [0, 5]]
    assert x.swapaxes(axis0=0, axis1=1).equal(x.T)
    assert (
        x.expand(size=(3, 2, 2)).shape == x.resize_(size=(2, 2)).expand(3, 2, 2).shape == (3, 2, 2)
    )
    assert x.tile(dims=(2,)).equal(x.repeat(repeats=(1, 2)))
    assert x.new_full(size=(2,), fill_value=1).tolist() == [1, 1]
    assert x.type(kiln.float64, non_blocking=True).dtype is kiln.float64
    assert kiln.promote_types(type1=kiln.int8, type2=kiln.float16) is kiln.float16
    assert not kiln.can_cast(from_=kiln.float32, to=kiln.int32)
    for f in (kiln.hsplit, kiln.vsplit, kiln.tensor_split):
        assert [len(f(x, sections=2)), len(f(x, indices=[1]))] == [2, 2]
        for wrong in ({}, {"sections": 2, "indices": [1]}, {"parts": 2}):
            with pytest.raises(TypeError):
                f(x, **wrong)
    for make in (
        lambda **k: kiln.arange(3, **k), lambda **k: kiln.linspace(0, 1, 3, **k), lambda **k: kiln.logspace(0, 1, 3, **k),
        lambda **k: kiln.eye(2, **k), lambda **k: kiln.rand_like(x, **k), lambda **k: kiln.randint_like(x, 2, **k),
        lambda **k: kiln.scalar_tensor(1, **k), lambda **k: kiln.tril_indices(2, 2, **k), lambda **k: x.new_tensor(1, **k),
    ):  # fmt: skip
        assert make(pin_memory=False).device.type == "cpu"


def test_sobol_points_are_pytorchs():
    pytest.importorskip("scipy")
    SobolEngine = face("torch.quasirandom").SobolEngine
    engine = SobolEngine(2)
    assert engine.draw(3).tolist() == [[0, 0], [0.5, 0.5], [0.75, 0.25]]
    assert engine.draw_base2(0, dtype=kiln.float64).tolist() == [[0.25, 0.75]]
    with pytest.raises(ValueError, match="power of 2"):
        engine.draw_base2(3)
    assert engine.fast_forward(60).draw().equal(SobolEngine(2).draw(65)[64:])
    with pytest.raises(ValueError, match="21201"):
        SobolEngine(0)


@pytest.mark.peers
@pytest.mark.usefixtures("torch_stream")
def test_scrambled_sobol_points_are_those_of_pytorchs_generator():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    pytest.importorskip("scipy")
    ours = face("torch.quasirandom").SobolEngine(5, scramble=True, seed=3)
    theirs = torch.quasirandom.SobolEngine(5, scramble=True, seed=3)
    for n in (1, 6, 4):
        assert ours.draw(n).tolist() == theirs.draw(n).tolist()
    assert repr(ours) == repr(theirs)


def test_operators_by_their_names():
    aten = kiln.ops.aten
    assert aten.add.Tensor is aten.add.Tensor
    assert (str(aten.add.Tensor), aten.clone.default.name()) == ("aten.add.Tensor", "aten::clone")
    x = kiln.arange(6.0).reshape(2, 3)
    assert aten.add.Tensor(x, 1).tolist() == (x + 1).tolist()
    assert aten.slice.Tensor(x, 1, 1).tolist() == x[:, 1:].tolist()
    assert aten.index.Tensor(x, [None, kiln.tensor([0])]).tolist() == x[:, [0]].tolist()
    assert aten._to_copy.default(x, dtype=kiln.int64).dtype is kiln.int64
    with pytest.raises(NotImplementedError):
        aten._sparse_mm_reduce_impl.default(x)
    with pytest.raises(AttributeError, match="'aten' object has no attribute 'no_such'"):
        _ = aten.no_such


def test_how_tensors_print():
    from kiln.printing import PRINT_OPTS, _tensor_str

    assert PRINT_OPTS.threshold == 1000
    assert _tensor_str(kiln.ones(2, 2), indent=0) == "[[1., 1.],\n [1., 1.]]"


def test_indices_of_sparse_matrices_between_layouts():
    rows, columns = kiln.tensor([0, 0, 2, 3, 3]), kiln.tensor([1, 2, 0, 0, 3])
    ends = kiln._convert_indices_from_coo_to_csr(rows, 5)
    assert ends.tolist() == [0, 2, 2, 3, 5, 5]
    pair = kiln._convert_indices_from_csr_to_coo(ends, columns, out_int32=True, transpose=True)
    assert pair.dtype is kiln.int32
    assert pair.tolist() == [columns.tolist(), rows.tolist()]
    x = kiln.arange(10.0).reshape(5, 2)
    assert kiln._segment_reduce(x, "max", lengths=kiln.tensor([2, 3])).tolist() == [[2, 3], [8, 9]]
    a = kiln.sparse_csr_tensor(ends, columns, kiln.ones(5), (5, 5))
    assert kiln.equal(kiln.sparse.mm(a, x, "max"), kiln.sparse.mm(a, x, "amax"))


def test_tensors_are_told_apart_by_their_objects():
    x = kiln.ones(2)
    assert x._cdata == x._cdata
    assert x._cdata != kiln.ones(2)._cdata
    assert kiln.as_tensor(x, dtype="float64").dtype is kiln.float64


def test_losses_of_the_top_level_are_not_reduced_where_nothing_is_said():
    p = kiln.tensor([[0.2, 0.8], [0.5, 0.5]])
    for loss in (kiln.kl_div(p.log(), p), kiln.binary_cross_entropy_with_logits(p, p)):
        assert loss.shape == p.shape
    assert kiln.kl_div(p.log(), p, 2).shape == ()
    for reduce in (kiln.sum, kiln.mean, kiln.prod):
        with pytest.raises(IndexError):
            reduce(kiln.ones(()), 1)
        assert reduce(kiln.ones(()), -1) == 1
    assert not kiln.cuda._initialized
