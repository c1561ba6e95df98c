"""Potentials of the user's own are looked at before they are used: a mistake of one percent is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from ase import Atoms

import bptt_relax as br
from bptt_relax import potentials
from bptt_relax.analysis import require_consistent
from bptt_relax.io import Relaxation
from bptt_relax.outcomes import InputError
from bptt_relax.trees import safe_norm


@pytest.fixture
def structures(make_silicon, make_structure):
    cluster = Atoms("Si4", positions=[[0, 0, 0], [2.4, 0, 0], [0.3, 2.3, 0], [0.4, 0.5, 2.5]])
    return {
        "crystal": make_structure(make_silicon(1), "crystal"),
        "ideal": make_structure(make_silicon(1, vacancy=False, strain=0.0, rattle=0.0), "ideal"),
        "cluster": make_structure(cluster, "cluster"),
    }


def wrong(potential, **factors):
    def apply(params, positions, system, graph):
        found = potential.apply(params, positions, system, graph)
        return found._replace(**{name: factor * getattr(found, name) for name, factor in factors.items()})

    return potential._replace(apply=apply)


@pytest.mark.parametrize("name", ["crystal", "ideal", "cluster"])
def test_what_is_right_passes(springs, structures, name):
    require_consistent(springs.potential, springs.params, [structures[name]])


@pytest.mark.parametrize("name", ["crystal", "ideal", "cluster"])
@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0, 13.6])
def test_wrong_forces_are_refused(springs, structures, name, factor):
    potential = wrong(springs.potential, forces=factor)
    with pytest.raises(InputError, match=rf"springs on {name}, moved a little: its forces are not minus the"):
        require_consistent(potential, springs.params, [structures[name]])


@pytest.mark.parametrize("name", ["crystal", "ideal"])
@pytest.mark.parametrize("factor", [1.01, 0.99, -1.0, 160.2])
def test_wrong_stresses_are_refused(springs, structures, name, factor):
    potential = wrong(springs.potential, stress=factor)
    with pytest.raises(InputError, match="its stress is not the derivative of its energy"):
        require_consistent(potential, springs.params, [structures[name]])


def test_a_direction_in_space_is_refused(structures):
    def energy(params, vectors, system, graph):
        del system
        r = jnp.where(graph.mask, safe_norm(vectors), 3.5)
        x = jnp.where(graph.mask, vectors[:, 0], 0.0)
        return params["k"] * jnp.sum(jnp.where(r < 3.5, (1 - r / 3.5) ** 3 * (1 + 0.05 * x**2), 0.0))

    potential = potentials.conservative(
        energy, lambda key: {"k": jnp.asarray(1.0)}, br.neighbors.GraphSpec(3.5), name="tilted"
    )
    with pytest.raises(InputError, match="turned in space, its forces differ"):
        require_consistent(potential, potential.init(None), [structures["crystal"]])


def test_heads_of_their_own_are_let_through(springs, structures):
    own = wrong(springs.potential, forces=1.3)._replace(conservative=False)
    require_consistent(own, springs.params, [structures["crystal"]])
    broken = wrong(springs.potential, forces=jnp.nan)._replace(conservative=False)
    with pytest.raises(InputError, match="not finite"):
        require_consistent(broken, springs.params, [structures["crystal"]])


def test_it_is_looked_at_before_anything_is_written(springs, structures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    crystal = structures["crystal"]
    frames = (crystal, crystal._replace(positions=crystal.positions + 0.01))
    made = [Relaxation(f"{k}", f"{k}", "Si7", frames, None, None, None, True) for k in range(4)]
    given = wrong(springs.potential, forces=1.01), springs.params
    with pytest.raises(InputError, match="its forces are not minus the gradient"):
        br.finetune(made, given, out="run")
    br.io.write_relaxations("one.extxyz", made[:1])
    with pytest.raises(InputError, match="its forces are not minus the gradient"):
        br.relax_files("one.extxyz", given, out="out.extxyz", steps=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.extxyz"]


def test_a_model_of_the_registry_is_not_checked_anew(monkeypatch, tmp_path, structures):
    from bptt_relax.relaxing import run

    monkeypatch.setattr(run, "require_consistent", lambda *_: pytest.fail("checked"))
    made = Relaxation("a", "a", "Si7", (structures["crystal"],) * 2, None, None, None, True)
    br.io.write_relaxations(tmp_path / "one.extxyz", [made])
    br.relax_files(f"{tmp_path}/one.extxyz@0", "stillinger-weber", out=tmp_path / "out.extxyz", steps=1)
    assert np.isfinite(br.models.load("stillinger-weber")[1]["A"])
