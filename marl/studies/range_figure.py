"""The figure of a range test (extra ``plot``): a panel for each signal over the learning rate."""

from __future__ import annotations

import numpy as np

from marl.studies.rate_range import RateRange
from marl.studies.statistics import smoothed
from marl.training.curves import Curves, Line, panels, plain
from marl.training.metric_words import words


def range_figure(found: RateRange) -> Curves:
    """Signals as they were, thin, and smoothed; the limit of each and the suggestion as vertical lines."""
    names = list(found.signals)
    titles, lines = [], []
    for name in names:
        values = np.asarray(found.signals[name])
        known = np.isfinite(values)
        rates, raw = np.asarray(found.rates)[known], values[known]
        curve = smoothed(raw, max(1, len(values) // 20)) if len(raw) else raw
        lines.append([Line("smoothed", rates.tolist(), curve.tolist(), 0, faint=[(rates.tolist(), raw.tolist())])])
        titles.append(words(name))
    figure = panels(titles, lines, x="learning rate")
    for name, axis in zip(names, figure.axes, strict=True):
        axis.set_xscale("log")
        values = np.asarray(found.signals[name])
        known = values[np.isfinite(values)]
        if len(known) and known.min() > 0 and known.max() > 100 * known.min():
            axis.set_yscale("log")
        if name in found.limits:
            axis.axvline(found.limits[name], color="k", linestyle=":", label=plain("limit"))
        if found.suggestion is not None:
            axis.axvline(found.suggestion, color="k", label=plain(f"suggestion {found.suggestion:.2g}"))
        axis.legend(fontsize="small")
    return figure
