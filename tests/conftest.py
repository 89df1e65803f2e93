"""Options and counts of the whole suite."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

COUNTS: Counter = Counter()
# or every process that a test starts compiles all of Kiln's text again, two seconds each
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="every sample, dtype and backend instead of a selection"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--full"):
        return
    skip = pytest.mark.skip(reason="part of the full suite: --full")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """What collection made stays: no collector's run and no walk of the heap need visit it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the full suite runs."""
    return request.config.getoption("--full")


@pytest.fixture
def counts() -> Counter:
    """What the conformance suite has run so far, by kind; printed at the end."""
    return COUNTS


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes (-n)
        session.config.workeroutput["counts"] = dict(COUNTS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    COUNTS.update(node.workeroutput["counts"] if hasattr(node, "workeroutput") else {})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("conformance")
        for what, n in sorted(COUNTS.items()):
            terminalreporter.write_line(f"{n:7d}  {what}")


@pytest.fixture
def torch_stream() -> Iterator[None]:
    """PyTorch's stream of random numbers; stream and state are what they were afterwards."""
    import kiln

    kind, state = kiln.random.get_stream(), kiln.get_rng_state()
    kiln.random.set_stream("torch")
    yield
    kiln.random.set_stream(kind)
    kiln.set_rng_state(state)
