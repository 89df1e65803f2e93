"""The inference workloads in ONNX Runtime: graphs written with `onnx.helper`, all optimizations on."""

from __future__ import annotations

from typing import Any

import numpy as np

from .catalog import KERNELS, Workload
from .framework import Missing, Prepared

OPSET = 20


def load(kind: str, threads: int) -> None:
    """Import ONNX Runtime; a session gets its threads where it is made."""
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401


class Net:
    """An ONNX graph under construction: `add` appends a node and gives the name of its output."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self.weights, self.nodes, self.constants = weights, [], {}

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], **attributes))
        return out

    def constant(self, value: Any) -> str:
        """An array, or a parameter by its name."""
        name = value if isinstance(value, str) else f"c{len(self.constants)}"
        self.constants[name] = self.weights[value] if isinstance(value, str) else np.asarray(value)
        return name

    def session(self, inputs: tuple[np.ndarray, ...], out: str, threads: int) -> Any:
        """The graph, ready to run on inputs i0, i1, …"""
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper

        def kind(a: np.ndarray) -> int:
            return helper.np_dtype_to_tensor_dtype(a.dtype)

        graph = helper.make_graph(
            self.nodes, "workload",
            [helper.make_tensor_value_info(f"i{i}", kind(a), a.shape) for i, a in enumerate(inputs)],
            [helper.make_tensor_value_info(out, TensorProto.UNDEFINED, None)],
            [numpy_helper.from_array(np.ascontiguousarray(a), n) for n, a in self.constants.items()],
        )  # fmt: skip
        graph.output[0].ClearField("type")
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = 10
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def prepare(
    kind: str, workload: Workload, weights: Any, batches: list[Any], threads: int
) -> Prepared:
    """The workload's forward pass; raises Missing for kernels that have no node."""
    net = Net(weights)
    if workload.family == "kernel":
        out = _kernel(net, workload, batches[0])
    else:
        out = {"resnet50": _resnet50, "bert": _bert}[workload.name](net)
    session = net.session(batches[0], out, threads)

    def call(*feeds: Any) -> Any:
        return session.run(None, {f"i{i}": a for i, a in enumerate(feeds)})

    return Prepared(call, batches, lambda r: r)


def _kernel(net: Net, workload: Workload, inputs: tuple[np.ndarray, ...]) -> str:
    kernel = KERNELS[workload.name]
    o = kernel.options
    if kernel.op == "matmul" and o["kind"] != "bf16":
        return net.add("MatMulInteger" if o["kind"] == "int8" else "MatMul", "i0", "i1")
    if kernel.op == "conv_forward":
        return net.add(
            "Conv",
            "i0",
            "i1",
            strides=[o["stride"]] * 2,
            pads=[o["padding"]] * 4,
            group=o["groups"],
        )
    if kernel.op == "layer_norm":
        scale = net.constant(np.ones(inputs[0].shape[-1], np.float32))
        return net.add("LayerNormalization", "i0", scale, epsilon=1e-5)
    if kernel.op == "embedding":
        return net.add("Gather", "i1", "i0")
    names = {"exp": "Exp", "tanh": "Tanh", "gelu": "Gelu", "softmax": "Softmax"}
    if kernel.op not in names:
        raise Missing(f"{workload.title} in ONNX Runtime")
    return net.add(names[kernel.op], "i0")


def _conv(net: Net, name: str, x: str, stride: int) -> str:
    w, b = net.constant(f"{name}.weight"), net.constant(f"{name}.bias")
    pad = net.weights[f"{name}.weight"].shape[2] // 2
    return net.add("Conv", x, w, b, strides=[stride] * 2, pads=[pad] * 4)


def _resnet50(net: Net) -> str:
    x = net.add("Relu", _conv(net, "0", "i0", 2))
    x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    place = 3
    for stage, depth in enumerate((3, 4, 6, 3)):
        for block in range(depth):
            name, y, stride = f"{place}.", x, 2 if stage and not block else 1
            for i in (0, 2, 4):
                y = _conv(net, f"{name}path.{i}", y, stride if i == 2 else 1)
                y = net.add("Relu", y) if i < 4 else y
            if f"{name}short.0.weight" in net.weights:
                x = _conv(net, f"{name}short.0", x, stride)
            x, place = net.add("Relu", net.add("Add", y, x)), place + 1
    x = net.add("Flatten", net.add("GlobalAveragePool", x))
    return net.add("Gemm", x, net.constant("21.weight"), net.constant("21.bias"), transB=1)


def _linear(net: Net, x: str, weight: str, bias: str) -> str:
    """x @ w.T + b, the weight transposed beforehand."""
    w = net.constant(net.weights[weight].T)
    return net.add("Add", net.add("MatMul", x, w), net.constant(bias))


def _norm(net: Net, x: str, name: str) -> str:
    scale, shift = net.constant(f"{name}.weight"), net.constant(f"{name}.bias")
    return net.add("LayerNormalization", x, scale, shift, epsilon=1e-5)


def _bert(net: Net) -> str:
    x = net.add("Gather", net.constant("token.weight"), "i0")
    x = net.add("Add", x, net.constant("place"))
    split = net.constant(np.array([0, 0, 4, 64]))  # 0: as it is
    whole = net.constant(np.array([0, 0, 256]))
    scale = net.constant(np.float32(1 / 8))
    for i in range(4):
        n = f"layers.{i}."
        parts = []
        w, b = (
            net.weights[n + "self_attn.in_proj_weight"],
            net.weights[n + "self_attn.in_proj_bias"],
        )
        for j in range(3):
            rows = slice(j * 256, (j + 1) * 256)
            y = net.add("MatMul", x, net.constant(w[rows].T))
            y = net.add("Add", y, net.constant(b[rows]))
            perm = [0, 2, 3, 1] if j == 1 else [0, 2, 1, 3]
            parts.append(net.add("Transpose", net.add("Reshape", y, split), perm=perm))
        q, k, v = parts
        scores = net.add("Softmax", net.add("Mul", net.add("MatMul", q, k), scale))
        seen = net.add("Transpose", net.add("MatMul", scores, v), perm=[0, 2, 1, 3])
        seen = net.add("Reshape", seen, whole)
        out = f"{n}self_attn.out_proj."
        x = _norm(
            net, net.add("Add", x, _linear(net, seen, out + "weight", out + "bias")), n + "norm1"
        )
        up = net.add("Gelu", _linear(net, x, n + "linear1.weight", n + "linear1.bias"))
        down = _linear(net, up, n + "linear2.weight", n + "linear2.bias")
        x = _norm(net, net.add("Add", x, down), n + "norm2")
    return x
