"""Programs compute what eager mode computes, whatever is fused, simplified or run on threads."""

import os
import subprocess
import sys

import numpy as np
import pytest

import kiln
from kiln import dtypes as dt
from kiln.backends import reference
from kiln.backends.cpu import cache
from kiln.compile.passes.simplify import simplify
from kiln.config import context
from kiln.errors import KilnCacheWarning
from kiln.graph import Graph, const, input_node, make, spec


def bits(arrays):
    return [(a.dtype, a.shape, np.ascontiguousarray(a).tobytes()) for a in arrays]


SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-40, 3.5], np.float32)
RULES = {
    "add": lambda x, c: make("add", (x, c, 1)),
    "add reversed": lambda x, c: make("add", (c, x, 1)),
    "sub": lambda x, c: make("sub", (x, c, 1)),
    "sub scaled": lambda x, c: make("sub", (x, c, -1)),
    "mul": lambda x, c: make("mul", (x, c)),
    "div": lambda x, c: make("div", (x, c, None)),
    "div floor": lambda x, c: make("div", (x, c, "floor")),
    "cast": lambda x, c: make("cast", (make("cast", (x, dt.float64)), dt.float16)),
    "narrow": lambda x, c: make("cast", (make("cast", (x, dt.bfloat16)), dt.float32)),
    "integers": lambda x, c: make("cast", (make("cast", (make("cast", (make("maximum", (
        make("minimum", (x, const(3, dt.float32))), const(0, dt.float32))), dt.int8)), dt.int64)), dt.float32)),
    "reshape": lambda x, c: make("reshape", (make("reshape", (x, (3, 3))), (9,))),
    "permute": lambda x, c: make("permute", (make("permute", (make("reshape", (x, (3, 3))), (1, 0))), (-1, 0))),
    "expand": lambda x, c: make("expand", (make("expand", (x, (2, 9))), (4, 2, 9))),
    "slice": lambda x, c: make("slice", (x, (0,), (9,), (1,))),
    "pad": lambda x, c: make("pad", (x, (0,), (0,), 0.0)),
    "clone": lambda x, c: make("clone", (x, None)),
    "fold": lambda x, c: make("mul", (x, make("add", (c, c, 1)))),
    "negated": lambda x, c: make("neg", (make("mul", (make("neg", (x,)), c)),)),
}  # fmt: skip


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -1.0, float("nan"), float("inf")])
def test_simplify_keeps_every_bit(rule, value):
    x = input_node(0, (9,), dt.float32)
    g = Graph([x], [RULES[rule](x, const(value, dt.float32))])
    better = simplify(g)
    spec.check(better, "simplify")
    got, want = (reference.compile(p, "p").run([SPECIAL.copy()]) for p in (better, g))
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(np.isnan(a), np.isnan(b))
        clean = ~np.isnan(a)
        assert bits([a[clean]]) == bits([b[clean]])


TRAIN = """
import hashlib, warnings, numpy as np, kiln, kiln.nn.functional as F
from kiln.backends.cpu import cache
warnings.simplefilter("always")
kiln.manual_seed(0)
m = kiln.nn.Sequential(kiln.nn.Conv2d(1, 8, 3), kiln.nn.ReLU(), kiln.nn.Flatten(), kiln.nn.Linear(288, 10))
opt = kiln.optim.Adam(m.parameters())
x, y = kiln.randn(64, 1, 8, 8), kiln.randint(0, 10, (64,))
@kiln.compile
def step():
    opt.zero_grad()
    loss = F.cross_entropy(m(x), y) + kiln.randn(1000, 300).softmax(0).sum() * 0
    loss.backward()
    opt.step()
    return loss
for _ in range(3):
    loss = step()
h = hashlib.sha256(loss.detach().numpy().tobytes())
for p in m.parameters():
    h.update(p.detach().numpy().tobytes())
print(h.hexdigest(), cache.stats.compiles)
"""


def train(directory, **env):
    full = {**os.environ, "KILN_CACHE_DIR": str(directory), **env}
    r = subprocess.run(
        [sys.executable, "-c", TRAIN], env=full, capture_output=True, text=True, check=False
    )
    assert r.returncode == 0, r.stderr
    digest, compiles = r.stdout.split()
    return digest, int(compiles), r.stderr


def test_the_same_bits_on_any_number_of_threads_from_a_cold_warm_and_corrupt_cache(tmp_path, full):
    digest, compiles, _ = train(tmp_path / "cache", KILN_NUM_THREADS="1")
    assert compiles > 0
    again = train(tmp_path / "cache", KILN_NUM_THREADS="2")
    assert again[:2] == (digest, 0)
    for i, entry in enumerate(sorted((tmp_path / "cache").glob("*.bin"))):
        data = entry.read_bytes()
        entry.write_bytes(data[: len(data) // 2] if i % 2 else data[:-1] + bytes([data[-1] ^ 1]))
    digest2, rebuilt, _ = train(tmp_path / "cache")
    assert (digest2, rebuilt) == (digest, compiles)
    if not full:
        return
    blocked = tmp_path / "file"
    blocked.write_text("not a directory")
    digest3, _, err = train(blocked)
    assert digest3 == digest
    assert err.count(KilnCacheWarning.__name__) == 1


@pytest.mark.parametrize("level", range(7))
def test_debug_levels(level, capsys):
    cache.default_cache()
    with context(debug=level):
        kiln.compile(lambda x, w: ((x @ w).relu() + level).softmax(-1).sum())(
            kiln.ones(4, 5), kiln.ones(5, 6)
        )
    err = capsys.readouterr().err
    marks = [
        "",
        "from the disk cache",
        "GB/s",
        "region of",
        "after simplify",
        "define void",
        ".globl",
    ]
    for k, mark in enumerate(marks):
        if k:
            assert (mark in err) == (k <= level), (k, level)


@pytest.mark.parametrize("n", [1, 3, 17])
@pytest.mark.parametrize("name", ["tanh", "asinh", "copysign", "trunc", "sin"])
def test_doubles_become_half_floats_after_any_function(name, n):
    """LLVM made a library call of the sign's conversion, and the process ended."""
    x = kiln.tensor(np.random.default_rng(0).normal(size=n))

    def fn(x):
        y = kiln.copysign(x * 2, -x) if name == "copysign" else getattr(kiln, name)(x)
        return y.half()

    np.testing.assert_array_equal(kiln.compile(fn)(x).numpy(), fn(x).numpy())
