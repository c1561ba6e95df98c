import pytest

from bptt_relax.report.model_card import model_card, write_model_cards


@pytest.fixture
def run(results, make_run):
    return make_run(results)


def test_a_card_says_what_it_is_from_what_and_whom_to_cite(run):
    card = model_card(run, "bptt")
    assert card.startswith("# chgnet-0.3.0, tuned by BPTT on mine\n")
    for said in (
        "Seed 0. Made by bptt_relax 0.1.0, commit 0123abc.",
        "BSD-3-Clause-LBNL. These weights are derived from it",
        "> Copyright (c) 2023\n>\n> The Regents",
        "doi:10.1038/s42256-023-00716-3",
        "doi:10.48550/arXiv.2512.01067",
        "sha256 " + "ab" * 32,
        "- 2 trained on: a, b",
        "- 1 chose the model: c",
        "- 9 tested on: ",
        "- 0 of kinds never trained on, tested on\n",
        '"model": "chgnet-0.3.0"',
        "jax 0.10.1",
        "**yellow**",
        "Other chemistry has changed, by less than the pretrained model's own error.",
    ):
        assert said in card
    assert "arXiv.2106.09685" not in card
    run["config"]["parameters"]["rank"] = 4
    assert "arXiv.2106.09685" in model_card(run, "bptt")
    assert "relaxation, after force matching where" in card
    run["config"]["bptt"]["start_from"] = "pretrained"
    assert "after force matching" not in model_card(run, "bptt")


def test_numbers_are_those_of_the_results_with_their_intervals(run):
    entry = run["models"]["chgnet-0.3.0"]
    mean = entry["bptt"]["delta_q"]["mean"]
    card = model_card(run, "bptt")
    assert (
        f"Mean Delta Q {mean:.3f} sqrt(u) angstrom (95% interval over structures and seeds "
        f"{0.8 * mean:.3f} to {1.2 * mean:.3f})"
    ) in card
    assert "(95% interval −58% to −31%)" in card
    assert f"Mean Delta Q {entry['unseen']['bptt']['delta_q']['mean']:.3f}" in card
    # The card of the control does not claim what BPTT reached.
    control = model_card(run, "force_matching")
    assert "by BPTT:" not in control
    assert f"Mean Delta Q {entry['force_matching']['delta_q']['mean']:.3f}" in control


def test_names_from_the_data_are_text(run):
    run["dataset"]["name"] = "my\n# set <script>"
    run["dataset"]["train"] = ["x](http://y)", "`a`|b"]
    run["base_model"]["started_from"] = "[tuned].safetensors"
    run["config"]["model"] = "```\n# no heading"
    card = model_card(run, "bptt")
    assert card.startswith("# chgnet-0.3.0, tuned by BPTT on my # set \\<script\\>\n")
    assert "- 2 trained on: x\\](http://y), \\`a\\`\\|b" in card
    assert "continued from \\[tuned\\].safetensors" in card
    assert "Counted from \\[tuned\\].safetensors, not from the published model." in card
    assert "\n# no heading" not in card
    assert card.count("```") == 2


def test_what_was_not_checked_or_held_out_is_said(results, make_run):
    entry = results["models"]["chgnet-0.3.0"]
    del entry["unseen"], entry["force_matching"]
    run = make_run(results)
    del run["forgetting"]
    run["base_model"]["notice"] = ""
    card = model_card(run, "bptt")
    assert "Other chemistry was not checked" in card
    assert "No kind of structure was held out entirely" in card
    assert "Not checked." in card


def test_a_card_lies_beside_each_model(results, make_run, tmp_path):
    run = make_run(results, seeds=(3, 4))
    for seed in (3, 4):
        (tmp_path / f"seed{seed}").mkdir()
    written = write_model_cards(tmp_path, run)
    assert {str(path.relative_to(tmp_path)) for path in written} == {
        f"seed{seed}/{stage}.model-card.md" for seed in (3, 4) for stage in ("force_matching", "bptt")
    }
    card = (tmp_path / "seed3" / "bptt.model-card.md").read_text()
    assert "Seed 3." in card
    assert "Means over 2 seeds, the worst light of any; this one: green." in card
