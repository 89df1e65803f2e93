"""The same calls to MLflow and to W&B: what they are handed, and what the packages make of it where they are installed."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest

import kiln
from kiln.board import MLflowWriter, SummaryWriter, WandbWriter

PICTURE = np.zeros((3, 4, 5), np.float32)
PICTURE[0] = 1


def write_all(board):
    """One of each kind."""
    board.add_scalar("loss", kiln.tensor(0.5), 3)
    board.add_scalar("loss", 0.75, 1)
    board.add_scalars("both", {"a": 1, "b": 2.5}, 4)
    board.add_histogram("weights", kiln.arange(10.0), 2)
    board.add_image("seen/picture", kiln.from_numpy(PICTURE), 7)
    board.add_image_with_boxes("boxes", PICTURE, np.array([[0, 0, 2, 2]]), 7)
    board.add_audio("tone", kiln.sin(kiln.arange(80.0)), 1, 8000)
    board.add_video("moving", kiln.rand(1, 2, 3, 4, 4), 1)
    board.add_text("note", "**hello**", 1)
    board.add_hparams({"lr": 0.1, "net": "small", "none": None}, {"score": 0.9}, global_step=5)


class Recorder:
    """Stands for a package: notes every call and what was in the files that it was given."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **kwargs):
            self.calls.append((name, args, kwargs))
            if name == "log_artifact":
                with open(args[1], "rb") as f:
                    self.calls[-1] += (f.read(),)
            return self if name in ("MlflowClient", "init", "create_run") else None

        return call


@pytest.fixture
def package(monkeypatch):
    """A stand-in of a package by name, in place of the real one."""

    def replace(name):
        recorder = Recorder()
        module = types.ModuleType(name)
        module.__getattr__ = recorder.__getattr__
        monkeypatch.setitem(sys.modules, name, module)
        return recorder

    return replace


def test_what_mlflow_is_told(package):
    told = package("mlflow")
    told.info = types.SimpleNamespace(run_id="r1")
    with MLflowWriter("digits", run_name="first") as board:
        write_all(board)
    metrics = [(a[1], a[2], a[4]) for name, a, *_ in told.calls if name == "log_metric"]
    assert metrics == [
        ("loss", 0.5, 3), ("loss", 0.75, 1), ("both/a", 1.0, 4), ("both/b", 2.5, 4), ("score", 0.9, 5),
    ]  # fmt: skip
    params = [a[1:] for name, a, *_ in told.calls if name == "log_param"]
    assert params == [("lr", 0.1), ("net", "small")]
    files = {
        f"{c[1][2] or ''}/{c[1][1].rpartition('/')[2]}": c[3]
        for c in told.calls
        if c[0] == "log_artifact"
    }
    assert files["seen/picture_00000007.png"].startswith(b"\x89PNG")
    assert files["/tone_00000001.wav"].startswith(b"RIFF")
    assert files["/moving_00000001.gif"].startswith(b"GIF89a")
    assert files["/note_00000001.md"] == b"**hello**"
    assert sum(json.loads(files["/weights_00000002.json"])["counts"]) == 10
    assert told.calls[-1][:2] == ("set_terminated", ("r1",))


def test_what_wandb_is_told(package):
    told = package("wandb")
    told.config = told
    with WandbWriter(project="digits") as board:
        write_all(board)
    assert told.calls[0] == ("init", (), {"project": "digits"})
    logged = [a[0] for name, a, *_ in told.calls if name == "log"]
    assert logged[:2] == [{"loss": 0.5, "global_step": 3}, {"loss": 0.75, "global_step": 1}]
    kinds = [
        name for name, *_ in told.calls if name in ("Image", "Audio", "Video", "Histogram", "Table")
    ]
    assert kinds == ["Histogram", "Image", "Image", "Audio", "Video", "Table"]
    ((rows,),) = [a for name, a, *_ in told.calls if name == "Image"][:1]
    assert rows.shape == (4, 5, 3)
    assert rows[0, 0].tolist() == [255, 0, 0]
    assert ("update", ({"lr": 0.1, "net": "small"},), {"allow_val_change": True}) in told.calls
    assert told.calls[-1][0] == "finish"


@pytest.mark.parametrize(("writer", "name"), [(MLflowWriter, "mlflow"), (WandbWriter, "wandb")])
def test_without_the_package(monkeypatch, writer, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError) as e:
        writer()
    first, received, help = str(e.value).splitlines()
    assert "not installed" in first
    assert received == f"received: {name}"
    assert help == f"help: pip install 'kiln-dl[{name}]'"


def test_all_calls_are_there(package):
    told = package("wandb")
    told.config = told
    board = WandbWriter()
    for name in vars(SummaryWriter):
        if name.startswith("add_"):
            assert callable(getattr(board, name)), name
    with pytest.raises(NotImplementedError, match="no place"):
        board.add_graph(kiln.nn.Linear(2, 2), kiln.ones(1, 2))


def test_mlflow_itself(tmp_path):
    pytest.importorskip("mlflow", reason="MLflow is not installed: extra [mlflow]")
    board = MLflowWriter("digits", "first", tracking_uri=tmp_path.as_uri())
    with board:
        write_all(board)
    found = board.client.get_metric_history(board.run_id, "loss")
    assert sorted((m.step, m.value) for m in found) == [(1, 0.75), (3, 0.5)]
    run = board.client.get_run(board.run_id)
    assert run.data.params == {"lr": "0.1", "net": "small"}
    assert run.info.status == "FINISHED"
    names = {f.path for f in board.client.list_artifacts(board.run_id)}
    assert {"seen", "tone_00000001.wav", "moving_00000001.gif"} <= names


def test_wandb_itself(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="W&B is not installed: extra [wandb]")
    monkeypatch.setenv("WANDB_SILENT", "true")
    board = WandbWriter(project="digits", dir=str(tmp_path), mode="offline")
    with board:
        write_all(board)
        assert board.run.summary["loss"] == 0.75
        assert board.run.config["net"] == "small"
    media = {p.suffix for p in tmp_path.rglob("media/**/*") if p.is_file()}
    assert media >= {".png", ".wav", ".gif", ".json"}
