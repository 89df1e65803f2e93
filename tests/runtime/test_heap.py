"""The heap keeps what arrays lay in, so that the next ones cost no fresh pages; the environment's own settings win."""

import os
import subprocess
import sys

import pytest

from kiln.runtime import heap

pytestmark = pytest.mark.skipif(heap._function("mallopt") is None, reason="glibc's heap")

STEPS = """
import resource
import numpy as np
import kiln

def step():
    kept = [kiln.from_numpy(np.ones(n << 10, np.uint8)) for n in (200, 300, 400) * 20]  # 18 MB
    del kept

for _ in range(5):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**settings: str) -> int:
    clean = {k: v for k, v in os.environ.items() if k not in heap._SETTINGS}
    done = subprocess.run(
        [sys.executable, "-c", STEPS], env={**clean, **settings}, stdout=subprocess.PIPE, text=True, check=True
    )  # fmt: skip
    return int(done.stdout)


def test_arrays_that_died_leave_their_pages_to_the_next():
    assert faults() < 500


@pytest.mark.parametrize("setting", [
    {"KILN_MEMORY_CACHE_MB": "0"}, {"MALLOC_MMAP_THRESHOLD_": "131072"},
])  # fmt: skip
def test_nothing_is_kept_where_that_is_asked_for(setting):
    assert faults(**setting) > 5000
