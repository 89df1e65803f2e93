"""Results that have names: their classes, how they print, copies and pickles."""

from __future__ import annotations

import copy
import pickle

import pytest

import kiln

LINALG = kiln.linalg
CALLS = [
    lambda a: a.max(0), lambda a: a.min(0), lambda a: a.median(0), lambda a: a.nanmedian(0), lambda a: a.mode(0),
    lambda a: a.sort(), lambda a: a.topk(1), lambda a: a.kthvalue(1), lambda a: a.cummax(0), lambda a: a.cummin(0),
    lambda a: a.aminmax(), lambda a: a.frexp(), lambda a: a.geqrf(), lambda a: a.view(-1).histogram(3),
    lambda a: kiln.histogramdd(a, 3), lambda a: kiln.svd(a), lambda a: kiln.triangular_solve(a, a),
    lambda a: kiln.lu(a, get_infos=True), lambda a: kiln.lu_unpack(*LINALG.lu_factor(a)),
    lambda a: LINALG.cholesky_ex(a), lambda a: LINALG.eig(a), lambda a: LINALG.eigh(a), lambda a: LINALG.inv_ex(a),
    lambda a: LINALG.ldl_factor(a), lambda a: LINALG.ldl_factor_ex(a), lambda a: LINALG.lstsq(a, a),
    lambda a: LINALG.lu(a), lambda a: LINALG.lu_factor(a), lambda a: LINALG.lu_factor_ex(a), lambda a: LINALG.qr(a),
    lambda a: LINALG.slogdet(a), lambda a: LINALG.solve_ex(a, a), lambda a: LINALG.svd(a),
]  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_classes_are_found_by_name_and_pickles_come_back(call):
    result = call(kiln.eye(2))
    cls = type(result)
    assert getattr(kiln.return_types, cls.__name__) is cls
    for back in (pickle.loads(pickle.dumps(result)), copy.deepcopy(result)):
        assert type(back) is cls
        assert back._fields == result._fields


def test_they_print_their_fields_on_lines_of_their_own():
    shown = "kiln.return_types.max(\nvalues=tensor([1., 1.]),\nindices=tensor([0, 1]))"
    assert repr(kiln.eye(2).max(0)) == shown


@pytest.mark.peers
@pytest.mark.parametrize("call", [CALLS[i] for i in (0, 2, 4, 5, 10, 13)])
def test_they_print_as_pytorchs(call):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    ours = repr(call(kiln.tensor([[1.0, 2.0], [3.0, 0.5]])))
    theirs = repr(call(torch.tensor([[1.0, 2.0], [3.0, 0.5]])))
    assert ours.replace("kiln.", "torch.") == theirs
