"""A potential of the user's own from Python, on clusters: tuned, saved, loaded, resumed, relaxing files."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.io import read

import bptt_relax as br
from bptt_relax.finetuning.forgetting import ForgettingCheck
from bptt_relax.io import Relaxation, write_relaxations
from bptt_relax.outcomes import InputError, Interrupted
from bptt_relax.potentials.adapters import from_energy_fn, from_pair_fn
from bptt_relax.runs.session import Session
from bptt_relax.systems import Structure

PARAMS = {"depth": 0.8, "length": 2.5, "alpha": 1.4}
TRUE_LENGTH = 2.4
SETTINGS = {
    "relaxation": {"step_size": 0.05, "train_steps": 10, "test_steps": 40, "skin": 1.0},
    "force_matching": {"epochs": 1, "learning_rate": 0.01},
    "bptt": {"epochs": 4, "learning_rate": 0.02, "averaging": 0.0},
}


def morse(params, r):
    x = jnp.exp(-params["alpha"] * (r - params["length"]))
    return params["depth"] * x * (x - 2)


def make_own(elements=(), **changes):
    return from_pair_fn(morse, PARAMS | changes, 4.5, elements=elements, name="morse")


@pytest.fixture(scope="module")
def relaxations():
    """Tetrahedra of copper, whose bonds end as long as this method says, and longer at the start."""
    corners = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(8)
    truth, params = make_own(length=TRUE_LENGTH)
    made = []
    for index in range(6):
        rng = np.random.default_rng(index)
        start = (TRUE_LENGTH + rng.uniform(0.1, 0.3)) * corners + 0.005 * rng.normal(size=(4, 3))
        frames = tuple(
            Structure(
                name=f"cluster {index}",
                species=np.full(4, 29),
                positions=positions,
                cell=20.0 * np.eye(3),
                pbc=np.zeros(3, bool),
                masses=np.full(4, 63.546),
                free=np.ones((4, 3), bool),
            )
            for positions in (start, TRUE_LENGTH * corners)
        )
        forces = []
        for frame in frames:
            positions, system = br.systems.prepare(frame, truth.graph)
            graph = br.neighbors.refresh(system.candidates, positions, system.cell)
            forces.append(np.asarray(truth.apply(params, positions, system, graph).forces))
        made.append(
            Relaxation(f"cluster {index}", str(index), "Cu4", frames, None, np.stack(forces), None, True)
        )
    return made


@pytest.fixture(scope="module")
def tuned(relaxations, tmp_path_factory):
    out = tmp_path_factory.mktemp("own") / "run"
    return br.finetune(relaxations, make_own(), out=out, **SETTINGS)


def test_it_learns_and_says_what_it_is(tuned):
    entry = tuned.results["models"]["morse"]
    assert set(entry) >= {"pretrained", "force_matching", "bptt", "reduction"}
    assert entry["reduction"]["bptt_vs_pretrained"] > 0.5
    (params,) = tuned.params
    assert abs(float(params["length"]) - TRUE_LENGTH) < 0.04
    base = tuned.results["base_model"]
    assert (base["name"], base["licence"], base["num_elements"]) == ("morse", "", 0)
    assert tuned.results["forgetting"]["stages"]["bptt"]["light"] in ("green", "yellow", "red")
    card = (tuned.folder / "seed0" / "bptt.model-card.md").read_text()
    for said in (
        "# morse, tuned by BPTT on relaxations\n",
        f"morse (given from Python, its parameters sha256 {base['sha256']})",
        "## Licence of the base model\n\nUnknown: the base model was given without one.",
        "the base model: not known, ask whoever made it",
        "names no elements that it covers (at a level of theory that is not known)",
    ):
        assert said in card


def test_tuned_parameters_come_back_into_a_tree_like_the_old_one(tuned):
    file = tuned.folder / "seed0" / "bptt.safetensors"
    potential, params = make_own()
    back = br.models.load_params(file, like=params)
    assert back == tuned.params[0]
    assert {leaf.dtype for leaf in back.values()} == {jnp.zeros(()).dtype}
    other = {name: value for name, value in params.items() if name != "alpha"}
    for like, message in (
        (other, "has alpha that like has not"),
        (params | {"beta": 1.0}, "lacks beta of like"),
        (params | {"depth": jnp.zeros(2)}, r"depth has the shape \(\), and \(2,\) in like"),
    ):
        with pytest.raises(InputError, match=message):
            br.models.load_params(file, like=like)
    with pytest.raises(InputError, match=r"parameters of 'morse', .* from Python: .*load_params"):
        br.models.load(file)


@pytest.mark.slow
def test_a_run_that_is_interrupted_goes_on(relaxations, tuned, tmp_path, monkeypatch):
    out = tmp_path / "run"
    write_event = Session.event

    def interrupt(session, event):
        write_event(session, event)
        if not session.stop():  # a second one would end the tests
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(Session, "event", interrupt)
        with pytest.raises(Interrupted, match="--resume"):
            br.finetune(relaxations, make_own(), out=out, **SETTINGS)
    with pytest.raises(InputError, match="not empty"):
        br.finetune(relaxations, make_own(), out=out, **SETTINGS)
    with pytest.raises(InputError, match="params_sha256"):
        br.finetune(relaxations, make_own(length=2.6), out=out, resume=True, **SETTINGS)
    again = br.finetune(relaxations, make_own(), out=out, resume=True, **SETTINGS)
    assert again.params == tuned.params


def test_what_is_said_of_a_model_is_written_down(relaxations, tmp_path):
    base = br.models.own_model(
        *make_own(), name="my morse", licence="MIT", functional="PBE", citation="doi:10.1103/PhysRev.34.57"
    )
    found = br.finetune(
        relaxations,
        base,
        out=tmp_path / "run",
        forgetting=False,
        relaxation=SETTINGS["relaxation"],
        force_matching={"epochs": 0},
        bptt={"epochs": 0},
    )
    card = (found.folder / "seed0" / "bptt.model-card.md").read_text()
    for said in ("# my morse, tuned", "\n\nMIT.\n", "the base model: doi:10.1103/PhysRev.34.57", "(PBE)"):
        assert said in card
    assert found.params[0] == {name: jnp.asarray(value) for name, value in PARAMS.items()}


def test_elements_it_does_not_cover_are_refused_before_anything_is_written(relaxations, tmp_path):
    with pytest.raises(InputError, match=r"does not cover Cu \(in cluster"):
        br.finetune(relaxations, make_own(elements=(13,)), out=tmp_path / "run", **SETTINGS)
    assert not (tmp_path / "run").exists()


def test_settings_are_those_of_the_command(relaxations, tmp_path):
    with pytest.raises(ValueError, match="epoch"):
        br.finetune(relaxations, make_own(), out=tmp_path / "run", bptt={"epoch": 1})
    assert not (tmp_path / "run").exists()


def test_files_are_relaxed_with_tuned_parameters(relaxations, tuned, tmp_path):
    write_relaxations(tmp_path / "start.extxyz", [r._replace(frames=r.frames[:1]) for r in relaxations[:2]])
    potential, _ = make_own()
    written = br.relax_files(
        tmp_path / "start.extxyz", (potential, tuned.params[0]), out=tmp_path / "out.extxyz", fmax=0.01
    )
    for atoms in read(written, ":"):
        assert atoms.info["model"] == "morse"
        distances = atoms.get_all_distances()[np.triu_indices(4, 1)]
        np.testing.assert_allclose(distances, float(tuned.params[0]["length"]), atol=0.01)
    with pytest.raises(InputError, match="never written over"):
        br.relax_files(tmp_path / "start.extxyz", (potential, tuned.params[0]), out=written)


def test_what_it_has_no_number_for_it_cannot_forget(relaxations):
    def energy_fn(params, distances, receivers, species):
        x = 1 - distances / 5.0
        known = jnp.where((species == 0) | (species == 29) | (species == 13), 1.0, jnp.nan)
        return known * jax.ops.segment_sum(
            params["depth"] * jnp.where(x > 0, x, 0.0) ** 3, receivers, len(species)
        )

    potential, params = from_energy_fn(energy_fn, {"depth": jnp.ones(())}, 5.0)
    check = ForgettingCheck(potential, params, None, relaxations)
    assert [crystal.formula for crystal in check.crystals] == ["Al"]
    assert check(params)["light"] == "green"


def test_what_is_no_base_model_is_refused():
    potential, params = make_own()
    for wrong, message in (
        (params | {"layers": 2}, "layers in params of morse is int"),
        (params | {"depth": np.nan}, "depth in params of morse holds NaN"),
        ({}, "nothing to train"),
    ):
        with pytest.raises(ValueError, match=message):
            br.models.own_model(potential, wrong)
    with pytest.raises(TypeError, match=r"\(potential, params\), not dict"):
        br.models.base_model(params)
    with pytest.raises(InputError, match="two parameters are called a/b"):
        br.models.own_model(potential, {"a": {"b": 1.0}, "a/b": 2.0})


def test_any_containers_are_saved(tmp_path):
    linen = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3, jnp.float32)}}
    params = (linen, [jnp.full(2, 0.5, jnp.bfloat16)], br.Theta(jnp.ones(()), {}))
    br.models.save_params(tmp_path / "p.safetensors", params)
    back = br.models.load_params(tmp_path / "p.safetensors", like=params)
    assert jax.tree.structure(back) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    with pytest.raises(InputError, match="rename it"):
        br.models.save_params(tmp_path / "p.npz", params)
    br.models.save(tmp_path / "sw.safetensors", "stillinger-weber", br.models.load("stillinger-weber")[1])
    with pytest.raises(InputError, match="read by models.load"):
        br.models.load_params(tmp_path / "sw.safetensors", like=params)


def test_a_tuned_classical_potential_has_a_file_like_the_others(tmp_path):
    potential, params = br.models.load("stillinger-weber")
    path = tmp_path / "tuned.safetensors"
    br.models.save(path, "stillinger-weber", params | {"lam": jnp.asarray(20.0)})
    again, back = br.models.load(path)
    assert again.name == potential.name
    assert float(back["lam"]) == 20.0
    base = br.models.base_model(path)
    assert (base.name, base.about.name) == (str(path), "stillinger-weber")
    assert json.loads(json.dumps(base.about._asdict()))["citation"]
