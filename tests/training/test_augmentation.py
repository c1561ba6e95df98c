import jax
import numpy as np
import pytest

from bptt_relax import neighbors, potentials, systems, trees
from bptt_relax.training import LabelledFrame, draw_rotations, rotate


@pytest.mark.parametrize("kind", ["none", "cubic", "any"])
def test_rotations_are_proper(kind):
    drawn = draw_rotations(kind, 50, np.random.default_rng(0))
    np.testing.assert_allclose(
        drawn @ np.swapaxes(drawn, 1, 2), np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(drawn), 1.0)
    assert (
        len(np.unique(drawn.round(6), axis=0)) in {"none": (1,), "cubic": range(10, 25), "any": (50,)}[kind]
    )


def test_a_rotated_frame_is_one_to_a_model_that_turns_along(make_silicon, make_structure):
    """Forces of an invariant potential turn with the frame, its neighbor list included."""
    potential = potentials.stillinger_weber()
    structures = [make_structure(make_silicon(1, seed=seed)) for seed in (0, 1)]
    layout = systems.plan_layout(structures, potential.graph)

    @jax.jit
    def forces(frame):
        graph = neighbors.refresh(frame.system.candidates, frame.positions, frame.system.cell)
        found = potential.apply(potential.init(None), frame.positions, frame.system, graph)
        return found.forces, graph.overflow

    frames = []
    for structure in structures:
        positions, system = systems.prepare(structure, potential.graph, layout)
        frame = LabelledFrame(positions, positions, system)
        frames.append(frame._replace(forces=forces(frame)[0]))
    batch = jax.tree.map(np.asarray, trees.stack(frames))
    turned = rotate(batch, draw_rotations("any", 2, np.random.default_rng(1)))
    for k in range(2):
        found, overflow = forces(jax.tree.map(lambda leaf, k=k: leaf[k], turned))
        assert not bool(overflow)
        np.testing.assert_allclose(found, turned.forces[k], atol=1e-10)
        assert np.max(np.abs(turned.forces[k] - batch.forces[k])) > 0.1
