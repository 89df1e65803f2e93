"""Pruning behaves as PyTorch's."""

import pruned
import pytest

import kiln
from kiln.nn.utils import prune

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


@pytest.mark.parametrize("scenario", [pruned.methods, pruned.several], ids=lambda f: f.__name__)
def test_scenario(scenario):
    for i, (a, b) in enumerate(zip(scenario(kiln), scenario(torch), strict=True)):
        assert a == b, i


def test_what_is_refused():
    for i, (a, b) in enumerate(zip(pruned.refused(kiln), pruned.refused(torch), strict=True)):
        assert isinstance(a, type(b)), (i, a, b)


def test_a_refused_call_leaves_the_module_alone():
    m = prune.l1_unstructured(pruned.layer(kiln), "weight", 2)
    before = pruned.facts(m)
    with pytest.raises(ValueError, match="smaller than the number"):
        prune.l1_unstructured(m, "weight", 100)
    assert pruned.facts(m) == before
    m = pruned.layer(kiln)
    with pytest.raises(ValueError, match="smaller than the number"):
        prune.l1_unstructured(m, "weight", 100)
    assert [n for n, _ in m.named_parameters()] == ["weight", "bias"]


def test_random_methods_prune_as_many_as_they_are_told():
    for m, zeros in (
        (prune.random_unstructured(pruned.layer(kiln, 6, 5), "weight", 0.4), 12),
        (prune.random_structured(pruned.layer(kiln, 6, 5), "weight", 2, dim=0), 10),
        (prune.random_structured(pruned.layer(kiln, 6, 5), "weight", 0.2, dim=1), 6),
    ):
        assert int((m.weight_mask == 0).sum()) == zeros


def test_pruned_modules_compile():
    m = prune.l1_unstructured(pruned.layer(kiln), "weight", 5)
    x = kiln.ones(2, 3)
    assert (kiln.compile(m)(x) - m(x)).abs().max() < 1e-6
