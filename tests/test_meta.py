"""Tensors without data: shapes, dtypes and layouts are found, nothing is computed, drawn or allocated."""

from __future__ import annotations

import copy

import pytest

import kiln
from kiln import nn
from kiln.nn import functional as F


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 9, 4),
    )  # fmt: skip


def test_a_block_on_the_meta_device_draws_and_allocates_nothing():
    kiln.manual_seed(0)
    want = kiln.rand(3)
    kiln.manual_seed(0)
    with kiln.device("meta"):
        assert kiln.get_default_device().type == "meta"
        made = [
            kiln.empty(1 << 40), kiln.ones(2, 3), kiln.rand(2, 3), kiln.randn(3), kiln.randint(0, 9, (2,)), kiln.randperm(4),
            kiln.arange(5), kiln.linspace(0, 1, 7), kiln.eye(3), kiln.full((2,), 1), kiln.tensor([1.0]), kiln.normal(0.0, 1.0, (2,)),
            *network().parameters(), *nn.LSTM(3, 4, 2).parameters(), *nn.TransformerEncoderLayer(8, 2).parameters(),
        ]  # fmt: skip
        here = kiln.zeros(2, device="cpu")
    assert all(x.is_meta and x.device.type == "meta" and not x.is_cpu for x in made)
    assert here.is_cpu
    assert not kiln.zeros(2).is_meta
    assert kiln.get_default_device().type == "cpu"
    assert kiln.equal(kiln.rand(3), want)
    assert (made[4].dtype, made[7].shape) == (kiln.int64, (7,))


def test_initialisers_leave_the_generator_as_it_is():
    w = kiln.empty(6, 4, device="meta")
    state = kiln.get_rng_state()
    for fill in (
        nn.init.normal_, nn.init.uniform_, nn.init.xavier_normal_, nn.init.kaiming_uniform_, nn.init.trunc_normal_, nn.init.orthogonal_,
        lambda x: nn.init.sparse_(x, 0.5), lambda x: nn.init.constant_(x, 2.0), kiln.Tensor.bernoulli_, kiln.Tensor.exponential_,
    ):  # fmt: skip
        assert fill(w) is w
    assert kiln.equal(kiln.get_rng_state(), state)


def test_forward_and_backward_find_shapes():
    with kiln.device("meta"):
        model, x = network(), kiln.rand(2, 3, 8, 8)
    y = model(x)
    assert y.is_meta
    assert y.shape == (2, 4)
    y.sum().backward()
    assert all(p.grad.is_meta and p.grad.shape == p.shape for p in model.parameters())
    t = kiln.empty(3, 5, device="meta", dtype=kiln.float64).t()
    assert (t.stride(), t.is_contiguous(), t.dtype) == ((1, 5), False, kiln.float64)
    assert (t @ t.T).shape == (5, 5)
    assert (t.float() + 1).dtype == kiln.float32
    assert kiln.cat([t, t], 1).shape == (5, 6)
    assert [a.shape for a in t.max(0)] == [(3,), (3,)]
    assert t[1:3, None].shape == (2, 1, 3)
    t += 1
    with pytest.raises(RuntimeError):
        t @ t


def test_like_and_new_are_made_where_the_first_tensor_is():
    x = kiln.empty(2, 3, device="meta")
    for made in (kiln.zeros_like(x), kiln.rand_like(x), x.new_zeros(4), kiln.randint_like(x, 5)):
        assert made.is_meta
    assert kiln.empty_like(x, device="cpu").is_cpu
    assert kiln.zeros_like(kiln.ones(2), device="meta").is_meta
    here = kiln.ones(2)
    with kiln.device("meta"):
        assert kiln.zeros_like(here).is_cpu


def test_values_cannot_be_read():
    x = kiln.ones(1, device="meta")
    for read in (x.item, x.tolist, x.numpy, x.cpu, lambda: bool(x), lambda: x.to("cpu"), lambda: kiln.zeros(1).copy_(x)):  # fmt: skip
        with pytest.raises(NotImplementedError, match="no data"):
            read()
    with pytest.raises(NotImplementedError, match="no data"):
        network().to("meta").to("cpu")
    assert repr(kiln.ones(2, 3, device="meta")) == "tensor(..., device='meta', size=(2, 3))"


def test_modules_get_their_memory_later():
    whole = network()
    with kiln.device("meta"):
        bare = network()
    assert not copy.deepcopy(bare)[0].weight.is_cpu
    other = copy.deepcopy(bare)
    bare.load_state_dict(whole.state_dict(), assign=True)
    x = kiln.rand(2, 3, 8, 8)
    assert kiln.equal(bare(x), whole(x))
    other.to_empty(device="cpu").load_state_dict(whole.state_dict())
    assert kiln.equal(other(x), whole(x))
    assert nn.utils.skip_init(nn.Linear, 2, 3).weight.is_cpu
    assert all(p.is_meta for p in whole.to("meta").parameters())


def test_the_default_device_may_be_set():
    kiln.set_default_device("meta")
    try:
        assert kiln.ones(2).is_meta
    finally:
        kiln.set_default_device("cpu")
    assert kiln.ones(2).is_cpu
    with pytest.raises(RuntimeError, match="device"), kiln.device("cuda"):
        pass


@pytest.mark.parametrize("make", [kiln.ones, kiln.zeros, kiln.empty, kiln.rand])
@pytest.mark.parametrize("device", [None, "meta"])
def test_more_dimensions_than_a_tensor_can_have(make, device):
    with pytest.raises(RuntimeError, match=r"only tensors with up to 64 dims are supported\nrec"):
        make((1,) * 65, device=device)
    with pytest.raises(RuntimeError, match="64"):
        make((1,) * 64, device=device).unsqueeze(0)


def test_coordinates_of_another_device():
    with pytest.raises(RuntimeError, match="expected each tensor to be on the same device"):
        kiln.gradient(
            kiln.ones(3, 3), spacing=[kiln.ones(3), kiln.ones(3, device="meta")], dim=(0, 1)
        )


def test_every_kind_of_new_tensor_has_no_data_in_a_block():
    with kiln.device("meta"):
        made = [
            kiln.tril_indices(3, 3), kiln.empty_strided((2, 2), (1, 2)), kiln.empty_permuted((2, 3), (1, 0)),
            kiln.hann_window(4), kiln.signal.windows.gaussian(4), kiln.fft.fftfreq(4), kiln.bernoulli(kiln.ones(3)),
            kiln.multinomial(kiln.ones(3), 2), kiln.multinomial(kiln.ones(3), 5, replacement=True),
        ]  # fmt: skip
        sparse = kiln.sparse_coo_tensor(kiln.tensor([[0, 1], [0, 1]]), kiln.ones(2), (2, 2))
    assert all(x.is_meta for x in made)
    assert [tuple(x.shape) for x in made] == [
        (2, 6),
        (2, 2),
        (2, 3),
        (4,),
        (4,),
        (4,),
        (3,),
        (2,),
        (5,),
    ]
    assert made[1].stride() == (1, 2)
    assert repr(sparse).endswith("device='meta', size=(2, 2), layout=kiln.sparse_coo)")


def test_attention_and_recurrent_layers_run_without_data():
    with kiln.device("meta"):
        x = kiln.ones(2, 3, 4)
        y = nn.TransformerEncoderLayer(4, 2, batch_first=True)(x)
        z = nn.LSTM(4, 5)(x)[0]
        assert nn.GRU(4, 64)(kiln.ones(70, 8, 4))[0].shape == (
            70,
            8,
            64,
        )  # long enough for Programs of steps
    assert repr(y).endswith("size=(2, 3, 4), grad_fn=<NativeLayerNormBackward0>)")
    assert z.shape == (2, 3, 5)
    assert x.new_empty_strided((2, 2), (1, 2)).is_meta
    assert "dtype=kiln.int64" in repr(kiln.arange(3, device="meta"))
    assert "requires_grad=True" in repr(kiln.ones(1, device="meta", requires_grad=True))


def test_layers_that_draw_compute_nothing():
    x = kiln.empty(4, 6, 5, device="meta", requires_grad=True)
    before = kiln.get_rng_state()
    for f in (F.dropout, F.dropout1d, F.alpha_dropout, F.feature_alpha_dropout):
        y = f(x, 0.5, True)
        assert y.is_meta
        assert y.shape == x.shape
    assert kiln.equal(before, kiln.get_rng_state())


def test_views_and_layers_of_several_parts():
    layer = nn.TransformerEncoderLayer(16, 2, device="meta")
    out = layer(kiln.empty(4, 10, 16, device="meta"))
    out.sum().backward()
    assert layer.linear1.weight.grad.is_meta
    out = nn.ConvTranspose2d(3, 4, 3, device="meta")(kiln.empty(2, 3, 8, 8, device="meta"))
    assert out.shape == (2, 4, 10, 10)
    assert out.is_meta
