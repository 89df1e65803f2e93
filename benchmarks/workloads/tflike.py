"""The workloads in TensorFlow: NHWC, whole steps as one `tf.function`, plain or compiled by XLA.

Optimizers are TensorFlow's fused training ops, which are faster than Keras' own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from . import layouts
from .catalog import KERNELS, Workload
from .framework import Prepared

EPS = 1e-5  # of batch norm and layer norm

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def load(kind: str, threads: int) -> None:
    """Import TensorFlow, set its two pools."""
    import tensorflow as tf

    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)


def prepare(
    kind: str, workload: Workload, weights: Any, batches: list[Any], threads: int
) -> Prepared:
    """The workload's step from the weights given."""
    import tensorflow as tf

    function = functools.partial(tf.function, jit_compile=kind == "tf-xla", autograph=False)
    if workload.family == "kernel":
        return _kernel(workload, weights, batches, function)
    data = [tuple(tf.constant(layouts.batch(a)) for a in b) for b in batches]
    p = {
        k: tf.Variable(layouts.weight(k, v), trainable=not layouts.buffer(k))
        for k, v in weights.items()
    }
    if workload.family == "inference":
        run = function(lambda x: _models()[workload.name](p, x))
    elif workload.name == "dcgan":
        run = function(_adversarial(workload, p))
    else:
        run = function(_training(workload, p))
    return Prepared(run, data, lambda r: [layouts.back(r)])


# -- layers: `p` maps names to variables --------------------------------------------------------


def _linear(p: Any, name: str, x: Any) -> Any:
    import tensorflow as tf

    w = p[f"{name}.weight"]
    if len(x.shape) == 2:
        return tf.nn.bias_add(x @ w, p[f"{name}.bias"])
    rows = tf.reshape(x, (-1, x.shape[-1])) @ w
    return tf.reshape(tf.nn.bias_add(rows, p[f"{name}.bias"]), (*x.shape[:-1], w.shape[-1]))


def _conv(p: Any, name: str, x: Any, stride: int = 1, padding: int = 0) -> Any:
    import tensorflow as tf

    pad = [[0, 0], [padding] * 2, [padding] * 2, [0, 0]]
    y = tf.nn.conv2d(x, p[f"{name}.weight"], stride, pad)
    bias = p.get(f"{name}.bias")
    return y if bias is None else tf.nn.bias_add(y, bias)


def _conv_transpose(p: Any, name: str, x: Any) -> Any:
    """Kernel 4, stride 2, padding 1."""
    import tensorflow as tf

    # `layouts.weight` gives (h, w, in, out) flipped; this op takes (h, w, out, in) as it is
    w = tf.transpose(tf.reverse(p[f"{name}.weight"], (0, 1)), (0, 1, 3, 2))
    b, h, wide, _ = x.shape
    y = tf.nn.conv2d_transpose(x, w, (b, 2 * h, 2 * wide, w.shape[2]), 2, "SAME")
    bias = p.get(f"{name}.bias")
    return y if bias is None else tf.nn.bias_add(y, bias)


def _batch_norm(p: Any, name: str, x: Any) -> Any:
    import tensorflow as tf

    y, mean, var, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=p[f"{name}.weight"], offset=p[f"{name}.bias"], mean=[], variance=[], epsilon=EPS
    )
    for key, value in (("mean", mean), ("var", var)):  # TensorFlow's variance is unbiased already
        v = p[f"{name}.running_{key}"]
        v.assign_add(0.1 * (value - v))
    return y


def _layer_norm(p: Any, name: str, x: Any) -> Any:
    return _normalize(x) * p[f"{name}.weight"] + p[f"{name}.bias"]


def _normalize(x: Any) -> Any:
    import tensorflow as tf

    mean, var = tf.nn.moments(x, -1, keepdims=True)
    return (x - mean) * tf.math.rsqrt(var + EPS)


def _flat(x: Any) -> Any:
    """To rows, channels first: PyTorch's order, which the next layer's weights have."""
    import tensorflow as tf

    return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (x.shape[0], -1))


def _max_pool(x: Any) -> Any:
    import tensorflow as tf

    return tf.nn.max_pool2d(x, 2, 2, "VALID")


def _attention(qkv: Any, causal: bool) -> Any:
    """Scaled dot-product attention of four heads over (batch, place, 3 x width)."""
    import tensorflow as tf

    b, t, wide = qkv.shape
    size = wide // 12
    q, k, v = tf.unstack(tf.transpose(tf.reshape(qkv, (b, t, 3, 4, size)), (2, 0, 3, 1, 4)))
    scores = tf.matmul(q, k, transpose_b=True) / size**0.5
    if causal:
        seen = tf.linalg.band_part(tf.ones((t, t), tf.bool), -1, 0)
        scores = tf.where(seen, scores, tf.constant(-1e9))
    out = tf.nn.softmax(scores) @ v
    return tf.reshape(tf.transpose(out, (0, 2, 1, 3)), (b, t, wide // 3))


# -- models -------------------------------------------------------------------------------------


def _mlp(p: Any, x: Any) -> Any:
    import tensorflow as tf

    last = max(int(k.partition(".")[0]) for k in p)
    for i in range(0, last, 2):
        x = tf.nn.relu(_linear(p, f"{i}", x))
    return _linear(p, f"{last}", x)


def _mnist_cnn(p: Any, x: Any) -> Any:
    import tensorflow as tf

    relu = tf.nn.relu
    x = _flat(_max_pool(relu(_conv(p, "2", relu(_conv(p, "0", x))))))
    return _linear(p, "8", relu(_linear(p, "6", x)))


def _cifar_cnn(p: Any, x: Any) -> Any:
    import tensorflow as tf

    for stage in (0, 7, 14):
        for i in (stage, stage + 3):
            x = tf.nn.relu(_batch_norm(p, f"{i + 1}", _conv(p, f"{i}", x, padding=1)))
        x = _max_pool(x)
    return _linear(p, "22", _flat(x))


def _resnet(depths: tuple[int, ...], sizes: str, last: int) -> Callable[..., Any]:
    """`sizes` has the kernel size of each convolution of a block's path."""

    def forward(p: Any, x: Any) -> Any:
        import tensorflow as tf

        relu, norm = tf.nn.relu, "1.running_mean" in p
        gap = 3 if norm else 2  # places in a Sequential from one convolution to the next

        def conv(name: str, i: int, x: Any, stride: int, size: int) -> Any:
            x = _conv(p, f"{name}{i}", x, stride, size // 2)
            return _batch_norm(p, f"{name}{i + 1}", x) if norm else x

        x = relu(conv("", 0, x, 2, 7))
        x = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]])  # not below 0; XLA has no padded pool
        x = tf.nn.max_pool2d(x, 3, 2, "VALID")
        place = gap + 1
        for stage, depth in enumerate(depths):
            for block in range(depth):
                name, y = f"{place}.", x
                stride = 2 if stage and not block else 1
                for i, size in enumerate(map(int, sizes)):
                    y = conv(
                        f"{name}path.", i * gap, y, stride if i == sizes.index("3") else 1, size
                    )
                    y = relu(y) if i < len(sizes) - 1 else y
                if f"{name}short.0.weight" in p:
                    x = conv(f"{name}short.", 0, x, stride, 1)
                x, place = relu(x + y), place + 1
        return _linear(p, f"{last}", tf.reduce_mean(x, (1, 2)))

    return forward


def _recurrent(cell: Callable[..., Any], states: int) -> Callable[..., Any]:
    """The input's projection for all places at once, then the places one after the other, unrolled."""

    def forward(p: Any, x: Any) -> Any:
        import tensorflow as tf

        w, b = p["rnn.weight_hh_l0"], p["rnn.bias_hh_l0"]
        inputs = tf.transpose(x, (1, 0, 2))
        gates = _linear(
            {"i.weight": p["rnn.weight_ih_l0"], "i.bias": p["rnn.bias_ih_l0"]}, "i", inputs
        )
        state = (tf.zeros((x.shape[0], w.shape[0])),) * states
        for g in tf.unstack(gates):
            state = cell(state, g, tf.nn.bias_add(state[0] @ w, b))
        return _linear(p, "head", state[0])

    return forward


def _lstm_cell(state: Any, g: Any, r: Any) -> Any:
    import tensorflow as tf

    i, f, c, o = tf.split(g + r, 4, -1)
    cell = tf.sigmoid(f) * state[1] + tf.sigmoid(i) * tf.tanh(c)
    return tf.sigmoid(o) * tf.tanh(cell), cell


def _gru_cell(state: Any, g: Any, r: Any) -> Any:
    import tensorflow as tf

    (gr, gz, gn), (hr, hz, hn) = tf.split(g, 3, -1), tf.split(r, 3, -1)
    z = tf.sigmoid(gz + hz)
    n = tf.tanh(gn + tf.sigmoid(gr + hr) * hn)
    return ((1 - z) * n + z * state[0],)


def _gpt(p: Any, x: Any) -> Any:
    import tensorflow as tf

    x = tf.gather(p["token.weight"], x) + p["place"]
    for i in range(4):
        n = f"blocks.{i}."
        seen = _attention(_linear(p, n + "qkv", _layer_norm(p, n + "norm1", x)), True)
        x = x + _linear(p, n + "out", seen)
        up = _linear(p, n + "up", _layer_norm(p, n + "norm2", x))
        x = x + _linear(p, n + "down", tf.nn.gelu(up))
    x = _layer_norm(p, "norm", x)
    return tf.reshape(x, (-1, x.shape[-1])) @ p["head.weight"]


def _bert(p: Any, x: Any) -> Any:
    import tensorflow as tf

    x = tf.gather(p["token.weight"], x) + p["place"]
    for i in range(4):
        n = f"layers.{i}."
        names = {"qkv.weight": "in_proj_weight", "qkv.bias": "in_proj_bias"}
        qkv = {k: p[f"{n}self_attn.{v}"] for k, v in names.items()}
        seen = _attention(_linear(qkv, "qkv", x), False)
        x = _layer_norm(p, n + "norm1", x + _linear(p, n + "self_attn.out_proj", seen))
        up = tf.nn.gelu(_linear(p, n + "linear1", x))
        x = _layer_norm(p, n + "norm2", x + _linear(p, n + "linear2", up))
    return x


def _generator(p: Any, z: Any) -> Any:
    import tensorflow as tf

    x = tf.reshape(_linear(p, "generator.0", z), (-1, 128, 7, 7))
    x = tf.nn.relu(_batch_norm(p, "generator.2", tf.transpose(x, (0, 2, 3, 1))))
    x = tf.nn.relu(_batch_norm(p, "generator.5", _conv_transpose(p, "generator.4", x)))
    return tf.tanh(_conv_transpose(p, "generator.7", x))


def _judge(p: Any, x: Any) -> Any:
    import tensorflow as tf

    x = tf.nn.leaky_relu(_conv(p, "judge.0", x, 2, 1))
    x = tf.nn.leaky_relu(_batch_norm(p, "judge.3", _conv(p, "judge.2", x, 2, 1)))
    return _linear(p, "judge.6", _flat(x))


def _models() -> dict[str, Callable[..., Any]]:
    return {
        "mlp": _mlp, "mlp-small": _mlp, "mnist-cnn": _mnist_cnn, "cifar-cnn": _cifar_cnn,
        "resnet18": _resnet((2, 2, 2, 2), "33", 14), "lstm": _recurrent(_lstm_cell, 2),
        "gru": _recurrent(_gru_cell, 1), "gpt": _gpt, "bert": _bert,
        "resnet50": _resnet((3, 4, 6, 3), "131", 21),
    }  # fmt: skip


# -- training steps -----------------------------------------------------------------------------


class _Optimizer:
    """SGD with momentum, Adam or AdamW in TensorFlow's fused ops, as PyTorch defines them."""

    def __init__(self, options: dict[str, Any], variables: list[Any]):
        import tensorflow as tf

        self.o, self.variables = options, variables
        n = 1 if options["name"] == "SGD" else 2
        self.slots = [[tf.Variable(tf.zeros_like(v)) for _ in range(n)] for v in variables]
        self.t = tf.Variable(0.0)

    def step(self, grads: list[Any]) -> None:
        import tensorflow as tf

        o, ops = self.o, tf.raw_ops
        if o["name"] == "SGD":
            for v, s, g in zip(self.variables, self.slots, grads, strict=True):
                ops.ResourceApplyMomentum(
                    var=v.handle, accum=s[0].handle, lr=o["lr"], grad=g, momentum=o["momentum"]
                )
            return
        b1, b2 = o.get("betas", (0.9, 0.999))
        t = self.t.assign_add(1.0)
        eps = 1e-8 * tf.sqrt(1 - b2**t)  # TensorFlow adds it before the correction, PyTorch after
        for v, s, g in zip(self.variables, self.slots, grads, strict=True):
            if o["name"] == "AdamW":
                v.assign(v * (1 - o["lr"] * o["weight_decay"]))
            ops.ResourceApplyAdam(
                var=v.handle, m=s[0].handle, v=s[1].handle, beta1_power=b1**t, beta2_power=b2**t,
                lr=o["lr"], beta1=b1, beta2=b2, epsilon=eps, grad=tf.convert_to_tensor(g),
            )  # fmt: skip


def _training(workload: Workload, p: Any) -> Callable[..., Any]:
    import tensorflow as tf

    forward = _models()[workload.name]
    parameters = [v for v in p.values() if v.trainable]
    optimizer = _Optimizer(workload.optimizer, parameters)

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, forward(p, x))
            loss = tf.reduce_mean(losses)
        optimizer.step(tape.gradient(loss, parameters))
        return loss

    return step


def _adversarial(workload: Workload, p: Any) -> Callable[..., Any]:
    import tensorflow as tf

    own = {
        part: [v for k, v in p.items() if k.startswith(part) and v.trainable]
        for part in ("generator", "judge")
    }
    optimizers = {part: _Optimizer(workload.optimizer, own[part]) for part in own}

    def bce(logit: Any, yes: bool) -> Any:
        return tf.reduce_mean(tf.nn.softplus(-logit if yes else logit))

    def step(z: Any, real: Any) -> Any:
        with tf.GradientTape() as making:
            made = _generator(p, z)
        with tf.GradientTape() as tape:
            told = bce(_judge(p, real), True) + bce(_judge(p, made), False)
        optimizers["judge"].step(tape.gradient(told, own["judge"]))
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(made)
            fooled = bce(_judge(p, made), True)
        slope = tape.gradient(fooled, made)
        optimizers["generator"].step(making.gradient(made, own["generator"], slope))
        return told + fooled

    return step


# -- single kernels -----------------------------------------------------------------------------


def _kernel(workload: Workload, weights: Any, batches: list[Any], function: Any) -> Prepared:
    import tensorflow as tf

    kernel = KERNELS[workload.name]
    kind = kernel.options.get("kind")
    if kernel.op.startswith("conv"):
        return _convolution(kernel, batches, function)
    if kernel.op == "adam":
        p = tf.Variable(weights["bias"])
        optimizer = _Optimizer({"name": "Adam", "lr": 1e-4}, [p])

        def adam(g: Any) -> None:
            optimizer.step([g])

        data = [tuple(tf.constant(a) for a in b) for b in batches]
        return Prepared(function(adam), data, lambda r: [p.numpy()])
    functions = {
        "matmul": lambda a, b: tf.matmul(a, b, output_type=tf.int32 if kind == "int8" else None),
        "exp": tf.exp, "tanh": tf.tanh, "gelu": tf.nn.gelu, "softmax": tf.nn.softmax,
        "layer_norm": _normalize, "embedding": lambda i, table: tf.gather(table, i),
    }  # fmt: skip
    data = [
        tuple(tf.cast(tf.constant(a), tf.bfloat16) if kind == "bf16" else tf.constant(a) for a in b)
        for b in batches
    ]
    return Prepared(function(functions[kernel.op]), data, lambda r: [r])


def _convolution(kernel: Any, batches: list[Any], function: Any) -> Prepared:
    import tensorflow as tf

    o, way, s = kernel.options, kernel.op.removeprefix("conv_"), kernel.options["stride"]
    x_shape = [o["x"][i] for i in (0, 2, 3, 1)]
    w_shape = [o["w"][i] for i in (2, 3, 1, 0)]
    turned = layouts.convolution_inputs(way)
    deep = o["groups"] > 1
    if deep:  # (h, w, channels, 1)
        w_shape = [w_shape[0], w_shape[1], w_shape[3], 1]
    explicit = [0, 0, *[o["padding"]] * 4, 0, 0]
    common: dict[str, Any] = {
        "strides": [1, s, s, 1], "padding": "EXPLICIT", "explicit_paddings": explicit,
    }  # fmt: skip
    ops = tf.raw_ops
    if deep:
        f = {
            "forward": lambda x, w: ops.DepthwiseConv2dNative(
                input=x, filter=tf.reshape(w, w_shape), **common
            ),
            "data": lambda w, y: ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=x_shape, filter=tf.reshape(w, w_shape), out_backprop=y, **common
            ),
            "weight": lambda x, y: ops.DepthwiseConv2dNativeBackpropFilter(
                input=x, filter_sizes=w_shape, out_backprop=y, **common
            ),
        }
    else:
        f = {
            "forward": lambda x, w: ops.Conv2D(input=x, filter=w, **common),
            "data": lambda w, y: ops.Conv2DBackpropInput(
                input_sizes=x_shape, filter=w, out_backprop=y, **common
            ),
            "weight": lambda x, y: ops.Conv2DBackpropFilter(
                input=x, filter_sizes=w_shape, out_backprop=y, **common
            ),
        }
    data = [tuple(tf.constant(t(a)) for t, a in zip(turned, b, strict=True)) for b in batches]

    def read(r: Any) -> list[Any]:
        a = r.numpy()
        if way != "weight":
            return [layouts.back(a)]
        return [a.transpose(2, 3, 0, 1) if deep else layouts.weight_back(a)]

    return Prepared(function(f[way]), data, read)
