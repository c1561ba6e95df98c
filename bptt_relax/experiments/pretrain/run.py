"""From files of single points to a trained model: split, train, choose on the validation part, test once."""

from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np

from bptt_relax import trees
from bptt_relax.batches import PredictMany
from bptt_relax.experiments.pretrain import figures
from bptt_relax.experiments.pretrain import frames as framing
from bptt_relax.experiments.pretrain.config import PretrainConfig, TrainingSettings
from bptt_relax.experiments.pretrain.frames import SinglePoint
from bptt_relax.experiments.pretrain.kinds import KINDS, Plan
from bptt_relax.models import pretrained
from bptt_relax.outcomes import InputError
from bptt_relax.potentials import Potential, trainable
from bptt_relax.relax import Theta
from bptt_relax.report.metrics import read_metrics
from bptt_relax.runs import folder as folders
from bptt_relax.runs.session import Finished, Found, Session, opened
from bptt_relax.training import (
    Batch,
    Example,
    Gradients,
    LabelledFrame,
    Stage,
    Term,
    draw_rotations,
    fine_tuning,
    fit,
    like,
    rotate,
)
from bptt_relax.weights import own_format, weights_file

WEIGHTS = "weights.safetensors"


def run(config: PretrainConfig) -> Finished:
    """Do the whole experiment.

    Args:
        config: settings.

    Raises:
        InputError: anything about the settings, the folder or the data.
        Interrupted: it was stopped; everything so far is in the folder.
    """
    folder = folders.choose(config.out, config.resume, f"pretrain-{config.kind}-{config.preset}")
    data = _limited(framing.read(config.data, "--data"), config)
    test = _limited(framing.read(config.test, "--test"), config)
    if len(data) < 2:
        raise InputError(f"--data {config.data} has {len(data)} structures: nothing to validate on")
    digests = {"data_sha256": framing.digest(data), "test_sha256": framing.digest(test)}
    with opened(folder, config.resolved() | digests, config.resume) as session:
        return Finished(folder, _pretrain(session, config, data, test, digests))


def show(results: Found) -> None:
    """Print the errors that were found."""
    for part in ("train", "validation", "test"):
        errors = results["errors"][part]["all"]
        print(
            f"{part}: force MAE {1e3 * errors['mae']:.1f}, RMSE {1e3 * errors['rmse']:.1f} meV/A "
            f"({errors['frames']} frames; mean |F| {1e3 * errors['mean_absolute_force']:.0f})"
        )


def _pretrain(
    session: Session,
    config: PretrainConfig,
    data: list[SinglePoint],
    test: list[SinglePoint],
    digests: dict[str, str],
) -> Found:
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
    validator = ForceErrors(potential, validation)
    batches, num_batches = make_batches(learned, plan, config.seed)
    theta = Theta(params, ())
    stage = Stage(
        "pretrain",
        (Term(Gradients([plan.objective], mapping="side_by_side")),),
        fine_tuning(
            training.learning_rate,
            trainable=like(theta, Theta(trainable(params), ())),
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
            lambda theta: validator(theta.potential)["all"]["mae"],
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
            part: ForceErrors(potential, points)(params)
            for part, points in (("train", train), ("validation", validation), ("test", test))
        },
    )
    found = {
        "variant": plan.model,
        "dataset": digests,
        "model": plan.model,
        "parameters": num_parameters,
        "best_epoch": result.progress.best_epoch,
        "training_s": round(result.progress.seconds, 1),
        "errors": errors,
    }
    written = session.write_results("pretrain", config.preset, config.resolved(), found)
    figures.draw(session.folder, written, read_metrics(session.metrics.path))
    return written


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


def make_batches(
    points: Sequence[SinglePoint], plan: Plan, seed: int
) -> tuple[Callable[[int, int], Iterator[Batch]], int]:
    """Batches of rotated frames, the same each time they are asked for; and how many an epoch has.

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
    stacked: LabelledFrame = trees.stack_on_host(prepared)
    batch_size = min(training.batch_size, len(points))
    per_pass = len(points) // batch_size

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        rng = np.random.default_rng([seed, epoch, 1])
        order = np.concatenate(
            [rng.permutation(len(points))[: per_pass * batch_size] for _ in range(training.passes)]
        )
        for index, chosen in enumerate(order.reshape(-1, batch_size)[first:], start=first):
            rng = np.random.default_rng([seed, epoch, 2, index])
            batch = trees.take(stacked, chosen)
            batch = rotate(batch, draw_rotations(training.rotations, batch_size, rng))
            batch = batch._replace(key=rng.integers(2**32, size=(batch_size, 2), dtype=np.uint32))
            name = f"pass {index // per_pass + 1}, batch {index % per_pass + 1}"
            yield (tuple(Example(name, trees.take(batch, row)) for row in range(batch_size)),)

    return batches, per_pass * training.passes


class ForceErrors:
    """Force errors of a model on fixed frames, as they stand in their file.

    Args:
        potential: the model's functions.
        points: to measure on.
    """

    def __init__(self, potential: Potential, points: list[SinglePoint]):
        self._points = points
        self._frames = [(f.positions, f.system) for f in framing.prepare(points, potential.graph)]
        self._predict = PredictMany(potential)

    def __call__(self, params) -> dict[str, dict[str, float]]:
        """Over all components of all atoms, of all frames (``all``) and of each group: eV/angstrom."""
        reference: dict[str, list[np.ndarray]] = {}
        found: dict[str, list[np.ndarray]] = {}
        for point, prediction in zip(self._points, self._predict(params, self._frames), strict=True):
            predicted = np.asarray(prediction.forces, np.float64)[: len(point.forces)]
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
