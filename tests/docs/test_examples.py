"""What the documents show is run as it stands there."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError

ROOT = Path(__file__).parents[2]


def run_examples(document: str, section: str = "", model: str = "stillinger-weber") -> dict:
    """Execute the Python blocks of a document one after the other and give back what they defined.

    Args:
        document: its path.
        section: heading of the only section to run; all of the document when not given.
        model: that the examples load.
    """
    try:
        pretrained.load(model)
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    text = (ROOT / document).read_text()
    if section:
        text = re.split(r"^## ", text.split(f"\n## {section}\n")[1], flags=re.MULTILINE)[0]
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, document, "exec"), namespace)
    return namespace


def test_readme():
    assert float(run_examples("README.md", model="chgnet-0.3.0")["value"]) > 0


@pytest.mark.slow
def test_composing_steps(capsys):
    namespace = run_examples("docs/composing-steps.md", model="chgnet-0.3.0")
    assert float(namespace["value"]) > 0
    assert 0 < namespace["distance"] < 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 + 1 + 4 + 3
    assert printed[5].startswith("4 structures in ")
    assert all(line.endswith("True") for line in printed[6:10])
    assert namespace["usable"] == [True] * 4
    np.testing.assert_allclose(namespace["values"][0], namespace["value"], rtol=1e-4)
    assert int(namespace["result"].state.steps) > 5


def test_composing_steps_training():
    namespace = run_examples("docs/composing-steps.md", "Training")
    report, found, before = namespace["report"], namespace["found"], namespace["before"]
    assert bool(report.applied)
    assert found.count == 2
    np.testing.assert_allclose(found.loss / found.count, report.loss, rtol=1e-10)
    assert jax.tree.structure(namespace["mean_gradient"]) == jax.tree.structure(before)
    result = namespace["result"]
    assert result.progress.finished
    assert result.progress.examples == 4
    assert result.theta.rule == before.rule


def test_adding_a_rule():
    namespace = run_examples("docs/adding-a-rule.md")
    assert float(namespace["value"]) > 0
    assert all(float(abs(leaf)) > 0 for leaf in jax.tree.leaves(namespace["gradient"].rule[1]))
    assert namespace["stable"].product_limit == pytest.approx(2.0, rel=1e-3)
    # What the document says of it: small steps as in descent, none as long as the reach.
    rule = namespace["saturating"](0.1, 0.2)
    moved, _ = rule.update(rule.hyper, jnp.array([[1e-6, 0, 0], [0, 50.0, 0], [0, 0, 0]]), (), None)
    np.testing.assert_allclose(moved[0, 0], 1e-7, rtol=1e-6)
    assert 0.19 < float(moved[1, 1]) < 0.2


def test_adding_an_adjoint():
    namespace = run_examples("docs/adding-an-adjoint.md")
    exact, slowly, quickly = (namespace[name].potential for name in ("exact", "slowly", "quickly"))
    for name, value in exact.items():
        np.testing.assert_allclose(slowly[name], value, rtol=1e-4, atol=1e-6)
    assert any(abs(quickly[name]) < 0.5 * abs(value) for name, value in exact.items())


def test_adding_a_loss():
    namespace = run_examples("docs/adding-a-loss.md")
    assert namespace["found"].count == namespace["pull"].count == 2
    assert namespace["found"].loss > 0
    pair = namespace["pairs"][0]
    gradient = jax.grad(namespace["mean_distance"])(pair.relaxed, pair.relaxed, pair.system)
    np.testing.assert_array_equal(gradient, 0.0)


def test_adding_an_experiment(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    finished = run_examples("docs/adding-an-experiment.md")["finished"]
    assert set(finished.results["variants"]) == {"usual", "higher"}
    assert (finished.folder / "results.json").is_file()
    assert "5e-3" in capsys.readouterr().out


def test_adding_a_potential(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_examples("docs/adding-a-potential.md")
    assert float(namespace["value"]) > 0
    assert all(float(abs(leaf)) > 0 for leaf in namespace["gradient"].potential.values())
    assert namespace["tuned_params"] == namespace["tuned"].params[0] != namespace["params"]
    assert namespace["read_params"] == jax.tree.map(
        lambda leaf: jnp.asarray(leaf, jnp.float32).astype(float), namespace["tuned_params"]
    )


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [link for link in links if not ((ROOT / document).parent / link).exists()]
    assert missing == []
