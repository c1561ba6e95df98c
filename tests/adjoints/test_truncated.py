"""Windows at the start, at the end, and what passes between them."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from bptt_relax import unrolling
from bptt_relax.adjoints import Checkpointed, Truncated

STEPS = 9


def by_hand(problem, gradient_free, num_steps=STEPS):
    """Gradient with the steps that ``gradient_free`` names taken without one; its middle is handed on as it is."""

    def value(theta, positions):
        here = problem.relaxation.carry(problem.relaxation.init(theta, positions, problem.system))
        for k in range(num_steps):
            if gradient_free(k):
                after = problem.relaxation.step(
                    lax.stop_gradient(theta), lax.stop_gradient(here.state), problem.system
                )
                if k >= 3:  # a window at the start: straight through
                    after = jax.tree.map(
                        lambda a, s: (
                            a + (s - lax.stop_gradient(s)) if jnp.issubdtype(a.dtype, jnp.inexact) else a
                        ),
                        after,
                        here,
                    )
                here = after
            else:
                here = problem.relaxation.step(theta, here.state, problem.system)
        return problem.loss(here, problem.system)

    return jax.jit(jax.grad(value, argnums=(0, 1)))(problem.theta, problem.positions)


@pytest.fixture(scope="module")
def running(make_problem, crystal):
    """Without tolerance: every step is made. Momentum, so that the window has a memory to cut."""
    return make_problem(crystal, force_tolerance=0.0)


def test_first(running, assert_close):
    gradient, _ = running.gradient(Truncated(first=3), STEPS)
    assert_close(gradient, by_hand(running, lambda k: k >= 3), 1e-10)


def test_last(running, assert_close):
    gradient, _ = running.gradient(Truncated(last=7), STEPS)
    assert_close(gradient, by_hand(running, lambda k: k < 2), 1e-10)
    assert not jnp.any(gradient[1]), "the start lies before the window"


@pytest.mark.parametrize(
    "window", [Truncated(first=STEPS), Truncated(last=STEPS), Truncated(last=10 * STEPS)]
)
def test_a_window_over_all_steps_is_exact(running, window, assert_close):
    gradient, result = running.gradient(window, STEPS)
    expected, reference = running.gradient(Checkpointed("force"), STEPS)
    assert_close(gradient, expected, 1e-12)
    assert_close(result.state, reference.state, 1e-12)


def test_last_counts_the_steps_that_were_made(converging, exact, assert_close):
    """Converged after about half of the steps: the last ones of the unroll move nothing."""
    made = int(exact[1].state.steps)
    assert made < 120
    (theta, start), result = converging.gradient(Truncated(last=made // 2))
    assert not jnp.any(start)
    # Momentum forgets its start well within half of the way.
    assert_close(theta.potential, exact[0][0].potential, 1e-4)
    assert_close(result.state, exact[1].state, 1e-10)
    (theta, start), _ = converging.gradient(Truncated(last=made))
    assert_close((theta, start), exact[0], 1e-10)


def test_record(running, assert_close):
    """All steps are recorded, whatever is differentiated."""
    state = running.relaxation.init(running.theta, running.positions, running.system)
    traces = [
        jax.jit(unrolling.unroll(running.relaxation, STEPS, adjoint, unrolling.path))(
            running.theta, state, running.system
        ).trace
        for adjoint in (Checkpointed(), Truncated(first=4), Truncated(last=4))
    ]
    for trace in traces[1:]:
        assert_close(trace, traces[0], 1e-12)


@pytest.mark.parametrize(
    "arguments", [{}, {"first": 2, "last": 2}, {"first": 0}, {"last": -1}, {"first": 2.0}]
)
def test_misuse(arguments):
    with pytest.raises(ValueError, match="exactly one|positive integer"):
        Truncated(**arguments)
