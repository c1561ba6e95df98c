"""What the documents show is run as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest

from bptt_relax.models import pretrained
from bptt_relax.outcomes import ModelError

ROOT = Path(__file__).parents[2]


def run_examples(document: str) -> dict:
    """Execute the Python blocks of a document one after the other and give back what they defined."""
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)
    assert blocks
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, document, "exec"), namespace)
    return namespace


def test_readme():
    assert float(run_examples("README.md")["value"]) > 0


@pytest.mark.slow
def test_composing_steps(capsys):
    namespace = run_examples("docs/composing-steps.md")
    assert float(namespace["value"]) > 0
    assert 0 < namespace["distance"] < 1
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5 + 1 + 4
    assert printed[5].startswith("4 structures in ")
    assert all(line.endswith("True") for line in printed[6:])
    assert namespace["usable"] == [True] * 4
    np.testing.assert_allclose(namespace["values"][0], namespace["value"], rtol=1e-4)
    assert int(namespace["result"].state.steps) > 5


def test_adding_a_potential(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_examples("docs/adding-a-potential.md")
    assert float(namespace["value"]) > 0
    assert all(float(abs(leaf)) > 0 for leaf in namespace["gradient"].potential.values())
    assert namespace["tuned_params"] == namespace["tuned"].params[0] != namespace["params"]


@pytest.mark.parametrize(
    "document", ["README.md", *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("docs/*.md"))]
)
def test_links_lead_somewhere(document):
    text = (ROOT / document).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    missing = [link for link in links if not ((ROOT / document).parent / link).exists()]
    assert missing == []
