"""Forms of calls and texts of results that PyTorch's documentation shows, beside PyTorch."""

from __future__ import annotations

import warnings

import pytest

import kiln

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers


def named_results(m):
    a, linalg = m.tensor([[2.0, 1.0, 0.25], [1.0, 3.0, 0.5], [0.25, 0.5, 2.0]]), m.linalg
    for name in ("max", "min", "median", "nanmedian", "mode", "cummax", "cummin"):
        yield getattr(m, name)(a, 0)
    yield from (m.sort(a), m.topk(a, 2), m.kthvalue(a, 1), m.aminmax(a), m.frexp(a))
    yield from (m.histogram(a, 3), m.histogramdd(a, [2, 2, 2]))
    yield from (m.geqrf(a), m.svd(a), m.triangular_solve(a, a))
    for name in ("qr", "svd", "eig", "eigh", "slogdet", "lu", "lu_factor", "lu_factor_ex", "ldl_factor",
                 "ldl_factor_ex", "cholesky_ex", "inv_ex"):  # fmt: skip
        yield getattr(linalg, name)(a)
    yield from (linalg.lstsq(a, a), linalg.solve_ex(a, a), m.lu_unpack(*linalg.lu_factor(a)))


def test_named_results_print_their_name_and_a_field_in_each_line():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for ours, theirs in zip(named_results(kiln), named_results(torch), strict=True):
            want = repr(theirs).split("tensor(")[0].replace("torch.", "kiln.")
            assert repr(ours).startswith(want)
            assert repr(ours).count("\n") == repr(theirs).count("\n")
            assert type(ours).__name__ == type(theirs).__name__


def test_repeat_interleave_of_counts_alone():
    for counts in ([1, 2, 0, 3], []):
        want = torch.repeat_interleave(torch.tensor(counts, dtype=torch.int64))
        got = kiln.repeat_interleave(kiln.tensor(counts, dtype=kiln.int64))
        assert (got.tolist(), str(got.dtype)) == (want.tolist(), "kiln.int64")


def test_xlog1py_of_a_tensor_and_a_number():
    for m in (kiln, torch):
        x = m.tensor([0.0, 1.0, 2.0], dtype=m.float64, requires_grad=True)
        outs = (
            m.special.xlog1py(x, 4),
            m.special.xlog1py(4.5, x),
            m.special.xlog1py(m.tensor([1, 2]), 0.5),
        )
        sum(o.sum() for o in outs).backward()
        found = (
            [o.tolist() for o in outs] + [x.grad.tolist()],
            [str(o.dtype).split(".")[1] for o in outs],
        )
        if m is kiln:
            ours = found
    assert ours[1] == found[1]
    for a, b in zip(ours[0], found[0], strict=True):
        assert a == pytest.approx(b, rel=1e-6)
    with pytest.raises(TypeError):
        kiln.special.xlog1py(1.0, 2.0)


def test_a_capsule_of_dlpack_is_taken():
    t = kiln.arange(6.0).reshape(2, 3)
    u = kiln.from_dlpack(t.__dlpack__(max_version=(1, 0)))
    u[0, 0] = 7.0
    assert t[0, 0] == 7.0
    assert kiln.from_dlpack(torch.arange(3).__dlpack__()).tolist() == [0, 1, 2]


def test_typenames(monkeypatch):
    monkeypatch.setattr(kiln.naming, "name", "torch")
    assert kiln.typename(kiln.nn.Parameter) == torch.typename(torch.nn.Parameter)
    assert kiln.typename(3) == torch.typename(3)
