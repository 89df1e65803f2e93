"""The machine code of whole programs at every instruction set, NEON's too wherever the tests run.

Generated code must stand by itself: a call that nothing in its module defines would be a call of libm,
which LLVM makes where a target lacks an instruction, one lane at a time. And a register tile that
does not fit the registers is no tile.
"""

import re

import llvmlite.binding as llvm
import pytest
from tests.turns import in_turn

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.backends.cpu import gemm, jit, layout
from kiln.backends.cpu.isa import Isa, host_isa, make_isa

NEON = Isa("neon", "aarch64-unknown-linux-gnu", "neoverse-n1", "+neon", 16, 32, True)
LIBM = {"fmod", "fmodf"}  # for quotients too large to be exact in a vector, see exprs.py
LEVELS = {"neon": ("neon",), "avx512": ("sse2", "avx2", "avx512"), "avx2": ("sse2", "avx2")}
HOST = [make_isa(name) for name in LEVELS.get(host_isa().name, ("sse2",))]
ISAS = [*HOST, *([] if host_isa().name == "neon" else [NEON])]


@pytest.fixture(params=ISAS, ids=lambda i: i.name)
def isa(request):
    try:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        llvm.Target.from_triple(request.param.triple)
    except RuntimeError:
        pytest.skip("this build of LLVM does not know the target")
    return request.param


def training_step():
    model = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(),
        nn.Linear(45, 70), nn.GELU(), nn.LayerNorm(70), nn.Linear(70, 10),
    )  # fmt: skip
    optimizer = kiln.optim.AdamW(model.parameters())
    x, y = kiln.rand(4, 2, 6, 6), kiln.randint(0, 10, (4,))

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return step, ()


def vector_math():
    unary = [
        "exp",
        "exp2",
        "expm1",
        "log",
        "log2",
        "log10",
        "log1p",
        "sin",
        "cos",
        "tan",
        "tanh",
        "sinh",
        "cosh",
        "asin",
        "acos",
        "atan",
        "erf",
        "sigmoid",
        "sqrt",
        "rsqrt",
        "round",
        "floor",
    ]

    def call(x, y):
        parts = [getattr(kiln, name)(x) for name in unary]
        return sum(parts) + kiln.atan2(x, y) + x**y + kiln.fmod(x, y) + kiln.remainder(x, y)

    return call, (kiln.rand(37), kiln.rand(37))


def rows():
    def call(x, i):
        a = x.softmax(-1) + x.cumsum(0) + kiln.sort(x, dim=1).values + x.logsumexp(0)
        b = x.bfloat16().sum(0) + x.half().amax(0) + x.double().var(0)
        return (
            a + b,
            x[i],
            kiln.zeros(9, 50).index_add(0, i, x[: len(i)]),
            x @ x.T,
            x.bfloat16() @ x.T.bfloat16(),
        )

    return call, (kiln.rand(9, 50), kiln.tensor([1, 0, 5, 8]))


def kernels(make, isa, monkeypatch):
    """The modules of a program, as LLVM IR."""
    fn, args = make()
    compiled = kiln.compile(fn, backend="reference")
    compiled(*args)
    found = []
    monkeypatch.setattr(jit, "provide", lambda texts, _: found.extend(texts))
    layout.plan(compiled.entries[0].root.plan.graph, "test", isa)
    return found


CALL = re.compile(r"^\s+(?:bl|b|callq?|jmp|movabsq)\s+\$?([A-Za-z_][\w.$]*)", re.M)


@pytest.mark.parametrize("make", [training_step, vector_math, rows], ids=lambda f: f.__name__)
def test_programs_call_nothing_but_themselves(make, isa, monkeypatch):
    found = kernels(make, isa, monkeypatch)
    assert found
    for text in found:
        code = jit.assembly(text, isa)
        defined = set(re.findall(r"^([\w.$]+):", code, re.M))
        assert set(CALL.findall(code)) <= defined | LIBM, text


SPILL = {"neon": r"\b[qdv]\d+.*\[sp", "x86": r"%[xyz]mm\d+.*\(%rsp\)|\(%rsp\).*%[xyz]mm\d+"}
LOOP = re.compile(r"^(\.LBB\w+):(?:(?!^\.LBB).)*?\b(?:j\w+|b\.?\w*)\s+\1\b", re.M | re.S)


@in_turn("form", range(4), shape=[(96, 96, 96), (200, 80, 40), (64, 48, 500), (7, 16, 300)])
def test_register_tiles_fit_the_registers(isa, shape, form):
    m, n, k = shape
    a, b = ((1, m) if form & 1 else (k, 1)), ((1, k) if form & 2 else (n, 1))
    spill = SPILL["neon" if isa.name == "neon" else "x86"]
    for dtype in ("f32", "f64"):
        kernel = gemm.emit(gemm.Gemm(m, n, k, a, b, (n, 1), dtype, dtype, dtype), isa, "product")
        code = jit.assembly(kernel.text, isa)
        tiles = re.findall(r"^product\.tile\d+:\n.*?^\.Lfunc_end", code, re.M | re.S)
        loops = [x[0] for tile in tiles for x in LOOP.finditer(tile)]
        assert len(loops) >= len(tiles) > 0
        for loop in loops:
            assert not re.search(spill, loop), f"{dtype}\n{loop}"
