import csv

import pytest

from bptt_relax.io import Problem, describe, safe_name, write_rejected


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("p32_V_s0", "p32_V_s0"),
        ("../../etc/passwd", "etc_passwd"),
        ("<script>alert(1)</script>", "script_alert_1_script"),
        ("a b\nc\x1b[31m", "a_b_c_31m"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("x" * 500, "x" * 120),
        ("Mg→Ga", "Mg_Ga"),
    ],
)
def test_names_are_safe(name, safe):
    assert safe_name(name) == safe


def test_all_problems_in_one_message():
    text = describe([Problem("f", "a", "is odd", "fix it"), Problem("f", "", "is empty")], "cannot use f")
    assert text == "cannot use f (2 problems):\n  f: a: is odd -> fix it\n  f: is empty"


def test_formulas_do_not_run_in_a_spreadsheet(tmp_path):
    write_rejected(tmp_path / "rejected.csv", [Problem("=cmd()", "a", "text, with comma", "")])
    with (tmp_path / "rejected.csv").open(newline="") as file:
        assert list(csv.reader(file))[1] == ["'=cmd()", "a", "text, with comma", ""]
