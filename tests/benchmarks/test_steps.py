"""The benchmark's programs: the same bits on any number of threads and from any cache, the reference's numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICK = ["mlp-small", "gru", "bert"]
REST = ["mlp", "mnist-cnn", "cifar-cnn", "resnet18", "lstm", "gpt", "dcgan", "resnet50"]
NAMES = [*QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in REST)]


def run(cache, *argv):
    env = {**os.environ, "KILN_CACHE_DIR": str(cache)}
    command = [sys.executable, "-m", "tests.benchmarks.steps", *argv]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, full):
    """What was found with an empty cache, and by another process that finds it filled."""
    cache, names = tmp_path_factory.mktemp("cache"), QUICK + REST if full else QUICK
    return run(cache, *names), run(cache, *names, "--again")


@pytest.mark.parametrize("name", NAMES)
def test_bits_do_not_depend_on_threads_or_caches(ran, name):
    cold, warm = (r[name] for r in ran)
    assert cold["compiles"] > 0
    assert warm["compiles"] == 0
    assert len({*cold["digests"], *warm["digests"]}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_the_reference_backends(ran, name):
    """Within what docs/architecture.md states: Adam divides by the size of gradients that may be next to nothing."""
    cold = ran[0][name]
    assert cold["results"] < 1e-5
    assert cold["weights"] < 1e-3
