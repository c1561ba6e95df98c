"""Tables and figure, from measurements alone."""

import io

import pytest
from rich.console import Console

from benchmarks import figure, schema, table


def shown(results: schema.Results) -> str:
    text = io.StringIO()
    table.show(results, Console(file=text, width=120))
    return text.getvalue()


def test_the_table_holds_ratios_refusals_and_targets(results):
    text = shown(results)
    assert "Checkpointed: force" in text
    assert "Implicit at 16: refused: not converged after these steps." in text
    assert "time, ASE + chgnet / forward" in text
    # 63 atoms, 16 steps, the middle one of three rounds: forward in seconds, the rest over it.
    costs = next(grid for grid in table.costs(results) if "Stillinger-Weber, 63 atoms" in grid.title)
    rows = {row[0]: dict(zip(costs.headings, row, strict=True)) for row in costs.rows}
    assert rows["forward"]["T=16"] == "2.02 s"
    assert (
        rows["Checkpointed: force"] | {"T=16": "4.00", "MB 1024": "0.06", "peak MB": "6.30"}
        == rows["Checkpointed: force"]
    )
    assert rows["Full"]["MB 1024"] == "64.5"
    assert "abacus, 2 cores" in text
    assert "left out" in text


def test_nothing_measured_is_no_error():
    assert "not measured" in shown(schema.Results(preset="ci"))


def test_documents_are_filled_between_their_marks(results, tmp_path):
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- benchmarks targets -->\nold\n<!-- end -->\nafter\n")
    assert table.fill(results, document) == ["targets"]
    filled = document.read_text()
    assert "old" not in filled
    assert filled.startswith("before\n")
    assert filled.endswith("\nafter\n")
    assert "| time / forward, force |" in filled
    table.fill(results, document)
    assert document.read_text() == filled


def test_the_figure_is_shown_where_it_was_drawn(results, tmp_path):
    document = tmp_path / "docs" / "page.md"
    document.parent.mkdir()
    document.write_text("<!-- benchmarks figure -->\n<!-- end -->\n")
    assert table.fill(results, document) == []
    assert table.fill(results, document, tmp_path / "docs" / "figures" / "adjoint-costs.png") == ["figure"]
    assert "](figures/adjoint-costs.png)" in document.read_text()


@pytest.mark.parametrize("text", ["no marks", "<!-- benchmarks wishes -->\n<!-- end -->"])
def test_documents_that_cannot_be_filled_are_refused_untouched(results, tmp_path, text):
    document = tmp_path / "page.md"
    document.write_text(text)
    with pytest.raises(ValueError, match="page.md"):
        table.fill(results, document)
    assert document.read_text() == text


@pytest.mark.parametrize("empty", [False, True])
def test_the_figure_is_drawn(results, tmp_path, empty):
    written = figure.draw(schema.Results(preset="ci") if empty else results, tmp_path)
    assert [path.name for path in written] == ["adjoint-costs.png", "adjoint-costs.svg"]
    assert all(path.stat().st_size > 5000 for path in written)
