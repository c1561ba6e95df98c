"""From files of single points to a trained model: split, train, choose on the validation part, test once."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from bptt_relax import compilation, neighbors, processes, trees
from bptt_relax.experiments.pretrain import figures
from bptt_relax.experiments.pretrain import frames as framing
from bptt_relax.experiments.pretrain.config import PretrainConfig, TrainingSettings
from bptt_relax.experiments.pretrain.frames import SinglePoint
from bptt_relax.experiments.pretrain.kinds import KINDS, Plan
from bptt_relax.finetuning import workspace
from bptt_relax.finetuning.session import Session, opened
from bptt_relax.models import pretrained
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential, trainable
from bptt_relax.relax import Theta
from bptt_relax.report.environment import environment, peak_rss_mb
from bptt_relax.report.metrics import read_metrics
from bptt_relax.training import (
    Example,
    Interrupted,
    LabelledFrame,
    Stage,
    draw_rotations,
    fine_tuning,
    fit,
    rotate,
)
from bptt_relax.weights import own_format, weights_file

WEIGHTS = "weights.safetensors"


def run(config: PretrainConfig) -> int:
    """Do the whole experiment.

    Args:
        config: settings.

    Returns:
        exit code: 0, or 128 + the signal that interrupted it.

    Raises:
        InputError: anything about the settings, the folder or the data.
    """
    compilation.keep_compiled_programs()
    folder = workspace.choose_folder(config.out, config.resume, f"pretrain-{config.kind}-{config.preset}")
    data = _limited(framing.read(config.data, "--data"), config)
    test = _limited(framing.read(config.test, "--test"), config)
    if len(data) < 2:
        raise InputError(f"--data {config.data} has {len(data)} structures: nothing to validate on")
    digests = {"data_sha256": framing.digest(data), "test_sha256": framing.digest(test)}
    with opened(folder, config.resolved() | digests, config.resume) as session:
        try:
            found = _pretrain(session, config, data, test, digests)
        except Interrupted:
            session.save_timing()
            session.reporter.note(
                f"interrupted; everything so far is in {folder}. Go on with the same command and --resume"
            )
            return 128 + (session.stop.number or 2)
    for part in ("train", "validation", "test"):
        errors = found["errors"][part]["all"]
        print(
            f"{part}: force MAE {1e3 * errors['mae']:.1f}, RMSE {1e3 * errors['rmse']:.1f} meV/A "
            f"({errors['frames']} frames; mean |F| {1e3 * errors['mean_absolute_force']:.0f})"
        )
    print(f"results, figure and weights: {folder}")
    return 0


def _pretrain(
    session: Session,
    config: PretrainConfig,
    data: list[SinglePoint],
    test: list[SinglePoint],
    digests: dict[str, str],
) -> dict:
    """Everything, in order; returns what results.json holds."""
    train, validation = split(data, config.validation, config.seed)
    learned = [point for point in train if len(point.structure.species) <= config.largest]
    if not learned:
        raise InputError(f"no training structure has {config.largest} atoms or fewer: raise --largest")
    plan = KINDS[config.kind](config, learned)
    potential, training = plan.potential, plan.training
    session.reporter.note(
        f"{plan.model}: {len(learned)} of {len(train)} frames to train on (at most {config.largest} atoms), "
        f"{len(validation)} to validate, {len(test)} to test; {jax.default_backend()}"
    )
    params = plan.start(potential.init(jax.random.key(config.seed)))
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    validator = Gauge(potential, validation)
    batches, num_batches = make_examples(learned, plan, config.seed)
    theta = Theta(params, ())
    stage = Stage(
        "pretrain",
        plan.objective,
        fine_tuning(
            training.learning_rate,
            trainable=Theta(trainable(params), ()),
            num_updates=max(1, training.epochs * num_batches),
            warmup=training.warmup,
            clip=training.clip,
            final_fraction=training.final_fraction,
        ),
        batches,
        training.epochs,
        averaging=training.averaging,
    )
    session.reporter.begin(
        f"training {plan.model}, {num_parameters} parameters",
        training.epochs * num_batches,
        score="validation force MAE (eV/A)",
    )
    result = session.timed(
        "training",
        lambda: fit(
            stage,
            theta,
            lambda theta: validator.errors(theta.potential)["all"]["mae"],
            session.folder / "checkpoints",
            on_event=session.event,
            should_stop=session.stop,
        ),
    )
    params = plan.finish(result.theta.potential)
    weights = weights_file.Weights(plan.model, plan.arguments, own_format.to_arrays(params))
    weights_file.write(session.folder / WEIGHTS, weights)
    # What is measured is what was saved.
    _, params = pretrained.load(session.folder / WEIGHTS)
    errors = session.timed(
        "evaluation",
        lambda: {
            part: Gauge(potential, points).errors(params)
            for part, points in (("train", train), ("validation", validation), ("test", test))
        },
    )
    found = {
        "schema": 1,
        "experiment": "pretrain",
        "variant": plan.model,
        "preset": config.preset,
        "config": config.resolved(),
        "dataset": digests,
        "model": plan.model,
        "parameters": num_parameters,
        "best_epoch": result.progress.best_epoch,
        "training_s": round(result.progress.seconds, 1),
        "errors": errors,
        "timing_s": {phase: round(seconds, 1) for phase, seconds in session.timing.items()},
        "peak_rss_mb": round(peak_rss_mb()),
        "environment": environment(),
    }
    processes.write_json(session.folder / workspace.RESULTS, found)
    figures.draw(session.folder, found, read_metrics(session.folder / workspace.METRICS))
    return found


def split(points: list[SinglePoint], share: float, seed: int) -> tuple[list[SinglePoint], list[SinglePoint]]:
    """Frames to train on and to validate with, drawn from each group in proportion; at least one of each."""
    rng = np.random.default_rng([seed, 0])
    chosen: set[int] = set()
    order = rng.permutation(len(points))
    for group in sorted({point.group for point in points}):
        members = [int(k) for k in order if points[k].group == group]
        chosen.update(members[: round(share * len(members))])
    if not chosen:
        chosen.add(int(order[0]))
    train = [point for k, point in enumerate(points) if k not in chosen]
    return train, [points[k] for k in sorted(chosen)]


def make_examples(
    points: Sequence[SinglePoint], plan: Plan, seed: int
) -> tuple[Callable[[int], Iterator[Example]], int]:
    """Batches of rotated frames, the same each time an epoch is asked for; and how many an epoch has.

    Args:
        points: to train on.
        plan: its settings, and the weights of atoms.
        seed: of the order, the rotations and the noise.
    """
    training: TrainingSettings = plan.training
    prepared = framing.prepare(list(points), plan.potential.graph)
    if plan.weights is not None:
        size = prepared[0].positions.shape[0]
        padded = [plan.weights(point.structure) for point in points]
        padded = [np.pad(w, (0, size - len(w))).astype(prepared[0].positions.dtype) for w in padded]
        prepared = [frame._replace(weights=w) for frame, w in zip(prepared, padded, strict=True)]
    stacked: LabelledFrame = jax.tree.map(np.asarray, trees.stack(prepared))
    batch_size = min(training.batch_size, len(points))
    per_pass = len(points) // batch_size

    def epoch_examples(epoch: int) -> Iterator[Example]:
        rng = np.random.default_rng([seed, epoch, 1])
        for number in range(training.passes):
            order = rng.permutation(len(points))[: per_pass * batch_size].reshape(per_pass, batch_size)
            for index, chosen in enumerate(order):
                batch = jax.tree.map(lambda leaf, rows=chosen: leaf[rows], stacked)
                batch = rotate(batch, draw_rotations(training.rotations, batch_size, rng))
                key = jax.random.fold_in(
                    jax.random.key(seed), (epoch * training.passes + number) * per_pass + index
                )
                batch = batch._replace(key=jax.random.split(key, batch_size))
                yield Example(f"pass {number + 1}, batch {index + 1}", batch)

    return epoch_examples, per_pass * training.passes


class Gauge:
    """Measures force errors on fixed frames, as they stand in their file.

    Args:
        potential: the model's functions.
        points: to measure on.
    """

    def __init__(self, potential: Potential, points: list[SinglePoint]):
        self._points = points
        self._frames = framing.prepare(points, potential.graph)

        @jax.jit
        def forces(params, frame: LabelledFrame):
            graph = neighbors.refresh(frame.system.candidates, frame.positions, frame.system.cell)
            return potential.apply(params, frame.positions, frame.system, graph).forces

        self._forces = forces

    def errors(self, params) -> dict[str, dict[str, float]]:
        """Over all components of all atoms, of all frames (``all``) and of each group: eV/angstrom."""
        reference: dict[str, list[np.ndarray]] = {}
        found: dict[str, list[np.ndarray]] = {}
        for point, frame in zip(self._points, self._frames, strict=True):
            predicted = np.asarray(self._forces(params, frame), np.float64)[: len(point.forces)]
            for group in ("all", point.group):
                reference.setdefault(group, []).append(point.forces)
                found.setdefault(group, []).append(predicted)
        return {group: _errors(found[group], reference[group]) for group in found}


def _errors(found: list[np.ndarray], reference: list[np.ndarray]) -> dict[str, float]:
    forces, difference = np.concatenate(reference), np.concatenate(found) - np.concatenate(reference)
    return {
        "frames": len(reference),
        "mae": float(np.mean(np.abs(difference))),
        "rmse": float(np.sqrt(np.mean(difference**2))),
        "mean_absolute_force": float(np.mean(np.abs(forces))),
    }


def _limited(points: list[SinglePoint], config: PretrainConfig) -> list[SinglePoint]:
    """So many frames as the settings say, in their order."""
    if not config.limit or len(points) <= config.limit:
        return points
    chosen = np.random.default_rng([config.seed, 2]).permutation(len(points))[: config.limit]
    return [points[k] for k in sorted(chosen)]
