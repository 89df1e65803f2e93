"""Options and counts of the whole suite."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

COUNTS: Counter = Counter()
COUNTED: Counter = Counter()
LEFT: dict[str, int] = {}
# or every process that a test starts compiles all of Kiln's text again, two seconds each
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full", action="store_true", help="every sample, dtype and backend instead of a selection"
    )
    parser.addoption(
        "--rest",
        action="store_true",
        help="what --full adds, without the tests that run alike in both",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--rest"):
        _select(config, items, lambda item: "slow" in item.keywords or "full" in item.fixturenames)
    elif not config.getoption("--full"):
        LEFT["cases"] = _select(config, items, lambda item: "slow" not in item.keywords)


def _select(config: pytest.Config, items: list[pytest.Item], wanted: Callable[[Any], bool]) -> int:
    """Keeps those that are wanted; how many are not."""
    others = [item for item in items if not wanted(item)]
    items[:] = [item for item in items if wanted(item)]
    config.hook.pytest_deselected(items=others)
    return len(others)


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """What collection made stays: no collector's run and no walk of the heap need visit it again."""
    _pass_by()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nor what tests leave, most of it compiled programs: after ten thousand, walks took most of some tests' time."""
    COUNTED["tests"] += 1
    if COUNTED["tests"] % 100 == 0 and len(gc.get_objects()) > 20_000:
        _pass_by()


def _pass_by() -> None:
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether the full suite runs."""
    return request.config.getoption("--full") or request.config.getoption("--rest")


@pytest.fixture
def counts() -> Counter:
    """What the conformance suite has run so far, by kind; printed at the end."""
    return COUNTS


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # one of several processes (-n)
        session.config.workeroutput.update(counts=dict(COUNTS), left=LEFT)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if hasattr(node, "workeroutput"):
        COUNTS.update(node.workeroutput["counts"])
        LEFT.update(node.workeroutput["left"])  # each process collects the same


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if COUNTS:
        terminalreporter.section("conformance")
        for what, n in sorted(COUNTS.items()):
            terminalreporter.write_line(f"{n:7d}  {what}")
    if LEFT.get("cases"):
        terminalreporter.section(f"{LEFT['cases']} cases are part of the full suite only: --full")


@pytest.fixture
def torch_stream() -> Iterator[None]:
    """PyTorch's stream of random numbers; stream and state are what they were afterwards."""
    import kiln

    kind, state = kiln.random.get_stream(), kiln.get_rng_state()
    kiln.random.set_stream("torch")
    yield
    kiln.random.set_stream(kind)
    kiln.set_rng_state(state)
