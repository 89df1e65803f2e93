"""What training has seen: means within an epoch, and a number for each epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ..errors import KilnKeyError, KilnValueError
from ..extras import need

REDUCTIONS: dict[str, Callable] = {
    "max": max,
    "min": min,
    "sum": sum,
    "last": lambda values: values[-1],
}


class Tally:
    """Means of values over samples, exact over batches of uneven size."""

    def __init__(self) -> None:
        self.sums: dict[str, list[float]] = {}

    def add(
        self, values: Mapping[str, Any], n: int, reduced: Mapping[str, str] | None = None
    ) -> None:
        """Take in the means over a batch of `n` samples; of those in `reduced` the "max", "min" or "sum" is kept."""
        sums = self.sums
        for name, value in values.items():
            entry = sums.get(name)
            how = reduced.get(name) if reduced else None
            if how is not None:
                before = [] if entry is None else [entry[0]]
                sums[name] = [REDUCTIONS[how]((*before, float(value))), 1]
                continue
            if entry is None:
                entry = sums[name] = [0.0, 0]
            entry[0] += float(value) * n
            entry[1] += n

    def logs(self) -> dict[str, Any]:
        """The means so far."""
        return {k: s / n if n else float("nan") for k, (s, n) in self.sums.items()}


class BatchLogs(Mapping[str, Any]):
    """What a hook on batches sees: the epoch's values so far, computed if somebody asks, and while it runs."""

    def __init__(self, compute: Callable[[], dict[str, Any]]) -> None:
        self._compute, self._values = compute, None

    def _now(self) -> dict[str, Any]:
        if self._values is None:
            self._values = self._compute()
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._now()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def __repr__(self) -> str:
        return repr(self._now())


class History:
    """What training has seen: `history["loss"]` is a list with one number for each epoch.

    `epoch` holds the epochs' numbers, `history` the lists by name and `params` what `fit` was told, as in Keras; `plot()` draws them.
    """

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[Any]] = {}
        self.params: dict[str, Any] = {}
        self.interrupted = False
        self._last: set[str] = set()

    def add(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Note an epoch."""
        self.epoch.append(epoch)
        self._last = set(logs)
        for k, v in logs.items():
            self.history.setdefault(k, []).append(v)

    def amend(self, logs: Mapping[str, Any]) -> None:
        """Note values that came to the epoch noted last."""
        for k, v in logs.items():
            values = self.history.setdefault(k, [])
            if k not in self._last:
                values.append(v)
        self._last = set(logs)

    def latest(self) -> dict[str, Any]:
        """The values of the epoch noted last."""
        return {k: self.history[k][-1] for k in self.history if k in self._last}

    def state_dict(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return {"epoch": list(self.epoch), "history": {k: list(v) for k, v in self.history.items()}, "latest": sorted(self._last)}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Be another history from now on."""
        self.epoch, self.history = list(state["epoch"]), {k: list(v) for k, v in state["history"].items()}  # fmt: skip
        self._last = set(state["latest"])

    def __getitem__(self, key: str) -> list[Any]:
        if key not in self.history:
            raise KilnKeyError(
                "History", f"nothing of this name was noted: {key}", repr(key),
                "there are " + (", ".join(self.history) or "no epochs yet"),
            )  # fmt: skip
        return self.history[key]

    def __contains__(self, key: str) -> bool:
        return key in self.history

    def keys(self) -> Iterable[str]:
        """The names of what was noted."""
        return self.history.keys()

    def plot(self, *names: str, path: Any = None) -> Any:
        """Draw the curves, training and validation together; gives a matplotlib Figure.

        `names` chooses among the values ("loss", "accuracy", …; all by default); `path` saves the picture.
        Needs matplotlib: KilnImportError without it.
        """
        numbers = {k: v for k, v in self.history.items() if v and isinstance(v[0], int | float)}
        shown = list(names) or [k for k in numbers if not k.startswith("val_")]
        shown += [] if names else [k for k in numbers if k.startswith("val_") and k[4:] not in numbers]  # fmt: skip
        for name in shown:
            self[name]
        if not shown:
            raise KilnValueError("History.plot", "there is nothing to draw", repr(self), "call fit first")  # fmt: skip
        need("matplotlib", "demo", "History.plot")
        figure, axes = panels(len(shown))
        for ax, name in zip(axes, shown, strict=True):
            for key, style, label in ((name, "-", "training"), ("val_" + name, "--", "validation")):
                if key in numbers:
                    y = numbers[key]
                    x = [e + 1 for e in self.epoch[len(self.epoch) - len(y) :]]
                    marker = "o" if len(y) < 30 else None
                    ax.plot(x, y, style, marker=marker, ms=3, lw=1.4, label=label)
            ax.set(title=name, xlabel="epoch")
            ax.xaxis.get_major_locator().set_params(integer=True)
            if "val_" + name in numbers:
                ax.legend(frameon=False)
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure

    def __repr__(self) -> str:
        last = ", ".join(f"{k}={v[-1]:.4g}" for k, v in self.history.items() if isinstance(v[-1], int | float))  # fmt: skip
        return f"History({len(self.epoch)} epochs{': ' + last if last else ''})"


def panels(n: int) -> tuple[Any, list[Any]]:
    """A figure of its own, no window, with `n` panels side by side, three in a row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(n, 3)
    down = -(-n // across)
    figure = Figure(figsize=(4.5 * across, 3.2 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for ax in axes[n:]:
        ax.remove()
    for ax in axes[:n]:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes[:n]


__all__ = ["BatchLogs", "History", "Tally", "panels"]
