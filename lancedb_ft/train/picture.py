"""``training.png``: dev, probes and loss by step, for the version's folder and its model card."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["dev_curve", "require_matplotlib", "training_picture"]

_INCHES, _DPI = (8.0, 6.0), 110
#: Okabe and Ito, "Color Universal Design" (2008): told apart whatever one's eyes see.
_DEV, _PROBES = "#0072B2", ("#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
_LOSS, _LEVEL, _BEST = "#555555", "#999999", "#000000"
#: Beside each loss the mean of so many around it: single batches jump.
_SMOOTHED_OVER = 9


def require_matplotlib() -> None:
    """Raise `MissingExtraError` where matplotlib is missing: better before a training than after.

    It is looked for, not imported: that takes most of a second.
    """
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise MissingExtraError("matplotlib", extra="train", purpose="The picture of the training")


def dev_curve(
    figures: Mapping[int, Mapping[str, Any]], metric: str
) -> dict[int, tuple[float, tuple[float, float]]]:
    """Return the mean and the interval of one metric by step."""
    found = {step: figures[step][metric] for step in figures}
    return {s: (float(f["mean"]), (f["ci95"][0], f["ci95"][1])) for s, f in found.items()}


def training_picture(
    *,
    title: str,
    losses: Mapping[int, float],
    dev: Mapping[int, tuple[float, tuple[float, float]]],
    metric: str,
    best_step: int,
    probes: Mapping[str, Mapping[int, float]] | None = None,
    levels: Mapping[str, float] | None = None,
) -> bytes:
    """Draw the course of a training.

    Parameters
    ----------
    title
        Stands above, such as the name of the model.
    losses
        ``{step: loss}``; where there are none they have no part in the picture.
    dev
        ``{step: (mean, interval)}`` of the metric that decides. Step 0 is the base model.
    metric
        Its name.
    best_step
        The step that was saved.
    probes
        ``{probe: {step: mean}}``.
    levels
        What dev is compared with, by name: lines that no step moves, such as a teacher's figure.

    Returns
    -------
    bytes
        A PNG of 880 x 660 pixels.

    Raises
    ------
    MissingExtraError
        matplotlib is not installed.
    """
    require_matplotlib()
    # Without pyplot: no window, no global state, nothing to close.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    heights = (3, 2) if losses else (1,)
    parts = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[
        :, 0
    ]
    above = parts[0]
    figure.suptitle(title)
    _draw_figures(above, dev, metric, probes or {})
    for name, level in (levels or {}).items():
        above.axhline(level, color=_LEVEL, linestyle="--", label=f"{name}, {level:.4f}")
    if losses:
        _draw_losses(parts[1], losses)
    parts[-1].set_xlabel("step")
    for axes in parts:
        axes.axvline(best_step, color=_BEST, linestyle=":", linewidth=1)
        axes.grid(alpha=0.3)
    if best_step in dev:
        value = dev[best_step][0]
        label = f"saved: step {best_step}, {value:.4f}"
        above.plot([best_step], [value], "o", color=_BEST, label=label, zorder=3)
    above.legend(fontsize="small")
    png = io.BytesIO()
    # Without the date and the version of matplotlib, the same training gives the same file.
    figure.savefig(png, format="png", metadata={"Software": None})
    return png.getvalue()


def _draw_figures(
    axes: Axes,
    dev: Mapping[int, tuple[float, tuple[float, float]]],
    metric: str,
    probes: Mapping[str, Mapping[int, float]],
) -> None:
    steps = sorted(dev)
    means = [dev[step][0] for step in steps]
    low, high = ([dev[step][1][side] for step in steps] for side in (0, 1))
    axes.plot(steps, means, ".-", color=_DEV, label=f"dev {metric}")
    axes.fill_between(steps, low, high, color=_DEV, alpha=0.15, linewidth=0)
    for place, (name, curve) in enumerate(probes.items()):
        at = sorted(curve)
        colour = _PROBES[place % len(_PROBES)]
        axes.plot(at, [curve[s] for s in at], ".--", color=colour, label=name)
    axes.set_ylabel(metric)


def _draw_losses(axes: Axes, losses: Mapping[int, float]) -> None:
    steps = sorted(losses)
    values = [losses[step] for step in steps]
    if len(steps) > 2 * _SMOOTHED_OVER:
        axes.plot(steps, values, color=_LOSS, alpha=0.3, linewidth=0.8)
        values = _smoothed(values)
    axes.plot(steps, values, color=_LOSS)
    axes.set_ylabel("loss")


def _smoothed(values: list[float]) -> list[Any]:
    import numpy as np

    half = _SMOOTHED_OVER // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    return [float(np.mean(window)) for window in windows]
