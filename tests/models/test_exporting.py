"""Fine-tuned weights in the format of the package they came from, and what that package makes of them."""

import hashlib
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from bptt_relax import models
from bptt_relax.models import exporting, parity, pretrained
from bptt_relax.models._contract import family
from bptt_relax.outcomes import InputError, ModelError
from bptt_relax.weights.registry import MODELS

SHARED = Path(__file__).parents[3] / "shared" / "weights"
SUFFIXES = {"chgnet-0.3.0": ".pth.tar", "nequix-mp-1": ".nqx"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """Name of a model -> a .safetensors file with its weights changed a little, and those parameters."""
    known = {}

    def make(name):
        if name not in known:
            source = SHARED / f"{name}.nqx" if name.startswith("nequix") else None
            if source is not None and not source.exists():
                pytest.skip("the published nequix files are not on this machine")
            try:
                pretrained.fetch(name, source=source)
            except ModelError as error:
                pytest.skip(f"no weights: {error}")
            _, params = pretrained.load(name)
            rng = np.random.default_rng(0)
            changed = jax.tree.map(lambda x: x * (1 + 0.01 * rng.normal(size=x.shape)), params)
            path = tmp_path_factory.mktemp("tuned") / "tuned.safetensors"
            models.save(path, name, changed)
            known[name] = path, changed
        return known[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BPTT_RELAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield make


@pytest.fixture
def no_peer(monkeypatch):
    """No other package, and no predictions of ours: only the file is looked at."""
    monkeypatch.setattr(parity, "interpreter", lambda original: None)
    monkeypatch.setattr(parity, "predictions", lambda potential, params: {"parameters": len(params)})


@pytest.mark.parametrize("name", SUFFIXES)
def test_the_file_holds_the_tuned_weights(tuned, no_peer, tmp_path, name):
    source, params = tuned(name)
    path = tmp_path / f"tuned{SUFFIXES[name]}"
    assert models.export(path, source) is None
    assert models.export(tmp_path / f"again{SUFFIXES[name]}", name, params) is None
    data = path.read_bytes()
    assert (tmp_path / f"again{SUFFIXES[name]}").read_bytes() == data
    note = json.loads((tmp_path / f"tuned{SUFFIXES[name]}.parity.json").read_text())
    assert note["sha256"] == hashlib.sha256(data).hexdigest()
    assert note["model"] == name
    assert note["parity"] is None


def test_a_wrong_name_is_refused_before_anything_is_written(tuned, no_peer, tmp_path):
    source, _ = tuned("nequix-mp-1")
    with pytest.raises(InputError, match=r"nequix-mp-1 is exported as \.nqx, not tuned\.pt: rename it"):
        models.export(tmp_path / "tuned.pt", source)
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finite_is_refused_and_replaces_nothing(tuned, no_peer, tmp_path):
    source, params = tuned("chgnet-0.3.0")
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), params)
    for name, write in (("t.pth.tar", models.export), ("t.safetensors", models.save)):
        path = tmp_path / name
        path.write_bytes(b"good")
        with pytest.raises(InputError, match="NaN or infinite values"):
            write(path, source, broken)
        assert path.read_bytes() == b"good"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["t.pth.tar", "t.safetensors"]


def test_a_prediction_that_is_not_a_number_does_not_pass():
    numbers = {"energy": 1.0, "forces": [[0.0] * 3], "stress": [[0.0] * 3] * 3}
    ours = {"one": numbers, "two": numbers | {"energy": float("nan")}}
    found = parity.compare(ours, {"package": "chgnet 9", "predictions": {"one": numbers, "two": numbers}})
    assert not found.passed


def test_a_package_that_says_something_else_is_an_error_and_noted(tuned, tmp_path, monkeypatch):
    source, _ = tuned("nequix-mp-1")
    ours = {"one": {"energy": 1.0, "forces": [[0.0] * 3], "stress": [[0.0] * 3] * 3}}
    theirs = {"one": {"energy": 1.1, "forces": [[0.0, 2e-4, 0.0]], "stress": [[0.0] * 3] * 3}}
    monkeypatch.setattr(parity, "predictions", lambda potential, params: ours)
    monkeypatch.setattr(parity, "ask", lambda *_: {"package": "nequix 9", "predictions": theirs})
    with pytest.raises(ModelError, match=r"something else in nequix 9: energy 1\.0e-01 eV, forces 2\.0e-04"):
        exporting.export(tmp_path / "tuned.nqx", source, python="python")
    noted = json.loads((tmp_path / "tuned.nqx.parity.json").read_text())["parity"]
    assert noted["passed"] is False
    np.testing.assert_allclose(noted["energy"], 0.1)


def test_a_python_that_can_not_answer_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"could not be asked about .*: check /nowhere/python"):
        parity.ask(family(MODELS["nequix-mp-1"]).original, "/nowhere/python", tmp_path / "x.nqx")


@pytest.mark.parity
@pytest.mark.parametrize("name", SUFFIXES)
def test_the_original_package_loads_it_and_agrees(tuned, tmp_path, name):
    """Needs the package here, or a Python that has it in BPTT_RELAX_CHGNET_PYTHON or BPTT_RELAX_NEQUIX_PYTHON."""
    original = family(MODELS[name]).original
    package = original.package
    python = os.environ.get(f"BPTT_RELAX_{package.upper()}_PYTHON") or parity.interpreter(original)
    if python is None:
        pytest.skip(f"no Python with {package}: name one in BPTT_RELAX_{package.upper()}_PYTHON")
    source, _ = tuned(name)
    path = tmp_path / f"tuned{SUFFIXES[name]}"
    found = models.export(path, source, python=python)
    assert found.passed
    assert found.energy <= 1e-4
    assert found.forces <= 1e-4
    note = json.loads((tmp_path / f"{path.name}.parity.json").read_text())
    assert note["parity"] == found._asdict()
    assert note["parity"]["package"].startswith(package)
    # The tuned weights really arrived: the published ones predict something else.
    before = parity.predictions(*pretrained.load(name))
    after = note["predictions"][package]
    assert abs(before["silicon vacancy"]["energy"] - after["silicon vacancy"]["energy"]) > 1e-2
