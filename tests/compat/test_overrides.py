"""Classes and modes that answer for functions (`__torch_function__`): what they see, and that others pay nothing."""

from __future__ import annotations

import copy
import importlib
import subprocess
import sys
import textwrap
from typing import ClassVar

import numpy as np
import pytest

import kiln
from kiln import overrides
from kiln._C import DisableTorchFunctionSubclass
from kiln.nn import functional as F
from kiln.tensor import OVERRIDING, PLAIN, Tensor


class Kept(Tensor):
    """Says nothing for itself."""


class Logged(Tensor):
    """Tells which functions see it."""

    seen: ClassVar[list] = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(func)
        return super().__torch_function__(func, types, args, kwargs)


class Meters:
    """No tensor, but answers for two functions."""

    def __init__(self, value):
        self.value = value

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is kiln.mean:
            return Meters(sum(args[0].value) / len(args[0].value))
        if func is F.mse_loss:
            return "loss"
        return NotImplemented


class Mode(overrides.TorchFunctionMode):
    """Tells which functions are called."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def kept(values, requires_grad=False, cls=Kept):
    return Tensor._make_subclass(cls, kiln.tensor(values), requires_grad)


# Each of these gives in PyTorch, and here, the classes that the two agree on in `test_as_in_pytorch`.
EXPRESSIONS = """
x + 1 | 1 - x | p + x | torch.add(p, x) | torch.stack([p, x]) | torch.cat([p, x]) | x.clone() | x.to(torch.float64) | x.detach() | x.data
x.T | x.new_zeros(2) | torch.zeros_like(x) | torch.rand_like(x) | x.max(0) | torch.topk(x, 2) | x.split(1) | list(x) | x[0] | x.shape
x.numpy(force=True) | x.tolist() | torch.tensor(x.detach()) | torch.as_tensor(x) | x.cpu() | x.contiguous() | torch.where(x > 1, x, p)
F.cross_entropy(x[None], torch.tensor([1])) | torch.einsum("i,i->", x, p) | torch.broadcast_tensors(x, p) | F.layer_norm(x, (3,)) | F.pad(x, (1, 1))
torch.nn.Linear(3, 2)(x) | torch.nn.MSELoss()(x, p) | torch.autograd.grad(x.sum(), x) | torch.nn.Parameter(x) | torch.nn.Buffer(x)
p.as_subclass(K) | x.as_subclass(T) | K([1.0, 2.0]) | K(3).shape | copy.copy(x) | torch.utils.data.default_collate([x.detach()] * 2) | x.float() | x.mean().item()
torch.allclose(x, p) | x.requires_grad | x.is_leaf | torch.unique(x) | x.unflatten(0, (1, 3)) | torch.linalg.norm(x) | torch.fft.fft(x) | x == x | repr(x)
x.view(3, 1) | x.expand(2, 3) | x.unsqueeze(0) | x.select(0, 1) | x.narrow(0, 0, 2) | x.reshape(1, 3) | x @ p | x.sum() | torch.matmul(p, x)
p.add(x) | torch.nn.init.zeros_(torch.nn.Parameter(x)) | isinstance(torch.nn.Parameter(x), torch.nn.Parameter) | torch.normal(x, 1.0) | torch.meshgrid(x, p)
"""


def classes(name):
    """The class of each expression, or of its parts, in PyTorch or in Kiln."""
    torch = importlib.import_module(name)
    cls = type("K", (torch.Tensor,), {})
    x = torch.Tensor._make_subclass(cls, torch.tensor([0.1, 0.2, 0.3]), True)
    scope = {"torch": torch, "T": torch.Tensor, "K": cls, "x": x, "p": torch.tensor([0.3, 0.4, 0.5]),
             "F": torch.nn.functional, "copy": copy}  # fmt: skip
    found = {}
    for text in EXPRESSIONS.replace("\n", "|").split("|"):
        if text.strip():
            r = eval(text, scope)
            parts = r if isinstance(r, tuple | list) else (r,)
            found[text.strip()] = [type(y).__name__ for y in parts]
    return found


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
def test_as_in_pytorch():
    pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
    assert classes("kiln") == classes("torch")


@pytest.mark.filterwarnings("ignore")
def test_a_class_that_says_nothing_is_kept():
    found = classes("kiln")
    assert found["torch.stack([p, x])"] == ["K"]
    assert found["F.cross_entropy(x[None], torch.tensor([1]))"] == ["K"]


def test_gradients_flow_and_are_plain():
    x = kept([1.0, 2.0, 3.0], True)
    y = (x * x).sum()
    assert type(y) is Kept
    y.backward()
    assert type(x.grad) is Tensor
    np.testing.assert_array_equal(x.grad.numpy(), [2, 4, 6])


def test_in_place_and_written():
    x, p = kept([1.0, 2.0, 3.0]), kiln.ones(3)
    assert x.add_(1) is x
    assert type(p.mul_(x)) is Kept
    assert type(p) is Tensor
    assert p.tolist() == [2, 3, 4]
    x[0] = 9
    x[1:] += 1
    assert x.tolist() == [9, 4, 5]
    assert F.relu_(x) is x


def test_what_a_class_of_its_own_sees():
    x = kept([1.0, 2.0, 3.0], True, Logged)

    def seen(fn):
        Logged.seen.clear()
        out = fn()
        return out, [overrides.resolve_name(f).removeprefix("kiln.") for f in Logged.seen]

    for fn, names in (
        (lambda: kiln.ones(3) + x, ["add"]),
        (lambda: kiln.stack([kiln.ones(3), x]), ["stack"]),
        (lambda: F.cross_entropy(x[None], kiln.tensor([1])), ["Tensor.__getitem__", "nn.functional.cross_entropy"]),
        (lambda: x.shape, ["Tensor.shape.__get__"]),
        (lambda: x.size(0), ["Tensor.size"]),
        (lambda: len(x), ["Tensor.__len__"]),
        (lambda: x.sum().backward(), ["sum", "Tensor.backward"]),
        (lambda: kiln.nn.Linear(3, 2)(x), ["nn.functional.linear"]),
        (lambda: kiln.allclose(x, kiln.ones(3)), ["allclose"]),
        (lambda: x.detach().add_(1), ["detach", "add_"]),
    ):  # fmt: skip
        assert seen(fn)[1] == names
    with DisableTorchFunctionSubclass():
        out, names = seen(lambda: x + 1)
    assert (type(out), names) == (Tensor, [])


def test_other_objects_are_asked():
    assert kiln.mean(Meters([1, 2, 6])).value == 3
    assert F.mse_loss(Meters([1]), kiln.ones(1)) == "loss"
    with pytest.raises(TypeError, match=r"Multiple dispatch failed for 'kiln\.add'"):
        kiln.ones(2) + Meters([1])


def test_more_special_classes_are_asked_first():
    class Base(Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return cls.__name__

    class Special(Base):
        pass

    base, special = kept([1.0], cls=Base), kept([1.0], cls=Special)
    assert kiln.add(base, special) == "Special"
    assert kiln.add(special, base) == "Special"
    assert kiln.add(base, base) == "Base"


def test_a_mode_sees_functions_without_tensors_too():
    fold, shape = F.mse_loss.__code__, Tensor.size.__code__
    with Mode() as mode, kiln.no_grad():
        a = kiln.ones(2)
        b = a + 1
        F.mse_loss(a, b)
        a.add_(1)
        a.size()
        a[0] = 2
    assert mode.names == ["ones", "add", "mse_loss", "add_", "size", "__setitem__"]
    kiln.ones(2) + 1
    assert len(mode.names) == 6
    assert Tensor.size.__code__ is shape
    assert (
        F.mse_loss.__code__ is fold
    )  # as this module has classes that answer, it asked before too


def test_inner_modes_are_asked_first_and_reach_the_outer_ones():
    with Mode() as outer, Mode() as inner, overrides.BaseTorchFunctionMode():
        kiln.zeros(1)
    assert inner.names == outer.names == ["zeros"]

    class Stop(overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return 7

    with Mode() as outer, Stop():
        assert kiln.zeros(1) == 7
    assert outer.names == []


def test_functions_of_a_program_take_part():
    @overrides.wrap_torch_function(lambda a, b=None: (a,))
    def twice(a, b=None):
        return a * 2

    Logged.seen.clear()
    x = kept([1.0], cls=Logged)
    assert type(twice(x, b=3)) is Logged
    assert Logged.seen == [twice]
    assert overrides.has_torch_function((kiln.ones(1), x))
    assert not overrides.has_torch_function_variadic(kiln.ones(1), kiln.nn.Parameter(kiln.ones(1)))
    Logged.seen.clear()
    assert type(overrides.handle_torch_function(kiln.neg, (x,), x)) is Logged
    assert Logged.seen == [kiln.neg]

    class Through(Tensor):
        depth: ClassVar[list] = []

        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            cls.depth.append(func.__name__)
            return overrides.redispatch_function(func, types, args, kwargs)

    y = kept([3.0], cls=Through)
    assert twice(y).tolist() == [6]
    assert Through.depth == ["twice", "mul"]


def test_parameters_of_a_class_are_parameters_of_modules():
    layer = kiln.nn.Linear(2, 2)
    layer.weight = kiln.nn.Parameter(kept([[1.0, 2.0], [3.0, 4.0]]))
    assert isinstance(layer.weight, kiln.nn.Parameter)
    assert not isinstance(layer.bias.detach(), kiln.nn.Parameter)
    assert [n for n, _ in layer.named_parameters()] == ["weight", "bias"]
    opt = kiln.optim.SGD(layer.parameters(), lr=1.0)
    layer(kiln.ones(1, 2)).sum().backward()
    opt.step()
    assert type(layer.weight) is Kept
    np.testing.assert_array_equal(layer.weight.tolist(), [[0, 1], [2, 3]])


def test_captured_functions_keep_classes():
    def fn(x, p):
        return F.relu(x + p).sum(), x * 2

    x = kept([1.0, -2.0, 3.0])
    for _ in range(2):
        total, double = kiln.compile(fn)(x, kiln.ones(3))
        assert total.item() == 6
        assert double.tolist() == [2, -4, 6]


def test_copies_and_files_keep_classes():
    import pickle

    x = kept([1.0], True)
    for y in (copy.copy(x), copy.deepcopy(x), pickle.loads(pickle.dumps(x))):
        assert type(y) is Kept
        assert y.requires_grad


def test_what_stands_beneath_autograd_is_refused():
    class Beneath(Tensor):
        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise AssertionError

    for make in (
        lambda: Tensor._make_wrapper_subclass(Beneath, (2,)),
        lambda: kiln.ones(2).as_subclass(Beneath),
        lambda: Tensor._make_subclass(Beneath, kiln.ones(2)),
    ):
        with pytest.raises(NotImplementedError, match="__torch_dispatch__"):
            make()


def test_lists_of_functions():
    table = overrides.get_testing_overrides()
    assert len(table) > 800
    assert table[kiln.add](1, 2) == -1
    assert kiln.add in overrides.get_overridable_functions()[kiln]
    assert overrides.is_tensor_method_or_property(Tensor.shape.__get__)
    assert overrides.is_tensor_like(Meters([1]))
    assert Kept in OVERRIDING
    assert {Tensor, kiln.nn.Parameter} <= PLAIN


def test_functions_keep_their_code_until_a_class_answers():
    text = """
        import inspect, sys, kiln
        from kiln.nn import functional as F
        code, given = F.mse_loss.__code__, inspect.signature(F.mse_loss)
        kiln.nn.Linear(2, 2)(kiln.ones(1, 2)).sum().backward()
        assert "kiln.overrides" not in sys.modules
        class Mine(kiln.Tensor): pass
        assert F.mse_loss.__code__ is not code
        assert inspect.signature(F.mse_loss) == given
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(text)], check=True, timeout=60)


def test_classes_that_are_no_tensors_are_known_from_their_definition_on():
    text = """
    from kiln.compat.torch import install
    install()
    import torch

    class Diag:
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            return func

    d = Diag()
    for func in (torch.matmul, torch.linalg.eigh, torch.logdet, torch.isclose, torch.nn.functional.softmax,
                 torch.linalg.inv, torch.nn.functional.silu, torch.nn.functional.hardtanh, torch.linalg.qr):
        assert func(d, 1) is func, func
    assert torch.matmul(torch.ones(2), d) is torch.matmul
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(text)], check=True, timeout=60)


def test_frames_of_functions_that_ask_can_be_looked_at():
    class Looking:
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            frame = sys._getframe(1)
            while frame.f_back is not None:
                names, frame = frame.f_locals, frame.f_back
                assert names is not None
            return "seen"

    overrides.notice(Looking)
    closed = [e.fn for e in overrides._functions.values() if e.objects and e.code.co_freevars]
    assert closed
    assert {fn(Looking()) for fn in closed} == {"seen"}


@pytest.mark.peers
def test_tensors_of_pytorch_are_not_asked():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")

    class Own(kiln.Tensor):
        pass

    assert type(kiln.ones(2).as_subclass(Own) + 1) is Own  # from here on functions ask
    assert kiln.from_dlpack(torch.ones(2)).tolist() == [1, 1]
    with pytest.raises(TypeError, match="must be a Tensor"):
        kiln.add(kiln.ones(2), torch.ones(2))
