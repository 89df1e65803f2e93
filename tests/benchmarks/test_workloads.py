"""The workload benchmark as its user meets it: what it measures, what it says, what it leaves behind."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.crew import Crew, WorkerGone
from benchmarks.workloads import bench, figures, framework, layouts, measure, report, torchlike
from benchmarks.workloads.catalog import KERNELS, MODELS, WORKLOADS, choose
from benchmarks.workloads.problem import problem

from kiln.cli import main

ROOT = Path(__file__).parents[2]
RUN = [sys.executable, "-m", "benchmarks", "workloads", "--quick", "--rounds", "1"]


def run(*argv: str, out: Path) -> str:
    done = subprocess.run(
        [*RUN, *argv, "--out", str(out)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A tiny workload and a kernel on Kiln without peers: what is printed, and the folder."""
    out = tmp_path_factory.mktemp("bench") / "new" / "folder"
    argv = ["--only", "^mlp-small$|^matmul-64-fp32$", "--peers", "kiln", "--threads", "1"]
    return run(*argv, out=out), out


@pytest.mark.slow
def test_kiln_alone_from_end_to_end(alone):
    text, out = alone
    data = json.loads((out / "results.json").read_text())
    assert set(data["runs"]) == {"mlp-small/1", "matmul-64-fp32/1"}
    model = data["runs"]["mlp-small/1"]["kinds"]
    assert set(model) == {"kiln"}
    record = model["kiln"]
    assert record["status"] == "ok"
    assert len(record["found"]) == measure.LOSSES
    assert all(map(math.isfinite, record["found"]))
    assert record["found"] != record["found"][:1] * measure.LOSSES  # it learns
    assert len(record["medians"]) == len(record["cpus"]) == 1
    assert min(record["first"], record["warm"], *record["medians"]) > 0
    kernel = data["runs"]["matmul-64-fp32/1"]
    assert kernel["flops"] == 2 * 64**3
    assert kernel["kinds"]["kiln"]["status"] == "ok"
    assert data["machine"]["peaks"]["1"]["flops"] > 1e8
    assert data["packages"]["kiln"]["with"] > data["packages"]["kiln"]["alone"] > 0
    assert "MLP 64-32-10, batch 32, Adam" in text


@pytest.mark.slow
def test_a_report_is_written(alone):
    text, out = alone
    page, words = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert words in text
    for heading in ("What is to be shown", "Training steps, 1 thread", "The first step"):
        assert heading in words
        assert f"<h2>{heading}</h2>" in page
    links = re.findall(r'<img src="(.*?)"', page) + re.findall(r"!\[.*?\]\((.*?)\)", words)
    assert "first.svg" in links
    for link in links:
        assert (out / link).read_text().lstrip().startswith("<?xml")


@pytest.mark.slow
def test_runs_into_one_folder_add_up(alone):
    _, out = alone
    before = json.loads((out / "results.json").read_text())
    one = dict(before["runs"]["mlp-small/1"], threads=2)
    data = before | {"runs": before["runs"] | {"mlp-small/2": one}}
    (out / "results.json").write_text(json.dumps(data))
    # nothing measured: the report is made anew from what is there
    bench.run("^$", [], [1], None, True, "wall", out)
    assert json.loads((out / "results.json").read_text())["runs"] == data["runs"]
    assert "Training steps, 2 threads" in (out / "report.md").read_text()


@pytest.mark.peers
def test_peers_compute_the_same(alone, tmp_path, full):
    pytest.importorskip("torch")
    peers = [k.name for k in framework.KINDS.values() if not k.lacking()] if full else ["torch"]
    peers.remove("torch-compile") if "torch-compile" in peers else None  # a minute of compilation
    known = json.loads((alone[1] / "results.json").read_text())
    (tmp_path / "results.json").write_text(json.dumps(known | {"runs": {}}))
    more = "|^matmul-64-fp32$|^conv-256@14-data$" if full else ""
    argv = ["--only", f"^mlp-small${more}", "--threads", "1"]
    run(*argv, "--peers", ",".join(peers), out=tmp_path)
    data = json.loads((tmp_path / "results.json").read_text())
    for one in data["runs"].values():
        line = figures.line(one, {}, "wall")
        assert line.agreement.startswith("agree")
        assert set(line.apart) == set(line.seconds) - {"kiln"}
        assert line.ahead is not None


def record(seconds: float, found: list[float], **more) -> dict:
    return dataclasses.asdict(
        measure.Record(medians=[seconds] * 3, cpus=[seconds] * 3, found=found, **more)
    )


def one(**kinds) -> dict:
    return {"workload": "mlp", "threads": 1, "flops": 4e8, "load": 1.0, "kinds": kinds}


def test_results_that_differ_are_missed_and_do_not_win():
    losses = [2.3, 2.2, 2.1]
    off = [2.3, 2.2, 2.1 * 1.01]
    line = figures.line(
        one(kiln=record(2e-3, losses), torch=record(4e-3, losses), jax=record(1e-3, off)),
        {},
        "wall",
    )
    assert line.agreement == "MISSED: jax 9.1e-03"
    assert line.best == "torch"
    assert line.ahead.median == pytest.approx(2)
    assert line.ratios["jax"].median == pytest.approx(0.5)


@pytest.mark.parametrize("wrong", [[math.nan], [math.inf], [], [1.0, 2.0]])
def test_no_number_agrees_with_what_is_none(wrong):
    assert figures.apart([1.0], wrong) == math.inf


def test_the_distance_is_relative_to_the_largest():
    assert figures.apart([100.0, 0.0], [100.0, 0.1]) == pytest.approx(1e-3)
    assert figures.apart([0.0], [0.0]) == 0


def test_ratios_are_taken_round_by_round():
    ours, theirs = record(0, [1.0]), record(0, [1.0])
    ours["medians"], theirs["medians"] = [1.0, 2.0, 4.0], [2.0, 4.0, 4.0]
    ratio = figures.line(one(kiln=ours, torch=theirs), {}, "wall").ratios["torch"]
    assert (ratio.median, ratio.least, ratio.most) == (2, 1, 2)


def test_processor_time_counts_at_one_thread_only():
    r = record(1.0, [1.0])
    r["cpus"] = [0.5] * 3
    assert figures.line(one(kiln=r), {}, "cpu").seconds["kiln"] == 0.5
    assert figures.line(one(kiln=r) | {"threads": 2}, {}, "cpu").seconds["kiln"] == 1.0


def test_share_of_the_peak():
    peaks = {"1": {"flops": 4e11, "1M": 1e11, "16M": 2e10}}
    assert figures.line(one(kiln=record(2e-3, [1.0])), peaks, "wall").share == pytest.approx(0.5)
    exp = one(kiln=record(0.0134217728, [1.0])) | {"workload": "exp-16M"}
    assert figures.line(exp, peaks, "wall").share == pytest.approx(0.5)


def test_claims_are_missed_or_met():
    kinds = {
        "kiln": record(1e-3, [1.0], peak=300.0, beside=[1.2, 1.9, 1.7]),
        "torch": record(1.1e-3, [1.0], peak=200.0),
    }
    runs = [one(**kinds)]
    lines = [figures.line(r, {}, "wall") for r in runs]
    packages = {"kiln": {"with": 200.0}, "torch": {"with": 900.0}}
    said = {c.text: (c.measured, c.verdict) for c in figures.claims(lines, runs, packages)}
    assert said["training, 1 thread: the least against the best peer"][1] == "MISSED"
    assert said["slowdown beside another busy process, the worst"] == (1.7, "MISSED")
    assert said["peak memory over PyTorch eager's, the worst"] == (1.5, "MISSED")
    assert said["installed size over PyTorch's, both with what they need"][1] == "met"
    assert said["MLP 64-32-10 against JAX, 1 thread"][1] == "not measured"


def test_what_a_framework_lacks_is_named():
    lacking = dataclasses.replace(WORKLOADS["mlp"], net=lambda lib: lib.nn.Kettle(3))
    with pytest.raises(framework.Missing, match=r"^kiln\.nn\.Kettle$"):
        torchlike.prepare("kiln", lacking, {}, [], 1)
    status = {"kiln": {**record(0, []), "status": "missing: kiln.nn.Kettle", "medians": []}}
    text = report.markdown(
        report.sections(
            {"machine": {"date": "", "commit": "", "name": "", "software": ""}, "packages": {},
             "clock": "wall", "runs": {"mlp/1": one(**status)}}, {},
        )
    )  # fmt: skip
    assert text.count("missing: kiln.nn.Kettle") == 2


@pytest.mark.slow
def test_a_worker_that_dies_is_reported_and_the_others_go_on(tmp_path):
    echo = "from benchmarks.crew import serve; serve({'load': lambda *a: {'memory': 1.0}, 'first': lambda n: {'seconds': 1.0, 'found': [1.0], 'memory': 2.0}, 'block': lambda s: {'median': 1.0, 'mean': 1.0, 'cpu': 1.0}})"
    die = "import sys; sys.stdin.readline(); sys.exit('out of luck')"
    with Crew({"kiln": ["-c", die], "torch": ["-c", echo]}, log=tmp_path) as crew:
        session = measure.Session(crew, measure.Pace(rounds=2, block=0, pause=0))
        session.start(WORKLOADS["mlp"], "", {})
        session.rounds()
    assert session.records["kiln"].status.startswith("failed: its process ended with status 1")
    assert "out of luck" in session.records["kiln"].status
    assert session.records["torch"].medians == [1.0, 1.0]


def test_a_crew_says_how_a_worker_ended():
    with Crew({"a": ["-c", "raise SystemExit(3)"]}) as crew, pytest.raises(WorkerGone, match="3"):
        crew.ask("a", "anything")


def test_a_step_is_counted_from_its_shapes():
    layers = [784 * 512, 512 * 512, 512 * 10]
    forward = 2 * 128 * sum(layers)
    # the gradient of the data that is fed in is not needed
    assert problem(WORKLOADS["mlp"])["flops"] == 3 * forward - 2 * 128 * layers[0]


def test_every_start_is_the_same():
    a, b = (problem(WORKLOADS["mlp-small"]) for _ in range(2))
    assert a.keys() == b.keys()
    assert all(np.array_equal(a[k], b[k]) for k in a)


def test_the_catalog():
    assert len(WORKLOADS) == len(MODELS) + len(KERNELS)
    assert {"mlp", "resnet50", "lstm", "gpt", "bert"} <= {w.name for w in MODELS}
    assert [w.name for w in choose("^matmul-2048")] == [f"matmul-2048-{k}" for k in ("fp32", "bf16", "int8")]  # fmt: skip
    for size in ("64@56", "depthwise-128@28"):
        assert len(choose(f"^conv-{size}-(forward|data|weight)$")) == 3


def test_layouts_turn_back():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert np.array_equal(layouts.back(layouts.batch(x)), x)
    assert np.array_equal(layouts.weight_back(layouts.weight("0.weight", x)), x)


def test_kiln_bench_lists_the_workloads(capsys):
    assert main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(w.title in out for w in MODELS)


@pytest.mark.parametrize(
    "argv", [["--only", "("], ["--threads", "0"], ["--threads", "two"], ["--rounds", "0"]]
)
def test_wrong_usage(argv, capsys):
    with pytest.raises(SystemExit) as e:
        main(["bench", *argv])
    assert e.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_an_unknown_peer(tmp_path):
    with pytest.raises(SystemExit, match="no such peer: caffe"):
        main(["bench", "--peers", "caffe", "--only", "^$", "--out", str(tmp_path)])


def test_peers_that_are_not_installed_are_named(monkeypatch, capsys):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n != "kiln" else real(n, *a)
    )
    assert bench.kinds([]) == ["kiln"]
    assert "JAX jit: skipped, jax is not installed" in capsys.readouterr().out


def test_torch_compile_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(framework, "_compiler", lambda: False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: object())
    assert "C++ compiler" in framework.KINDS["torch-compile"].lacking()
