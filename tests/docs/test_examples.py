"""What the documents show is run as it stands there."""

import re
from pathlib import Path

import pytest

from bptt_relax.outcomes import ModelError
from bptt_relax.potentials import pretrained

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("document", ["composing-steps.md"])
def test_examples_run(document, capsys):
    try:
        pretrained.load("chgnet-0.3.0")
    except ModelError as error:
        pytest.skip(f"no weights: {error}")
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / document).read_text(), flags=re.DOTALL)
    namespace: dict = {}
    for block in blocks:
        exec(compile(block, document, "exec"), namespace)
    assert float(namespace["value"]) > 0
    assert len(capsys.readouterr().out.splitlines()) == 5
