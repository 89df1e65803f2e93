"""Data sets that are made by rule, facts, and what comes with scikit-learn and with Python."""

from __future__ import annotations

import datetime
import random

import numpy as np
import pytest
from examples.cartpole import CartPole

import kiln
from kiln import datasets


@pytest.mark.parametrize(
    ("name", "rows", "features", "classes"),
    [("iris", 150, 4, 3), ("wine", 178, 13, 3), ("breast_cancer", 569, 30, 2), ("diabetes", 442, 10, 0)],
)  # fmt: skip
def test_tables(name, rows, features, classes):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: extra [demo]")
    load = getattr(datasets, f"load_{name}")
    t = load()
    assert t.train_inputs.shape == (rows * 4 // 5, features)
    assert len(t.train_inputs) + len(t.test_inputs) == rows
    assert len(t.features) == features
    assert len(t.classes) == classes
    assert t.train_targets.dtype is (kiln.int64 if classes else kiln.float32)
    np.testing.assert_allclose(t.train_inputs.numpy().mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(t.train_inputs.numpy().std(0), 1, atol=1e-4)
    raw = load(standardize=False)
    # standardised by the same numbers, which the test rows have no part in
    scale = raw.train_inputs.numpy().astype(np.float64).std(0)
    due = (raw.test_inputs.numpy() - raw.train_inputs.numpy().astype(np.float64).mean(0)) / scale
    np.testing.assert_allclose(t.test_inputs.numpy(), due, atol=1e-3)
    assert load().test_targets.tolist() == t.test_targets.tolist()


def test_without_scikit_learn(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="demo"):
        datasets.load_iris()


def test_the_library_s_text():
    text = datasets.load_library_text(length=50_000)
    assert len(text) == 50_000
    assert text == datasets.load_library_text(length=100_000)[:50_000]
    assert text.count(" the ") > 100
    code = datasets.load_library_text("code", 50_000)
    assert code.count("def ") > text.count("def ")
    with pytest.raises(ValueError, match="no such part"):
        datasets.load_library_text("poems")


def test_dates():
    d = datasets.load_dates(2000, 300)
    assert (len(d.train), len(d.test)) == (2000, 300)
    assert d == datasets.load_dates(2000, 300)
    assert d != datasets.load_dates(2000, 300, seed=1)
    assert not {iso for _, iso in d.train} & {iso for _, iso in d.test}
    months = {m: i for i, m in enumerate(datasets.dates.MONTHS, 1)} | {
        m[:3]: i for i, m in enumerate(datasets.dates.MONTHS, 1)
    }
    for text, iso in d.train:  # read back by what is written alone
        date = datetime.date.fromisoformat(iso)
        words = text.replace(",", " ").replace("/", " ").replace(".", " ").replace("'", " ").split()
        if words[0] in datasets.dates.DAYS:
            assert datasets.dates.DAYS[date.weekday()] == words.pop(0)
        words = [w for w in words if w not in ("the", "of")]
        named = [months[w] for w in words if w in months]
        numbers = [int(w.rstrip("stndrh")) for w in words if w not in months]
        day, month, year = (numbers[0], named[0], numbers[1]) if named else numbers
        year += 0 if year > 99 else 2000 if year < 30 else 1900
        assert (year, month, day) == (date.year, date.month, date.day), text


def test_the_karate_club():
    club = datasets.load_karate_club()
    a = club.adjacency().numpy()
    assert club.edges.shape == (2, 156)
    np.testing.assert_array_equal(a, a.T)
    assert a.sum() == 156
    assert np.trace(a) == 0
    # figures of the graph that are known: degrees of the two leaders, and triangles
    assert (a.sum(0)[0], a.sum(0)[33], a.sum(0).min()) == (16, 17, 1)
    assert np.trace(a @ a @ a) / 6 == 45
    assert club.labels.tolist().count(0) == 17
    assert (club.labels[0].item(), club.labels[33].item()) == (0, 1)


def test_tones():
    t = datasets.load_tones(60, noise=0.0, seconds=0.5)
    assert t.sounds.shape == (60, 4000)
    assert t.sounds.abs().max().item() <= 1
    power = np.abs(np.fft.rfft(t.sounds.numpy() * np.hanning(4000))) ** 2
    f = np.fft.rfftfreq(4000, 1 / 8000)
    loudest = f[power.argmax(1)]
    np.testing.assert_allclose(loudest, t.pitches.numpy(), atol=2.5)
    for row, kind, pitch in zip(power, t.waveforms.tolist(), t.pitches.tolist(), strict=True):
        near = [row[np.abs(f - k * pitch) < 8].sum() for k in (1, 2, 3)]
        due = [(0, 0), (0, 1 / 9), (1 / 4, 1 / 9), (0, 1 / 81)][kind]
        np.testing.assert_allclose(np.array(near[1:]) / near[0], due, atol=0.02)


def test_keywords_can_be_told_apart():
    train, test = (datasets.load_keywords(n, seed=s) for n, s in ((300, 0), (100, 1)))
    assert train.sounds.shape == (300, 8000)
    assert train.sounds.abs().max().item() <= 1
    assert train.names == ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
    assert train.phones[train.words.tolist().index(8)].tolist() == [
        datasets.sounds.PHONES.index(p) + 1 for p in ("S", "T", "AA", "P")
    ]

    def features(x):  # how long each band is loud: places and loudness don't matter
        frames = x.numpy()[:, : 31 * 256].reshape(len(x), 31, 256) * np.hanning(256)
        power = np.log(np.abs(np.fft.rfft(frames))[..., :128] ** 2 + 1e-4)
        bands = np.sort(power.reshape(len(x), 31, 16, 8).mean(-1), axis=1)[:, ::4]
        return np.concatenate([bands.reshape(len(x), -1), np.ones((len(x), 1))], 1)

    a, b = features(train.sounds), features(test.sounds)
    weights = np.linalg.solve(
        a.T @ a + 10 * np.eye(a.shape[1]), a.T @ np.eye(10)[train.words.numpy()]
    )
    assert ((b @ weights).argmax(1) == test.words.numpy()).mean() > 0.7
    with pytest.raises(ValueError, match="not known"):
        datasets.load_keywords(1, words=("yes", "perhaps"))


def test_scenes_are_exact():
    scenes = datasets.Scenes(40, size=48, noise=0.0)
    counts = []
    for i in range(len(scenes)):
        picture, target = scenes[i]
        assert picture.shape == (3, 48, 48)
        boxes, masks, labels = (target[k].numpy() for k in ("boxes", "masks", "labels"))
        counts.append(len(labels))
        assert masks.sum(0).max(initial=0) <= 1  # what covers another is all that is seen
        assert target["semantic"].tolist() == (masks * labels[:, None, None]).sum(0).tolist()
        for box, mask in zip(boxes.astype(int), masks, strict=True):
            left, top, right, bottom = box
            assert mask[top:bottom, left:right].sum() == mask.sum()
            inner = mask[top:bottom, left:right]
            assert inner.any(0)[[0, -1]].all()
            assert inner.any(1)[[0, -1]].all()
            # one colour inside, without noise
            assert np.ptp(picture.numpy()[:, mask], axis=1).max() < 1e-6
    assert max(counts) == 4
    again = datasets.Scenes(1000, size=48, noise=0.0)[7]
    assert kiln.equal(again[0], scenes[7][0])
    alone = datasets.Scenes(30, size=64, objects=(1, 1), noise=0.0)
    fill = {1: np.pi / 4, 2: None, 3: None}
    for picture_target in (alone[i] for i in range(30)):
        target = picture_target[1]
        left, top, right, bottom = target["boxes"].numpy()[0]
        share = target["masks"].numpy()[0].sum() / ((right - left) * (bottom - top))
        due = fill[int(target["labels"].item())]
        assert due is None or share == pytest.approx(due, abs=0.08)
    large = datasets.Scenes(30, size=64, objects=(1, 1), radius=(0.25, 0.25))
    for target in (large[i][1] for i in range(30)):
        if target["labels"].item() == 1:
            assert target["boxes"][0].tolist()[2] - target["boxes"][0].tolist()[0] in (31, 32)
    for wrong in ({"radius": (0.3, 0.2)}, {"radius": (0.1, 0.6)}, {"size": 8}, {"objects": (2, 1)}):
        with pytest.raises(ValueError, match="no such scenes"):
            datasets.Scenes(**wrong)
    with pytest.raises(IndexError):
        scenes[40]


def test_empty_scenes():
    _, target = datasets.Scenes(1, objects=(0, 0))[0]
    assert target["boxes"].shape == (0, 4)
    assert target["masks"].shape == (0, 64, 64)


def test_published_sets_are_here_too():
    from kiln.vision import datasets as pictures

    for name in ("MNIST", "FashionMNIST", "CIFAR10", "ImageFolder", "CocoDetection"):
        assert getattr(datasets, name) is getattr(pictures, name)
    assert all(hasattr(datasets, name) for name in datasets.__all__)
    with pytest.raises(AttributeError, match="load_nothing"):
        datasets.load_nothing


def test_cart_pole():
    env = CartPole(seed=0)
    first = env.reset()
    assert all(abs(v) <= 0.05 for v in first)
    env.state = (0.0, 0.0, 0.0, 0.0)
    x, reward, terminated, truncated = env.step(1)
    # a push of 10 N on 1.1 kg, as the formulas give it by hand
    pull = 10 / 1.1
    turn = -pull / (0.5 * (4 / 3 - 0.1 / 1.1))
    assert x == pytest.approx((0, 0.02 * (pull - 0.05 * turn / 1.1), 0, 0.02 * turn))
    assert (reward, terminated, truncated) == (1.0, False, False)
    steps = 0
    while not terminated:
        _, _, terminated, _ = env.step(1)
        steps += 1
    assert 5 < steps < 15

    r, lengths = random.Random(0), []
    for _ in range(200):
        env.reset()
        done = False
        while not done:
            *_, done, _ = env.step(r.randrange(2))
        lengths.append(env.steps)
    assert 18 < np.mean(lengths) < 27  # of random actions
    env.reset()
    for _ in range(500):  # pushed to where the pole leans
        _, _, terminated, truncated = env.step(int(env.state[2] + env.state[3] > 0))
        assert not terminated
    assert truncated


def test_cart_pole_is_gymnasium_s():
    gymnasium = pytest.importorskip("gymnasium", reason="Gymnasium is not installed")
    theirs, ours, r = gymnasium.make("CartPole-v1"), CartPole(), random.Random(1)
    for seed in range(5):
        ours.state, done = tuple(map(float, theirs.reset(seed=seed)[0])), False
        theirs.unwrapped.state = ours.state
        while not done:
            action = r.randrange(2)
            x, _, done, _ = ours.step(action)
            y, _, ended, _, _ = theirs.step(action)
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
            assert done == ended
