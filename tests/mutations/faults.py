"""Faults of one line in the heart of the package, each with the tests that must fail for it."""

from typing import NamedTuple


class Fault(NamedTuple):
    """One wrong line.

    Attributes:
        file: in ``bptt_relax/``.
        right: what stands there, once.
        wrong: what is put in its place.
        tests: arguments of pytest, relative to ``tests/``.
    """

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


_RULES = ("relax/test_descent_and_momentum.py",)
_STOP = ("relax/test_descent_and_momentum.py", "relax/test_constraints.py")
_FIRE = ("relax/test_fire.py", "-k", "ase or differences or cap")
_CELL = ("relax/test_variable_cell.py", "-k", "ase or differences or enthalpy or pressure")
_ADJOINTS = ("contracts/test_adjoints.py", "-k", "central or (toy and capped)")
_IMPLICIT = ("adjoints/test_implicit.py",)
_LOSSES = ("losses",)
_NEIGHBORS = ("neighbors",)
_CHGNET = ("parity/test_chgnet_parity.py", "-k", "chgnet-0.3.0")
_CHGNET_OLD = ("parity/test_chgnet_parity.py", "-k", "chgnet-0.2.0")
_TRAINING = ("training/test_train_step.py", "training/test_loop.py", "training/test_gradients.py")
_STATISTICS = ("finetuning/test_statistics.py",)
_LABELS = ("io/test_labels.py", "io/test_checks.py", "faults/test_labels_of_files.py")

FAULTS = (
    # Rules.
    Fault("relax/momentum.py", "step * forces + remembered", "step * forces - remembered", _RULES),
    Fault("relax/momentum.py", "1.0 - remembered if", "1.0 + remembered if", _RULES),
    Fault("relax/momentum.py", "rule_state.scale * transforms", "transforms", _RULES),
    Fault("relax/cap.py", "jnp.max(safe_norm(forces))", "jnp.max(jnp.abs(forces))", ("relax",)),
    Fault(
        "relax/drift.py",
        "forces - jnp.where(atoms & drifts",
        "forces - jnp.where(atoms",
        ("relax/test_drift.py",),
    ),
    Fault("relax/scale.py", "jnp.minimum(rule_state.step, num_steps - 1)", "0", ("relax/test_scale.py",)),
    Fault("relax/fire.py", "rule_state.downhill > patience", "rule_state.downhill >= patience", _FIRE),
    Fault("relax/fire.py", "jnp.where(downhill, turned, 0.0)", "jnp.where(downhill, turned, v)", _FIRE),
    Fault("relax/fire.py", "(1.0 - alpha) * v + alpha", "v + alpha", _FIRE),
    # Steps and how they end.
    Fault("relax/_step.py", "jnp.where(system.free, prediction.forces, 0.0)", "prediction.forces", _STOP),
    Fault("relax/_step.py", "step_norm >= step_tolerance", "step_norm > 2 * step_tolerance", _RULES),
    Fault(
        "relax/_step.py",
        "~step.here.overflow & ~step.arrived",
        "~step.arrived",
        ("relax", "test_unrolling.py"),
    ),
    Fault("relax/_step.py", "state.steps + 1, state.outcome", "state.steps + 2, state.outcome", _RULES),
    Fault("relax/relaxation.py", "max_force < force_tolerance", "max_force < 1.05 * force_tolerance", _RULES),
    # Variable cells.
    Fault("relax/variable_cell.py", "here.forces @ F, 0.0", "here.forces @ F.T, 0.0", _CELL),
    Fault("relax/variable_cell.py", "+ pressure * jnp.eye", "- pressure * jnp.eye", _CELL),
    Fault(
        "relax/variable_cell.py",
        "L = cell_state.log_deformation + strains / scale",
        "L = cell_state.log_deformation + strains",
        _CELL,
    ),
    # Adjoints.
    Fault(
        "adjoints/truncated.py",
        "jnp.where(made > window, e, s)",
        "jnp.where(made >= window, e, s)",
        ("adjoints/test_truncated.py",),
    ),
    Fault(
        "adjoints/truncated.py", "b[made % window]", "b[(made + 1) % window]", ("adjoints/test_truncated.py",)
    ),
    Fault(
        "adjoints/_loop.py",
        "state.steps < num_steps",
        "state.steps <= num_steps",
        ("adjoints/test_truncated.py", "test_unrolling.py"),
    ),
    Fault(
        "adjoints/guided.py",
        "_floats.scale_cotangents(1 - w, gradient)",
        "_floats.scale_cotangents(w, gradient)",
        ("adjoints/test_guided_and_frozen.py",),
    ),
    Fault("adjoints/implicit.py", "here.transposed(v) + self.damping * v", "here.transposed(v)", _IMPLICIT),
    Fault(
        "adjoints/implicit.py",
        "here.project(cotangent.state.positions)",
        "cotangent.state.positions",
        _IMPLICIT,
    ),
    Fault(
        "adjoints/implicit.py",
        "(max_force <= self.force_tolerance) & ~here.overflow",
        "jnp.asarray(True)",
        _IMPLICIT,
    ),
    Fault(
        "potentials/conservative.py",
        "return value_cotangent * value + along",
        "return value + along",
        ("adjoints/test_checkpointed.py",),
    ),
    # Forces, stresses, neighbors.
    Fault(
        "potentials/conservative.py",
        "pull = slope - slope[graph.reverse]",
        "pull = 2 * slope",
        ("potentials/test_classical.py", "-k", "small or jax_md or differences"),
    ),
    Fault(
        "potentials/conservative.py",
        "vectors, 0.0).T @ slope / volume",
        "vectors, 0.0).T @ slope / (2 * volume)",
        ("potentials/test_classical.py", "-k", "stress or strain"),
    ),
    Fault("neighbors/_graph.py", "squared < c.cutoff**2", "squared < (0.99 * c.cutoff) ** 2", _NEIGHBORS),
    Fault("neighbors/_graph.py", "inside &= inside[c.reverse]", "inside = inside", _NEIGHBORS),
    Fault(
        "neighbors/_graph.py",
        "missing | bonds_missing | angles_missing | _moved_too_far(c, R, h)",
        "missing | bonds_missing | angles_missing",
        _NEIGHBORS,
    ),
    # CHGNet.
    Fault("models/chgnet/network.py", "p * (p + 1) / 2 * x * x", "p * (p - 1) / 2 * x * x", _CHGNET),
    Fault(
        "models/chgnet/network.py",
        "axis=1, keepdims=True) + 1e-5) * scale",
        "axis=1, keepdims=True) + 1e-4) * scale",
        _CHGNET,
    ),
    Fault("models/chgnet/network.py", "cosines * (1 - 1e-6)", "cosines * (1 - 1e-3)", _CHGNET),
    Fault("models/chgnet/network.py", "total + total[graph.bond_reverse]", "2 * total", _CHGNET),
    Fault(
        "models/chgnet/network.py",
        "jnp.where(jnp.any(graph.angle_mask), offset, 0.0)",
        "0 * offset",
        _CHGNET_OLD,
    ),
    # Losses.
    Fault("losses/_displacement.py", "system.masses[:, None] * d**2", "d**2", _LOSSES),
    Fault("losses/_displacement.py", "jnp.where(unconstrained, drift, 0.0)", "drift", _LOSSES),
    Fault("losses/_cell.py", "0.5 * (F.T @ F", "0.5 * (F @ F", _LOSSES),
    Fault("losses/_matching.py", "PER_ATOM * volume_per_atom * error", "volume_per_atom * error", _LOSSES),
    # Training.
    Fault(
        "training/optimizers.py",
        "        optax.clip_by_global_norm(clip),\n        optax.adam(schedule),",
        "        optax.adam(schedule),\n        optax.clip_by_global_norm(clip),",
        ("training/test_optimizers.py",),
    ),
    Fault("training/train_step.py", "leaf / jnp.maximum(count, 1.0)", "leaf", _TRAINING),
    Fault(
        "training/train_step.py",
        "jnp.minimum(averaging, state.step",
        "jnp.maximum(averaging, state.step",
        _TRAINING,
    ),
    Fault(
        "training/train_step.py",
        "(outcome < Outcome.STALE_NEIGHBORS)",
        "(outcome <= Outcome.STALE_NEIGHBORS)",
        _TRAINING,
    ),
    Fault(
        "training/loop.py",
        "self.best, progress.score, progress.best_epoch = self.state.average",
        "self.best, progress.score, progress.best_epoch = self.state.theta",
        _TRAINING,
    ),
    Fault("training/loop.py", "not score >= progress.score", "not score <= progress.score", _TRAINING),
    # Statistics.
    Fault(
        "finetuning/statistics.py",
        "_resampled_reductions(before, after, rows, rng), (0.025, 0.975)",
        "_resampled_reductions(before, after, rows, rng), (0.05, 0.95)",
        _STATISTICS,
    ),
    Fault(
        "finetuning/statistics.py",
        "a[rows, columns].mean(axis=1), (0.025, 0.975)",
        "a[rows, columns].mean(axis=1), (0.05, 0.95)",
        _STATISTICS,
    ),
    Fault(
        "finetuning/statistics.py",
        "columns = rng.integers(b.shape[1], size=rows.shape)",
        "columns = np.zeros(rows.shape, int)",
        _STATISTICS,
    ),
)
