"""Where in the cell the error sits: each atom's deviation against its distance from the defect."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from bptt_relax.report import style
from bptt_relax.report.names import STAGES, stage_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 8
"""Atoms in a bin; a bin with fewer is joined with the next one, since their quartiles say nothing."""


def displacement_by_distance(entries: Sequence[Mapping[str, Any]]) -> "Figure":
    """Median and quartiles of the atoms' distance from their DFT positions, by distance from the defect.

    Args:
        entries: one per structure: ``distance`` from the defect and, for each stage, distance from the DFT
            position where its relaxation ended, (n,) angstrom each; ``reference``, where given, is the distance
            from the DFT position before any relaxation.
    """
    lines = [key for key in ("reference", *STAGES) if any(key in entry for entry in entries)]
    data = {key: _gather(entries, key) for key in lines}
    edges = _edges(
        np.concatenate([np.asarray(entry["distance"], float) for entry in entries] or [np.zeros(1)])
    )
    with style.drawing():
        figure = style.new_figure(6.4, 3.9)
        axes = figure.subplots()
        axes.grid(axis="y")
        width = float(np.min(np.diff(edges)))
        ends = []
        for i, key in enumerate(lines):
            # Side by side, so that the quartiles of one stage don't hide another's.
            shift = 0.13 * width * (i - (len(lines) - 1) / 2)
            x, middle, low, high = _quartiles(*data[key], edges)
            tint = style.color(key)
            axes.vlines(x + shift, low, high, color=tint, lw=2.2, alpha=0.35)
            axes.plot(x + shift, middle, "-" if key != "reference" else ":", color=tint, lw=1.4)
            axes.plot(x + shift, middle, ls="none", zorder=3, **style.marker(key))
            label = "before relaxation" if key == "reference" else stage_label(key)
            ends.append((float(x[-1]), float(middle[-1]), label, tint))
        axes.set_xlabel("distance from the defect (Å)")
        axes.set_ylabel("distance from the DFT position (Å)")
        axes.set_title("Median and quartiles over the atoms of all held-out structures")
        axes.set_ylim(bottom=0.0)
        axes.set_xlim(max(0.0, edges[0]), edges[-1])
        style.label_ends(axes, ends)
    return figure


def _gather(entries: Sequence[Mapping[str, Any]], key: str) -> tuple[np.ndarray, np.ndarray]:
    chosen = [entry for entry in entries if key in entry]
    distance = np.concatenate([np.asarray(entry["distance"], float) for entry in chosen])
    value = np.concatenate([np.asarray(entry[key], float) for entry in chosen])
    known = np.isfinite(value)
    return distance[known], value[known]


def _edges(distance: np.ndarray) -> np.ndarray:
    """Bins of an angstrom, or more where atoms are few."""
    top = float(np.ceil(distance.max())) or 1.0
    edges = [0.0]
    for edge in np.arange(1.0, top + 1.0):
        if np.count_nonzero((distance >= edges[-1]) & (distance < edge)) >= FEWEST:
            edges.append(float(edge))
    left_over = np.count_nonzero(distance >= edges[-1])
    if len(edges) == 1 or left_over >= FEWEST:
        edges.append(top)
    elif left_over:
        edges[-1] = top
    return np.asarray(edges)


def _quartiles(distance: np.ndarray, value: np.ndarray, edges: np.ndarray):
    """Median distance, median and quartiles of each bin that holds something, (bins,) angstrom each."""
    rows = []
    for low, high in pairwise(edges):
        last = high == edges[-1]
        inside = (distance >= low) & ((distance <= high) if last else (distance < high))
        if np.any(inside):
            rows.append((np.median(distance[inside]), *np.quantile(value[inside], (0.5, 0.25, 0.75))))
    return np.asarray(rows).reshape(-1, 4).T
