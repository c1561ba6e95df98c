import io

import pytest
from rich.console import Console

from bptt_relax.report import print_results, readable, results_markdown
from bptt_relax.report.names import stage_label, to_ascii


def printed(results, encoding="utf-8", width=80):
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding), width=width)
    print_results(results, console)
    console.file.flush()
    return raw.getvalue().decode(encoding)


def test_every_stage_and_structure_has_a_row(results):
    text = printed(results)
    assert "chgnet-0.3.0: 9 test structures" in text
    assert "chgnet-0.3.0: 5 structures of kinds never trained on" in text
    mean = results["models"]["chgnet-0.3.0"]["bptt"]["delta_q"]["mean"]
    (row,) = [line for line in text.splitlines() if line.strip().startswith("BPTT") and f"{mean:.3f}" in line]
    assert row.split() == ["BPTT", f"{mean:.3f}", row.split()[2], "100%", "90%", "60", "450"]
    for name in results["models"]["chgnet-0.3.0"]["unseen"]["pretrained"]["delta_q"]["per_structure"]:
        assert readable(name) in text
    assert "unseen kind" in text
    assert "95% interval −58% to −31%" in " ".join(text.split())


def test_tables_fit_a_terminal_of_80_columns(results):
    text = printed(results)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_relaxed_cells_have_columns_of_their_own(results):
    assert "volume" not in printed(results)
    entry = results["models"]["chgnet-0.3.0"]
    for stage, size in (("pretrained", 0.0234), ("force_matching", 0.012), ("bptt", 0.0089)):
        cell = {"volume_error": {"mean": size}, "strain": {"mean": size / 2}}
        entry[stage] |= {"cell": cell, "stress_mae": size / 10}
    entry["free_cell"] = {stage: entry[stage] for stage in ("pretrained", "force_matching", "bptt")}
    text = printed(results)
    assert "chgnet-0.3.0: 9 test structures with a free cell" in text
    assert "2.34%" in text
    assert "1.17%" in text
    assert f"{160.2177 * 0.00089:.2f}" in text
    assert "Strain: from the DFT cell" in " ".join(text.split())
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80


def test_what_did_not_converge_and_the_mean_of_what_did_stand_beside_the_share(results):
    before = results_markdown(results)
    assert "Not converged" not in before
    entry = results["models"]["chgnet-0.3.0"]
    for stage, mean in (("pretrained", 0.123), ("bptt", 0.045)):
        entry[stage]["converged_only"] = {"delta_q": mean, "count": 8}
        entry[stage]["not_converged"] = {"p32_VV_s0": 1} if stage == "bptt" else {}
    text = " ".join(printed(results).split())
    assert "Not converged with BPTT: divacancy s0 (mean ΔQ of what converged: 0.045)." in text
    assert max(map(len, printed(results).splitlines())) <= 80
    entry["bptt"]["not_converged"] = {}
    assert results_markdown(results) == before


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_console_that_can_not_do_more_gets_ascii(results, encoding):
    text = printed(results, encoding)
    assert text.isascii()
    assert "mean" in text
    assert "V-Ge pair s0" in text


def test_names_are_never_markup(results):
    per_structure = results["models"]["chgnet-0.3.0"]["pretrained"]["delta_q"]["per_structure"]
    per_structure["[bold]x|y[/bold]"] = 9.0
    assert "[bold]x|y[/bold]" in printed(results)
    assert "| \\[bold\\]x\\|y\\[/bold\\] | test | 9.000 | – | – |" in results_markdown(results)


def test_the_best_of_each_row_is_emphasised(results):
    entry = results["models"]["chgnet-0.3.0"]
    for stage, value in (("pretrained", 1.0), ("force_matching", 0.5), ("bptt", 2.0)):
        entry[stage]["delta_q"]["per_structure"]["p32_V_s2"] = value
    text = results_markdown(results)
    assert "| vacancy s2 | test | 1.000 | **0.500** | 2.000 |" in text
    # Equal for all stages: nothing is better than anything.
    assert "**90%**" not in text
    assert "| **450** |" in text


def test_a_result_that_got_worse_says_so(results):
    results["models"]["chgnet-0.3.0"]["reduction"] = {
        "bptt_vs_pretrained": -0.2,
        "ci95": [-0.5, 0.1],
        "bptt_vs_force_matching": None,
        "geometric_mean": float("nan"),
    }
    assert (
        "Change of the mean ΔQ by BPTT: +20% against pretrained (95% interval −10% to +50%)."
        in results_markdown(results)
    )


def test_missing_stages_and_numbers_are_left_out(results):
    entry = results["models"]["chgnet-0.3.0"]
    del entry["force_matching"], entry["unseen"], entry["reduction"], entry["bptt"]["force_mae"]
    entry["bptt"]["fmax_at_dft"] = None
    text = printed(results)
    assert "force matching" not in text
    assert "never trained on" not in text
    assert printed({"models": {}}).strip() == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p32_pairV_Ge_s0", "V–Ge pair s0"),
        ("d32_V_s2", "vacancy s2, dense k"),
        ("p32_VV_s1", "divacancy s1"),
        ("p32_split110_Si_s0", "⟨110⟩ split Si s0"),
        ("p32_pair_B_P_s7", "B–P pair s7"),
        ("p32_ffcd_s0", "fourfold defect s0"),
        ("x_NaCl_vcrelax_s3", "NaCl s3, free cell"),
        ("x_Mg2Si_relax_s3", "Mg2Si s3"),
        ("p32_something_new_s0", "something_new s0"),
        ("POSCAR 17\nof mine", "POSCAR 17 of mine"),
        ("[bold]", "[bold]"),
        ("", ""),
    ],
)
def test_readable_names(name, text):
    assert readable(name) == text


def test_other_names():
    assert stage_label("bptt") == "BPTT"
    assert stage_label("my_stage") == "my stage"
    assert to_ascii("⟨110⟩ V–Ge −3 ΔQ √u·Å ☃") == "<110> V-Ge -3 Delta Q sqrt u A ?"


def test_what_was_forgotten_is_a_table_of_its_own(results, make_forgetting):
    assert "Forgetting" not in printed(results)
    stages = {"force_matching": make_forgetting("green"), "bptt": make_forgetting("red", holes=["C-Si"])}
    text = printed(results | {"forgetting": {"stages": stages}})
    assert max(map(len, text.splitlines())) <= 80
    assert "Forgetting, force matching: green" in text
    assert "Forgetting, BPTT: red" in text
    row = next(line for line in text.splitlines() if line.startswith(" energy, meV/atom"))
    assert row.split()[2:] == ["12", "29", "0.41", "green", "NaCl", "-24"]
    words = " ".join(text.split())
    assert "Pairs that no longer push each other apart: C-Si." in words
    assert "judged by the pretrained model's own error" in words
