import numpy as np
import pytest

from bptt_relax.io import largest_forces, start_below


def test_ends_and_largest_force(relaxation):
    assert relaxation.initial is relaxation.frames[0]
    assert relaxation.relaxed is relaxation.frames[-1]
    np.testing.assert_allclose(relaxation.fmax, np.linalg.norm(relaxation.forces[-1], axis=1).max())
    assert np.isnan(relaxation._replace(forces=None).fmax)


def test_fixed_components_do_not_count(relaxation):
    free = np.zeros_like(relaxation.initial.free)
    free[3, 1] = True
    held = relaxation._replace(frames=tuple(f._replace(free=free) for f in relaxation.frames))
    np.testing.assert_allclose(largest_forces(held), np.abs(relaxation.forces[:, 3, 1]))


def test_start_is_the_first_gentle_step(relaxation):
    forces = largest_forces(relaxation)
    moved = start_below(relaxation, float(forces[0]))
    assert moved.start == int(np.argmax(forces < forces[0])) > 0
    assert moved.initial is relaxation.frames[moved.start]
    # The last step is the target: it can't be the start.
    assert start_below(relaxation, 0.5 * forces.min()) is None


def test_forces_are_needed(relaxation):
    with pytest.raises(ValueError, match="has no forces"):
        largest_forces(relaxation._replace(forces=None))
