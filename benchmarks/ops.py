"""Large calls of every op in eager mode, forward and backward, against torch: the ratio table.

Each op and composition of the registry is called once with arguments of about a million elements, made
from its own samples with all sizes multiplied (`op_cases`), and so is torch's function of that name.
Both run in this process in turn, A B A B, on the same values; times and ratios are those of the quickest
rounds, as other work on the machine slows torch's threads down far more than Kiln's (`--clock cpu` takes
medians of processor time, at one thread). Backward is `out.backward(g)` of the first floating result; where
that only reshapes g, PyTorch keeps g as `.grad`, to which a second backward then adds, and Kiln copies it.
Where either needs long, arguments have fewer elements. Results add up in one file, so that the whole
can be measured in pieces: `python -m benchmarks.ops --only '^a' --out ops.json`, and `--table` writes
the Markdown page.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import banner, describe, peer, ratio
from .op_cases import Call, calls, torch_value
from .op_facts import shares, why
from .op_reasons import reason

_BLOCK_S = 1e-3  # a block of calls takes about so long
_MOST_S = 0.1  # the longest call that is measured
_SMALL = 1 << 11, 1 << 14  # elements of calls from whose time that of a large one is guessed
_FEW = 1 << 8  # elements of a call that shows what is spent whatever the size
SLOW = 2  # the ratio from where on a row says why


now: Callable[[], float] = time.perf_counter
"""What the time is measured with."""


def _clock(fn: Callable[[], Any], count: int) -> float:
    start = now()
    for _ in range(count):
        fn()
    return (now() - start) / count


def _settle(fn: Callable[[], Any]) -> float:
    """The time of a call after the first ones."""
    fn()
    return _clock(fn, 1)


def _pair(ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> tuple[float, ...]:
    """(our time, theirs, the ratio) of two calls in turn."""
    both = ours, theirs
    counts = [max(1, int(_BLOCK_S / max(_settle(fn), 1e-7))) for fn in both]
    times: tuple[list[float], list[float]] = [], []
    for i in range(rounds):
        order = (0, 1) if i % 2 else (1, 0)
        for side in order:
            time.sleep(1e-3)  # the other's threads fall asleep
            both[side]()
            times[side].append(_clock(both[side], counts[side]))
    if now is time.thread_time:
        return *map(statistics.median, times), ratio(*times)
    quickest = tuple(map(min, times))
    return *quickest, quickest[0] / quickest[1]


def _leaf(result: Any, tensor: type) -> Any:
    """The first floating tensor of a result."""
    if isinstance(result, tensor):
        return result if result.dtype.is_floating_point else None
    if isinstance(result, list | tuple):
        return next((t for r in result if (t := _leaf(r, tensor)) is not None), None)
    return None


def _backward(lib: Any, call: Callable, args: tuple, kwargs: dict, leaves: list) -> Any:
    """(a function that runs backward of one call again and again, the gradient that it passes in).

    None where there is nothing to differentiate.
    """
    for x in leaves:
        if x.dtype.is_floating_point:
            x.requires_grad_()
    out = _leaf(call(*args, **kwargs), lib.Tensor)
    if out is None or not out.requires_grad:
        return None
    g = lib.ones(tuple(out.shape), dtype=out.dtype)

    def run() -> None:
        for x in leaves:
            x.grad = None
        out.backward(g, retain_graph=True)

    return run, g


def _affordable(call: Call) -> int:
    """As many elements as take neither library too long, guessed from calls with few."""
    import torch

    import kiln

    size, t = 0, 0.0
    for size in _SMALL:
        args, kwargs = call.scaled(size)
        theirs, given = torch_value(args), torch_value(kwargs)
        ours, named = kiln_value(args), kiln_value(kwargs)
        with torch.no_grad(), kiln.no_grad():
            t = max(
                _settle(lambda a=theirs, k=given: call.torch(*a, **k)),
                _settle(lambda a=ours, k=named: call.kiln(*a, **k)),
            )
        if t * call.size / size <= _MOST_S:
            return call.size
    return max(size, 1 << int(size * _MOST_S / t).bit_length() - 1)


def measure(call: Call, rounds: int) -> dict[str, Any]:
    """One row: times in seconds and ratios, or why there are none."""
    import torch

    import kiln

    row: dict[str, Any] = {}
    try:
        args, kwargs = call.scaled(_affordable(call))
        ta, tk = torch_value(args), torch_value(kwargs)
        oa, ok = kiln_value(args), kiln_value(kwargs)
        row["case"] = call.shown(args, kwargs)
        few, less = call.scaled(_FEW)
        few, less = kiln_value(few), kiln_value(less)
        given = _tensors((ta, tk), torch.Tensor), _tensors((oa, ok), kiln.Tensor)
        with torch.no_grad(), kiln.no_grad():
            ours, theirs = lambda: call.kiln(*oa, **ok), lambda: call.torch(*ta, **tk)
            row["forward"] = _pair(ours, theirs, rounds)
            if row["forward"][2] > SLOW:
                both = shares(theirs(), *given[0]), shares(ours(), *given[1])
                row["why"] = why(row["forward"][0], lambda: call.kiln(*few, **less), ours, *both)
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}".splitlines()[0]}
    try:
        theirs = _backward(torch, call.torch, ta, tk, given[0])
        ours = _backward(kiln, call.kiln, oa, ok, given[1])
        if ours is not None and theirs is not None:
            row["backward"] = _pair(ours[0], theirs[0], rounds)
            if row["backward"][2] > SLOW:
                small = _backward(kiln, call.kiln, few, less, _tensors((few, less), kiln.Tensor))
                leaf = next(x for x in given[0] if x.grad is not None)
                both = shares(leaf.grad, theirs[1]), False
                row["why backward"] = why(row["backward"][0], (small or ours)[0], ours[0], *both)
    except Exception as e:
        row["backward error"] = f"{type(e).__name__}: {e}".splitlines()[0]
    return row


def kiln_value(x: Any) -> Any:
    """Arguments with Kiln's tensors in place of arrays."""
    import numpy as np

    from kiln.tensor import wrap

    if isinstance(x, np.ndarray):
        return wrap(x.copy(order="K"))
    if isinstance(x, dict):
        return {k: kiln_value(v) for k, v in x.items()}
    return type(x)(map(kiln_value, x)) if type(x) in (list, tuple) else x


def _tensors(x: Any, kind: type) -> list:
    if isinstance(x, kind):
        return [x]
    values = x.values() if isinstance(x, dict) else x if isinstance(x, list | tuple) else ()
    return [t for y in values for t in _tensors(y, kind)]


def page(results: dict[str, Any], how: str, note: str = "") -> str:
    """The table of all results as Markdown; `how` they were measured."""
    rows, ratios, slow = [], [], 0
    for name, r in sorted(results.items()):
        if "error" in r:
            continue
        cells = []
        worst = 0.0
        for way in ("forward", "backward"):
            if way in r:
                ours, theirs, q = r[way]
                cells.append(f"{ours * 1e6:,.0f} | {theirs * 1e6:,.0f} | {q:.2f}")
                ratios.append(q)
                worst = max(worst, q)
            else:
                cells.append("| | ")
        slow += worst > SLOW
        rows.append(f"| {name} | {r['case']} | {' | '.join(cells)} | {reason(name, r)} |")
    left = sorted(n for n, r in results.items() if "error" in r)
    machine, software = describe()
    ratios.sort()
    return "\n".join([
        "# Large eager ops beside PyTorch", "",
        f"{len(rows)} ops, {len(ratios)} ratios of Kiln's time to PyTorch's, {how}: median "
        f"{statistics.median(ratios):.2f}, {sum(q <= 1 for q in ratios)} at most 1, {sum(q > 2 for q in ratios)} "
        f"above 2 (in {slow} ops). Made by `python -m benchmarks.ops` (its docstring says how); {machine}, {software}.",
        *(["", note] if note else []), "", "| op | arguments | forward, Kiln µs | PyTorch µs | ratio | backward, Kiln µs | PyTorch µs | ratio | why above 2 |",
        "|---|---|---|---|---|---|---|---|---|", *rows, "",
        "Not in the table, as torch has no such function, or none that takes these arguments: " + ", ".join(left) + ".", "",
    ])  # fmt: skip


def main() -> None:
    """Measure what is asked for, add it to the results, and print it."""
    cli = argparse.ArgumentParser(prog="python -m benchmarks.ops", description=__doc__)
    cli.add_argument("--only", default="", help="a regular expression of names")
    cli.add_argument("--rounds", type=int, default=7, help="blocks of each library (default: 7)")
    cli.add_argument("--threads", type=int, default=2)
    cli.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    cli.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    cli.add_argument("--missing", action="store_true", help="only what --out does not hold yet")
    cli.add_argument("--out", type=Path, default=Path("kiln-ops.json"))
    cli.add_argument("--note", default="", help="what else the page says of how it was measured")
    cli.add_argument("--table", type=Path, help="write the page of all results here")
    args = cli.parse_args()
    torch = peer("torch")
    if torch is None:
        return
    import kiln

    global now
    if args.clock == "cpu":
        now, args.threads = time.thread_time, 1
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    kiln.set_num_threads(args.threads)
    banner()
    results = json.loads(args.out.read_text()) if args.out.exists() else {}
    start = time.monotonic()
    for call in calls():
        if not re.search(args.only, call.name) or (args.missing and call.name in results):
            continue
        if time.monotonic() - start > args.seconds:
            break
        r = results[call.name] = measure(call, args.rounds)
        ways = [f"{w} {r[w][2]:.2f} ({r[w][0] * 1e6:.0f} µs)" for w in ("forward", "backward") if w in r]  # fmt: skip
        print(f"{call.name:32} {r.get('case', r.get('error'))}: {', '.join(ways)}", flush=True)
        args.out.write_text(json.dumps(results))
    if args.table:
        clock = "by processor time" if args.clock == "cpu" else "by wall clock"
        how = f"on {args.threads} thread{'s' * (args.threads > 1)}, {clock}"
        args.table.write_text(page(results, how, args.note))


if __name__ == "__main__":
    main()
