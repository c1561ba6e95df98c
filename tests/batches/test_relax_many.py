"""Many structures relaxed in one call: each as alone, none a step too many, none harmed by another."""

import threading

import jax
import numpy as np
import pytest

from bptt_relax import batches, potentials, relax, systems
from bptt_relax.batches import Bucket
from bptt_relax.neighbors import Capacity
from bptt_relax.outcomes import Outcome
from bptt_relax.relax import Theta
from bptt_relax.systems import Layout

WAYS = {
    "in turn": {"mapping": "in_turn", "workers": 2},
    "side by side": {"mapping": "side_by_side", "slots": 2},
}


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.mark.parametrize("moves_cell", [False, True])
def test_each_ends_where_it_ends_alone(mixed, relax_all, relax_alone, way, moves_cell):
    found = relax_all(mixed, moves_cell=moves_cell, **way)
    for structure, final in zip(mixed, found, strict=True):
        last, info = relax_alone(structure, moves_cell=moves_cell)[-1]
        assert final.structure.name == structure.name
        assert final.outcome == Outcome.CONVERGED
        assert final.steps == int(last.steps) > 1
        np.testing.assert_allclose(final.structure.positions, last.positions, rtol=0, atol=1e-12)
        np.testing.assert_allclose(final.structure.cell, last.cell, rtol=0, atol=1e-12)
        np.testing.assert_allclose(final.energy, info.energy, rtol=1e-12)
        np.testing.assert_allclose(final.max_force, info.max_force, rtol=1e-9, atol=1e-12)
        if moves_cell:
            np.testing.assert_allclose(final.max_stress, info.max_stress, rtol=1e-9, atol=1e-12)
        assert (final.max_stress is not None) == moves_cell
    assert len({final.steps for final in found}) > 3, "or nobody finished early"


def test_what_is_held_stays_to_the_last_digit(mixed, relax_all, way):
    (final,) = relax_all(mixed[2:3], **way)
    held = ~mixed[2].free
    assert held.any()
    assert np.array_equal(final.structure.positions[held], mixed[2].positions[held])
    assert not np.array_equal(final.structure.positions, mixed[2].positions)


def counting(relaxation, counts):
    """The relaxation, counting how often it is traced and how often it evaluates the potential."""

    def evaluate(*arguments):
        counts["traced"] += 1
        with lock:
            jax.debug.callback(count)
        return relaxation.evaluate(*arguments)

    def count():
        with lock:
            counts["evaluated"] += 1

    lock = threading.RLock()
    return relaxation._replace(evaluate=evaluate)


def test_one_compilation_per_bucket_and_no_step_after_convergence(relaxation, potential, theta, mixed, plan):
    counts = {"traced": 0, "evaluated": 0}
    run = batches.RelaxMany(counting(relaxation, counts), potential.graph, 200, workers=2)
    buckets = plan(mixed, (4, 8))
    assert len(buckets) == 2
    found = list(run(theta, mixed, buckets=buckets))
    jax.effects_barrier()
    assert counts["traced"] == len(buckets)
    # Every step evaluates where it starts, and the end is evaluated once.
    assert counts["evaluated"] == sum(final.steps + 1 for final in found)
    list(run(theta, mixed, buckets=buckets))
    assert counts["traced"] == len(buckets), "a second call compiles nothing"


def test_a_broken_structure_fails_alone(mixed, relax_all, way):
    positions = mixed[1].positions.copy()
    # So close that a power of their distance overflows.
    positions[:2] = [[0.0, 0.0, 0.0], [1e-90, 0.0, 0.0]]
    broken = [mixed[0], mixed[1]._replace(positions=positions), *mixed[2:]]
    found, wanted = relax_all(broken, **way), relax_all(mixed, **way)
    assert found[1].outcome == Outcome.NOT_FINITE
    assert np.isnan(found[1].energy)
    assert np.array_equal(found[1].structure.positions, positions)
    for k in (0, 2, 3, 4, 5):
        assert np.array_equal(found[k].structure.positions, wanted[k].structure.positions)
        assert found[k].energy == wanted[k].energy


def test_stale_neighbors_are_rebuilt_on_the_way(mixed, relax_all, relax_alone, way):
    found = relax_all(mixed[3:], skin=0.1, **way)
    assert all(final.rebuilds > 0 for final in found)
    for structure, final in zip(mixed[3:], found, strict=True):
        last = relax_alone(structure)[-1]
        assert final.steps == int(last.state.steps)
        np.testing.assert_allclose(final.structure.positions, last.state.positions, rtol=0, atol=1e-10)


def test_a_layout_that_is_too_small_grows_once_for_all(mixed, relax_all, potential, way):
    large = [mixed[5], mixed[5]._replace(name="the same again")]
    tight = systems.plan_layout([mixed[5]], potential.graph)
    # Enough candidates to begin with, too few edges.
    tight = Layout(tight.num_atoms, Capacity(*tight.capacity)._replace(edges=32))
    found = relax_all(large, buckets=[Bucket(tight, (0, 1), 1.0, 1.0)], **way)
    wanted = relax_all(mixed[5:], **way)[0]
    for final in found:
        assert (final.outcome, final.rebuilds) == (Outcome.CONVERGED, 1)
        np.testing.assert_allclose(final.structure.positions, wanted.structure.positions, rtol=0, atol=1e-10)


def test_where_steps_run_out_the_end_is_evaluated_too(mixed, relax_all, relax_alone, way):
    (final,) = relax_all(mixed[3:4], num_steps=5, **way)
    states = relax_alone(mixed[3])
    assert (final.outcome, final.steps) == (Outcome.RUNNING, 5)
    np.testing.assert_allclose(final.structure.positions, states[5].state.positions, rtol=0, atol=1e-12)
    # A step reports the energy of where it started: that of the fifth state comes with the sixth.
    np.testing.assert_allclose(final.energy, states[6].info.energy, rtol=1e-12)
    np.testing.assert_allclose(final.max_force, states[6].info.max_force, rtol=1e-9)


def test_the_path_holds_every_configuration_with_its_own_energy(mixed, relax_all, relax_alone, way):
    for structure, final in zip(mixed[:3], relax_all(mixed[:3], keep_path=True, **way), strict=True):
        states = relax_alone(structure)
        assert final.path is not None
        assert len(final.path.energies) == final.steps + 1
        np.testing.assert_allclose(
            final.path.positions, [s.state.positions for s in states[: final.steps + 1]], rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(final.path.energies, [s.info.energy for s in states[1:]], rtol=1e-12)
        assert final.path.max_forces[-1] == final.max_force


def test_stops_when_asked(mixed, relaxation, potential, theta, plan, way):
    finished = []
    run = batches.RelaxMany(relaxation, potential.graph, 200, **way)
    for final in run(theta, mixed * 4, buckets=plan(mixed * 4), should_stop=lambda: len(finished) >= 3):
        finished.append(final)
    # What was under way when it was asked may still finish.
    assert 3 <= len(finished) < 4 * len(mixed)
    assert list(run(theta, [])) == []


def test_a_cell_that_collapses_is_given_up(mixed):
    def energy(params, vectors, system, graph):
        del params, system
        lengths = jax.numpy.where(graph.mask, jax.numpy.linalg.norm(vectors, axis=-1), 1.0)
        return jax.numpy.sum(jax.numpy.where(graph.mask, lengths, 0.0))

    falling = potentials.conservative(energy, lambda key: {}, potentials.stillinger_weber().graph)
    rule = relax.momentum(0.5, 0.5)
    relaxation = relax.variable_cell_relaxation(falling, rule, force_tolerance=1e-3, stress_tolerance=1e-3)
    run = batches.RelaxMany(relaxation, falling.graph, 500)
    (final,) = run(Theta({}, rule.hyper), mixed[4:5])
    assert final.outcome in (Outcome.STALE_NEIGHBORS, Outcome.NOT_FINITE)
    assert np.isnan(final.energy)


def test_misuse(relaxation, potential):
    with pytest.raises(ValueError, match="num_steps must be positive, got 0"):
        batches.RelaxMany(relaxation, potential.graph, 0)
    with pytest.raises(ValueError, match="slots must be positive, got -1"):
        batches.RelaxMany(relaxation, potential.graph, 5, slots=-1)
