"""Names beside the ones that programs use most: rooms that are refused whole, results' types, weak dictionaries, counters."""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest

import kiln
from kiln import nn
from kiln.compat import report
from kiln.utils.flop_counter import FlopCounterMode
from kiln.utils.weak import WeakIdKeyDictionary, WeakTensorKeyDictionary


@pytest.mark.parametrize(
    "name",
    [
        "torch.ao.quantization.get_default_qconfig", "torch.quantization.quantize_dynamic", "torch.nn.quantized.dynamic.Linear",
        "torch.nn.intrinsic.qat.ConvBn2d", "torch.ao.nn.quantized.Linear", "torch.package.PackageExporter", "torch.quint8",
        "torch.quantize_per_tensor", "torch.masked.masked_tensor", "torch.utils.data.IterDataPipe", "torch.SymInt",
        "torch.utils.checkpoint.create_selective_checkpoint_contexts", "torch.export.draft_export",
    ],
)  # fmt: skip
def test_what_is_not_built_is_refused_by_name(name):
    status, why = report.status(name)
    assert status == "refused"
    assert why
    with pytest.raises(NotImplementedError, match=name.rpartition(".")[2]):
        report._object(name)()


@pytest.mark.parametrize(
    "name",
    [
        "torch.functional.einsum", "torch.autograd.grad_mode.no_grad", "torch.autograd.gradcheck.gradgradcheck",
        "torch.autograd.anomaly_mode.detect_anomaly", "torch.profiler.profiler.profile", "torch._tensor.Tensor",
        "torch.__config__.show", "torch.__future__.set_swap_module_params_on_conversion", "torch.return_types.linalg_svd",
        "torch.optim._multi_tensor.Adam", "torch.optim._functional.adam", "torch.optim.adamw.adamw", "torch.ComplexFloatStorage",
        "torch.utils.hooks.RemovableHandle", "torch.Future", "torch.fork", "torch.ScriptModule", "torchvision.io.read_image",
        "torchvision.tv_tensors.BoundingBoxes", "torch.export.export", "torch.export.Dim",
    ],
)  # fmt: skip
def test_what_is_there(name):
    assert report.status(name)[0] == "there"


def test_a_module_of_a_functions_name_leaves_the_function():
    program = (
        "import torch, torch.autograd.gradcheck\n"
        "from torch.autograd.gradcheck import GradcheckError\n"
        "assert torch.autograd.gradcheck(lambda x: x * x, (torch.ones(2, dtype=torch.double, requires_grad=True),))\n"
        "assert 'numpy' in torch.__config__.show()\n"
    )
    code = "from kiln.compat.torch import install; install()\n" + program
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_results_with_names_have_public_types():
    found = kiln.max(kiln.eye(2), 0)
    assert isinstance(found, kiln.return_types.max)
    assert type(pickle.loads(pickle.dumps(found))) is type(found)
    assert isinstance(kiln.linalg.eigh(kiln.eye(2)), kiln.return_types.linalg_eigh)
    assert "sort" in dir(kiln.return_types)
    with pytest.raises(AttributeError, match="nothing"):
        kiln.return_types.nothing


def test_weak_dictionaries_go_by_identity():
    a, b = kiln.ones(2), kiln.ones(2)
    d = WeakTensorKeyDictionary({a: 1})
    d[b] = 2
    assert (d[a], d[b], len(d), a in d) == (1, 2, 2, True)
    assert [k is a or k is b for k in d] == [True, True]
    del a
    assert list(d.values()) == [2]
    del d[b]
    assert len(WeakIdKeyDictionary(d)) == 0


@pytest.mark.peers
def test_flops_forward_and_backward_are_pytorchs():
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode as Theirs

    totals = []
    for lib, counter in ((kiln, FlopCounterMode), (torch, Theirs)):
        model = lib.nn.Sequential(
            lib.nn.Conv2d(3, 8, 3, padding=1),
            lib.nn.ReLU(),
            lib.nn.Flatten(),
            lib.nn.Linear(128, 10),
        )
        x = lib.randn(2, 3, 4, 4, requires_grad=True)
        with counter(display=False) as c:
            model(x).sum().backward()
        totals.append(c.get_total_flops())
    assert totals[0] == totals[1] > 0


def test_flop_counts_by_function(capsys):
    with FlopCounterMode() as c:
        nn.functional.linear(kiln.ones(2, 3), kiln.ones(4, 3))
    assert c.get_flop_counts() == {"Global": {"linear": 48}}
    assert "48" in capsys.readouterr().out


def test_storages_are_cast_and_told():
    s = kiln.tensor([1.5, 2.0]).storage()
    assert s.long().tolist() == [1, 2]
    assert s.complex_float().dtype is kiln.complex64
    u = kiln.zeros(2, dtype=kiln.uint8).untyped_storage()
    assert u.fill_(7).tolist() == [7, 7]
    assert (u.get_device(), u.is_shared()) == (-1, False)
    assert kiln.sym_max(2, 3.0) == 3.0
    assert not isinstance(3, kiln.SymInt)
