"""Graphs of PyTorch's innermost ops (`make_fx`): the names can be imported, and say what is missing."""

from ...refusal import refuse

refuse(
    __name__, "make_fx get_proxy_mode maybe_disable_fake_tensor_mode ProxyTorchDispatchMode PythonKeyTracer",
    "Graphs of PyTorch's innermost ops", "kiln.fx.symbolic_trace gives a Graph of calls, kiln.export.export one of a whole program",
)  # fmt: skip
