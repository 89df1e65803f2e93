"""What pruning does, as functions of a library, to be run on Kiln and on PyTorch."""

from importlib import import_module


def numbers(x):
    return [round(v, 5) for v in x.detach().reshape(-1).tolist()]


def layer(lib, rows=4, columns=3):
    m = lib.nn.Linear(columns, rows)
    values = lib.arange(rows * columns).reshape(rows, columns)
    m.weight.data = ((values * 7) % 13 - 6.3).float() * (1 + 0.01 * rows)
    m.bias.data = lib.arange(rows).float() - 1.5
    return m


def facts(m):
    hooks = [type(h).__name__ for h in m._forward_pre_hooks.values()]
    state = {k: numbers(v) for k, v in m.state_dict().items()}
    return [state, hooks, [n for n, _ in m.named_parameters()], numbers(m.weight)]


def methods(lib):
    prune = import_module(f"{lib.__name__}.nn.utils.prune")
    out = []
    for by in (
        lambda m: prune.l1_unstructured(m, "weight", 5),
        lambda m: prune.l1_unstructured(m, "weight", 0.3),
        lambda m: prune.l1_unstructured(m, "weight", 0),
        lambda m: prune.ln_structured(m, "weight", 2, n=2, dim=0),
        lambda m: prune.ln_structured(m, "weight", 0.34, n=float("inf"), dim=-1),
        lambda m: prune.l1_unstructured(m, "weight", 4, lib.arange(12.0).reshape(4, 3)),
        lambda m: prune.custom_from_mask(m, "bias", lib.tensor([1, 0, 1, 0])),
        lambda m: prune.identity(m, "weight"),
        lambda m: prune.ln_structured(prune.l1_unstructured(m, "weight", 3), "weight", 1, 1, 0),
        lambda m: prune.l1_unstructured(prune.ln_structured(m, "weight", 1, 1, 1), "weight", 3),
    ):
        m = by(layer(lib))
        y = m(lib.ones(2, 3))
        y.sum().backward()
        name = "weight" if hasattr(m, "weight_orig") else "bias"
        grad = getattr(m, name + "_orig").grad
        out += [*facts(m), numbers(y), numbers(grad), prune.is_pruned(m)]
        out += [*facts(prune.remove(m, name)), prune.is_pruned(m)]
    return out


def several(lib):
    prune = import_module(f"{lib.__name__}.nn.utils.prune")
    net = lib.nn.Sequential(layer(lib), lib.nn.ReLU(), layer(lib, 2, 4))
    pairs = [(net[0], "weight"), (net[2], "weight")]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=0.4)
    prune.l1_unstructured(net[0], "weight", amount=2)
    (hook,) = net[0]._forward_pre_hooks.values()
    kinds = [type(h).__name__ for h in hook]
    scores = {(net[2], "bias"): lib.tensor([2.0, 1.0])}
    prune.global_unstructured(
        [(net[2], "bias")], prune.L1Unstructured, importance_scores=scores, amount=1
    )
    fresh = prune.L1Unstructured(amount=2).prune(lib.tensor([3.0, -1.0, 2.0]))
    return [*facts(net[0]), *facts(net[2]), kinds, hook._tensor_name, len(hook), numbers(fresh)]


def refused(lib):
    prune = import_module(f"{lib.__name__}.nn.utils.prune")
    m = layer(lib)
    out = []
    for call in (
        lambda: prune.l1_unstructured(m, "weight", -1),
        lambda: prune.l1_unstructured(m, "weight", 1.5),
        lambda: prune.l1_unstructured(m, "weight", 100),
        lambda: prune.l1_unstructured(m, "weight", "x"),
        lambda: prune.l1_unstructured(m, "nothing", 1),
        lambda: prune.ln_structured(m, "bias", 1, 2, 0),
        lambda: prune.remove(m, "bias"),
        lambda: prune.global_unstructured(m, prune.L1Unstructured, amount=1),
        lambda: prune.custom_from_mask(m, "bias", lib.ones(3)),
        lambda: prune.l1_unstructured(m, "bias", 1, lib.ones(3)),
    ):
        try:
            call()
            out.append(None)
        except Exception as e:
            out.append(e)
    return out
