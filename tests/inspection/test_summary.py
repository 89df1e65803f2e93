"""`kiln.summary`: what it counts is what a real step does, and nothing is touched to find out."""

import gc
import sys
import weakref
from threading import get_ident

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln import meta, nn
from kiln.config import config
from kiln.inspection.rehearsal import Allocator
from kiln.nn import _recurrent
from kiln.runtime.blocks import SMALL, Blocks
from kiln.utils.flop_counter import FlopCounterMode


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


class Small(nn.Module):
    """Most of what models are made of: lazy, recurrent, attending, frozen, unused and shared layers."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.embed.weight.requires_grad = False
        self.body = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2
        )
        self.rnn = nn.LSTM(16, 8, batch_first=True, bidirectional=True)
        self.head = nn.LazyLinear(50)
        self.again = self.head
        self.unused = nn.Linear(3, 3)

    def forward(self, tokens, offset=None):
        x = self.rnn(self.body(self.embed(tokens)))[0]
        x = self.head(x)
        return x if offset is None else x + self.again(offset)


def test_a_small_model_by_hand():
    s = kiln.summary(mlp(), (32, 8), optimizer="adam")
    assert (s.parameters, s.trainable) == (212, 212)
    assert s.flops == 2 * 32 * (8 * 16 + 16 * 4)
    assert s.backward_flops == 2 * 32 * (8 * 16 + 2 * 16 * 4)  # the input needs no gradient
    assert (s.parameter_memory, s.gradient_memory, s.input_memory) == (848, 848, 32 * 8 * 4)
    assert 2 * 848 <= s.optimizer_memory <= 2 * 848 + 64
    assert s.activation_memory == 32 * 16 * 4 + 32 * 4 * 4  # what relu gave, and the output
    assert s.peak_memory == sum(n for _, n in s.holders)
    assert s.peak_memory >= s.parameter_memory + s.optimizer_memory + s.input_memory + s.activation_memory  # fmt: skip
    assert [(r.path, r.kind, r.shape, r.parameters, r.kept) for r in s.rows] == [
        ("", "Sequential", "[32, 4]", 0, 0), ("0", "Linear", "[32, 16]", 144, 0),
        ("1", "ReLU", "[32, 16]", 0, 2048), ("2", "Linear", "[32, 4]", 68, 512),
    ]  # fmt: skip
    assert kiln.summary(mlp(), (32, 8), optimizer=kiln.optim.SGD).optimizer_memory == 0


def test_the_table():
    assert str(kiln.summary(mlp(), (32, 8), training=False)).split("\n") == [
        "layer        output    parameters   FLOPs   kept",
        "────────────────────────────────────────────────",
        "Sequential   [32, 4]",
        "  0: Linear  [32, 16]         144  8.19 K",
        "  1: ReLU    [32, 16]",
        "  2: Linear  [32, 4]           68   4.1 K  512 B",
        "────────────────────────────────────────────────",
        "parameters   212 (212 trainable, 0 not)",
        "FLOPs        forward 12.3 K",
        "memory       parameters and buffers 848 B, inputs 1 KiB, activations 512 B",
        "peak         5.83 KiB in a forward pass: 0 (Linear) 2 KiB, 1 (ReLU) 2 KiB, inputs 1 KiB",
    ]


@pytest.mark.parametrize("kind", ["convolutions", "attention", "recurrent", "transposed"])
def test_operations_are_those_of_a_real_step(kind):
    model, x = {
        "convolutions": lambda: (nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2),
                                               nn.Flatten(), nn.Linear(4 * 16, 5)), kiln.randn(2, 3, 8, 8)),
        "attention": lambda: (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), kiln.randn(2, 5, 16)),
        "recurrent": lambda: (nn.Linear(3, 3), kiln.randn(4, 3)),
        "transposed": lambda: (nn.ConvTranspose2d(3, 4, 3, stride=2), kiln.randn(2, 3, 5, 5)),
    }[kind]()  # fmt: skip
    s = kiln.summary(model, x)
    with FlopCounterMode(display=False) as forward:
        out = model(x)
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    assert s.flops == forward.get_total_flops() > 0
    assert s.backward_flops == backward.get_total_flops() > 0


def test_nothing_is_run_drawn_or_changed():
    model = Small()
    state = {k: v.clone() for k, v in model.state_dict().items() if not nn.parameter.is_lazy(v)}
    before = kiln.get_rng_state()
    s = kiln.summary(model, {"tokens": ((2, 5), kiln.int64), "offset": (2, 5, 16)}, optimizer="adamw")  # fmt: skip
    assert kiln.equal(before, kiln.get_rng_state())
    assert all(kiln.equal(v, model.state_dict()[k]) for k, v in state.items())
    assert nn.parameter.is_lazy(model.head.weight)
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not meta.WATCHING
    rows = {r.path: r for r in s.rows}
    assert rows["embed"].trainable == 0 < rows["embed"].parameters == 800
    assert rows["head"].kind == "Linear"
    assert rows["head"].parameters == 16 * 50 + 50
    assert rows["head"].calls == 2
    assert rows["again"].shared == "head"
    assert rows["again"].parameters == 0
    assert rows["unused"].shape == "–"
    assert rows["rnn"].shape == "[2, 5, 16], +2"
    assert rows["body.layers.0.self_attn"].flops > 0
    assert s.parameters == sum(r.parameters for r in s.rows)
    assert s.trainable == s.parameters - 800
    assert s.flops == sum(r.flops for r in s.rows)
    assert s.activation_memory == sum(r.kept for r in s.rows)
    text = str(s)
    assert "800 frozen" in text
    assert "again: Linear ×2 (as head)" in text
    assert "head: Linear ×2" in text


def test_lazy_and_compiled_models_count_as_what_they_become():
    lazy = kiln.summary(nn.Sequential(nn.LazyLinear(16), nn.ReLU(), nn.Linear(16, 4)), (32, 8))
    assert str(lazy) == str(kiln.summary(mlp(), (32, 8)))
    assert str(lazy) == str(kiln.summary(kiln.compile(mlp()), (32, 8)))


def test_depth_keeps_the_sums():
    whole = kiln.summary(Small(), ((2, 5), kiln.int64))
    for depth in (0, 1, 2):
        s = kiln.summary(Small(), ((2, 5), kiln.int64), depth=depth)
        assert max(r.depth for r in s.rows) == depth
        for key in ("parameters", "trainable", "flops", "kept"):
            assert sum(getattr(r, key) for r in s.rows) == sum(getattr(r, key) for r in whole.rows)


def test_tied_parameters_count_once():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    model.forward = lambda x: model["b"](model["a"](x))
    s = kiln.summary(model, (2, 4))
    assert s.parameters == 24
    assert [r.parameters for r in s.rows] == [0, 20, 4]


def test_inputs_of_all_kinds():
    class Two(nn.Module):
        def forward(self, a, b=None, flag=True):
            return a if b is None or not flag else a + b

    class Bag(nn.Module):
        def forward(self, batch):
            return batch["x"] * 2

    for given in ((2, 3), [(2, 3), (3,)], (kiln.ones(2, 3), (3,), False), {"a": (2, 3), "b": None}):
        assert kiln.summary(Two(), given).rows[0].shape == "[2, 3]"
    assert kiln.summary(Bag(), {"x": kiln.ones(2, 3).numpy()}).rows[0].shape == "[2, 3]"
    assert kiln.summary(Bag(), {"x": (4, 3)}, dtype=kiln.float64).input_memory == 96
    with pytest.raises(RuntimeError, match="a shape, a tensor or an array"):
        kiln.summary(Two(), 3)


def test_models_larger_than_any_memory():
    model = nn.Sequential(*[nn.Linear(2**20, 2**20, device="meta") for _ in range(3)])
    s = kiln.summary(model, (2**20, 2**20), loss="mse", target=(2**20, 2**20), optimizer="adam")
    assert s.parameter_memory > 12 * 2**40
    with pytest.raises(MemoryError) as e:
        s.check()
    what, received, help_ = str(e.value).split("\n")
    assert "a training step of Sequential needs about" in what
    assert "optimizer state 24 TiB" in received
    assert "max_memory" in help_
    assert isinstance(e.value, kiln.KilnMemoryError)


def test_check():
    s = kiln.summary(mlp(), (32, 8))
    assert s.check("1MiB") is s
    assert s.check() is s
    assert s.check(s.peak_memory) is s
    with pytest.raises(kiln.KilnMemoryError, match="more than 1 KiB"):
        s.check("1KiB")
    with pytest.raises(ValueError, match="memory is not a size"):
        s.check("much")


def test_an_optimizer_that_has_state():
    model = mlp()
    opt = kiln.optim.Adam(model.parameters())
    model(kiln.ones(2, 8)).sum().backward()
    fresh = kiln.summary(model, (2, 8), optimizer=opt)
    opt.step()
    kept = {k: v.clone() for k, v in opt.state[model[0].weight].items()}
    s = kiln.summary(model, (2, 8), optimizer=opt)
    assert s.optimizer_memory == fresh.optimizer_memory >= 2 * 848
    assert all(kiln.equal(v, opt.state[model[0].weight][k]) for k, v in kept.items())


def test_the_estimate_beside_a_compiled_step():
    model = nn.Sequential(*[x for _ in range(4) for x in (nn.Linear(64, 64), nn.Tanh())])
    opt = kiln.optim.Adam(model.parameters())
    x, y = kiln.randn(512, 64), kiln.zeros(512, 64)

    @kiln.compile
    def step(x, y):
        opt.zero_grad()
        F.mse_loss(model(x), y).backward()
        opt.step()

    step(x, y)
    s = kiln.summary(model, x, loss=F.mse_loss, target=y, optimizer=opt)
    values = s.peak_memory - s.parameter_memory - s.optimizer_memory - s.input_memory
    assert 0.6 < values / step.memory_stats()["peak_bytes"] < 1.7


def test_memory_is_given_back_as_eager_mode_does():
    s = kiln.summary(nn.Sequential(*[nn.ReLU() for _ in range(9)]), (256, 4), training=False)
    assert s.peak_memory == 3 * 4096  # the input, and two layers' outputs at a time


def test_tokens_of_meta_tensors():
    class Watcher:
        def __init__(self):
            self.sizes, self.ops = [], []

        def held(self, size):
            self.sizes.append(size)

            class Token:
                pass

            return Token()

        def called(self, op, args, out):
            self.ops.append(op.name)

    w = meta.WATCHING[get_ident()] = Watcher()
    try:
        x = kiln.empty(4, 6, device="meta")
        token = weakref.ref(x._a.memory)
        v = x.t().reshape(24)[3:].detach()  # reshaping had to copy
        assert x.view(24)[3:]._a.memory is token()
        x += 1
        x.sum(0)
        x.max(1)
        assert w.sizes[:2] == [96, 96]
        assert "sum" in w.ops
        assert v._a.memory is not token()
        del x
        assert token() is None
    finally:
        del meta.WATCHING[get_ident()]


def test_convolutions_without_data_leave_nothing_behind():
    from kiln.backends.one_call import shelf

    layer = nn.Conv2d(16, 16, 3, device="meta")
    known = len(shelf().ready), len(shelf().made)
    for _ in range(3):
        layer(kiln.empty(2, 16, 32, 32, device="meta"))
    assert (len(shelf().ready), len(shelf().made)) == known


class Choosing(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: kiln.summary(Choosing(), (3,)), RuntimeError, "can't run without data: Choosing reads a value"),
        (lambda: kiln.summary(mlp(), (2, 8), loss="nope"), ValueError, "no loss"),
        (lambda: kiln.summary(mlp(), (2, 8), optimizer="nope"), ValueError, "no optimizer"),
        (lambda: kiln.summary(mlp(), (2, 9)), RuntimeError, "9"),
        (lambda: kiln.summary(nn.LazyLinear(4), [(2, 8), (2, 8)]), TypeError, r"not those of LazyLinear.forward\(input\)"),
        (lambda: kiln.summary(nn.Sequential(nn.LazyLinear(4), Choosing()), (2, 8)), RuntimeError, "1 reads a value"),
        (lambda: kiln.summary(mlp(), (2, 8), loss="mse"), ValueError, "a loss and its target go together"),
        (lambda: kiln.summary(mlp(), (2, 8), target=(2, 4)), ValueError, "a loss and its target go together"),
        (lambda: kiln.summary(3, (2, 9)), TypeError, "nn.Module"),
        (lambda: kiln.summary(mlp(), (2, 8), optimizer="lbfgs"), RuntimeError, "can't step without data"),
    ],
)  # fmt: skip
def test_wrong_calls(call, error, match):
    with pytest.raises(error, match=match):
        call()
    assert not meta.WATCHING


def test_a_compiled_step_before_it_runs():
    """What the estimate says of a compiled step is what the step then takes, its kernels' scratch memory too."""

    def make():
        kiln.manual_seed(0)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))  # fmt: skip

    given = {
        "loss": "cross_entropy",
        "target": ((4,), kiln.int64),
        "optimizer": "adam",
        "compiled": True,
    }
    s = kiln.summary(make(), (4, 3, 12, 12), **given)
    assert "in a compiled training step" in str(s)
    with pytest.raises(kiln.errors.KilnMemoryError, match="a compiled training step of Sequential"):
        s.check(s.peak_memory - 1)
    model, x, y = make(), kiln.randn(4, 3, 12, 12), kiln.randint(0, 4, (4,))
    model(x)
    opt = kiln.optim.Adam(model.parameters())

    def step(x, y):
        opt.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        opt.step()
        return loss

    run = kiln.compile(step)
    run(x, y)
    held = [*model.parameters(), *model.buffers(), *(p.grad for p in model.parameters()), x, y]
    held += [t for state in opt.state.values() for t in state.values()]
    due = sum(t.numel() * t.element_size() for t in held) + run.memory_stats()["peak_bytes"]
    assert s.peak_memory == pytest.approx(due, rel=0.02)
    assert kiln.summary(make(), (4, 3, 12, 12), training=False, compiled=True).peak_memory < s.peak_memory  # fmt: skip


def test_scratch_memory_is_that_of_the_kernels_of_an_eager_step():
    from kiln.backends.one_call import shelf

    def make():
        return nn.Sequential(nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2, 1), nn.Flatten(), nn.LazyLinear(4))  # fmt: skip

    x = kiln.randn(4, 8, 20, 20)
    s = kiln.summary(make(), x)
    assert kiln.summary(make(), x, training=False).peak_memory < s.peak_memory
    shelf().clear()
    model = make()
    model(x).sum().backward()
    assert dict(s.holders)["scratch memory of kernels"] == shelf().size > 0


def test_memory_kept_for_reuse_is_what_the_allocator_keeps(monkeypatch):
    monkeypatch.setattr(config, "memory_cache_mb", 6)
    real, told = Blocks(), Allocator()
    rng, alive = np.random.default_rng(0), {}
    for i in range(200):
        if alive and rng.random() < 0.5:
            k = list(alive)[int(rng.integers(len(alive)))]
            del alive[k]
            told.give(k)
        else:
            size = int(rng.integers(SMALL, 3 * SMALL))
            alive[i] = real.empty((size,), np.dtype(np.uint8))
            told.take(i, size)
        assert told.kept == real.held
        assert told.bytes == told.idle + sum(told.lent[k][1] for k in alive)


def test_what_numpy_refuses_leaves_nothing_behind():
    """NumPy keeps the operands for good of some calls that all operands refuse."""
    x = kiln.empty(64, 256, device="meta")
    join = lambda t: kiln.cat([t, kiln.empty(600, 256, device="meta")])  # noqa: E731
    for op in (join, lambda t: t + t, lambda t: t * x, kiln.tanh, kiln.sigmoid, lambda t: t.sum(0)):
        for _ in range(3):
            t = kiln.empty(64, 256, device="meta")
            before = sys.getrefcount(t._a)
            op(t)
            after = sys.getrefcount(t._a)
            assert after == before


def test_the_room_of_kernels_that_had_to_grow_is_given_back():
    from kiln.backends.one_call import shelf

    shelf().clear()
    gc.disable()  # programs that are no more lie in cycles
    try:
        rooms = []
        for n in (16, 24, 32):
            nn.Conv2d(8, 16, 3)(kiln.randn(4, 8, n, n))
            rooms.append(shelf().arena)
    finally:
        gc.enable()
    assert [r.memory.nbytes for r in rooms[:-1]] == [0] * (len(rooms) - 1)
    assert rooms[-1].memory.nbytes >= shelf().size > 0


def test_recurrent_layers_take_what_the_programs_of_their_blocks_take(monkeypatch):
    layer = nn.GRU(8, 64)
    s = kiln.summary(layer, (20, 16, 8))
    monkeypatch.setattr(_recurrent, "LEAST", 1 << 40)
    steps = kiln.summary(layer, (20, 16, 8))
    assert (s.flops, s.backward_flops) == (steps.flops, steps.backward_flops)
    assert s.activation_memory != steps.activation_memory
    monkeypatch.undo()
    kept = []
    block = _recurrent._block

    def watched(*given):
        out = block(*given)
        x, w = given[2], given[4]
        entries = _recurrent._program(*given[:2], (tuple(x.shape), tuple(w.shape), x.dtype)).entries
        kept.append(max(sum(n.numel() * 4 for n in e.root.plan.graph.outputs[2:]) for e in entries))
        return out

    monkeypatch.setattr(_recurrent, "_block", watched)
    layer(kiln.rand(20, 16, 8))
    projected, ys = 20 * 16 * 3 * 64 * 4, 20 * 16 * 64 * 4
    assert s.activation_memory == pytest.approx(sum(kept) + projected + ys, rel=0.1)
