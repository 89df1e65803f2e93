"""Sharded training and checkpoints by PyTorch's names, over a group of one process."""

from __future__ import annotations

import pytest

import kiln
from kiln import distributed as dist
from kiln import nn
from kiln.distributed import checkpoint as dcp
from kiln.distributed.checkpoint import state_dict as states
from kiln.distributed.fsdp import (
    FSDPModule,
    FullyShardedDataParallel,
    MixedPrecisionPolicy,
    fully_shard,
    wrap,
)
from kiln.distributed.tensor.parallel import ColwiseParallel, parallelize_module


@pytest.fixture
def group():
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


def test_sharding_over_one_process_is_the_module(group):
    m = model()
    names = list(m.state_dict())
    for layer in m:
        fully_shard(layer)
    assert fully_shard(m) is m
    assert isinstance(m, FSDPModule)
    assert isinstance(m, nn.Sequential)
    assert type(m[0]).__name__ == "FSDPLinear"
    assert list(m.state_dict()) == names
    m.set_requires_gradient_sync(False)
    m.unshard(async_op=True).wait()
    m(kiln.ones(1, 2)).sum().backward()
    assert m[0].weight.grad is not None
    with pytest.raises(ValueError, match="not one yet"):
        fully_shard(m)
    with pytest.raises(NotImplementedError, match="other dtypes"):
        fully_shard(model(), mp_policy=MixedPrecisionPolicy(param_dtype=kiln.bfloat16))
    with pytest.raises(RuntimeError, match="FSDP needs a non-CPU accelerator"):
        FullyShardedDataParallel(model())


def test_sharding_needs_a_group():
    with pytest.raises(ValueError, match="init_process_group"):
        fully_shard(model())


def test_tensor_parallelism_over_one_process(group):
    m = model()
    assert parallelize_module(m, dist.init_device_mesh("cpu", (1,)), {"0": ColwiseParallel()}) is m
    with pytest.warns(UserWarning, match="could not be resolved"):
        parallelize_module(m, parallelize_plan={"nope": ColwiseParallel()})
    with pytest.raises(TypeError, match="parallelize_plan"):
        parallelize_module(m, parallelize_plan=3)


def test_which_modules_a_policy_wraps():
    m = nn.Sequential(nn.Linear(10, 10), nn.ModuleList([nn.Linear(2, 2)]))
    assert wrap.size_based_auto_wrap_policy(m[0], False, 110, min_num_params=100)
    assert not wrap.size_based_auto_wrap_policy(m[1], False, 110, min_num_params=100)
    assert not wrap.size_based_auto_wrap_policy(m[0], False, 90, min_num_params=100)
    assert wrap.transformer_auto_wrap_policy(m[0], False, 0, {nn.Linear})
    assert not wrap.ModuleWrapPolicy({nn.Linear})(m[1])
    assert wrap.wrap(m) is m
    with wrap.enable_wrap(wrapper_cls=nn.Sequential):
        assert type(wrap.wrap(m[0])) is nn.Sequential


def trained(seed):
    kiln.manual_seed(seed)
    m = model()
    optim = kiln.optim.AdamW(m.parameters(), lr=0.1)
    m(kiln.rand(4, 2)).sum().backward()
    optim.step()
    return m, optim


@pytest.mark.parametrize("flat", [False, True])
def test_state_has_the_names_of_parameters(group, flat):
    m, optim = trained(0)
    options = states.StateDictOptions(flatten_optimizer_state_dict=flat)
    wrapped = kiln.compile(nn.parallel.DistributedDataParallel(m))
    own, of_optim = states.get_state_dict(wrapped, optim, options=options)
    assert list(own) == list(m.state_dict())
    if flat:
        assert "state.0.weight.exp_avg" in of_optim
    else:
        assert list(of_optim["state"]) == ["0.weight", "0.bias", "1.weight", "1.bias"]
        assert of_optim["param_groups"][0]["params"] == list(of_optim["state"])
    other, fresh = model(), None
    fresh = kiln.optim.AdamW(other.parameters(), lr=0.5)
    before = other[0].weight.detach().clone()
    states._init_optim_state(fresh)
    assert other[0].weight.equal(before)
    given = {"model_state_dict": own, "optim_state_dict": of_optim, "options": options}
    assert not any(states.set_state_dict(other, fresh, **given))
    assert other[0].weight.equal(m[0].weight)
    assert fresh.param_groups[0]["lr"] == 0.1
    for net, o in ((m, optim), (other, fresh)):
        o.zero_grad()
        net(kiln.ones(2, 2)).sum().backward()
        o.step()
    kiln.testing.assert_close(other[1].weight, m[1].weight)


def test_parts_of_a_model():
    m = model()
    m[0].bias.requires_grad = False
    one = states.get_model_state_dict(m, submodules={m[1]})
    assert list(one) == ["1.weight", "1.bias"]
    bare = states.StateDictOptions(keep_submodule_prefixes=False)
    assert list(states.get_model_state_dict(m, submodules={m[1]}, options=bare)) == [
        "weight",
        "bias",
    ]
    free = states.StateDictOptions(ignore_frozen_params=True)
    assert "0.bias" not in states.get_model_state_dict(m, options=free)


def test_folders_of_checkpoints(tmp_path):
    m, optim = trained(0)
    dcp.save({"model": m, "optim": optim, "step": 3, "more": [1, 2]}, checkpoint_id=tmp_path / "a")
    other, fresh = trained(1)
    state = {"model": other.state_dict(), "optim": fresh, "step": 0}
    dcp.load(state, checkpoint_id=tmp_path / "a")
    assert state["step"] == 3
    assert other[1].weight.equal(m[1].weight)  # in place
    a, b = (o.state_dict()["state"][0]["exp_avg"] for o in (optim, fresh))
    assert a.equal(b)
    reader = dcp.FileSystemReader(tmp_path / "a")
    for wrong, text in (
        ({"nope": 1}, "Missing key"),
        ({"model": {"0.weight": kiln.ones(5)}}, "Size mismatch"),
    ):
        with pytest.raises(dcp.CheckpointException, match=text):
            dcp.load({"step": 7, **wrong}, storage_reader=reader)
    dcp.load(
        {"nope": 1}, storage_reader=reader, planner=dcp.DefaultLoadPlanner(allow_partial_load=True)
    )
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".metadata").write_bytes(b"")
    with pytest.raises(dcp.CheckpointException, match="a checkpoint of PyTorch's"):
        dcp.load({"x": 1}, checkpoint_id=tmp_path / "b")
