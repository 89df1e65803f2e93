"""What Kiln's modules promise beyond PyTorch's: loading whole or not at all, and counted changes."""

import copy
import pickle

import numpy as np
import pytest

import kiln
from kiln import nn
from kiln.nn.modules.module import CONFIG_VERSION


def values(module):
    return {k: v.numpy().copy() for k, v in module.state_dict().items()}


def assert_unchanged(module, before):
    after = values(module)
    assert after.keys() == before.keys()
    for k in before:
        np.testing.assert_array_equal(after[k], before[k])


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_a_state_dict_that_does_not_fit_changes_nothing():
    m = net()
    before = values(m)
    for spoil in (
        {"2.bias": kiln.zeros(7)}, {"extra": kiln.zeros(1)}, {"2.weight": 3}, {"2.weight": None},
    ):  # fmt: skip
        state = {**{k: v + 1 for k, v in m.state_dict().items()}, **spoil}
        with pytest.raises(RuntimeError, match="nothing was changed"):
            m.load_state_dict(state)
        assert_unchanged(m, before)


def test_a_post_hook_that_leaves_keys_missing_changes_nothing():
    m = net()
    m.register_load_state_dict_post_hook(lambda module, keys: None)
    before = values(m)
    state = {k: v + 1 for k, v in m.state_dict().items() if k != "0.bias"}
    with pytest.raises(RuntimeError, match=r'Missing key.*"0.bias"'):
        m.load_state_dict(state)
    assert_unchanged(m, before)
    m.register_load_state_dict_post_hook(lambda module, keys: keys.missing_keys.clear())
    m.load_state_dict(state)
    np.testing.assert_array_equal(m[0].weight.detach().numpy(), before["0.weight"] + 1)


def test_errors_have_three_lines():
    with pytest.raises(TypeError) as e:
        nn.Module().register_parameter("w", kiln.zeros(2))
    first, second, third = str(e.value).split("\n")
    assert first.startswith("[register_parameter]")
    assert second == "received: f32[2]"
    assert third.startswith("help: ")


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.eval(),
        lambda m: setattr(m, "note", 3),
        lambda m: setattr(m[0], "bias", None),
        lambda m: setattr(m[0], "weight", nn.Parameter(kiln.zeros(4, 3))),
        lambda m: m.append(nn.ReLU()),
        lambda m: m.register_forward_hook(lambda *a: None),
        lambda m: setattr(m[1], "momentum", 0.5),
        lambda m: setattr(m[1], "running_mean", kiln.zeros(4)),
        lambda m: delattr(m[0], "bias"),
    ],
)
def test_changes_are_counted(change):
    m = net()
    facts = [x.__capture_facts__() for x in m.modules()]
    start = CONFIG_VERSION[0]
    change(m)
    assert CONFIG_VERSION[0] > start
    assert [x.__capture_facts__() for x in m.modules()] != facts


def test_what_changes_nothing_is_not_counted():
    m = net()
    facts = [x.__capture_facts__() for x in m.modules()]
    start = CONFIG_VERSION[0]
    m.train()
    m(kiln.ones(2, 3)).sum().backward()
    m.zero_grad()
    m.load_state_dict(m.state_dict())
    m[1].momentum = m[1].momentum
    assert CONFIG_VERSION[0] == start
    assert [x.__capture_facts__() for x in m.modules()] == facts


def test_removing_a_hook_is_counted():
    m = net()
    handle = m.register_forward_pre_hook(lambda *a: None)
    start = CONFIG_VERSION[0]
    handle.remove()
    handle.remove()
    assert CONFIG_VERSION[0] == start + 1


def test_a_copy_has_its_own_facts():
    m = net()
    m.__capture_facts__()
    twin = copy.deepcopy(m)
    assert twin.__capture_facts__() != m.__capture_facts__()


def test_pickle():
    m = net()
    again = pickle.loads(pickle.dumps(m))
    assert_unchanged(again, values(m))
    assert isinstance(again[0].weight, nn.Parameter)


def test_parameter():
    x = kiln.zeros(3)
    p = nn.Parameter(x)
    assert isinstance(p, nn.Parameter)
    assert p.requires_grad
    assert p.is_leaf
    with kiln.no_grad():
        p.add_(1)
    assert x.tolist() == [1, 1, 1]
    assert type(p * 2) is kiln.Tensor
    assert not nn.Parameter(kiln.zeros(2), requires_grad=False).requires_grad
    with pytest.raises(TypeError, match="made from a Tensor"):
        nn.Parameter([1.0])
    assert isinstance(pickle.loads(pickle.dumps(p)), nn.Parameter)


def test_lazy_layers_take_their_sizes_from_the_first_input():
    m = nn.Sequential(
        nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(5)
    )
    opt = kiln.optim.SGD(m.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="uninitialized"):
        m[0].weight.shape
    saved = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(48, 5)
    )
    loaded = copy.deepcopy(m)
    loaded.load_state_dict(saved.state_dict())
    x = kiln.randn(2, 2, 3, 4)
    np.testing.assert_allclose(loaded(x).detach().numpy(), saved(x).detach().numpy(), rtol=1e-5)
    m(x).sum().backward()
    opt.step()
    assert [type(c) for c in m] == [nn.Conv2d, nn.BatchNorm2d, nn.Flatten, nn.Linear]
    assert m[3].in_features == 48
    assert not m[0]._forward_pre_hooks


def test_parameters_and_vectors():
    m = net()
    v = nn.utils.parameters_to_vector(m.parameters())
    assert v.shape == (sum(p.numel() for p in m.parameters()),)
    nn.utils.vector_to_parameters(v.detach() * 2, m.parameters())
    np.testing.assert_allclose(
        nn.utils.parameters_to_vector(m.parameters()).detach().numpy(), 2 * v.detach().numpy()
    )


def test_dropout_is_random_in_training_only():
    m = nn.Dropout(0.5)
    x = kiln.ones(1000)
    y = m(x)
    assert set(y.tolist()) == {0.0, 2.0}
    assert 350 < (y == 0).sum().item() < 650
    assert m.eval()(x).tolist() == x.tolist()
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(1.5)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: nn.Conv2d(3, 4, 2, groups=2), ValueError),
        (lambda: nn.Conv2d(2, 4, 2, stride=2, padding="same"), ValueError),
        (lambda: nn.Conv2d(2, 4, 2, padding_mode="mirror"), ValueError),
        (lambda: nn.GroupNorm(3, 4), ValueError),
        (lambda: nn.BatchNorm2d(3)(kiln.zeros(2, 3)), ValueError),
        (lambda: nn.Embedding(3, 2, padding_idx=5), AssertionError),
        (
            lambda: nn.ConvTranspose2d(1, 1, 3)(kiln.zeros(1, 1, 4, 4), output_size=(9, 9)),
            ValueError,
        ),
        (lambda: nn.init.xavier_uniform_(kiln.zeros(3)), ValueError),
        (lambda: nn.init.calculate_gain("swish"), ValueError),
        (lambda: nn.Linear(2, 3)(kiln.zeros(4, 5)), RuntimeError),
        (lambda: nn.ModuleList([3]), TypeError),
        (lambda: nn.Sequential(nn.ReLU())[3], IndexError),
        (lambda: nn.Module()(1), NotImplementedError),
        (lambda: nn.Module(3), TypeError),
    ],
)
def test_bad_arguments(make, error):
    with pytest.raises(error):
        make()


def test_lazy_modules_give_and_take_what_has_no_shape_yet():
    a, b, c = nn.LazyLinear(3), nn.LazyLinear(3), nn.LazyLinear(3)
    c(kiln.ones(1, 2))
    b.load_state_dict(a.state_dict())
    b.load_state_dict(c.state_dict())
    assert kiln.equal(b.weight, c.weight)
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        b.load_state_dict(a.state_dict())
