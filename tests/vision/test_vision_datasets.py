"""Data sets from their own files, as published and as damaged."""

import bz2
import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import zlib

import numpy as np
import pytest

import kiln
from kiln.errors import KilnError
from kiln.vision import datasets
from kiln.vision.datasets.numbers import read_mat
from kiln.vision.datasets.utils import check_integrity, extract_archive

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: extra [vision]")
R = np.random.default_rng(0)


def idx(a: np.ndarray) -> bytes:
    return struct.pack(f">HBB{a.ndim}I", 0, 8, a.ndim, *a.shape) + a.tobytes()


def mnist(folder, n=6, compressed=False):
    images, labels = R.integers(0, 256, (n, 28, 28)).astype("u1"), np.arange(n, dtype="u1")
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        for name, a in (("images-idx3", images), ("labels-idx1", labels)):
            content = idx(a)
            if compressed:
                (folder / f"{split}-{name}-ubyte.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / f"{split}-{name}-ubyte").write_bytes(content)
    return images


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_idx_files(name, compressed, tmp_path):
    images = mnist(tmp_path / name / "raw", compressed=compressed)
    data = getattr(datasets, name)(tmp_path, train=False)
    assert (len(data), len(data.classes), data.targets.tolist()) == (6, 10, list(range(6)))
    picture, label = data[3]
    assert (picture.mode, picture.size, label) == ("L", (28, 28), 3)
    np.testing.assert_array_equal(np.asarray(picture), images[3])
    np.testing.assert_array_equal(data.data.numpy(), images)
    assert "Split: Test" in repr(data)


def test_transforms_of_a_data_set(tmp_path):
    mnist(tmp_path / "MNIST" / "raw")
    data = datasets.MNIST(
        tmp_path, transform=kiln.vision.transforms.ToTensor(), target_transform=lambda y: -y
    )
    x, y = data[2]
    assert (x.shape, x.dtype, y) == ((1, 28, 28), kiln.float32, -2)
    batch, labels = next(iter(kiln.data.DataLoader(data, batch_size=4)))
    assert (batch.shape, labels.tolist()) == ((4, 1, 28, 28), [0, -1, -2, -3])


def test_damaged_idx_files_are_refused(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    with pytest.raises(RuntimeError, match="Dataset not found"):
        datasets.MNIST(tmp_path)
    mnist(raw)
    path = raw / "train-images-idx3-ubyte"
    good = path.read_bytes()
    for bad in (
        good[:-1], good[:3], b"", good + b"x", b"\1" + good[1:], good[:4] + b"\xff" * 12 + good[16:],
        gzip.compress(good)[:-9], good[:3] + b"\xff" + good[4:],
    ):  # fmt: skip
        path.write_bytes(bad)
        with pytest.raises(KilnError):
            datasets.MNIST(tmp_path)


def test_fetching_checks_what_it_gets(tmp_path, monkeypatch):
    published = tmp_path / "published"
    mnist(published, compressed=True)
    files = [(p.name, hashlib.md5(p.read_bytes()).hexdigest()) for p in sorted(published.iterdir())]
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["file:///nowhere/", f"file://{published}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", files)
    assert len(datasets.MNIST(tmp_path / "a", download=True)) == 6
    assert len(datasets.MNIST(tmp_path / "a", download=True)) == 6
    monkeypatch.setattr(datasets.MNIST, "resources", [(n, "0" * 32) for n, _ in files])
    with pytest.raises(RuntimeError, match="MD5"):
        datasets.MNIST(tmp_path / "b", download=True)
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["file:///nowhere/"])
    with pytest.raises(RuntimeError, match="can't fetch") as e:
        datasets.MNIST(tmp_path / "c", download=True)
    assert "put it there yourself" in str(e.value)


def old_text(s: bytes) -> bytes:
    return b"U" + bytes([len(s)]) + s if len(s) < 256 else b"T" + struct.pack("<I", len(s)) + s


def batch(images: np.ndarray, labels: list[int]) -> bytes:
    """A batch as Python 2 has pickled it."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + b"M" + struct.pack("<H", len(images)) + b"M\x00\x0c\x86"
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + old_text(images.tobytes()) + b"tb"
    )  # fmt: skip
    numbers = b"](" + b"".join(b"K" + bytes([n]) for n in labels) + b"e"
    return b"\x80\x02}(" + old_text(b"data") + array + old_text(b"labels") + numbers + b"u."


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder of a small CIFAR-10 in its own format."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    images = R.integers(0, 256, (3, 3, 32, 32)).astype("u1")
    content = {f"data_batch_{i}": batch(images, [i, 1, 2]) for i in range(1, 6)}
    content["test_batch"] = batch(images, [7, 8, 9])
    content["batches.meta"] = pickle.dumps({"label_names": [f"class{i}" for i in range(10)]}, 2)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    sums = {name: hashlib.md5(data).hexdigest() for name, data in content.items()}
    cls = datasets.CIFAR10
    monkeypatch.setattr(
        cls, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)]
    )
    monkeypatch.setattr(cls, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums["batches.meta"]})
    return tmp_path, images


def test_cifar(cifar):
    root, images = cifar
    data = datasets.CIFAR10(root)
    assert (len(data), data.targets[:4], data.classes[9]) == (15, [1, 1, 2, 2], "class9")
    picture, label = datasets.CIFAR10(root, train=False)[1]
    assert (picture.mode, label) == ("RGB", 8)
    np.testing.assert_array_equal(np.asarray(picture), images[1].transpose(1, 2, 0))


def test_cifar_is_fetched_and_checked(cifar, tmp_path, monkeypatch):
    root, _ = cifar
    packed = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(packed, "w:gz") as t:
        t.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "url", f"file://{packed}")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(packed.read_bytes()).hexdigest())
    assert len(datasets.CIFAR10(str(tmp_path / "other"), train=False, download=True)) == 3
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(b"x")
    with pytest.raises(RuntimeError, match="corrupted"):
        datasets.CIFAR10(root)


def test_a_batch_can_not_run_code(cifar, monkeypatch):
    root, _ = cifar
    evil = b"cos\nsystem\nU\x04echo\x85R."
    (root / "cifar-10-batches-py" / "test_batch").write_bytes(evil)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", None]])
    with pytest.raises(pickle.UnpicklingError, match=r"os\.system"):
        datasets.CIFAR10(root, train=False)


def test_archives_stay_in_their_folder(tmp_path):
    packed = tmp_path / "a.tar.gz"
    with tarfile.open(packed, "w:gz") as t:
        info = tarfile.TarInfo("../out.txt")
        info.size = 1
        t.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "in").mkdir()
    with pytest.raises(Exception, match="outside"):
        extract_archive(packed, tmp_path / "in")
    assert not (tmp_path / "out.txt").exists()
    assert not check_integrity(tmp_path / "none")


def test_folders_of_pictures(tmp_path):
    for name in ("dog/a.png", "cat/b.PNG", "cat/deep/c.png", "cat/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kiln.vision.utils.save_image(kiln.rand(3, 4, 5), path, format="png")
    data = datasets.ImageFolder(tmp_path)
    assert (data.classes, data.class_to_idx, data.targets) == (
        ["cat", "dog"], {"cat": 0, "dog": 1}, [0, 0, 1],
    )  # fmt: skip
    assert data[2][0].size == (5, 4)
    (tmp_path / "bird").mkdir()
    with pytest.raises(FileNotFoundError, match="bird"):
        datasets.ImageFolder(tmp_path)
    assert len(datasets.ImageFolder(tmp_path, allow_empty=True)) == 3
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="class folder"):
        datasets.ImageFolder(tmp_path / "none")


def test_made_up_pictures_are_the_same_each_time():
    data = datasets.FakeData(3, (3, 8, 9), 5, kiln.vision.transforms.ToTensor())
    kiln.manual_seed(1)
    before = kiln.rand(1)
    kiln.manual_seed(1)
    a, b = data[1], data[1]
    assert (a[0] == b[0]).all()
    assert a[1] == b[1]
    assert kiln.rand(1) == before
    with pytest.raises(IndexError):
        data[3]


def mat(arrays: dict, compressed: bool = True) -> bytes:
    """A MATLAB 5 file."""

    def element(kind: int, data: bytes) -> bytes:
        if 0 < len(data) <= 4:
            return struct.pack("<HH", kind, len(data)) + data.ljust(4, b"\0")
        return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    out = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    for name, a in arrays.items():
        kind, code = {"u1": (9, 2), "f8": (6, 9)}[a.dtype.str[1:]]
        parts = element(6, struct.pack("<II", kind, 0)) + element(
            5, np.array(a.shape, "<i4").tobytes()
        )
        parts += element(1, name.encode()) + element(code, a.tobytes(order="F"))
        matrix = struct.pack("<II", 14, len(parts)) + parts
        if compressed:
            packed = zlib.compress(matrix)
            matrix = struct.pack("<II", 15, len(packed)) + packed
        out += matrix
    return out


@pytest.mark.parametrize("compressed", [True, False])
def test_house_numbers(tmp_path, monkeypatch, compressed):
    x = R.integers(0, 256, (32, 32, 3, 5)).astype("u1")
    y = np.array([[1.0], [10.0], [3.0], [4.0], [5.0]])
    content = mat({"X": x, "y": y}, compressed)
    (tmp_path / "train_32x32.mat").write_bytes(content)
    with pytest.raises(KilnError, match="not found or corrupted"):
        datasets.SVHN(tmp_path)
    url = ["", "train_32x32.mat", hashlib.md5(content).hexdigest()]
    monkeypatch.setitem(datasets.SVHN.split_list, "train", url)
    data = datasets.SVHN(tmp_path)
    assert [data[i][1] for i in range(len(data))] == [1, 0, 3, 4, 5]
    assert (np.array(data[2][0]) == x[..., 2]).all()
    assert data.data.shape == (5, 3, 32, 32)
    with pytest.raises(ValueError, match="argument split"):
        datasets.SVHN(tmp_path, split="all")
    for damaged in (content[:100], content[:-9], content[:130] + b"\xff" * 9 + content[140:]):
        (tmp_path / "x.mat").write_bytes(damaged)
        with pytest.raises(KilnError, match=r"MATLAB 5|damaged"):
            read_mat(tmp_path / "x.mat")


def test_pictures_with_and_without_labels(tmp_path, monkeypatch):
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    x = R.integers(0, 256, (4, 3, 96, 96)).astype("u1")
    for name in ("train", "unlabeled", "test"):
        (folder / f"{name}_X.bin").write_bytes(x.tobytes())
        (folder / f"{name}_y.bin").write_bytes(bytes([1, 2, 10, 4]))
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    (folder / "fold_indices.txt").write_text("0 2 \n1 3 \n")
    monkeypatch.setattr("kiln.vision.datasets.numbers.check_integrity", lambda path, md5=None: True)
    data = datasets.STL10(tmp_path, "train+unlabeled")
    assert [data[i][1] for i in range(8)] == [0, 1, 9, 3, -1, -1, -1, -1]
    assert (np.array(data[1][0]) == x[1].transpose(2, 1, 0)).all()
    assert [y for _, y in (datasets.STL10(tmp_path, folds=1)[i] for i in (0, 1))] == [1, 3]
    assert data.classes == ["airplane", "bird"]
    with pytest.raises(ValueError, match="folds"):
        datasets.STL10(tmp_path, folds=10)


def test_digits_on_envelopes(tmp_path, monkeypatch):
    grays = R.uniform(-1, 1, (3, 256)).round(4)
    lines = [
        f"{i + 1} " + " ".join(f"{j + 1}:{v}" for j, v in enumerate(r)) + " \n"
        for i, r in enumerate(grays)
    ]
    (tmp_path / "usps.t.bz2").write_bytes(bz2.compress("".join(lines).encode()))
    monkeypatch.setattr("kiln.vision.datasets.numbers.check_integrity", lambda path, md5=None: True)
    data = datasets.USPS(tmp_path, train=False)
    assert data.targets == [0, 1, 2]
    np.testing.assert_allclose(np.array(data[1][0]).reshape(-1), (grays[1] + 1) / 2 * 255, atol=1)


def test_objects_of_coco(tmp_path):
    Image.fromarray(np.full((4, 6, 3), 9, "u1")).save(tmp_path / "a.png")
    content = {
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 3, "file_name": "a.png"}],
        "annotations": [{"image_id": 7, "bbox": [1, 2, 3, 4], "category_id": 1, "caption": "gray"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = datasets.CocoDetection(str(tmp_path), str(tmp_path / "a.json"))
    assert data.ids == [3, 7]
    assert data[0][1] == []
    image, target = data[1]
    assert (image.size, target[0]["bbox"]) == ((6, 4), [1, 2, 3, 4])
    assert datasets.CocoCaptions(str(tmp_path), str(tmp_path / "a.json"))[1][1] == ["gray"]


def test_objects_of_pascal(tmp_path):
    at = tmp_path / "VOCdevkit" / "VOC2012"
    for name in (
        "JPEGImages",
        "SegmentationClass",
        "Annotations",
        "ImageSets/Main",
        "ImageSets/Segmentation",
    ):
        (at / name).mkdir(parents=True)
    for kind in ("Main", "Segmentation"):
        (at / "ImageSets" / kind / "val.txt").write_text("one\n")
    Image.fromarray(np.zeros((4, 6, 3), "u1")).save(at / "JPEGImages" / "one.jpg")
    Image.fromarray(np.full((4, 6), 15, "u1")).save(at / "SegmentationClass" / "one.png")
    one = "<object><name>cat</name><bndbox><xmin>1</xmin></bndbox></object>"
    (at / "Annotations" / "one.xml").write_text(
        f"<annotation><folder>VOC</folder>{one}</annotation>"
    )
    _, mask = datasets.VOCSegmentation(tmp_path, image_set="val")[0]
    assert np.array(mask).max() == 15
    _, told = datasets.VOCDetection(tmp_path, image_set="val")[0]
    assert told == {
        "annotation": {"folder": "VOC", "object": [{"name": "cat", "bndbox": {"xmin": "1"}}]}
    }
    with pytest.raises(ValueError, match="image_set"):
        datasets.VOCDetection(tmp_path, image_set="test")
    with pytest.raises(KilnError, match="not found"):
        datasets.VOCDetection(tmp_path, year="2009")


def test_folders_and_files_of_a_folder(tmp_path):
    from kiln.vision.datasets import utils

    (tmp_path / "a").mkdir()
    (tmp_path / "b.png").write_bytes(b"x")
    assert utils.list_dir(tmp_path) == ["a"]
    assert utils.list_files(tmp_path, ".png", prefix=True) == [str(tmp_path / "b.png")]
    utils.download_file_from_google_drive("id", tmp_path, "b.png")  # which is there
