"""`SummaryWriter`'s calls to services that keep experiments: MLflow (extra [mlflow]), Weights & Biases (extra [wandb])."""

from __future__ import annotations

import io
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from ..errors import KilnNotImplementedError, KilnValueError, describe
from ..extras import need
from . import pictures, summary
from .pictures import array

BINS = 64
"""Of a histogram whose bins are not given: services show few."""


class Service:
    """What the writers to services share: values are made ready here, a subclass hands them over.

    Kinds that the service has no place for raise NotImplementedError: an event file of `SummaryWriter` holds them.
    """

    _name = "the service"

    def _number(self, tag: str, x: float, step: int | None, walltime: float | None) -> None:
        raise NotImplementedError

    def _picture(self, tag: str, rows: np.ndarray, step: int | None) -> None:
        raise NotImplementedError

    def _file(self, tag: str, content: bytes, suffix: str, step: int | None) -> None:
        raise NotImplementedError

    def _text(self, tag: str, text: str, step: int | None) -> None:
        raise NotImplementedError

    def _histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int | None) -> None:
        raise NotImplementedError

    def _settings(self, values: dict[str, Any]) -> None:
        raise NotImplementedError

    # ---- SummaryWriter's interface

    def add_scalar(
        self, tag: str, scalar_value: Any, global_step: Any = None, walltime: float | None = None,
        new_style: bool = False, double_precision: bool = False,
    ) -> None:  # fmt: skip
        """Add a number, or a tensor with one element, to the curve `tag`."""
        self._number(tag, summary.number(scalar_value, "add_scalar"), _step(global_step), walltime)

    def add_scalars(
        self, main_tag: str, tag_scalar_dict: dict[str, Any], global_step: Any = None,
        walltime: float | None = None,
    ) -> None:  # fmt: skip
        """Add to several curves: `main_tag`/name for each."""
        for tag, x in tag_scalar_dict.items():
            self.add_scalar(f"{main_tag}/{tag}", x, global_step, walltime)

    def add_histogram(
        self, tag: str, values: Any, global_step: Any = None, bins: Any = "tensorflow",
        walltime: float | None = None, max_bins: int | None = None,
    ) -> None:  # fmt: skip
        """Add how values are distributed."""
        a = array(values).reshape(-1).astype(np.float64)
        if a.size == 0:
            raise KilnValueError("add_histogram", "The input has no element.", describe(values), "")
        counts, edges = np.histogram(a, (max_bins or BINS) if isinstance(bins, str) else bins)
        self._histogram(tag, counts, edges, _step(global_step))

    def add_image(
        self, tag: str, img_tensor: Any, global_step: Any = None, walltime: float | None = None,
        dataformats: str = "CHW",
    ) -> None:  # fmt: skip
        """Add a picture: uint8 in [0, 255] or floats in [0, 1]."""
        rows = pictures.as_rows(img_tensor, dataformats, "add_image")
        self._picture(tag, rows, _step(global_step))

    def add_images(
        self, tag: str, img_tensor: Any, global_step: Any = None, walltime: float | None = None,
        dataformats: str = "NCHW",
    ) -> None:  # fmt: skip
        """Add several pictures as a grid."""
        self.add_image(tag, img_tensor, global_step, walltime, dataformats)

    def add_image_with_boxes(
        self, tag: str, img_tensor: Any, box_tensor: Any, global_step: Any = None,
        walltime: float | None = None, rescale: float = 1, dataformats: str = "CHW",
        labels: str | Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Add a picture with boxes (left, top, right, bottom) on it."""
        labels = [labels] if isinstance(labels, str) else labels
        rows = pictures.as_rows(img_tensor, dataformats, "add_image_with_boxes")
        rows = pictures.with_boxes(rows, array(box_tensor), labels)
        self._picture(tag, pictures.rescaled(rows, rescale), _step(global_step))

    def add_figure(
        self, tag: str, figure: Any, global_step: Any = None, close: bool = True,
        walltime: float | None = None,
    ) -> None:  # fmt: skip
        """Add one of Matplotlib's figures, or a list of them, as a picture."""
        drawn = pictures.figure(figure, close)
        self.add_image(tag, drawn, global_step, walltime, "NCHW" if drawn.ndim == 4 else "CHW")

    def add_video(
        self, tag: str, vid_tensor: Any, global_step: Any = None, fps: float = 4,
        walltime: float | None = None,
    ) -> None:  # fmt: skip
        """Add videos [N, T, C, H, W] side by side, as a GIF."""
        self._file(tag, summary.animation(vid_tensor, fps)[1], ".gif", _step(global_step))

    def add_audio(
        self, tag: str, snd_tensor: Any, global_step: Any = None, sample_rate: int = 44100,
        walltime: float | None = None,
    ) -> None:  # fmt: skip
        """Add sound in [-1, 1], as a WAV file."""
        self._file(tag, summary.wav(snd_tensor, sample_rate)[0], ".wav", _step(global_step))

    def add_text(
        self, tag: str, text_string: str, global_step: Any = None, walltime: float | None = None
    ) -> None:
        """Add a text."""
        self._text(tag, str(text_string), _step(global_step))

    def add_hparams(
        self, hparam_dict: dict[str, Any], metric_dict: dict[str, Any],
        hparam_domain_discrete: dict[str, list] | None = None, run_name: str | None = None,
        global_step: Any = None,
    ) -> None:  # fmt: skip
        """Add the run's hyper-parameters and the metrics that came of them."""
        self._settings({k: _plain(v) for k, v in hparam_dict.items() if v is not None})
        for tag, x in metric_dict.items():
            self.add_scalar(tag, x, global_step)

    def flush(self) -> None:
        """Nothing waits here: services have queues of their own."""

    def close(self) -> None:
        """End the run."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_ELSEWHERE = (
    "add_custom_scalars", "add_custom_scalars_marginchart", "add_custom_scalars_multilinechart", "add_embedding",
    "add_graph", "add_histogram_raw", "add_mesh", "add_pr_curve", "add_pr_curve_raw", "add_profile", "add_tensor",
)  # fmt: skip


def _refusing(kind: str) -> Callable:
    def refuse(self: Service, *args: Any, **kwargs: Any) -> None:
        raise KilnNotImplementedError(
            kind, f"{self._name} has no place for this kind", type(self).__name__,
            "write it with kiln.board.SummaryWriter, for TensorBoard",
        )  # fmt: skip

    refuse.__name__, refuse.__doc__ = kind, "Only in event files: NotImplementedError."
    return refuse


for _kind in _ELSEWHERE:
    setattr(Service, _kind, _refusing(_kind))


def _step(step: Any) -> int | None:
    return None if step is None else int(step)


def _plain(x: Any) -> Any:
    """A hyper-parameter as services take it: text, bool or number."""
    if isinstance(x, bool | int | float | str):
        return x
    return summary.number(x, "add_hparams")


class MLflowWriter(Service):
    """`SummaryWriter`'s calls, kept by MLflow: numbers as metrics, hyper-parameters as parameters, all else as files of the run.

    The run belongs to `experiment` (made where it isn't there) at `tracking_uri` (MLflow's setting). ImportError
    without the package: extra [mlflow].

    >>> with MLflowWriter("digits", run_name="first") as board:
    ...     board.add_scalar("loss", 0.25, global_step=1)
    """

    _name = "MLflow"

    def __init__(
        self, experiment: str = "kiln", run_name: str | None = None, tracking_uri: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        mlflow = need("mlflow", "mlflow", "MLflowWriter")
        self.client = mlflow.MlflowClient(tracking_uri)
        found = self.client.get_experiment_by_name(experiment)
        number = self.client.create_experiment(experiment) if found is None else found.experiment_id
        self.run = self.client.create_run(number, run_name=run_name, tags=tags)
        self.run_id: str = self.run.info.run_id

    def _number(self, tag: str, x: float, step: int | None, walltime: float | None) -> None:
        when = int(1000 * (time.time() if walltime is None else walltime))
        self.client.log_metric(self.run_id, tag, x, when, step or 0)

    def _picture(self, tag: str, rows: np.ndarray, step: int | None) -> None:
        self._file(tag, pictures.png(rows), ".png", step)

    def _file(self, tag: str, content: bytes, suffix: str, step: int | None) -> None:
        place, _, name = tag.rpartition("/")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name + ("" if step is None else f"_{step:08}") + suffix)
            path.write_bytes(content)
            self.client.log_artifact(self.run_id, str(path), place or None)

    def _text(self, tag: str, text: str, step: int | None) -> None:
        self._file(tag, text.encode(), ".md", step)

    def _histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int | None) -> None:
        content = json.dumps({"counts": counts.tolist(), "edges": edges.tolist()})
        self._file(tag, content.encode(), ".json", step)

    def _settings(self, values: dict[str, Any]) -> None:
        for k, v in values.items():
            self.client.log_param(self.run_id, k, v)

    def close(self) -> None:
        """End the run."""
        self.client.set_terminated(self.run_id)


class WandbWriter(Service):
    """`SummaryWriter`'s calls, kept by Weights & Biases; arguments are those of `wandb.init` (project, name, dir, mode, …).

    Curves are drawn over `global_step`, so steps may come in any order. ImportError without the package: extra [wandb].

    >>> with WandbWriter(project="digits", mode="offline") as board:
    ...     board.add_scalar("loss", 0.25, global_step=1)
    """

    _name = "W&B"

    def __init__(self, **settings: Any) -> None:
        self._wandb = need("wandb", "wandb", "WandbWriter")
        self.run = self._wandb.init(**settings)
        self.run.define_metric("global_step", hidden=True)
        self.run.define_metric("*", step_metric="global_step")

    def _log(self, tag: str, value: Any, step: int | None) -> None:
        self.run.log({tag: value} if step is None else {tag: value, "global_step": step})

    def _number(self, tag: str, x: float, step: int | None, walltime: float | None) -> None:
        self._log(tag, x, step)

    def _picture(self, tag: str, rows: np.ndarray, step: int | None) -> None:
        self._log(tag, self._wandb.Image(rows), step)

    def _file(self, tag: str, content: bytes, suffix: str, step: int | None) -> None:
        if suffix == ".gif":
            self._log(tag, self._wandb.Video(io.BytesIO(content), format="gif"), step)
            return
        with tempfile.TemporaryDirectory() as folder:  # it is copied into the run's files
            path = Path(folder, f"sound{suffix}")
            path.write_bytes(content)
            self._log(tag, self._wandb.Audio(str(path)), step)

    def _text(self, tag: str, text: str, step: int | None) -> None:
        self._log(tag, self._wandb.Table(columns=["text"], data=[[text]]), step)

    def _histogram(self, tag: str, counts: np.ndarray, edges: np.ndarray, step: int | None) -> None:
        self._log(tag, self._wandb.Histogram(np_histogram=(counts, edges)), step)

    def _settings(self, values: dict[str, Any]) -> None:
        self.run.config.update(values, allow_val_change=True)

    def close(self) -> None:
        """End the run."""
        self.run.finish()
