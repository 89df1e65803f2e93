"""A selection of PyTorch's optimizer database; `python -m tests.conformance.optimizers` runs it whole."""

import pytest

from kiln import optim

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytest.importorskip("expecttest", reason="extra [peers] is not installed")
pytestmark = pytest.mark.peers

NAMES = [n for n in optim.__all__ if n[0].isupper() and n != "Optimizer"]


@pytest.fixture(scope="module")
def runner():
    """The runner; imported here, as the database takes seconds to load."""
    from tests.conformance import optimizers

    return optimizers


def selected(runner, info):
    """All inputs in float32 and all errors; of the other kinds of checks the first."""
    slow = ("LBFGS", "Muon")
    seen = set()
    for name, check in runner.cases(info, quick=True):
        kind = name.split()[0]
        every = kind == "error" or (kind == "float32" and info.optim_cls.__name__ not in slow)
        if every or kind not in seen:
            seen.add(kind)
            yield name, check


@pytest.mark.parametrize("name", NAMES)
def test_optimizer(runner, name):
    (info,) = (i for i in runner.optim_db if i.optim_cls.__name__ == name)
    wrong = [(n, said) for n, check in selected(runner, info) if (said := runner.outcome(check))]
    assert not wrong


def test_schedules_resume_from_pytorchs_state(runner):
    wrong = [
        (name, said)
        for name, check in runner.schedules()
        if "resumed" in name and "SGD" in name and (said := runner.outcome(check))
    ]
    assert not wrong


def test_the_database_has_no_other(runner):
    assert {i.optim_cls.__name__ for i in runner.optim_db} == set(NAMES)
