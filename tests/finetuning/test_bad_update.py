"""Updates that could not be used: kept in the folder of the run, and repeated from there."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import bptt_relax as br
from bptt_relax import cli, datasets
from bptt_relax.finetuning import bad_update
from bptt_relax.finetuning.settings import RecipeSettings
from bptt_relax.models import base_model
from bptt_relax.outcomes import InputError
from bptt_relax.relax import Theta
from bptt_relax.systems import Pair
from bptt_relax.training import BadUpdate, Example, LabelledFrame, low_rank
from bptt_relax.training.gradients import LeftOut
from bptt_relax.weights import weights_file

SETTINGS = RecipeSettings(model="stillinger-weber", relaxation={"train_steps": 3})


@pytest.fixture(scope="module")
def base():
    return base_model("stillinger-weber")


@pytest.fixture(scope="module")
def examples(base):
    """A relaxation that can be used and one that can't, and an ionic step."""
    silicon = datasets.load("silicon-defects").select(["p32_V_s0"])[0]
    fine, system = br.systems.prepare(silicon.initial, base.potential.graph)
    pair = jax.device_get(Pair(fine, fine + 0.01, system))
    bad = pair._replace(relaxed=np.full_like(pair.relaxed, np.nan))
    frame = jax.device_get(LabelledFrame(fine, jnp.zeros_like(fine), system))
    return (Example("fine", pair), Example("bad", bad)), (Example("step", frame),)


@pytest.fixture
def bundle(base, examples, tmp_path):
    path = tmp_path / "bad_updates" / "one.safetensors"
    theta = bad_update._start(SETTINGS, base)
    theta = theta._replace(potential={**theta.potential, "lam": 1.01 * theta.potential["lam"]})
    out = (LeftOut("bad", "loss or gradient is not finite", float("nan"), float("nan")),)
    bad_update.write(path, BadUpdate("bptt", 3, 2, 7, theta, examples, (1.0, 20.0), out, 8), SETTINGS, base)
    return path


def test_what_is_repeated_is_what_was_kept(bundle, base, examples):
    said, found = bad_update.repeat(bundle)
    assert said == (
        "bptt of stillinger-weber, epoch 3, after 7 updates: the last of 8 in a row that could not be used"
    )
    assert [(one.term, one.name, one.reason is None) for one in found] == [
        ("relaxed end", "fine", True),
        ("relaxed end", "bad", False),
        ("forces", "step", True),
    ]
    # With the parameters of the update, not with those it started from.
    theta = bad_update._start(SETTINGS, base)
    changed = Theta({**theta.potential, "lam": 1.01 * theta.potential["lam"]}, theta.rule)
    gradients = bad_update.objectives.Objectives(base.potential, base.params)
    taken = gradients(bad_update.objectives.forces(SETTINGS))
    assert found[2].loss == pytest.approx(taken(changed, examples[1]).loss, rel=1e-12)
    assert found[2].loss != pytest.approx(taken(theta, examples[1]).loss, rel=1e-3)
    assert found[1].sentence == (
        "relaxed end of bad: loss or gradient is not finite (as in the run: loss or gradient is not finite)"
    )
    assert found[0].sentence.endswith("(as in the run)")


def test_the_command_says_it(bundle, capsys):
    assert cli.main(["replay", str(bundle)]) == 0
    assert "relaxed end of bad: loss or gradient is not finite (as in the run" in capsys.readouterr().out


def test_low_rank_updates_are_kept_in_their_factors(base, examples, tmp_path):
    """Of a potential with matrices, from Python."""

    def energy(params, vectors, system, graph):
        del system
        return jnp.sum(jnp.where(graph.mask[:, None], vectors @ params["w"], 0.0) ** 2)

    potential = br.potentials.conservative(energy, lambda key: {"w": jnp.eye(3)}, br.neighbors.GraphSpec(3.0))
    own = base_model((potential, potential.init(None)))
    settings = RecipeSettings(model=own.name, parameters={"rank": 1})
    theta = bad_update._start(settings, own)
    assert isinstance(theta.potential, low_rank.LowRank)
    update = BadUpdate("control", 1, 1, 0, theta, (examples[1],), (1.0,), (), 8)
    bad_update.write(tmp_path / "one.safetensors", update, settings, own)
    with pytest.raises(InputError, match="no model"):
        bad_update.repeat(tmp_path / "one.safetensors")
    (found,) = bad_update.repeat(tmp_path / "one.safetensors", own)[1]
    assert found.reason is None
    assert np.isfinite(found.grad_norm)


def test_what_is_no_bundle_is_refused(bundle, tmp_path):
    arrays, metadata = weights_file.parse(bundle.read_bytes(), "bundle")
    about = json.loads(metadata["update"])

    def changed(arrays=arrays, **changes):
        path = tmp_path / "changed.safetensors"
        text = json.dumps(about | changes)
        path.write_bytes(bad_update.serialize(arrays, {"format": bad_update.FORMAT, "update": text}))
        return path

    with pytest.raises(InputError, match="written with other weights"):
        bad_update.repeat(changed(params_sha256="0"))
    with pytest.raises(InputError, match="is damaged"):
        bad_update.repeat(changed(settings=[]))
    with pytest.raises(InputError, match="is damaged"):
        bad_update.repeat(changed(terms=[{}]))
    without = {name: array for name, array in arrays.items() if name != "0/0/initial"}
    with pytest.raises(InputError, match="lacks 0/0/initial"):
        bad_update.repeat(changed(arrays=without))
    weights_file.write(
        tmp_path / "w.safetensors", weights_file.Weights("chgnet-0.3.0", {}, {"w": np.ones(1)})
    )
    with pytest.raises(InputError, match="is no bundle of an update"):
        bad_update.repeat(tmp_path / "w.safetensors")
    with pytest.raises(InputError, match="no weights at|no such"):
        bad_update.repeat(tmp_path / "absent.safetensors")
