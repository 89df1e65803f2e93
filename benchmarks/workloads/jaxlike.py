"""The workloads in JAX: NHWC, `jax.jit` of whole steps with donated state."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from . import layouts
from .catalog import KERNELS, Workload
from .framework import Prepared

EPS = 1e-5  # of batch norm and layer norm
CONV = ("NHWC", "HWIO", "NHWC")


def load(kind: str, threads: int) -> None:
    """Import JAX; its pools take their size from the cores that this process may use."""
    import jax

    # waiting for each step, a hand-over to another thread would only cost time
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def prepare(
    kind: str, workload: Workload, weights: Any, batches: list[Any], threads: int
) -> Prepared:
    """The workload's step from the weights given."""
    import jax
    import jax.numpy as jnp

    if workload.family == "kernel":
        return _kernel(workload, weights, batches)
    values = {k: jnp.asarray(layouts.weight(k, v)) for k, v in weights.items()}
    data = [tuple(jnp.asarray(layouts.batch(a)) for a in b) for b in batches]
    if workload.family == "inference":
        forward = jax.jit(_models()[workload.name])

        def infer(*batch: Any) -> Any:
            return forward(values, *batch).block_until_ready()

        return Prepared(infer, data, lambda r: [layouts.back(r)])
    slots = {k: (jnp.zeros_like(v), jnp.zeros_like(v)) for k, v in values.items()}
    make = _adversarial if workload.name == "dcgan" else _training
    step = jax.jit(make(workload), donate_argnums=0)
    state: Any = (values, slots, jnp.zeros(()))

    def call(*batch: Any) -> Any:
        nonlocal state
        state, loss = step(state, *batch)
        return loss.block_until_ready()

    return Prepared(call, data, lambda r: [r])


# -- layers: `p` maps names to arrays, `new` receives the buffers that a step changes -------------


def _linear(p: Any, name: str, x: Any) -> Any:
    return x @ p[f"{name}.weight"] + p[f"{name}.bias"]


def _conv(p: Any, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
    from jax import lax

    pad = [(padding, padding)] * 2
    y = lax.conv_general_dilated(
        x, p[f"{name}.weight"], (stride, stride), pad, dimension_numbers=CONV
    )
    bias = p.get(f"{name}.bias")
    return y if bias is None else y + bias


def _conv_transpose(p: Any, name: str, x: Any) -> Any:
    """Kernel 4, stride 2, padding 1, as a convolution of the spread-out input."""
    from jax import lax

    y = lax.conv_general_dilated(
        x, p[f"{name}.weight"], (1, 1), [(2, 2)] * 2, lhs_dilation=(2, 2), dimension_numbers=CONV
    )
    bias = p.get(f"{name}.bias")
    return y if bias is None else y + bias


def _batch_norm(p: Any, new: Any, name: str, x: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    n = x.size // x.shape[-1]
    mean = jnp.mean(x, (0, 1, 2))
    var = jnp.mean((x - mean) ** 2, (0, 1, 2))
    known = new if f"{name}.running_mean" in new else p  # a GAN's judge is run more than once
    for key, value in (("mean", mean), ("var", var * n / (n - 1))):
        key = f"{name}.running_{key}"
        new[key] = lax.stop_gradient(0.9 * known[key] + 0.1 * value)
    return (x - mean) * (lax.rsqrt(var + EPS) * p[f"{name}.weight"]) + p[f"{name}.bias"]


def _layer_norm(p: Any, name: str, x: Any) -> Any:
    return _normalize(x) * p[f"{name}.weight"] + p[f"{name}.bias"]


def _normalize(x: Any) -> Any:
    import jax.numpy as jnp
    from jax import lax

    mean = jnp.mean(x, -1, keepdims=True)
    var = jnp.mean((x - mean) ** 2, -1, keepdims=True)
    return (x - mean) * lax.rsqrt(var + EPS)


def _max_pool(x: Any, size: int = 2, stride: int = 2, padding: int = 0) -> Any:
    import jax.numpy as jnp
    from jax import lax

    pad = [(0, 0), (padding, padding), (padding, padding), (0, 0)]
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), pad)


def _flat(x: Any) -> Any:
    """To rows, channels first: PyTorch's order, which the next layer's weights have."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


def _attention(q: Any, k: Any, v: Any, causal: bool) -> Any:
    """Scaled dot-product attention over (batch, place, head, width)."""
    import jax

    return jax.nn.dot_product_attention(q, k, v, is_causal=causal)


def _cross_entropy(logits: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None].astype("int32"), 1))


# -- models: functions of the parameters, what they change, and the input ------------------------


def _mlp(p: Any, new: Any, x: Any) -> Any:
    import jax

    last = max(int(k.partition(".")[0]) for k in p)
    for i in range(0, last, 2):
        x = jax.nn.relu(_linear(p, f"{i}", x))
    return _linear(p, f"{last}", x)


def _mnist_cnn(p: Any, new: Any, x: Any) -> Any:
    import jax

    relu = jax.nn.relu
    x = _flat(_max_pool(relu(_conv(p, "2", relu(_conv(p, "0", x))))))
    return _linear(p, "8", relu(_linear(p, "6", x)))


def _cifar_cnn(p: Any, new: Any, x: Any) -> Any:
    import jax

    for stage in (0, 7, 14):
        for i in (stage, stage + 3):
            x = jax.nn.relu(_batch_norm(p, new, f"{i + 1}", _conv(p, f"{i}", x, padding=1)))
        x = _max_pool(x)
    return _linear(p, "22", _flat(x))


def _resnet(depths: tuple[int, ...], sizes: str, last: int) -> Callable[..., Any]:
    """`sizes` has the kernel size of each convolution of a block's path."""

    def forward(p: Any, new: Any, x: Any) -> Any:
        import jax

        relu, norm = jax.nn.relu, "1.running_mean" in p
        gap = 3 if norm else 2  # places in a Sequential from one convolution to the next

        def conv(name: str, i: int, x: Any, stride: int, size: int) -> Any:
            x = _conv(p, f"{name}{i}", x, stride, size // 2)
            return _batch_norm(p, new, f"{name}{i + 1}", x) if norm else x

        x = _max_pool(relu(conv("", 0, x, 2, 7)), 3, 2, 1)
        place = gap + 1
        for stage, depth in enumerate(depths):
            for block in range(depth):
                name, y = f"{place}.", x
                stride = 2 if stage and not block else 1
                for i, size in enumerate(map(int, sizes)):
                    strided = stride if i == sizes.index("3") else 1
                    y = conv(f"{name}path.", i * gap, y, strided, size)
                    y = relu(y) if i < len(sizes) - 1 else y
                if f"{name}short.0.weight" in p:
                    x = conv(f"{name}short.", 0, x, stride, 1)
                x, place = relu(x + y), place + 1
        return _linear(p, f"{last}", x.mean((1, 2)))

    return forward


def _recurrent(cell: Callable[..., Any], states: int) -> Callable[..., Any]:
    """The input's projection for all places at once, then a scan."""

    def forward(p: Any, new: Any, x: Any) -> Any:
        import jax.numpy as jnp
        from jax import lax

        w, b = p["rnn.weight_hh_l0"], p["rnn.bias_hh_l0"]
        gates = x @ p["rnn.weight_ih_l0"] + p["rnn.bias_ih_l0"]
        state = (jnp.zeros((x.shape[0], w.shape[0])),) * states

        def place(state: Any, g: Any) -> Any:
            return cell(state, g, state[0] @ w + b), None

        state, _ = lax.scan(place, state, gates.swapaxes(0, 1))
        return _linear(p, "head", state[0])

    return forward


def _lstm_cell(state: Any, g: Any, r: Any) -> Any:
    import jax
    import jax.numpy as jnp

    i, f, c, o = jnp.split(g + r, 4, -1)
    cell = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(c)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell


def _gru_cell(state: Any, g: Any, r: Any) -> Any:
    import jax
    import jax.numpy as jnp

    (gr, gz, gn), (hr, hz, hn) = jnp.split(g, 3, -1), jnp.split(r, 3, -1)
    z = jax.nn.sigmoid(gz + hz)
    n = jnp.tanh(gn + jax.nn.sigmoid(gr + hr) * hn)
    return ((1 - z) * n + z * state[0],)


def _heads(x: Any) -> Any:
    import jax.numpy as jnp

    b, t, width = x.shape
    return (part.reshape(b, t, 4, width // 12) for part in jnp.split(x, 3, -1))


def _gpt(p: Any, new: Any, x: Any) -> Any:
    import jax

    x = p["token.weight"][x] + p["place"]
    for i in range(4):
        n = f"blocks.{i}."
        seen = _attention(*_heads(_linear(p, n + "qkv", _layer_norm(p, n + "norm1", x))), True)
        x = x + _linear(p, n + "out", seen.reshape(x.shape))
        up = _linear(p, n + "up", _layer_norm(p, n + "norm2", x))
        x = x + _linear(p, n + "down", jax.nn.gelu(up, approximate=False))
    logits = _layer_norm(p, "norm", x) @ p["head.weight"]
    return logits.reshape(-1, logits.shape[-1])


def _bert(p: Any, x: Any) -> Any:
    import jax

    x = p["token.weight"][x] + p["place"]
    for i in range(4):
        n = f"layers.{i}."
        qkv = x @ p[n + "self_attn.in_proj_weight"] + p[n + "self_attn.in_proj_bias"]
        seen = _attention(*_heads(qkv), False).reshape(x.shape)
        x = _layer_norm(p, n + "norm1", x + _linear(p, n + "self_attn.out_proj", seen))
        up = jax.nn.gelu(_linear(p, n + "linear1", x), approximate=False)
        x = _layer_norm(p, n + "norm2", x + _linear(p, n + "linear2", up))
    return x


def _generator(p: Any, new: Any, z: Any) -> Any:
    import jax
    import jax.numpy as jnp

    x = _linear(p, "generator.0", z).reshape(-1, 128, 7, 7).transpose(0, 2, 3, 1)
    x = jax.nn.relu(_batch_norm(p, new, "generator.2", x))
    x = _conv_transpose(p, "generator.4", x)
    x = jax.nn.relu(_batch_norm(p, new, "generator.5", x))
    return jnp.tanh(_conv_transpose(p, "generator.7", x))


def _judge(p: Any, new: Any, x: Any) -> Any:
    import jax

    leaky = functools.partial(jax.nn.leaky_relu, negative_slope=0.2)
    x = leaky(_conv(p, "judge.0", x, 2, 1))
    x = leaky(_batch_norm(p, new, "judge.3", _conv(p, "judge.2", x, 2, 1)))
    return _linear(p, "judge.6", _flat(x))


def _models() -> dict[str, Callable[..., Any]]:
    return {
        "mlp": _mlp, "mlp-small": _mlp, "mnist-cnn": _mnist_cnn, "cifar-cnn": _cifar_cnn,
        "resnet18": _resnet((2, 2, 2, 2), "33", 14), "lstm": _recurrent(_lstm_cell, 2),
        "gru": _recurrent(_gru_cell, 1), "gpt": _gpt, "bert": _bert,
        "resnet50": lambda p, x: _resnet((3, 4, 6, 3), "131", 21)(p, {}, x),
    }  # fmt: skip


# -- training steps -----------------------------------------------------------------------------


def _update(o: dict[str, Any], p: Any, g: Any, slot: Any, t: Any) -> Any:
    """One parameter and its slots after a step of the optimizer."""
    import jax.numpy as jnp

    if o["name"] == "SGD":
        m = jnp.where(t == 1, g, o["momentum"] * slot[0] + g)
        return p - o["lr"] * m, (m, slot[1])
    b1, b2 = o.get("betas", (0.9, 0.999))
    if o["name"] == "AdamW":
        p = p * (1 - o["lr"] * o["weight_decay"])
    m, v = b1 * slot[0] + (1 - b1) * g, b2 * slot[1] + (1 - b2) * g * g
    size = o["lr"] / (1 - b1**t)
    return p - size * m / (jnp.sqrt(v / (1 - b2**t)) + 1e-8), (m, v)


def _descend(o: dict[str, Any], values: Any, slots: Any, grads: Any, t: Any) -> None:
    """Put the optimizer's step for every gradient into `values` and `slots`."""
    for k, g in grads.items():
        values[k], slots[k] = _update(o, values[k], g, slots[k], t)


def _training(workload: Workload) -> Callable[..., Any]:
    import jax

    forward = _models()[workload.name]

    def step(state: Any, x: Any, y: Any) -> Any:
        values, slots, t = state
        buffers = {k: v for k, v in values.items() if layouts.buffer(k)}

        def objective(p: Any) -> Any:
            new = dict(buffers)
            return _cross_entropy(forward(p | buffers, new, x), y), new

        parameters = {k: v for k, v in values.items() if k not in buffers}
        (loss, new), grads = jax.value_and_grad(objective, has_aux=True)(parameters)
        values, slots = parameters | new, dict(slots)
        _descend(workload.optimizer, values, slots, grads, t + 1)
        return (values, slots, t + 1), loss

    return step


def _adversarial(workload: Workload) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    def bce(logit: Any, yes: bool) -> Any:
        return jnp.mean(jax.nn.softplus(-logit if yes else logit))

    def step(state: Any, z: Any, real: Any) -> Any:
        values, slots, t = state
        values, slots = dict(values), dict(slots)
        parts = {
            name: {k: v for k, v in values.items() if k.startswith(name) and not layouts.buffer(k)}
            for name in ("generator", "judge")
        }

        def told(p: Any, made: Any) -> Any:
            new: dict[str, Any] = {}
            p = values | p
            loss = bce(_judge(p, new, real), True) + bce(_judge(p, new, made), False)
            return loss, new

        def make(p: Any) -> Any:
            new: dict[str, Any] = {}
            return _generator(values | p, new, z), new

        made, back, new = jax.vjp(make, parts["generator"], has_aux=True)
        (loss, changed), grads = jax.value_and_grad(told, has_aux=True)(parts["judge"], made)
        values |= changed
        _descend(workload.optimizer, values, slots, grads, t + 1)

        def fooled(made: Any) -> Any:
            new: dict[str, Any] = {}
            return bce(_judge(values, new, made), True), new

        (more, changed), slope = jax.value_and_grad(fooled, has_aux=True)(made)
        values |= new | changed
        _descend(workload.optimizer, values, slots, back(slope)[0], t + 1)
        return (values, slots, t + 1), loss + more

    return step


# -- single kernels -----------------------------------------------------------------------------


def _kernel(workload: Workload, weights: Any, batches: list[Any]) -> Prepared:
    import jax
    import jax.numpy as jnp
    from jax import lax

    kernel = KERNELS[workload.name]
    kind = kernel.options.get("kind")
    if kernel.op == "adam":
        return _adam(weights, batches)
    if kernel.op.startswith("conv"):
        return _convolution(kernel, batches)

    def matmul(a: Any, b: Any) -> Any:
        return lax.dot(a, b, preferred_element_type=jnp.int32 if kind == "int8" else a.dtype)

    functions = {
        "matmul": matmul, "exp": jnp.exp, "tanh": jnp.tanh, "softmax": jax.nn.softmax,
        "gelu": lambda x: jax.nn.gelu(x, approximate=False), "layer_norm": _normalize,
        "embedding": lambda i, table: table[i],
    }  # fmt: skip
    run = jax.jit(functions[kernel.op])
    cast = jnp.bfloat16 if kind == "bf16" else None
    data = [tuple(jnp.asarray(a, cast) for a in b) for b in batches]
    return Prepared(lambda *b: run(*b).block_until_ready(), data, lambda r: [r])


def _convolution(kernel: Any, batches: list[Any]) -> Prepared:
    import jax
    import jax.numpy as jnp
    from jax import lax

    o = kernel.options
    pad = [(o["padding"],) * 2] * 2
    x_shape = tuple(o["x"][i] for i in (0, 2, 3, 1))
    w_shape = tuple(o["w"][i] for i in (2, 3, 1, 0))

    def conv(x: Any, w: Any) -> Any:
        return lax.conv_general_dilated(
            x, w, (o["stride"],) * 2, pad, dimension_numbers=CONV, feature_group_count=o["groups"]
        )

    def data(w: Any, y: Any) -> Any:
        return jax.linear_transpose(
            lambda x: conv(x, w), jax.ShapeDtypeStruct(x_shape, jnp.float32)
        )(y)[0]

    def weight(x: Any, y: Any) -> Any:
        return jax.linear_transpose(
            lambda w: conv(x, w), jax.ShapeDtypeStruct(w_shape, jnp.float32)
        )(y)[0]

    way = kernel.op.removeprefix("conv_")
    run = jax.jit({"forward": conv, "data": data, "weight": weight}[way])
    turned = layouts.convolution_inputs(way)
    arrays = [tuple(jnp.asarray(f(a)) for f, a in zip(turned, b, strict=True)) for b in batches]
    restore = layouts.weight_back if way == "weight" else layouts.back
    return Prepared(lambda *b: run(*b).block_until_ready(), arrays, lambda r: [restore(r)])


def _adam(weights: Any, batches: list[Any]) -> Prepared:
    import jax
    import jax.numpy as jnp

    options = {"name": "Adam", "lr": 1e-4}
    p = jnp.asarray(weights["bias"])

    def step(state: Any, g: Any) -> Any:
        p, slot, t = state
        p, slot = _update(options, p, g, slot, t + 1)
        return p, slot, t + 1

    run = jax.jit(step, donate_argnums=0)
    state: Any = (p, (jnp.zeros_like(p), jnp.zeros_like(p)), jnp.zeros(()))

    def call(g: Any) -> Any:
        nonlocal state
        state = run(state, g)
        return state[0].block_until_ready()

    return Prepared(call, [(jnp.asarray(b[0]),) for b in batches], lambda r: [r])
