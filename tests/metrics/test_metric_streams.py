"""Streaming metrics held to scikit-learn: batches of any sizes, weights, ties, absent classes, ignored targets."""

import copy
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

import kiln
from kiln import metrics, nn
from kiln.metrics import stream


def cases(*strategies):
    """A test of many random cases."""
    return lambda test: settings(max_examples=40, deadline=None)(given(*strategies)(test))


SEEDS = st.integers(0, 2**32 - 1)
near = {"rel": 1e-9, "abs": 1e-12}


class Case:
    """A random stream: scores with ties, targets of which some classes may be missing, weights of which some are 0."""

    def __init__(self, seed, classes=4, ignore=None):
        r = self.r = np.random.default_rng(seed)
        self.n = int(r.integers(1, 60))
        self.classes = classes
        self.logits = r.normal(size=(self.n, classes)).round(int(r.integers(0, 3)))
        e = np.exp(self.logits)
        self.probabilities = (e / e.sum(1, keepdims=True)).round(int(r.integers(1, 4)))
        some = r.permutation(classes)[: r.integers(1, classes + 1)]
        self.target = r.choice(some, self.n)
        self.labels = r.integers(0, 2, (self.n, classes))
        self.weight = r.integers(0, 4, self.n) / 2 if r.integers(2) else None
        if self.weight is not None:
            self.weight[-1] = 1.0  # scikit-learn refuses weights that are all 0
        self.kept = np.ones(self.n, bool)
        self.given = self.target.copy()
        if ignore is not None:
            self.kept = r.integers(0, 4, self.n) > 0
            self.given[~self.kept] = ignore
        self.cuts = np.sort(r.integers(0, self.n + 1, int(r.integers(0, 5))))

    @property
    def pred(self):
        return self.logits.argmax(1)

    @property
    def w(self):
        return np.ones(self.n) if self.weight is None else self.weight

    def feed(self, metric, output, target, dtype=None):
        """The metric after all batches, the second half seen by another one that is merged."""
        other = copy.deepcopy(metric)
        parts = list(zip(*(np.split(x, self.cuts) for x in (output, target, self.w)), strict=True))
        for i, (o, t, w) in enumerate(parts):
            m = metric if i < len(parts) // 2 + 1 else other
            weight = None if self.weight is None else kiln.tensor(w)
            m.update(kiln.tensor(o, dtype=dtype), kiln.tensor(t), weight)
        return metric.merge(other)


def close(a, b):
    assert np.asarray(a) == pytest.approx(np.asarray(b), nan_ok=True, **near)


def weighed(fn, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fn(*args, **options)


AVERAGES = st.sampled_from(["micro", "macro", "weighted", None])
SCORES = {
    metrics.Precision: sk.precision_score, metrics.Recall: sk.recall_score, metrics.F1Score: sk.f1_score,
    metrics.Dice: sk.f1_score, metrics.IoU: sk.jaccard_score,
    lambda **o: metrics.FBetaScore(0.5, **o): lambda *a, **o: sk.fbeta_score(*a, beta=0.5, **o),
}  # fmt: skip


@cases(SEEDS, AVERAGES, st.sampled_from(list(SCORES)), st.sampled_from([None, -1, 2, 255]))
def test_counts_of_classes(seed, average, kind, ignore):
    case = Case(seed, ignore=ignore)
    kept = case.given != ignore if ignore is not None else case.kept
    m = case.feed(kind(average=average, ignore_index=ignore), case.logits, case.given)
    t, p, w = case.given[kept], case.pred[kept], case.w[kept]
    seen = w > 0
    if not seen.any():
        assert m.compute().sum() == 0
        return
    t, p, w = t[seen], p[seen], w[seen]
    options = {"labels": range(4)} if average is None else {}
    expected = weighed(SCORES[kind], t, p, average=average, sample_weight=w, zero_division=0, **options)  # fmt: skip
    close(m.compute(), expected)


@cases(SEEDS, AVERAGES, st.sampled_from(list(SCORES)))
def test_counts_of_labels(seed, average, kind):
    case = Case(seed)
    m = case.feed(kind(task="multilabel", average=average), case.probabilities, case.labels)
    p, w = case.probabilities > 0.5, case.w
    if average == "macro":  # scikit-learn counts labels that nothing has, too
        each = weighed(SCORES[kind], case.labels, p, average=None, sample_weight=w, zero_division=0)
        there = ((case.labels | p) * w[:, None]).any(0)
        expected = each[there].mean() if there.any() else 0.0
    else:
        expected = weighed(SCORES[kind], case.labels, p, average=average, sample_weight=w, zero_division=0)  # fmt: skip
    close(m.compute(), expected)


@cases(SEEDS, st.sampled_from(list(SCORES)), st.booleans())
def test_counts_of_yes_and_no(seed, kind, logits):
    case = Case(seed, 2)
    p = case.probabilities[:, 1]
    scores = case.logits[:, 1] if logits else p
    m = case.feed(kind(from_logits=logits), scores[:, None], case.target.astype("float32"))
    answers = scores > (0 if logits else 0.5)
    close(m.compute(), weighed(SCORES[kind], case.target, answers, sample_weight=case.w, zero_division=0))  # fmt: skip


@cases(SEEDS, st.sampled_from([None, -1]))
def test_accuracy(seed, ignore):
    case = Case(seed, ignore=ignore)
    kept = case.kept & (case.w > 0)
    t, p, w = case.given[kept], case.pred[kept], case.w[kept]
    micro = case.feed(metrics.Accuracy(ignore_index=ignore), case.logits, case.given).compute()
    macro = case.feed(metrics.Accuracy(average="macro", ignore_index=ignore), case.logits, case.given).compute()  # fmt: skip
    numbers = case.feed(metrics.Accuracy(num_classes=4, ignore_index=ignore), case.pred, case.given).compute()  # fmt: skip
    if not kept.any():
        assert micro.isnan()
        assert macro.isnan()
        return
    close(micro, sk.accuracy_score(t, p, sample_weight=w))
    close(numbers, micro)
    close(macro, weighed(sk.balanced_accuracy_score, t, p, sample_weight=w))
    labels = case.feed(metrics.Accuracy(task="multilabel"), case.probabilities, case.labels)
    right = (case.probabilities > 0.5) == case.labels
    close(labels.compute(), np.average(right.mean(1), weights=case.w))


@cases(SEEDS)
def test_probabilities_as_targets(seed):
    case = Case(seed)
    hot = np.eye(4, dtype="float32")[case.target]
    a = case.feed(metrics.Accuracy(), case.logits, hot).compute()
    close(a, case.feed(metrics.Accuracy(), case.logits, case.target).compute())


@cases(SEEDS, st.integers(1, 5))
def test_top_k(seed, k):
    case = Case(seed, 6)
    case.logits += np.arange(6) * 1e-3  # ties are counted otherwise in scikit-learn
    m = case.feed(stream(f"top_{k}"), case.logits, case.target)
    if case.w.sum():
        expected = sk.top_k_accuracy_score(case.target, case.logits, k=k, labels=range(6), sample_weight=case.w)  # fmt: skip
        close(m.compute(), expected)


@cases(SEEDS, st.sampled_from([None, "true", "pred", "all"]))
def test_confusion_matrix(seed, normalize):
    case = Case(seed)
    m = case.feed(metrics.ConfusionMatrix(normalize=normalize), case.logits, case.target)
    expected = weighed(sk.confusion_matrix, case.target, case.pred, labels=range(4), normalize=normalize, sample_weight=case.w)  # fmt: skip
    close(m.compute(), np.nan_to_num(expected))
    m = case.feed(metrics.ConfusionMatrix(task="multilabel"), case.probabilities, case.labels)
    close(m.compute(), sk.multilabel_confusion_matrix(case.labels, case.probabilities > 0.5, sample_weight=case.w))  # fmt: skip
    m = case.feed(metrics.ConfusionMatrix(), case.probabilities[:, 0], case.labels[:, 0])
    p = case.probabilities[:, 0] > 0.5
    close(m.compute(), weighed(sk.confusion_matrix, case.labels[:, 0], p, labels=(0, 1), sample_weight=case.w))  # fmt: skip


# ---------------------------------------------------------------- curves


def down(scores, steps):
    """Scores as the next lower threshold."""
    return np.concatenate(([-1.0], steps))[np.searchsorted(steps, scores, "right")]


@cases(SEEDS, st.sampled_from([None, 2, 11, [0.2, 0.25, 0.7]]))
def test_areas_of_yes_and_no(seed, thresholds):
    case = Case(seed, 2)
    scores, t, w = case.probabilities[:, 1], case.target, case.w
    steps = np.linspace(0, 1, thresholds) if isinstance(thresholds, int) else thresholds
    seen = scores if steps is None else down(scores, np.asarray(steps))
    for kind, oracle in ((metrics.AUROC, sk.roc_auc_score), (metrics.AveragePrecision, sk.average_precision_score)):  # fmt: skip
        m = case.feed(kind(thresholds=thresholds), scores, t)
        assert m.on_host == (thresholds is None)
        positives = w[t == 1].sum()
        if not positives or (kind is metrics.AUROC and not w[t == 0].sum()):
            assert m.compute().isnan()
        else:
            close(m.compute(), oracle(t, seen, sample_weight=w))


@cases(SEEDS, st.sampled_from(["macro", "weighted", "micro", None]), st.sampled_from([None, 6]))
def test_areas_of_labels(seed, average, thresholds):
    case = Case(seed)
    case.labels[:1], case.labels[1:2] = 0, 1
    if case.n < 2 or case.w[0] == 0 or case.w[1] == 0:
        return
    scores = case.probabilities
    seen = down(scores, np.linspace(0, 1, thresholds)) if thresholds else scores
    for kind, oracle in ((metrics.AUROC, sk.roc_auc_score), (metrics.AveragePrecision, sk.average_precision_score)):  # fmt: skip
        m = case.feed(kind(task="multilabel", average=average, thresholds=thresholds), scores, case.labels)  # fmt: skip
        close(m.compute(), oracle(case.labels, seen, average=average, sample_weight=case.w))


@cases(SEEDS, st.sampled_from(["macro", "weighted"]))
def test_areas_of_classes(seed, average):
    case = Case(seed)
    if len(np.unique(case.target[case.w > 0])) < 4:
        return
    e = np.exp(case.logits)
    p = e / e.sum(1, keepdims=True)
    expected = sk.roc_auc_score(case.target, p, average=average, multi_class="ovr", sample_weight=case.w)  # fmt: skip
    close(case.feed(metrics.AUROC(average=average), p, case.target).compute(), expected)


def test_logits_of_classes_become_probabilities_first():
    r = np.random.default_rng(0)
    logits, target = kiln.tensor(r.normal(size=(30, 3))), kiln.tensor(r.integers(0, 3, 30))
    areas = []
    for m, x in (
        (metrics.AUROC(from_logits=True), logits),
        (metrics.AUROC(), logits.softmax(1)),
        (metrics.AUROC(), logits),
    ):
        m.update(x, target)
        areas.append(m.compute().item())
    assert areas[0] == areas[1] != areas[2]


@cases(SEEDS)
def test_absent_classes_have_no_area_and_do_not_count(seed):
    case = Case(seed)
    each = case.feed(metrics.AUROC(average=None), case.probabilities, case.target).compute().numpy()
    for c in range(4):
        of = case.target == c
        defined = case.w[of].sum() and case.w[~of].sum()
        assert np.isnan(each[c]) == (not defined)
    macro = case.feed(metrics.AUROC(), case.probabilities, case.target).compute()
    close(macro, each[~np.isnan(each)].mean() if not np.isnan(each).all() else np.nan)


@cases(SEEDS)
def test_curves(seed):
    case = Case(seed, 2)
    scores, t, w = case.probabilities[:, 1], case.target, case.w
    kept = w > 0
    if not w[t == 1].sum() or not w[t == 0].sum():
        return
    got = case.feed(metrics.ROC(), scores, t).compute()
    for a, b in zip(got.values(), sk.roc_curve(t, scores, sample_weight=w, drop_intermediate=False), strict=True):  # fmt: skip
        close(a, b)
    got = case.feed(metrics.PrecisionRecallCurve(), scores, t).compute()
    expected = sk.precision_recall_curve(t[kept], scores[kept], sample_weight=w[kept])
    for a, b in zip(got.values(), expected, strict=True):
        close(a, b)


def test_curves_of_several_classes_are_lists():
    m = metrics.ROC()
    m.update(kiln.tensor([[0.2, 0.5, 0.3], [0.6, 0.2, 0.3]]), kiln.tensor([1, 0]))
    got = m.compute()
    assert [len(x) for x in got["fpr"]] == [3, 3, 2]
    assert got["tpr"][0].tolist() == [0.0, 1.0, 1.0]


def test_ignored_targets_have_no_part_in_curves():
    scores, t = kiln.tensor([0.1, 0.4, 0.35, 0.8, 0.9]), kiln.tensor([0, 0, 1, 1, -1])
    for thresholds in (None, [0.1, 0.35, 0.4, 0.8, 0.9]):
        m = metrics.AUROC(ignore_index=-1, thresholds=thresholds)
        m.update(scores, t)
        assert m.compute().item() == 0.75


def test_a_score_of_nan_makes_the_area_nan():
    m = metrics.AUROC()
    m.update(kiln.tensor([0.1, kiln.nan]), kiln.tensor([0, 1]))
    assert m.compute().isnan()


# ---------------------------------------------------------------- numbers


@cases(SEEDS, st.sampled_from([0.0, 1e6]))
def test_regression(seed, far):
    case = Case(seed)
    x, y = case.logits + far, case.logits + far + case.r.normal(size=case.logits.shape)
    w = case.w
    if not w.sum():
        return
    oracles = {
        "mse": sk.mean_squared_error, "mae": sk.mean_absolute_error, "rmse": sk.root_mean_squared_error,
        "mape": sk.mean_absolute_percentage_error,
    }  # fmt: skip
    for name, oracle in oracles.items():
        got = case.feed(stream(name), x[:, 0], y[:, 0]).compute()
        close(got, oracle(y[:, 0], x[:, 0], sample_weight=w))
    r2 = case.feed(metrics.R2Score(4), x, y).compute()
    pearson = case.feed(metrics.PearsonCorrCoef(4, average=None), x, y).compute()
    if (w > 0).sum() >= 2 and w.sum() >= 2:
        assert r2.item() == pytest.approx(weighed(sk.r2_score, y, x, sample_weight=w), abs=1e-8, rel=1e-8)  # fmt: skip
        for c in range(4):
            cov = np.cov(x[:, c], y[:, c], aweights=w, ddof=0)
            expected = cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]) if cov[0, 0] > 0 else np.nan
            assert pearson[c].item() == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True)


def test_targets_that_are_constant():
    for x, expected in (([2.0, 2.0], 1.0), ([2.0, 3.0], 0.0)):
        m = metrics.R2Score()
        m.update(kiln.tensor(x), kiln.tensor([2.0, 2.0]))
        assert m.compute().item() == expected
    assert metrics.R2Score().compute().isnan()


@cases(SEEDS, st.booleans())
def test_perplexity(seed, last):
    case = Case(seed)
    r = case.r
    logits, target = r.normal(size=(case.n, 3, 5)), r.integers(0, 5, (case.n, 3))
    target[r.integers(0, 3, target.shape) == 0] = -100
    m = case.feed(metrics.Perplexity(), logits if last else logits.swapaxes(1, 2), target)
    w = case.w[:, None] * (target != -100)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(logs, np.maximum(target, 0)[..., None], -1)[..., 0]
    close(m.compute(), np.exp(-(own * w).sum() / w.sum()) if w.sum() else np.nan)


def test_mean_and_sum():
    m, s = metrics.Mean("loss"), metrics.Sum()
    for value, n in ((1.0, 3), (2.0, 1)):
        m.update(kiln.tensor(value), weight=kiln.tensor(n))
        s.update(kiln.tensor([value, kiln.inf]), weight=kiln.tensor([n, 0]))
    assert m.compute().item() == 1.25
    assert s.compute().item() == 5.0


# ---------------------------------------------------------------- what all of them do

EVERY = sorted(
    {"accuracy", "top_2", "precision", "recall", "f1", "dice", "iou", "confusion_matrix", "auroc", "average_precision", "roc",
     "pr_curve", "perplexity", "mse", "rmse", "mae", "mape", "r2", "pearson", "mean", "sum"}
)  # fmt: skip
NUMBERS = {"mse", "rmse", "mae", "mape", "r2", "pearson", "mean", "sum"}


def batch(name, n=4, seed=0):
    r = np.random.default_rng(seed)
    x = kiln.tensor(r.random((n, 3)), dtype=kiln.float32)
    if name in NUMBERS:
        return x, kiln.tensor(r.random((n, 3)), dtype=kiln.float32)
    return x, kiln.tensor(np.arange(n) % 3)


def plain(value):
    if isinstance(value, dict):
        return [plain(v) for v in value.values()]
    return [plain(v) for v in value] if isinstance(value, list) else value.tolist()


@pytest.mark.parametrize("name", EVERY)
def test_the_life_of_a_stream(name):
    m = stream(name)
    assert m.name == name
    plain(m.compute())  # nothing was seen, and nothing breaks
    x, y = batch(name)
    m.update(*batch(name, 0))
    m.update(x.requires_grad_(), y)
    once = plain(m.compute())
    again = stream(name)
    again.load_state_dict(m.state_dict())
    assert plain(again.compute()) == once
    again.update(*batch(name, 5, 1))
    kept = again.state_dict()
    assert plain(m.compute()) == once  # the state is a copy
    m.reset()
    m.update(x, y)
    assert plain(m.compute()) == once
    m.load_state_dict(kept)
    assert plain(m.compute()) == plain(again.compute())
    m.load_state_dict({})
    m.update(x, y)
    assert plain(m.compute()) == once
    with pytest.raises(KeyError, match="not that of such a metric"):
        m.load_state_dict({"nope": x})
    with pytest.raises(TypeError, match="different kinds"):
        m.merge(metrics.Mean() if name != "mean" else metrics.Sum())


@pytest.mark.parametrize("name", [n for n in EVERY if not stream(n).on_host])
def test_updates_in_a_captured_step(name):
    model, m, eager = nn.Linear(3, 3), stream(name), stream(name)

    @kiln.compile
    def step(x, y):
        out = model(x)
        m.update(out, y)
        return out

    for i in range(5):
        x, y = batch(name, 3, i)
        eager.update(step(x, y), y)
        if i == 2:
            assert np.asarray(plain(m.compute())) == pytest.approx(np.asarray(plain(eager.compute())), rel=1e-5)  # fmt: skip
            m.reset()
            eager.reset()
    assert step.captures == 1
    assert np.asarray(plain(m.compute())) == pytest.approx(np.asarray(plain(eager.compute())), rel=1e-5)  # fmt: skip


def test_binned_areas_in_a_captured_step():
    m, eager = metrics.AUROC(thresholds=20), metrics.AUROC(thresholds=20)
    step = kiln.compile(lambda x, y: m.update(x, y))
    for i in range(3):
        x, y = batch("auroc", 9, i)
        step(x, y)
        eager.update(x, y)
    assert m.compute().item() == eager.compute().item()
    exact = metrics.AUROC()
    with pytest.raises(kiln.CaptureError, match="gathers every score on the host"):
        kiln.compile(lambda x, y: exact.update(x, y))(x, y)


def test_functions_of_a_batch_as_streams():
    def worst(output, target):
        return (output - target).abs().mean()

    m = stream(worst)
    x, y = batch("mse", 5)
    m.update(x[:1], y[:1])
    m.update(x[1:], y[1:])
    m.update(x[:0], y[:0])
    assert m.name == "worst"
    assert m.compute().item() == pytest.approx(worst(x, y).item())
    with pytest.raises(TypeError, match="can't weigh"):
        m.update(x, y, kiln.ones(5))


def test_names():
    assert stream("acc", from_logits=True).threshold == 0.0
    assert isinstance(stream("binary_accuracy"), metrics.Accuracy)
    assert stream("top_3_accuracy").k == 3
    kept = metrics.F1Score(average="micro")
    assert stream(kept) is kept
    assert isinstance(stream(metrics.R2Score), metrics.R2Score)
    with pytest.raises(ValueError, match="no metric has this name"):
        stream("nope")
    with pytest.raises(TypeError, match="a name, a function or a Metric"):
        stream(3)
    with pytest.raises(ValueError, match="no metric of one batch"):
        metrics.get("f1")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: metrics.Precision(average="mean"), "no such average"),
        (lambda: metrics.Accuracy(task="many"), "no such task"),
        (lambda: metrics.Accuracy().update(kiln.ones(3, 2), kiln.ones(4)), "don't go together"),
        (lambda: metrics.Accuracy(task="multilabel").update(kiln.ones(3, 2), kiln.ones(3)), "don't go together"),
        (lambda: metrics.F1Score().update(kiln.ones(3, 2), kiln.ones(3).long(), kiln.ones(2)), "weights don't go"),
        (lambda: metrics.F1Score(num_classes=3).update(kiln.ones(3, 2), kiln.ones(3).long()), "expected 3 classes"),
        (lambda: metrics.F1Score(task="multiclass").update(kiln.ones(3).long(), kiln.ones(3).long()), "pass num_classes"),
        (lambda: metrics.MeanSquaredError().update(kiln.ones(3), kiln.ones(2)), "don't go together"),
        (lambda: metrics.TopKAccuracy().update(kiln.ones(3), kiln.ones(3)), "don't go together"),
        (lambda: metrics.Perplexity().update(kiln.ones(3, 2), kiln.ones(2)), "don't go together"),
        (lambda: metrics.AUROC(thresholds=1), "two thresholds"),
        (lambda: metrics.AUROC(thresholds=3).merge(metrics.AUROC(thresholds=4)), "different thresholds"),
        (lambda: metrics.R2Score(average="sum"), "no such average"),
    ],
)  # fmt: skip
def test_wrong_calls(call, match):
    with pytest.raises(ValueError, match=match) as e:
        call()
    assert "received: " in str(e.value)


def test_another_number_of_classes_is_refused():
    for m in (metrics.F1Score(), metrics.AUROC()):
        m.update(kiln.ones(3, 2), kiln.tensor([0, 1, 1]))
        with pytest.raises(ValueError, match="number of classes"):
            m.update(kiln.ones(3, 4), kiln.tensor([0, 1, 1])) or m.compute()


def test_half_floats_are_summed_exactly():
    m = metrics.Mean()
    m.update(kiln.ones(3000, dtype=kiln.float16))
    m.update(kiln.full((3000,), 2.0, dtype=kiln.bfloat16))
    assert m.compute().item() == 1.5
    area = metrics.AUROC()
    area.update(kiln.tensor([0.25, 0.75], dtype=kiln.bfloat16), kiln.tensor([0, 1]))
    assert area.compute().item() == 1.0
