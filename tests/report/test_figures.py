import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from bptt_relax.report import figures
from bptt_relax.report.figures import displacement, learning


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def row_names(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_before_after_has_a_row_for_every_structure_and_a_mean(results):
    figure = figures.before_after(results, "chgnet-0.3.0")
    test, unseen = figure.axes
    assert test.get_title(loc="left") == "Test structures (9)"
    assert unseen.get_title(loc="left") == "Kinds never trained on (5)"
    assert len(row_names(test)) == 10
    assert row_names(unseen)[0] == "hexagonal Si s1"
    assert row_names(unseen)[-1] == "mean"
    markers = [line for line in test.lines if line.get_linestyle() == "None"]
    assert len(markers) == 3 * 10
    assert test.get_xscale() == "log"
    before, after = (results["models"]["chgnet-0.3.0"][s]["delta_q"]["mean"] for s in ("pretrained", "bptt"))
    assert f"{after / before - 1:+.0%}".replace("-", "−") in texts(figure)


def test_before_after_sorts_by_the_pretrained_error(results):
    axes, _ = figures.before_after(results, "chgnet-0.3.0").axes
    before = [
        line.get_xdata()[0]
        for line in axes.lines
        if line.get_marker() == "o" and line.get_markeredgewidth() > 1
    ]
    assert before[:-1] == sorted(before[:-1], reverse=True)


def test_before_after_without_unseen_kinds_with_gaps_and_a_change_for_the_worse(results):
    entry = results["models"]["chgnet-0.3.0"]
    del entry["unseen"]
    for stage, value in (("pretrained", 1.0), ("force_matching", None), ("bptt", 1.5)):
        entry[stage]["delta_q"]["per_structure"] = {"a": value, "b": 0.9}
    figure = figures.before_after(results, "chgnet-0.3.0")
    (axes,) = figure.axes
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] == 0.0
    assert "+50%" in texts(figure)
    assert row_names(axes) == ["a", "b", "mean"]
    # The mean is over structures that every stage has, or it would compare different sets.
    assert "+0%" in texts(figure)


def test_before_after_of_nothing_is_an_empty_panel():
    figure = figures.before_after({"models": {"m": {}}}, "m")
    assert len(figure.axes) == 1


def test_learning_curves_show_validation_and_both_losses(events):
    figure = figures.learning_curves(events)
    validation, matching, bptt = figure.axes
    assert validation.get_xlabel() == "training time (s)"
    assert "√u·Å" in validation.get_ylabel()
    assert "force matching" in matching.get_title(loc="left")
    assert "BPTT" in bptt.get_title(loc="left")
    shown = texts(figure)
    assert {"pretrained", "BPTT", "force matching,\nas long again"} <= set(shown)
    assert sum(text.startswith("best, epoch") for text in shown) == 3


def test_learning_curves_draw_seeds_and_their_mean(make_events):
    validation = figures.learning_curves(make_events(5)).axes[0]
    thin = [line for line in validation.lines if line.get_linewidth() < 1 and len(line.get_xdata()) > 2]
    thick = [line for line in validation.lines if line.get_linewidth() > 2]
    assert (len(thin), len(thick)) == (15, 3)


@pytest.mark.parametrize(("seconds", "unit"), [(100, "s"), (1000, "min"), (20000, "h")])
def test_time_has_a_readable_unit(seconds, unit):
    assert learning._time_unit(seconds)[0] == unit


def test_learning_curves_of_a_run_that_has_hardly_begun():
    for events in ([], [{"event": "epoch", "stage": "bptt", "epoch": 0, "validation": 2.0}]):
        assert figures.learning_curves(events).axes


def test_displacement_bins_hold_every_atom(entries):
    distance = np.concatenate([entry["distance"] for entry in entries])
    edges = displacement._edges(distance)
    counts, _ = np.histogram(distance, edges)
    assert counts.sum() == len(distance)
    assert counts.min() >= displacement.FEWEST
    figure = figures.displacement_by_distance(entries)
    (axes,) = figure.axes
    assert axes.get_ylabel().endswith("(Å)")
    assert texts(figure) == ["BPTT", "force matching", "pretrained", "before relaxation"]


def test_displacement_medians_are_the_medians(entries):
    edges = displacement._edges(np.concatenate([entry["distance"] for entry in entries]))
    distance, value = displacement._gather(entries, "bptt")
    _, middle, low, high = displacement._quartiles(distance, value, edges)
    first = value[distance < edges[1]]
    np.testing.assert_allclose((middle[0], low[0], high[0]), np.quantile(first, (0.5, 0.25, 0.75)))


def test_displacement_of_few_atoms_and_missing_stages():
    figure = figures.displacement_by_distance(
        [{"name": "a", "distance": [0.5, 3.0], "bptt": [0.1, float("nan")]}]
    )
    assert texts(figure) == ["BPTT"]
    assert figures.displacement_by_distance([]).axes


def test_relaxation_path_has_a_line_per_stage_in_both_panels(path):
    figure = figures.relaxation_path(path)
    upper, lower = figure.axes
    assert upper.get_title(loc="left") == "Relaxation of V–Ge pair s0"
    assert lower.get_yscale() == "log"
    for axes in (upper, lower):
        lengths = {len(line.get_xdata()) for line in axes.lines}
        assert {150, 118, 92} <= lengths
    assert texts(figure).count("BPTT") == 2


def test_relaxation_path_with_an_empty_stage(path):
    path["stages"]["bptt"] = {"delta_q": [], "max_force": []}
    assert "BPTT" not in texts(figures.relaxation_path(path))
    path["stages"] = {}
    assert figures.relaxation_path(path).axes


def test_labels_at_the_ends_of_lines_do_not_overlap(path):
    for stage in path["stages"].values():
        stage["delta_q"][-1] = 1.0
    upper, _ = figures.relaxation_path(path).axes
    heights = sorted(text.get_position()[1] for text in upper.texts)
    assert min(np.diff(heights)) > 0.08


def test_save_writes_png_and_svg_and_changes_no_setting(results, path, tmp_path):
    before = dict(matplotlib.rcParams)
    written = figures.save(figures.relaxation_path(path), tmp_path / "figures", "path")
    assert [file.name for file in written] == ["path.png", "path.svg"]
    assert written[0].read_bytes().startswith(b"\x89PNG")
    assert "largest force (eV/Å)" in written[1].read_text(encoding="utf-8")
    again = figures.save(figures.relaxation_path(path), tmp_path / "again", "path")
    assert again[1].read_bytes() == written[1].read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_names_that_look_like_mathematics_are_drawn_as_they_are(results, tmp_path):
    per_structure = results["models"]["chgnet-0.3.0"]["bptt"]["delta_q"]["per_structure"]
    per_structure["$\\frac{x$ [bold]"] = 1.0
    files = figures.save(figures.before_after(results, "chgnet-0.3.0"), tmp_path, "x")
    assert "$\\frac{x$ [bold]" in files[1].read_text(encoding="utf-8")


def test_reports_import_neither_matplotlib_nor_jax_md_nor_training():
    code = (
        "import sys, bptt_relax.report, bptt_relax.report.figures; "
        "print([m for m in ('matplotlib', 'jax_md', 'jax', 'bptt_relax.training') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
