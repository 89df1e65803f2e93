"""Every kind of summary, found by TensorBoard's own server: the plugins that fill its tabs are asked, as the browser would."""

from __future__ import annotations

import io
import json
import urllib.parse
import wave

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.board import SummaryWriter

pytest.importorskip("tensorboard", reason="TensorBoard is not installed: extra [board]")
pytestmark = pytest.mark.filterwarnings("ignore")

R = np.random.default_rng(0)
TONE = np.sin(np.arange(800) * 0.3).astype(np.float32)
VALUES = R.standard_normal(500)
LABELS, CHANCES = R.integers(0, 2, 80), R.random(80)
POINTS = R.random((12, 3)).astype(np.float32)
PICTURE = R.random((3, 6, 7)).astype(np.float32)


class Block(nn.Module):
    """A residual block with a buffer that training writes."""

    def __init__(self, width):
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.BatchNorm1d(width)

    def forward(self, x):
        return x + self.norm(self.linear(x * 2)).relu()


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    """A folder with one run that holds one of each kind."""
    root = tmp_path_factory.mktemp("runs")
    with SummaryWriter(root / "first") as w:
        for i in range(3):
            w.add_scalar("loss/train", 1 / (i + 1), i)
            w.add_scalar("low", i - 1, i)
            w.add_scalar("high", i + 1, i)
            w.add_histogram("weights", VALUES * (i + 1), i)
        w.add_scalars("both", {"train": 1.0, "test": 2.0}, 4)
        w.add_image("picture", PICTURE, 1)
        w.add_images("pictures", R.random((5, 1, 4, 4)), 1)
        w.add_image_with_boxes("boxes", PICTURE, np.array([[1, 1, 4, 4]]), 1)
        w.add_video("video", R.random((1, 3, 3, 4, 4)), 1, fps=8)
        w.add_figure("figure", figure(), 1)
        w.add_audio("tone", TONE, 1, sample_rate=8000)
        w.add_text("note", "| a | b |\n|---|---|\n| 1 | 2 |", 1)
        w.add_pr_curve("ours", LABELS, CHANCES, 1)
        w.add_hparams({"lr": 0.1, "net": "small", "wide": True}, {"score": 0.9}, run_name="try")
        w.add_embedding(POINTS, [f"n{i}" for i in range(12)], R.random((12, 3, 4, 4)), 1, "points")
        w.add_mesh("solid", POINTS[None], (POINTS[None] * 255).astype(np.uint8), FACES[None])
        w.add_custom_scalars({"all": {"loss": ["Margin", ["loss/train", "low", "high"]]}})
        w.add_tensor("raw", POINTS, 2)
        model = nn.Sequential(Block(4), Block(4), nn.Flatten(), nn.Linear(4, 2))
        w.add_graph(model, kiln.rand(3, 4))
        with kiln.profiler.profile(record_shapes=True) as p:
            model(kiln.rand(3, 4))
        w.add_profile(p, "begin")
    return root


FACES = np.array([[0, 1, 2], [2, 3, 4]], np.int32)


def figure():
    from matplotlib.figure import Figure

    out = Figure(figsize=(2, 1), dpi=50)
    out.subplots().plot([1, 2, 3])
    return out


@pytest.fixture(scope="module")
def ask(logdir):
    """TensorBoard's answer to a request: (ask("scalars/tags") -> what its JSON says, or bytes)."""
    from tensorboard import program
    from tensorboard.backend import application
    from tensorboard.backend.event_processing import data_ingester
    from werkzeug.test import Client

    board = program.TensorBoard()
    board.configure(["", "--logdir", str(logdir), "--load_fast=false", "--reload_interval=0",
                     "--samples_per_plugin", "images=9"])  # fmt: skip
    ingester = data_ingester.LocalDataIngester(board.flags)
    ingester.deprecated_multiplexer.AddRunsFromDirectory(str(logdir))
    ingester.deprecated_multiplexer.Reload()
    app = application.TensorBoardWSGIApp(
        board.flags, board.plugin_loaders, ingester.data_provider, board.assets_zip_provider,
        ingester.deprecated_multiplexer,
    )  # fmt: skip
    client = Client(app)

    def ask(path, root="/data/plugin/", **query):
        url = f"{root}{path}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        answer = client.get(url)
        assert answer.status_code == 200, (url, answer.data[:300])
        return json.loads(answer.data) if "json" in answer.content_type else answer.data

    return ask


def test_all_tabs_are_there(ask):
    listing = ask("plugins_listing", root="/data/")
    shown = {name for name, tab in listing.items() if tab["enabled"]}
    assert shown >= {
        "scalars", "images", "histograms", "distributions", "pr_curves", "text", "audio", "hparams", "mesh",
        "custom_scalars", "graphs", "timeseries",
    }  # fmt: skip


def test_scalars(ask):
    assert ask("scalars/tags")["first"].keys() == {"loss/train", "low", "high"}
    points = ask("scalars/scalars", run="first", tag="loss/train")
    assert [(step, value) for _, step, value in points] == [
        (0, 1.0), (1, 0.5), (2, pytest.approx(1 / 3)),
    ]  # fmt: skip
    for run, due in (("first/both_train", 1.0), ("first/both_test", 2.0)):
        ((_, step, value),) = ask("scalars/scalars", run=run, tag="both")
        assert (step, value) == (4, due)


def test_histograms(ask):
    found = ask("histograms/histograms", run="first", tag="weights")
    assert [step for _, step, _ in found] == [0, 1, 2]
    for i, (_, _, buckets) in enumerate(found, 1):
        assert sum(count for _, _, count in buckets) == pytest.approx(500)
        assert buckets[0][0] <= (VALUES * i).min() + 1e-6
        assert (VALUES * i).max() <= buckets[-1][1] + 1e-6


def test_distributions(ask):
    found = ask("distributions/distributions", run="first", tag="weights")
    for i, (_, _, quantiles) in enumerate(found, 1):
        (median,) = (value for point, value in quantiles if point == 5000)
        spread = np.quantile(VALUES, 0.9) * i
        assert median == pytest.approx(np.median(VALUES) * i, abs=0.1 * spread)


@pytest.mark.parametrize(
    ("tag", "size", "kind"),
    [("picture", (7, 6), b"\x89PNG"), ("pictures", (20, 4), b"\x89PNG"), ("boxes", (7, 6), b"\x89PNG"),
     ("figure", (100, 50), b"\x89PNG"), ("video", (4, 4), b"GIF89a")],
)  # fmt: skip
def test_images(ask, tag, size, kind):
    (sample,) = ask("images/images", run="first", tag=tag, sample=0)
    assert sample["step"] == 1
    content = ask(f"images/individualImage?{sample['query']}")
    assert content.startswith(kind)
    from PIL import Image

    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == size
        assert getattr(picture, "n_frames", 1) == (3 if tag == "video" else 1)
        if tag == "picture":
            due = (PICTURE.transpose(1, 2, 0) * 255).astype(np.uint8)
            np.testing.assert_array_equal(np.asarray(picture), due)


def test_audio(ask):
    (sample,) = ask("audio/audio", run="first", tag="tone", sample=0)
    assert sample["contentType"] == "audio/wav"
    with wave.open(io.BytesIO(ask(f"audio/individualAudio?{sample['query']}"))) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getnframes()) == (8000, 1, 800)
        samples = np.frombuffer(sound.readframes(800), "<i2") / 32767
    np.testing.assert_allclose(samples, TONE, atol=1e-4)


def test_text(ask):
    (event,) = ask("text/text", run="first", tag="note/text_summary")
    assert event["step"] == 1
    assert "<table>" in event["text"]


def test_precision_recall_curves(ask):
    (entry,) = ask("pr_curves/pr_curves", run="first", tag="ours")["first"]
    due = [(LABELS[t <= CHANCES].sum()) for t in entry["thresholds"][:-1]]
    # a threshold's bin reaches up to the next of 127
    assert np.abs(np.array(entry["true_positives"][:-1]) - due).max() <= 2
    assert entry["recall"][0] == 1


def test_hyper_parameters(ask):
    experiment = ask("hparams/experiment", request=json.dumps({"experimentName": ""}))
    assert {h["name"] for h in experiment["hparamInfos"]} == {"lr", "net", "wide"}
    assert [m["name"]["tag"] for m in experiment["metricInfos"]] == ["score"]
    wanted = {"experimentName": "", "allowedStatuses": ["STATUS_SUCCESS"], "startIndex": 0, "sliceSize": 9,
              "colParams": [{"hparam": "lr"}, {"metric": {"group": "", "tag": "score"}}]}  # fmt: skip
    (group,) = ask("hparams/session_groups", request=json.dumps(wanted))["sessionGroups"]
    assert group["hparams"]["lr"] == 0.1
    assert group["hparams"]["net"] == "small"
    assert group["hparams"]["wide"] is True
    assert group["metricValues"][0]["value"] == pytest.approx(0.9)


def test_embeddings(ask):
    assert ask("projector/runs") == ["first"]
    ((one,)) = ask("projector/info", run="first")["embeddings"]
    assert one["tensorShape"] == [12, 3]
    name = one["tensorName"]
    points = np.frombuffer(ask("projector/tensor", run="first", name=name), "<f4").reshape(12, 3)
    np.testing.assert_allclose(points, POINTS, rtol=1e-6)
    assert ask("projector/metadata", run="first", name=name).decode().split() == [
        f"n{i}" for i in range(12)
    ]
    assert one["sprite"]["singleImageDim"] == [4, 4]
    assert ask("projector/sprite_image", run="first", name=name).startswith(b"\x89PNG")


def test_meshes(ask):
    assert "solid" in ask("mesh/tags")["first"]
    found = {e["content_type"]: e for e in ask("mesh/meshes", run="first", tag="solid", sample=0)}
    assert len(found) == 3
    shapes = sorted(e["data_shape"] for e in found.values())
    assert shapes == [[1, 2, 3], [1, 12, 3], [1, 12, 3]]
    data = ask("mesh/data", run="first", tag="solid", sample=0, content_type="VERTEX", step=0)
    np.testing.assert_allclose(np.frombuffer(data, "<f4").reshape(12, 3), POINTS)


def test_custom_scalars(ask):
    (category,) = ask("custom_scalars/layout")["category"]
    (series,) = category["chart"][0]["margin"]["series"]
    assert series == {"value": "loss/train", "lower": "low", "upper": "high"}
    found = ask("custom_scalars/scalars", run="first", tag="loss/train")
    assert found["regex_valid"]
    assert len(found["tag_to_events"]["loss/train"]) == 3


def test_tensors(logdir):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    events = EventAccumulator(str(logdir / "first"))
    events.Reload()
    (event,) = events.Tensors("raw")
    np.testing.assert_array_equal(make_ndarray(event.tensor_proto), POINTS)


def test_the_graph_of_a_model(ask):
    from google.protobuf import text_format
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    assert ask("graphs/info")["first"]["run_graph"]
    graph = text_format.Parse(ask("graphs/graph", run="first").decode(), GraphDef())
    nodes = {n.name: n for n in graph.node}
    assert len(nodes) == len(graph.node)
    assert all(i.partition(":")[0] in nodes for n in graph.node for i in n.input)
    # what a module computes is in its scope, with its parameters; what it writes too
    ops = {
        "input/input",
        "Block[0]/mul",
        "Block[0]/Linear[linear]/linear",
        "Block[0]/Linear[linear]/weight",
        "Block[0]/relu",
        "Block[0]/add",
        "Block[1]/add",
        "Linear[3]/linear",
        "Linear[3]/bias",
    }
    assert (
        ops
        | {"Block[0]/BatchNorm1d[norm]/running_mean", "Block[0]/BatchNorm1d[norm]/new_running_mean"}
        <= nodes.keys()
    )
    assert not {n.partition("/")[0] for n in nodes} - {
        "Block[0]",
        "Block[1]",
        "Linear[3]",
        "input",
        "output",
    }
    assert list(nodes["Block[0]/Linear[linear]/linear"].input) == [
        "Block[0]/mul",
        "Block[0]/Linear[linear]/weight",
        "Block[0]/Linear[linear]/bias",
    ]
    assert nodes["Block[0]/mul"].attr["other"].s == b"2.0"
    shapes = [
        [d.size for d in s.dim] for s in nodes["Linear[3]/linear"].attr["_output_shapes"].list.shape
    ]
    assert shapes == [[3, 2]]
    assert nodes["output/0"].input == ["Linear[3]/linear"]
    assert __file__.encode().rpartition(b"/")[2] in nodes["Block[0]/mul"].attr["source"].s


def test_the_profile(logdir):
    """The tab is a package of its own (xprof): the file is read by what it says of itself."""
    from kiln.board.wire import fields

    (path,) = (logdir / "first" / "plugins" / "profile" / "begin").glob("*.xplane.pb")
    plane = dict(fields(path.read_bytes()))[1]
    names, kinds, events = {}, {}, []
    for field, value in fields(plane):
        if field == 4:
            entry = dict(fields(dict(fields(value))[2]))
            names[entry[1]] = entry.get(4, entry[2]).decode()
            kinds[names[entry[1]]] = entry[2].decode()
        if field == 3:
            events += [dict(fields(v)) for f, v in fields(value) if f == 4]
    assert kinds["kiln::linear"] == "linear:Linear"  # which is how the table of ops knows ops
    assert {names[e[1]] for e in events} == set(names.values())
    assert all(e[3] > 0 for e in events)


def test_the_profile_as_its_tab_reads_it(logdir):
    convert = pytest.importorskip("xprof.convert.raw_to_tool_data", reason="xprof is not installed")
    (path,) = (logdir / "first" / "plugins" / "profile" / "begin").glob("*.xplane.pb")
    trace, kind = convert.xspace_to_tool_data([str(path)], "trace_viewer", {})
    assert kind == "application/json"
    found = [e for e in json.loads(trace)["traceEvents"] if e.get("name") == "kiln::linear"]
    assert len(found) == 3
    assert "[3, 4]" in found[0]["args"]["shapes"]
    ops = json.loads(convert.xspace_to_tool_data([str(path)], "framework_op_stats", {})[0])[0]
    assert "linear" in [row["c"][3]["v"] for row in ops["rows"]]
