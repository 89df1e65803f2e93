"""What modules do, as functions of a library, to be run on Kiln and on PyTorch."""

import copy
import operator
import pickle
from collections import OrderedDict
from importlib import import_module


def net(lib):
    nn = lib.nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)
            self.b = self.a  # the same module twice
            self.register_buffer("count", lib.zeros(1))
            self.register_buffer("scratch", lib.ones(2), persistent=False)
            self.register_parameter("none", None)

        def forward(self, x, scale=1.0):
            return self.b(self.a(x)) * scale

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()
            self.head = nn.Sequential(OrderedDict([("fc", nn.Linear(2, 3)), ("act", nn.ReLU())]))
            self.scale = nn.Parameter(lib.ones(1))
            self.note = "plain"

        def forward(self, x):
            return self.head(self.block(x)) * self.scale

    return Net()


def fill(lib, module):
    for i, p in enumerate(module.parameters()):
        lib.nn.init.constant_(p, 0.1 * (i + 1))
    return module


def numbers(x):
    return None if x is None else [round(v, 5) for v in x.detach().reshape(-1).tolist()]


def names(lib):
    m = net(lib)
    return [
        [n for n, _ in m.named_parameters()],
        [n for n, _ in m.named_parameters(remove_duplicate=False)],
        [n for n, _ in m.named_parameters(prefix="p", recurse=False)],
        [n for n, _ in m.named_buffers()],
        [n for n, _ in m.named_modules()],
        [n for n, _ in m.named_modules(remove_duplicate=False)],
        [n for n, _ in m.block.named_children()],
        list(m.state_dict()), list(m.state_dict(prefix="x.")),
        len(list(m.parameters())), len(list(m.children())), len(list(m.modules())),
        m.get_submodule("head.fc") is m.head.fc, m.get_parameter("head.fc.bias") is m.head.fc.bias,
        m.get_buffer("block.count") is m.block.count,
        [n for n in ("block", "scale", "note", "head", "forward") if n in dir(m)], repr(m),
    ]  # fmt: skip


def attributes(lib):
    nn = lib.nn
    m = nn.Module()
    out = []

    def attempt(fn):
        try:
            fn()
            out.append(None)
        except Exception as e:
            out.append(type(e).__mro__)

    m.w = nn.Parameter(lib.zeros(2))
    m.x = lib.zeros(3)
    m.child = nn.ReLU()
    m.register_buffer("b", lib.zeros(1))
    attempt(lambda: setattr(m, "w", lib.zeros(2)))
    attempt(lambda: setattr(m, "w", None))
    attempt(lambda: setattr(m, "child", 3))
    attempt(lambda: setattr(m, "child", None))
    attempt(lambda: setattr(m, "b", 3))
    attempt(lambda: setattr(m, "b", lib.ones(4)))
    attempt(lambda: m.register_buffer("b.c", None))
    attempt(lambda: m.register_buffer("", None))
    attempt(lambda: m.register_buffer(3, None))
    attempt(lambda: m.register_buffer("child", None))
    attempt(lambda: m.register_buffer("z", 3))
    attempt(lambda: m.register_parameter("p", lib.zeros(1)))
    attempt(lambda: m.register_parameter("w.x", None))
    attempt(lambda: m.register_parameter("p", (nn.Parameter(lib.zeros(1)) * 2)))
    attempt(lambda: m.add_module("q", 3))
    attempt(lambda: m.add_module("q.r", nn.ReLU()))
    attempt(lambda: m.missing)
    attempt(lambda: delattr(m, "missing"))
    attempt(lambda: m.get_submodule("nope"))
    attempt(lambda: m.get_parameter("b"))
    attempt(lambda: m.train("yes"))
    attempt(lambda: m(3))
    attempt(lambda: m.to(lib.int64))
    attempt(lambda: nn.Linear(2, 2).load_state_dict(3))

    class Early(nn.Module):
        def __init__(self, what):
            setattr(self, *what)

    attempt(lambda: Early(("w", nn.Parameter(lib.zeros(1)))))
    attempt(lambda: Early(("m", nn.ReLU())))
    m.x = nn.Parameter(lib.zeros(3))  # a plain attribute becomes a parameter
    m.w = nn.Parameter(lib.zeros(1))
    del m.w
    m.buffer = nn.Buffer(lib.zeros(2), persistent=False) if hasattr(nn, "Buffer") else None
    m.b = None
    public = [
        "ValueError",
        "KeyError",
        "TypeError",
        "AttributeError",
        "NotImplementedError",
        "RuntimeError",
    ]
    found = [None if e is None else {c.__name__ for c in e} for e in out]
    kinds = [None if e is None else next(name for name in public if name in e) for e in found]
    return [
        kinds,
        sorted(m._parameters),
        sorted(m._buffers),
        sorted(m._modules),
        list(m.state_dict()),
    ]


def hooks(lib):
    log = []
    m = fill(lib, net(lib))
    block = m.block

    def note(tag, *, result=None):
        def hook(module, *args):
            log.append((tag, type(module).__name__, len(args)))
            return result

        return hook

    handles = [
        block.register_forward_pre_hook(note("pre")),
        block.register_forward_pre_hook(lambda mod, args: (args[0] + 1,)),
        block.register_forward_pre_hook(lambda mod, a, k: (a, {"scale": 2.0}), with_kwargs=True),
        block.register_forward_pre_hook(note("first"), prepend=True),
        block.register_forward_hook(lambda mod, args, out: out * 3),
        block.register_forward_hook(lambda mod, a, k, out: log.append(sorted(k)), with_kwargs=True),
        block.register_forward_hook(note("after")),
    ]
    x = lib.ones(2, 2)
    out = [numbers(m(x))]
    for h in handles:
        h.remove()
    out.append(numbers(m(x)))
    broken = lib.nn.Linear(2, 2)
    broken.register_forward_hook(note("always"), always_call=True)
    broken.register_forward_hook(note("never"))
    try:
        broken(lib.ones(2, 5))
    except RuntimeError:
        log.append("failed")
    return [out, log]


def backward_hooks(lib):
    log = []
    m = fill(lib, net(lib))

    def full(module, grad_input, grad_output):
        log.append(("full", [numbers(g) for g in grad_input], [numbers(g) for g in grad_output]))
        return tuple(None if g is None else g * 2 for g in grad_input)

    def pre(module, grad_output):
        log.append(("pre", [numbers(g) for g in grad_output]))
        return tuple(g * 0.5 for g in grad_output)

    m.head.register_full_backward_hook(full)
    m.head.fc.register_full_backward_pre_hook(pre)
    handle = m.block.register_full_backward_hook(lambda mod, gi, go: log.append(len(gi)))
    x = lib.ones(2, 2).requires_grad_()
    for _ in range(2):
        (m(x) ** 2).sum().backward()
        handle.remove()
    return [log, numbers(x.grad), [numbers(p.grad) for p in m.parameters()]]


def state(lib):
    m, other = fill(lib, net(lib)), net(lib)
    log = [repr(other.load_state_dict(m.state_dict()))]
    log.append([numbers(v) for v in other.state_dict().values()])
    sd = m.state_dict()
    sd["extra"] = lib.zeros(1)
    del sd["head.fc.bias"]
    keys = other.load_state_dict(sd, strict=False)
    log += [keys.missing_keys, keys.unexpected_keys]
    sd["block.a.weight"] = lib.zeros(5)
    try:
        other.load_state_dict(sd)
    except RuntimeError as e:
        found = [
            line.strip() for line in str(e).split("\n") if "key(s)" in line or "mismatch" in line
        ]
        log.append([x.replace("kiln.Size", "torch.Size") for x in found])
    fresh = net(lib)
    old = fresh.scale
    fresh.load_state_dict(m.state_dict(), assign=True)
    log += [fresh.scale is old, type(fresh.scale).__name__, fresh.scale.requires_grad]
    m.register_state_dict_pre_hook(lambda mod, prefix, keep: log.append(("pre", prefix, keep)))
    m.register_state_dict_post_hook(lambda mod, d, prefix, meta: d.pop("scale") and None)
    log.append(list(m.state_dict()))
    other.register_load_state_dict_pre_hook(
        lambda mod, d, *rest: d.setdefault("scale", lib.ones(1) * 7)
    )
    other.register_load_state_dict_post_hook(lambda mod, keys: log.append(len(keys.missing_keys)))
    other.load_state_dict(m.state_dict())
    log.append(numbers(other.scale))
    log.append(m.state_dict(keep_vars=True)["head.fc.weight"] is m.head.fc.weight)
    log.append(m.state_dict()["head.fc.weight"].requires_grad)
    return log


def copies(lib):
    m = fill(lib, net(lib))
    m(lib.ones(1, 2)).sum().backward()
    twin = copy.deepcopy(m)
    lib.nn.init.zeros_(m.scale)
    out = [
        numbers(twin.scale), twin.block.a is twin.block.b, type(twin.scale).__name__,
        numbers(twin.head.fc.bias.grad), twin.note,
    ]  # fmt: skip
    p = m.head.fc.weight
    m.double()
    out += [
        m.head.fc.weight is p,
        str(p.dtype).split(".")[-1],
        str(m.block.count.dtype).split(".")[-1],
    ]
    out += [str(p.grad.dtype).split(".")[-1]]
    m.half().to(lib.float32)
    out += [str(p.dtype).split(".")[-1], m.eval() is m, m.head.training, m.train().head.training]
    m.zero_grad()
    out += [p.grad is None, m.requires_grad_(False) is m, p.requires_grad]
    seen = []
    m.apply(lambda mod: seen.append(type(mod).__name__))
    return [*out, seen]


def containers(lib):
    nn = lib.nn
    s = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    out = [len(s), repr(s[1:3]), repr(s[-1])]
    del s[1]
    s.append(nn.ELU()).insert(1, nn.SELU())
    out += [
        repr(s),
        repr(s.pop(0)),
        repr(s + nn.Sequential(nn.ReLU())),
        repr(nn.Sequential(nn.ReLU()) * 2),
    ]
    ml = nn.ModuleList([nn.ReLU()])
    ml += [nn.Tanh(), nn.Tanh()]
    ml.insert(1, nn.ELU())
    ml.extend([nn.Sigmoid()])
    ml[0] = nn.GELU()
    out += [repr(ml), repr(ml[1:]), len(ml), repr(ml.pop(1)), [n for n, _ in ml.named_children()]]
    md = nn.ModuleDict([("x", nn.ReLU()), ("y", nn.Tanh())])
    md.update({"z": nn.ELU()})
    out += [
        list(md),
        list(md.keys()),
        repr(md["x"]),
        "x" in md,
        repr(md.pop("y")),
        len(md),
        repr(md),
    ]
    pl = nn.ParameterList([lib.zeros(2), nn.Parameter(lib.ones(3))])
    pl.append(lib.zeros(1))
    out += [
        len(pl),
        [type(p).__name__ for p in pl],
        [n for n, _ in pl.named_parameters()],
        repr(pl),
    ]
    pd = nn.ParameterDict({"a": lib.zeros(2)})
    pd["b"] = lib.ones(1)
    out += [list(pd), type(pd["a"]).__name__, list(pd.state_dict()), repr(pd)]
    return [x.replace("kiln.", "torch.") if isinstance(x, str) else x for x in out]


def extra_state(lib):
    class Counter(lib.nn.Module):
        def __init__(self, n):
            super().__init__()
            self.n = n

        def get_extra_state(self):
            return {"n": self.n}

        def set_extra_state(self, state):
            self.n = state["n"]

    a, b = lib.nn.Sequential(Counter(3)), lib.nn.Sequential(Counter(5))
    b.load_state_dict(a.state_dict())
    return [list(a.state_dict()), b[0].n]


def global_hooks(lib):
    nn = lib.nn
    m = import_module(f"{lib.__name__}.nn.modules.module")
    log = []
    net = nn.Sequential(fill(lib, nn.Linear(2, 2)), nn.ReLU())
    net[0].register_forward_pre_hook(lambda mod, args: log.append("own pre"))
    net[0].register_forward_hook(lambda mod, args, out: log.append("own after"))
    net[0].register_full_backward_hook(lambda mod, gi, go: log.append("own backward"))
    handles = [
        m.register_module_forward_pre_hook(lambda mod, args: log.append(("pre", type(mod).__name__))),
        m.register_module_forward_hook(lambda mod, args, out: log.append(("after", type(mod).__name__))),
        m.register_module_full_backward_pre_hook(lambda mod, go: log.append(("before backward", type(mod).__name__))),
        m.register_module_full_backward_hook(lambda mod, gi, go: log.append(("backward", type(mod).__name__))),
        m.register_module_parameter_registration_hook(lambda mod, name, p: log.append(("parameter", name))),
        m.register_module_buffer_registration_hook(lambda mod, name, b: log.append(("buffer", name))),
        m.register_module_module_registration_hook(lambda mod, name, s: log.append(("module", name))),
    ]  # fmt: skip
    net(lib.ones(1, 2, requires_grad=True)).sum().backward()
    extra = nn.BatchNorm1d(2, affine=True)
    extra.more = nn.ReLU()
    extra.more = None
    extra.running_mean = lib.ones(2)
    for handle in handles:
        handle.remove()
    count = len(log)
    net(lib.ones(1, 2))
    log.append(len(log) - count)
    return log


def hook_tables(lib):
    m = lib.nn.Linear(1, 1)
    log = []

    def first(mod, args):
        log.append("first")

    def second(mod, args, kwargs):
        log.append("second")
        return args, kwargs

    def after(mod, args, kwargs, out):
        log.append("after")

    def always(mod, args, out):
        log.append(("always", out is None))

    a = m.register_forward_pre_hook(first)
    b = m.register_forward_pre_hook(second, prepend=True, with_kwargs=True)
    m.register_forward_hook(after, with_kwargs=True)
    m.register_forward_hook(always, always_call=True, prepend=True)
    pres = list(m._forward_pre_hooks.values())
    out = [pres == [second, first], list(m._forward_hooks.values()) == [always, after]]
    out += [len(m._forward_pre_hooks_with_kwargs), len(m._forward_hooks_with_kwargs), len(m._forward_hooks_always_called)]  # fmt: skip
    m(lib.zeros(1, 1))
    try:
        m(lib.zeros(1, 3))
    except RuntimeError:
        log.append("raised")
    twin = copy.deepcopy(m)
    b.remove()
    b.remove()
    a.remove()
    out += [len(m._forward_pre_hooks), len(m._forward_pre_hooks_with_kwargs), len(twin._forward_pre_hooks)]  # fmt: skip
    twin(lib.zeros(1, 1))
    with m.register_forward_pre_hook(first):
        out.append(len(m._forward_pre_hooks))
    return [*out, len(m._forward_pre_hooks), *log]


def state_hooks(lib):
    m = lib.nn.Sequential(fill(lib, lib.nn.Linear(1, 1)))
    log = []
    m.register_state_dict_pre_hook(lambda mod, prefix, keep: log.append(("pre", prefix, keep)))
    m[0].register_state_dict_post_hook(lambda mod, state, prefix, meta: log.append((list(state), prefix, meta)))  # fmt: skip
    m[0]._register_state_dict_hook(lambda mod, state, prefix, meta: {**state, "more": 1})
    state = m.state_dict()
    log.append(list(state))

    def before(mod, state, prefix, meta, strict, missing, unexpected, errors):
        log.append((type(mod).__name__, prefix, sorted(state)))
        state.pop("0.bias", None)

    m[0].register_load_state_dict_pre_hook(before)
    m.register_load_state_dict_post_hook(lambda mod, keys: log.append([*keys.missing_keys]))
    log.append(str(m.load_state_dict(m.state_dict(), strict=False)))
    try:
        m.load_state_dict(m.state_dict())
    except RuntimeError as e:
        log.append("Missing key(s)" in str(e))
    twin = copy.deepcopy(m)
    twin.load_state_dict(twin.state_dict(), strict=False)
    return log


def cooperative(lib):
    class Mixin:
        def __init__(self, size=1, **kwargs):
            self.size = size
            super().__init__(**kwargs)

    class Model(lib.nn.Module, Mixin):
        call_super_init = True

        def __init__(self, **kwargs):
            super().__init__(**kwargs)

    class Old(lib.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = lib.nn.Linear(1, 1)

        def forward(self, x):
            return self.fc(x)

    m = Model(size=3)
    old = fill(lib, Old())
    state = old.__getstate__() if hasattr(old, "__getstate__") else old.__dict__
    twin = Old.__new__(Old)
    twin.__setstate__(
        {k: v for k, v in state.items() if "forward_hooks_" not in k and "pre_hooks" not in k}
    )
    layer = fill(lib, lib.nn.Linear(2, 1))
    again = pickle.loads(pickle.dumps(layer))
    kept = sorted(k for k in old.__dict__ if k != "_facts")
    return [
        m.size,
        numbers(twin(lib.ones(1, 1))),
        kept,
        numbers(again(lib.ones(1, 2))),
        repr(again),
    ]


def dicts(lib):
    nn = lib.nn
    d = nn.ParameterDict({"b": nn.Parameter(lib.ones(1)), "a": lib.zeros(2), "n": 3})
    out = [
        list(d),
        list(reversed(d)),
        len(d),
        "a" in d,
        d.get("x", 5),
        d.setdefault("y", 7),
        repr(d),
    ]
    out += [[type(v).__name__ for v in d.values()], list((d | {"z": lib.ones(1)}).keys())]
    out += [d.pop("n"), d.popitem()[0], list(d.copy()), list(d.fromkeys(["p", "q"], 1).items())]
    d.update([("k", lib.ones(1)), ("c", lib.ones(1))])
    d.update({"m": lib.ones(1), "l": lib.ones(1)})
    out += [list(d), [n for n, _ in d.named_parameters()]]
    m = nn.ModuleDict({"x": nn.ReLU(), "y": nn.Tanh()})
    m.update([("w", nn.ELU()), ("v", nn.GELU())])
    out += [list(m), list(m.keys()), type(m.pop("x")).__name__, repr(m), len(m), "y" in m]
    m.clear()
    p = nn.ParameterList([lib.ones(2), nn.Parameter(lib.zeros(1)), 4, lib.ones(1)])
    p += [lib.ones(3)]
    p.append(lib.ones(1, 2)).extend([5])
    p[0] = lib.zeros(2)
    out += [
        len(m),
        len(p),
        repr(p),
        repr(p[1:3]),
        [n for n, _ in p.named_parameters()],
        p[-1],
        dir(p)[-3:],
    ]
    s = nn.Sequential(nn.ReLU(), nn.Tanh())
    s.append(nn.ELU()).insert(0, nn.GELU()).extend(nn.Sequential(nn.SiLU()))
    s += nn.Sequential(nn.ReLU6())
    out += [
        repr(s),
        repr(s[1:3]),
        repr(s[-1]),
        type(s.pop(1)).__name__,
        repr(s * 2),
        repr(s + s[:1]),
    ]
    del s[0]
    s[0] = nn.Identity()
    s *= 2
    out += [repr(s), len(s)]
    q = nn.ModuleList([nn.ReLU(), nn.Tanh()])
    q += [nn.ELU()]
    q.insert(1, nn.GELU())
    q[0] = nn.SiLU()
    del q[-1]
    out += [
        repr(q),
        repr(operator.add(q, [nn.ReLU()])),
        len(q[1:]),
        type(q.pop(0)).__name__,
        [n for n, _ in q.named_children()],
    ]
    return out


ALL = [
    names, attributes, hooks, backward_hooks, state, copies, containers, extra_state, global_hooks, hook_tables,
    state_hooks, cooperative, dicts,
]  # fmt: skip
