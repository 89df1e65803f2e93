"""The same events as PyTorch's SummaryWriter writes, read with TensorBoard's own reader."""

import numpy as np
import pytest

import kiln
from kiln import nn

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytest.importorskip("tensorboard", reason="TensorBoard is not installed: extra [board]")
pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore"),
]

R = np.random.default_rng(0)
VALUES = R.standard_normal((4, 50)).astype(np.float32)
PICTURE = R.random((3, 5, 4)).astype(np.float32)
PICTURES = (R.random((5, 1, 3, 4)) * 255).astype(np.uint8)
LABELS, CHANCES = R.integers(0, 2, 60), R.random(60)
POINTS = R.standard_normal((1, 4, 3)).astype(np.float32)
FACES = np.array([[[0, 2, 3], [0, 3, 1]]], np.int32)
COLORS = (R.random((1, 4, 3)) * 255).astype(np.int32)

CALLS = {
    "scalar": lambda w, t: w.add_scalar("a/loss", t(np.float32(0.3)), 3, 12.5),
    "scalar without a step": lambda w, t: w.add_scalar("a", 1, walltime=1.0),
    "new scalar": lambda w, t: w.add_scalar("a", 0.1, np.int64(2), 1.0, new_style=True),
    "double scalar": lambda w, t: w.add_scalar("a", 0.1, 2, 1.0, new_style=True, double_precision=True),
    "nan": lambda w, t: w.add_scalar("a", float("nan"), -1, 1.0),
    "tensor": lambda w, t: w.add_tensor("t", t(VALUES[:2, :3]), 1, 1.0),
    "histogram": lambda w, t: w.add_histogram("h", t(VALUES), 1, walltime=1.0),
    "histogram of bins": lambda w, t: w.add_histogram("h", VALUES, 1, "auto", 1.0),
    "histogram of few bins": lambda w, t: w.add_histogram("h", t(VALUES), 1, "tensorflow", 1.0, 100),
    "raw histogram": lambda w, t: w.add_histogram_raw("h", 0, 2, 3, 4, 5, [1, 2], [1, 2], 1, 1.0),
    "image": lambda w, t: w.add_image("i", t(PICTURE), 1, 1.0),
    "gray image": lambda w, t: w.add_image("i", PICTURE[0], 1, 1.0, dataformats="HW"),
    "image of rows": lambda w, t: w.add_image("i", PICTURE.transpose(1, 2, 0), 1, 1.0, "HWC"),
    "images": lambda w, t: w.add_images("i", t(PICTURES), 1, 1.0),
    "boxes": lambda w, t: w.add_image_with_boxes("b", t(PICTURE), t(np.array([[0, 1, 2, 3]])), 1, 1.0),
    "audio": lambda w, t: w.add_audio("s", t(np.sin(np.arange(40.0)).astype(np.float32)[None]), 1, 8000, 1.0),
    "text": lambda w, t: w.add_text("n", "**grüße**", 1, 1.0),
    "pr": lambda w, t: w.add_pr_curve("p", t(LABELS), t(CHANCES), 1, walltime=1.0),
    "weighted pr": lambda w, t: w.add_pr_curve("p", LABELS, CHANCES, 1, 20, CHANCES, 1.0),
    "raw pr": lambda w, t: w.add_pr_curve_raw("p", *VALUES[:1, :5].repeat(6, 0), 1, 5, walltime=1.0),
    "layout": lambda w, t: w.add_custom_scalars(
        {"one": {"x": ["Multiline", ["a", "b"]]}, "two": {"y": ["Margin", ["a", "b", "c"]]}}
    ),
    "chart": lambda w, t: w.add_custom_scalars_multilinechart(["a", "b"], "c", "t"),
    "mesh": lambda w, t: w.add_mesh("m", t(POINTS), t(COLORS), t(FACES), {"camera": {"fov": 75}}, 1, 1.0),
}  # fmt: skip


def events(folder):
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    (path,) = (p for p in folder.iterdir() if "tfevents" in p.name)
    return [Event.FromString(e) for e in RawEventFileLoader(str(path)).Load()]


def comparable(event):
    """What an event says, with pictures as pixels and numbers that summation order may change rounded."""
    import io

    from google.protobuf.json_format import MessageToDict
    from PIL import Image

    out = MessageToDict(event)
    out.pop("wallTime", None) if event.summary.value and not event.step else None
    for v, said in zip(event.summary.value, out.get("summary", {}).get("value", []), strict=True):
        if v.HasField("image"):
            picture = Image.open(io.BytesIO(v.image.encoded_image_string))
            said["image"]["encodedImageString"] = np.asarray(picture).tolist()
        if v.HasField("histo"):
            for k in ("sum", "sumSquares", "bucketLimit"):
                said["histo"][k] = np.round(said["histo"][k], 4).tolist()
        if v.metadata.plugin_data.plugin_name == "mesh":
            from tensorboard.plugins.mesh.plugin_data_pb2 import MeshPluginData

            content = MeshPluginData.FromString(v.metadata.plugin_data.content)
            said["metadata"]["pluginData"]["content"] = MessageToDict(content)
            said["metadata"].pop("displayName", None)
        if v.metadata.plugin_data.plugin_name == "tensor":
            from tensorboard.util.tensor_util import make_ndarray

            said["tensor"] = make_ndarray(v.tensor).tolist()
        if v.metadata.plugin_data.plugin_name == "pr_curves":
            said["tensor"]["floatVal"] = np.round(said["tensor"]["floatVal"], 4).tolist()
    return out


@pytest.mark.parametrize("name", CALLS)
def test_events(name, tmp_path):
    from torch.utils.tensorboard import SummaryWriter as Theirs

    said = []
    for cls, tensor, folder in (
        (Theirs, torch.as_tensor, tmp_path / "theirs"),
        (kiln.utils.tensorboard.SummaryWriter, kiln.as_tensor, tmp_path / "ours"),
    ):
        with cls(str(folder)) as w:
            CALLS[name](w, tensor)
        said.append([comparable(e) for e in events(folder)[1:]])
    assert said[0]
    assert said[1] == said[0]


def test_several_curves_and_hyper_parameters(tmp_path):
    from google.protobuf.json_format import MessageToDict
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from torch.utils.tensorboard import SummaryWriter as Theirs

    said = []
    for cls, tensor, root in (
        (Theirs, torch.tensor, tmp_path / "theirs"),
        (kiln.utils.tensorboard.SummaryWriter, kiln.tensor, tmp_path / "ours"),
    ):
        with cls(str(root)) as w:
            w.add_scalars("run/a", {"x": 1.0, "y": tensor(2.0)}, 5, 1.0)
            w.add_hparams(
                {"lr": 0.1, "net": "small", "depth": 3, "t": tensor([0.5]), "none": None},
                {"accuracy": 0.9}, {"lr": [0.1, 0.2], "net": ["small", "large"]}, "try", 7,
            )  # fmt: skip
        found = {}
        for folder in sorted(p for p in root.iterdir() if p.is_dir()):
            found[folder.name] = [
                [
                    (
                        v.tag,
                        v.simple_value,
                        MessageToDict(HParamsPluginData.FromString(v.metadata.plugin_data.content)),
                    )
                    for v in e.summary.value
                ]
                for e in events(folder)[1:]
            ]
        said.append(found)
    assert list(said[0]) == ["run_a_x", "run_a_y", "try"]
    assert said[1] == said[0]


def test_embeddings(tmp_path):
    from torch.utils.tensorboard import SummaryWriter as Theirs

    points, pictures = VALUES[:, :3], R.random((4, 3, 2, 5)).astype(np.float32)
    said = []
    for cls, tensor, root in (
        (Theirs, torch.tensor, tmp_path / "theirs"),
        (kiln.utils.tensorboard.SummaryWriter, kiln.tensor, tmp_path / "ours"),
    ):
        with cls(str(root)) as w:
            w.add_embedding(tensor(points), list("abcd"), tensor(pictures), 2)
            w.add_embedding(points, [("a", 1)] * 4, tag="other", metadata_header=["n", "i"])
        files = sorted(p for p in root.rglob("*") if p.suffix in (".tsv", ".pbtxt"))
        said.append({str(p.relative_to(root)): p.read_text() for p in files})
        assert (root / "00002/default/sprite.png").exists()
    assert said[1].keys() == said[0].keys()
    config = "projector_config.pbtxt"
    assert sorted(said[1].pop(config).split()) == sorted(said[0].pop(config).split())
    for name, text in said[0].items():
        mine = [line.split("\t") for line in said[1][name].splitlines()]
        due = [line.split("\t") for line in text.splitlines()]
        if "tensors" in name:
            np.testing.assert_allclose(np.array(mine, float), np.array(due, float), rtol=1e-6)
        else:
            assert mine == due


def test_a_graph(tmp_path):
    from tensorboard.compat.proto.graph_pb2 import GraphDef

    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU())
    before, state = model[1].running_mean.clone(), kiln.get_rng_state()
    with kiln.utils.tensorboard.SummaryWriter(str(tmp_path)) as w:
        w.add_graph(model, kiln.ones(2, 4))
    assert (model[1].running_mean == before).all()
    assert (kiln.get_rng_state() == state).all()
    (event,) = events(tmp_path)[1:]
    graph = GraphDef.FromString(event.graph_def)
    nodes = {n.name: n for n in graph.node}
    assert {
        "Linear[0]/weight",
        "Linear[0]/bias",
        "BatchNorm1d[1]/weight",
        "input/input",
        "random/state",
        "output/0",
    } <= nodes.keys()
    assert all(i.partition(":")[0] in nodes for n in graph.node for i in n.input)
    (shape,) = nodes["Linear[0]/weight"].attr["_output_shapes"].list.shape
    assert [d.size for d in shape.dim] == [3, 4]


def test_steps_that_are_written_again(tmp_path):
    from tensorboard.compat.proto.event_pb2 import SessionLog

    with kiln.utils.tensorboard.SummaryWriter(
        str(tmp_path), purge_step=5, filename_suffix=".x"
    ) as w:
        w.add_scalar("a", 1.0, 5)
    found = events(tmp_path)
    assert [(e.step, e.session_log.status) for e in found[1:3]] == [(5, 0), (5, SessionLog.START)]
    assert next(tmp_path.iterdir()).name.endswith(".x")
