"""Variants side by side, on a cheap potential: what they share is shared, what they do not is not, and all resumes."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from bptt_relax import datasets
from bptt_relax.finetuning.comparison import Comparison, compare
from bptt_relax.finetuning.corpus import Corpus
from bptt_relax.finetuning.settings import (
    BpttSettings,
    ComparedSettings,
    ForceMatchingSettings,
    RelaxationSettings,
)
from bptt_relax.finetuning.variants import changed, check_names
from bptt_relax.io.splits import Split
from bptt_relax.training import pack

SETTINGS = ComparedSettings(
    preset="small",
    relaxation=RelaxationSettings(train_steps=3, test_steps=4),
    force_matching=ForceMatchingSettings(epochs=1),
    bptt=BpttSettings(epochs=1, learning_rate=1e-3),
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    data = datasets.load("silicon-defects")
    pure = [r.name for r in data.relaxations if set(r.initial.species.tolist()) == {14}]
    return Corpus(data.name, data.sha256, data.relaxations, Split((pure[0],), (pure[1],), (pure[2],)))


VARIANTS = {
    "base": {},
    "longer": {"relaxation": {"step_size": 0.05}},
    "rule_alone": {"bptt": {"learn_potential": False, "learn_rule": True, "rule_learning_rate": 0.1}},
    "faster": {"force_matching": {"learning_rate": 1e-3}},
}
SHARED = {
    "base": {},
    "longer": {"relaxation": {"step_size": 0.05}},
    "other test": {"relaxation": {"force_tolerance": 0.1}},
    "descent": {"relaxation": {"rule": "descent"}},
    "rmsd": {"bptt": {"distance": "rmsd"}},
    "more steps": {"relaxation": {"train_steps": 5}},
}


def run(folder: Path, corpus: Corpus, monkeypatch, springs, resume=False):
    """Train each variant; returns the results and the comparison."""
    seen = {}

    def work(comparison: Comparison):
        found = {}
        for name in VARIANTS:
            settings = changed(comparison.settings, VARIANTS[name])
            tuned = comparison.train(name, settings, name)
            measured = comparison.measure(tuned.theta, name, name, settings.relaxation)
            rule = {str(k): float(v) for k, v in tuned.theta.rule[0].items()}
            found[name] = {**tuned.describe(), "rule": rule, **comparison.parts([measured])}
        seen["comparison"] = comparison
        return {"variants": found}

    monkeypatch.setattr("bptt_relax.finetuning.comparison.base_model", lambda name: springs)
    settings = SETTINGS.model_copy(update={"out": folder, "resume": resume})
    assert compare("trial", corpus, settings, work, lambda folder, found: None).folder == folder
    return json.loads((folder / "results.json").read_text()), seen["comparison"]


def test_variants_share_what_is_the_same(tmp_path, corpus, monkeypatch, springs):
    found, comparison = run(tmp_path / "run", corpus, monkeypatch, springs)
    # Only a variant that matches forces differently does it again.
    assert len(list((tmp_path / "run" / "force_matching").iterdir())) == 2
    # A step size is data; another rule is another program, and so is another loss.
    trainers = {name: comparison.variant(changed(SETTINGS, changes)) for name, changes in SHARED.items()}
    base = trainers["base"]
    for name, trainer in trainers.items():
        same = name in ("base", "longer", "other test")
        terms = [each.bptt_stage().terms for each in (trainer, base)]
        assert (terms[0][0].gradients is terms[1][0].gradients) is same, name
        assert terms[0][1].gradients is terms[1][1].gradients, name
        assert (trainer.evaluator() is base.evaluator()) is (name not in ("other test", "descent")), name
        assert trainer.preparation is base.preparation
    variants = found["variants"]
    ends = {name: variants[name]["test"]["delta_q"]["mean"] for name in variants}
    assert len({ends[name] for name in ("base", "longer", "rule_alone")}) == 3
    # A rule that is not to be learned stays, one that is moves at its own rate, and then the potential stays.
    assert variants["base"]["rule"]["log_step_size"] == pytest.approx(-3.5065579)
    alone = comparison.variant(changed(SETTINGS, VARIANTS["rule_alone"]))
    optimizer, theta = alone.bptt_stage().optimizer, pack(comparison.pretrained)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, theta), optimizer.init(theta), theta)
    updates = updates.unpack()
    assert all(float(update) == 0 for update in jax.tree.leaves(updates.potential))
    assert [float(u) for u in jax.tree.leaves(updates.rule)] == pytest.approx([-0.1] * 3, rel=1e-5)
    assert set(variants["base"]["validation"]) == {"force_matching", "bptt"}

    # Interrupted or finished, the same command goes on from what is there.
    (tmp_path / "run" / "results.json").unlink()
    again, _ = run(tmp_path / "run", corpus, monkeypatch, springs, resume=True)
    assert again["variants"] == variants


def test_a_change_that_is_no_setting_is_refused():
    with pytest.raises(ValueError, match="stepsize"):
        changed(SETTINGS, {"relaxation": {"stepsize": 0.1}})


def test_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match="nothing would train"):
        BpttSettings(learn_potential=False)


def test_unknown_names_are_told_with_those_there_are():
    assert check_names(("a", "b"), {"a": 1, "b": 2}) == ("a", "b")
    with pytest.raises(ValueError, match="no variant c; there are a, b"):
        check_names(("a", "c"), {"a": 1, "b": 2})
    with pytest.raises(ValueError, match="no variant given"):
        check_names((), {"a": 1})
