"""Profilers: what ran, inside of what, in which steps, and how it is told."""

from __future__ import annotations

import gzip
import json
import re
import threading
from pathlib import Path
from typing import Any

import pytest

import kiln
from kiln import profiler
from kiln.autograd import profiler as old
from kiln.profiler import ProfilerAction, profile, record_function, schedule
from kiln.tensor import CAPTURING


def names(p: Any) -> dict[str, int]:
    return {e.key: e.count for e in p.key_averages()}


def test_ops_and_what_they_stand_in() -> None:
    x = kiln.randn(8, 8, requires_grad=True)
    with profile(activities=[profiler.ProfilerActivity.CPU], record_shapes=True) as p:
        with record_function("forward"):
            y = (x @ x).exp().sum()
        y.backward()
        x.grad.mul_(2)
    found = names(p)
    assert (
        found["forward"]
        == found["kiln::exp"]
        == found["kiln::mul_"]
        == found["kiln::backward"]
        == 1
    )
    events = {e.name: e for e in p.events()}
    assert events["kiln::exp"].cpu_parent is events["forward"]
    assert events["kiln::exp"].input_shapes == [[8, 8]]
    block = events["forward"]
    inside = sum(e.cpu_time_total for e in block.cpu_children)
    assert block.self_cpu_time_total == pytest.approx(block.cpu_time_total - inside)
    assert all(e.self_cpu_time_total >= 0 for e in p.events())
    text = p.key_averages(group_by_input_shape=True).table(sort_by="cpu_time_total", row_limit=3)
    assert "Self CPU time total" in text
    assert "Input Shapes" in text
    assert len([line for line in text.splitlines() if "::" in line or "forward" in line]) == 3
    with pytest.raises(ValueError, match="sort by"):
        p.key_averages().table(sort_by="colour")


def test_nothing_is_recorded_or_watched_outside() -> None:
    with profile() as p:
        kiln.ones(3).exp()
    assert not CAPTURING
    n = len(p.events())
    kiln.ones(3).exp()
    assert len(p.events()) == n
    with record_function("nobody looks"):
        pass


def test_a_captured_function_is_one_event() -> None:
    step = kiln.compile(lambda x: (x * 2).exp().sum())
    x = kiln.randn(5)
    step(x)
    with profile() as p:
        a = step(x)
        b = step(x)
    assert names(p) == {"CompiledFunction: <lambda>": 2}
    assert kiln.equal(a, b)


def test_threads_and_errors() -> None:
    def work() -> None:
        with record_function("there"):
            kiln.ones(2).sin()

    with profile() as p:
        t = threading.Thread(target=work)
        t.start()
        t.join()
        with pytest.raises(RuntimeError):
            kiln.ones(2, 3) @ kiln.ones(2, 3)
        kiln.ones(2).cos()
    found = {e.name: e for e in p.events()}
    assert found["kiln::sin"].cpu_parent is found["there"]
    assert found["kiln::cos"].cpu_parent is None
    assert found["kiln::sin"].thread != found["kiln::cos"].thread


@pytest.mark.parametrize("options", [
    {"wait": 1, "warmup": 1, "active": 2}, {"wait": 1, "warmup": 0, "active": 1, "repeat": 2, "skip_first": 1},
    {"wait": 2, "warmup": 1, "active": 1, "repeat": 1, "skip_first_wait": 1},
])  # fmt: skip
@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:Profiler won't be using warmup")
def test_schedules_are_those_of_pytorch(options: dict[str, int]) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    ours, theirs = schedule(**options), torch.profiler.schedule(**options)
    assert [ours(i).name for i in range(15)] == [theirs(i).name for i in range(15)]


def test_steps() -> None:
    seen = []
    with profile(
        schedule=schedule(wait=1, warmup=1, active=2, repeat=2),
        on_trace_ready=lambda p: seen.append((p.step_num, names(p))),
    ) as p:
        for i in range(12):
            (kiln.ones(2) * i).exp()
            p.step()
    assert [n for n, _ in seen] == [4, 8]
    assert [f["kiln::exp"] for _, f in seen] == [2, 2]
    assert {"ProfilerStep#2", "ProfilerStep#3"} <= seen[0][1].keys()
    assert p.current_action is ProfilerAction.NONE
    with pytest.raises(AssertionError, match="schedule"):
        schedule(wait=1, warmup=1, active=0)


def test_traces(tmp_path: Path) -> None:
    ready = profiler.tensorboard_trace_handler(str(tmp_path / "log"), "me", use_gzip=True)
    with profile(on_trace_ready=ready, record_shapes=True) as p:
        kiln.ones(2, 3).exp()
    (file,) = (tmp_path / "log").iterdir()
    assert file.name.startswith("me.")
    assert file.name.endswith(".pt.trace.json.gz")
    with gzip.open(file, "rt") as f:
        (event,) = [e for e in json.load(f)["traceEvents"] if e["name"] == "kiln::exp"]
    assert event["ph"] == "X"
    assert event["dur"] > 0
    assert event["args"]["Input Dims"] == [[2, 3]]
    p.add_metadata("about", "this")
    p.export_chrome_trace(str(tmp_path / "trace.json"))
    assert json.loads((tmp_path / "trace.json").read_text())["about"] == "this"


def test_the_older_face() -> None:
    with old.profile(record_shapes=True) as p:
        kiln.ones(2).exp()
        with pytest.raises(RuntimeError, match="finish"):
            p.key_averages()
    assert "kiln::exp" in str(p)
    assert p.total_average().count == len(p.function_events)
    assert p.self_cpu_time_total > 0
    with old.profile(enabled=False):
        assert not CAPTURING

    @record_function("named")
    def f() -> Any:
        return kiln.ones(2).exp()

    with old.profile() as p:
        f()
    assert names(p)["named"] == 1
    with pytest.raises(RuntimeError, match="NVTX"), old.emit_nvtx():
        pass
    with old.emit_nvtx(enabled=False):
        pass


def test_memory_operations_and_stacks(tmp_path: Path) -> None:
    model = kiln.nn.Sequential(
        kiln.nn.Conv2d(3, 8, 3), kiln.nn.ReLU(), kiln.nn.Flatten(), kiln.nn.Linear(288, 10)
    )
    x = kiln.randn(4, 3, 8, 8)
    with profile(profile_memory=True, with_flops=True, with_stack=True) as p:
        with record_function("forward"):
            y = model(x)
        a = kiln.randn(100, 200)
        b = a @ a.T
        del b
        c = kiln.bmm(kiln.ones(2, 3, 4), kiln.ones(2, 4, 5))
        c = c + c
        view = c.reshape(-1)
    found = {e.key: e for e in p.key_averages()}
    conv, block = found["kiln::convolution"], found["forward"]
    assert conv.flops == 62208  # as PyTorch's profiler says
    assert found["kiln::linear"].flops == 23040
    assert found["kiln::matmul"].flops == 2 * 100 * 200 * 100 + 240
    assert found["kiln::add"].flops == 30
    assert conv.self_cpu_memory_usage == 4 * 8 * 36 * 4
    assert (
        block.cpu_memory_usage == y.numel() * 4 + conv.self_cpu_memory_usage
    )  # relu's input died in it
    assert found["[memory]"].self_cpu_memory_usage <= -40000  # b, and the first c
    assert found["kiln::reshape"].cpu_memory_usage == 0
    assert view._base is c
    table = p.key_averages(group_by_stack_n=1).table(sort_by="self_cpu_memory_usage", row_limit=3)
    assert all(
        head in table
        for head in ("Self CPU Mem", "Total FLOPs", "Source Location", "test_profiler.py")
    )
    where = [e.stack[0] for e in p.events() if e.name == "kiln::convolution"]
    assert where[0].endswith("test_memory_operations_and_stacks")
    p.export_stacks(str(tmp_path / "stacks.txt"))
    lines = (tmp_path / "stacks.txt").read_text().splitlines()
    assert any(
        "test_memory_operations_and_stacks;kiln::" in line and line.split()[-1].isdigit()
        for line in lines
    )
    with pytest.raises(ValueError, match="metric"):
        p.export_stacks(str(tmp_path / "stacks.txt"), "colour")


def test_only_what_was_asked_for_is_measured() -> None:
    with profile() as p:
        kiln.ones(3).exp()
    assert all(not (e.flops or e.cpu_memory_usage or e.stack) for e in p.events())
    assert "CPU Mem" not in p.key_averages().table()
    x = kiln.ones(64)
    step = kiln.compile(lambda x: x * 2)
    step(x)
    with old.profile(profile_memory=True) as p:
        y = step(x)
    assert p.key_averages()[0].cpu_memory_usage == y.nbytes


def test_a_graph_of_calls_records_blocks():
    from kiln import fx

    graph = fx.Graph()
    x = fx.Proxy(graph.placeholder("x"))
    block = graph.call_function(kiln.ops.profiler._record_function_enter, ("inner",))
    y = kiln.exp(x)
    kiln.ops.profiler._record_function_exit(fx.Proxy(block))
    graph.output(y.node)
    run = fx.GraphModule(kiln.nn.Module(), graph)
    with profile() as p:
        run(kiln.ones(2))
    assert {"inner", "kiln::exp"} <= {e.key for e in p.key_averages()}


def test_kernels_and_what_they_reach_of_the_machine(tmp_path: Path) -> None:
    a, b = kiln.randn(128, 96), kiln.randn(96, 64)
    fast = kiln.compile(lambda a, b: ((a @ b).exp() * 2).sum())
    want = fast(a, b)
    with profile(with_kernels=True) as p:
        got = fast(a, b)
        (a @ b).add_(1)
    assert got.item() == want.item()
    program = next(e for e in p.events() if e.name.startswith("CompiledFunction"))
    kernels = program.cpu_children
    assert kernels
    assert all(e.kind == "kernel" for e in kernels)
    assert sum(e.flops for e in kernels) >= 2 * 128 * 96 * 64
    assert program.cpu_time_total >= sum(e.cpu_time_total for e in kernels)
    limits = profiler.Limits(flops=1e11, bytes=1e10)
    reached = {r.name: r for r in p.efficiency(limits)}
    product = reached["kiln::matmul"]
    assert product.flops == 2 * 128 * 96 * 64
    assert product.bytes == 4 * (128 * 96 + 96 * 64 + 128 * 64)
    assert product.of_flops == pytest.approx(product.flops / product.seconds / 1e11)
    assert product.of_bandwidth == pytest.approx(product.bytes / product.seconds / 1e10)
    assert reached["kiln::add_"].bytes >= 4 * 128 * 64
    assert not any(name.startswith("CompiledFunction") for name in reached)
    table = str(p.efficiency(limits))
    assert "limits of the machine: 100.0 GFLOP/s, 10.0 GB/s" in table
    assert "kiln::matmul" in table
    p.export_chrome_trace(str(tmp_path / "trace.json"))
    trace = json.loads((tmp_path / "trace.json").read_text())
    assert any(e.get("cat") == "kernel" and e["args"]["flops"] for e in trace["traceEvents"])
    with profile() as plain:
        fast(a, b)
    assert not any(e.kind == "kernel" for e in plain.events())
    with pytest.raises(AssertionError, match="nothing was counted"):
        plain.efficiency(limits)


def test_work_by_definition() -> None:
    from kiln.graph.work import flops

    x, w, f = kiln.randn(2, 3, 8, 8), kiln.randn(4, 3, 3, 3), kiln.randn(5, 8)
    q = kiln.randn(2, 4, 6, 8)
    cases = [
        (lambda: kiln.nn.functional.conv2d(x, w), 2 * (2 * 4 * 6 * 6) * 27),
        (lambda: kiln.nn.functional.linear(x, f), 2 * (2 * 3 * 8 * 5) * 8),
        (lambda: kiln.nn.functional.scaled_dot_product_attention(q, q, q), 4 * q.numel() * 6),
        (lambda: x.exp(), x.numel()),
        (lambda: x.sum(), x.numel()),
        (lambda: x.permute(1, 0, 2, 3), 0),
    ]
    for fn, want in cases:
        fast = kiln.compile(fn, backend="reference")
        fast()
        assert sum(map(flops, fast.entries[0].root.plan.graph.nodes())) == want


def test_machine_limits() -> None:
    limits = profiler.machine_limits(1)
    assert limits.flops > limits.bytes > 1e6
    assert profiler.machine_limits(1) is limits


def test_the_flame_picture(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    x = kiln.randn(8, 8).exp()
    x.sin()  # compiled once: beside that the others' boxes would be too narrow to be drawn
    with profile() as p:
        with record_function("outer <1>"):
            for _ in range(3):
                x.exp()
        x.sin()
    p.export_flame(str(tmp_path / "flame.svg"))
    root = ElementTree.parse(tmp_path / "flame.svg").getroot()
    spot = "{http://www.w3.org/2000/svg}"
    boxes = {}
    for g in root.iter(f"{spot}g"):
        title, rect = g.find(f"{spot}title").text, g.find(f"{spot}rect")
        boxes[title.partition(": ")[0]] = (
            title,
            *(float(rect.get(k)) for k in ("x", "y", "width")),
        )
    assert boxes["all"][3] == 1200
    title, x0, y0, width = boxes["outer <1>"]
    assert "in 1 call," in title
    inner = boxes["kiln::exp"]
    assert "in 3 calls" in inner[0]
    assert inner[2] > y0
    assert x0 <= inner[1]
    assert inner[3] <= width + 0.1


def test_what_a_first_call_compiles_is_told_as_that(tmp_path, monkeypatch):
    def f(x):
        return (x.sin() * 3.25).exp().sum()

    monkeypatch.setattr(kiln.config.config, "cache_dir", str(tmp_path))
    fast = kiln.compile(f)
    with profile(with_kernels=True) as p:
        fast(kiln.rand(7, 11))
    found = {e.key: e for e in p.key_averages()}
    call = found["CompiledFunction: f"]
    assert {"capturing f", "compiling f", "compiling kernels (LLVM)"} <= found.keys()
    assert call.self_cpu_time_total < 0.5 * found["capturing f"].cpu_time_total
    bound = {r.name: r.bound for r in p.efficiency()}
    assert bound["compiling kernels (LLVM)"] == "compiling"
    with profile(with_kernels=True) as p:
        fast(kiln.rand(7, 11))
    assert not [e for e in p.events() if "ing " in e.name]


def test_operations_have_a_unit():
    x = kiln.rand(100, 100)
    with profile(with_flops=True) as p:
        x @ x
        x + x
    table = p.key_averages().table()
    assert re.search(r"matmul.* 2\.000M\n", table)
    assert re.search(r"add.* 10\.000K\n", table)


def test_traces_name_the_process_and_its_threads(tmp_path):
    with profile() as p:
        kiln.rand(3)
    p.export_chrome_trace(str(tmp_path / "t.json"))
    rows = json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    told = {e["name"]: e["args"]["name"] for e in rows if e["ph"] == "M"}
    assert told == {"process_name": "python", "thread_name": threading.current_thread().name}
