"""What the registry and the folders of the families promise each other."""

import tomllib
from pathlib import Path

import pytest

import bptt_relax.models
from bptt_relax.models._contract import Family, family
from bptt_relax.weights.registry import MODELS

FOLDERS = {p.parent.name for p in Path(bptt_relax.models.__file__).parent.glob("*/weights.py")}


@pytest.mark.parametrize("name", {model.family: model.name for model in MODELS.values()}.values())
def test_every_model_finds_its_family(name):
    found = family(MODELS[name])
    assert isinstance(found, Family)
    if found.original is not None:
        assert found.original.program.is_file()
        assert found.original.suffix.startswith(".")


def test_every_family_has_a_model_and_keeps_to_itself():
    assert {model.family.replace("-", "_") for model in MODELS.values()} == FOLDERS
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    (contract,) = [c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "independence"]
    assert {name.rpartition(".")[2] for name in contract["modules"]} == FOLDERS
