"""The command line: parse and dispatch only. ``bptt-relax COMMAND`` is ``python -m bptt_relax COMMAND``.

Nothing heavy is imported before a command needs it: ``--help``, ``check`` and ``models`` answer at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bptt_relax.finetuning.settings import OwnDataSettings
from bptt_relax.io.options import DEFAULT_OPTIONS, ReadOptions
from bptt_relax.outcomes import InputError, say
from bptt_relax.relaxing.settings import RelaxSettings


@dataclass(frozen=True)
class Check:
    """Read DFT relaxations and say everything that is wrong with them."""

    path: tyro.conf.Positional[Path]
    """A folder of relaxations (VASP, Quantum ESPRESSO, extended XYZ, ASE; compressed too) or one file."""
    reading: tyro.conf.OmitArgPrefixes[ReadOptions] = DEFAULT_OPTIONS
    model: str | None = None
    """Compare energies, forces and stresses with those of this model too: name of a pretrained one, or a file."""
    rejected_to: Path | None = None
    """Write what was refused, and why, to this CSV file, which may not exist yet."""


class Finetune(OwnDataSettings):
    """Fine-tune a pretrained model on your own relaxations, and measure it on those held out."""

    path: tyro.conf.Positional[Path]
    """A folder of relaxations or one file, as for ``check``."""


@dataclass(frozen=True)
class ListModels:
    """One line for each model: elements, cutoff, functional, licence, size, citation."""


@dataclass(frozen=True)
class FetchModels:
    """Fetch and verify the weights of models; a later use needs no network."""

    names: tyro.conf.Positional[tuple[str, ...]]
    """Models to fetch."""
    source: Path | None = None
    """Take them from this file, wheel or folder and not from the network."""


@dataclass(frozen=True)
class VerifyModels:
    """Check weights at hand, fetched or of this package: hash, shapes, every number finite."""

    names: tyro.conf.Positional[tuple[str, ...]] = ()
    """Models to check; every one at hand when not given."""


@dataclass(frozen=True)
class ExportModel:
    """Write weights in the format of the original package, and how well that package agrees with them."""

    weights: tyro.conf.Positional[str]
    """Name of a model, or a .safetensors file with fine-tuned weights."""
    to: tyro.conf.Positional[Path]
    """File to write: .pth.tar for CHGNet, .nqx for Nequix."""
    python: Path | None = None
    """Python that has the original package, to compare with; this one, if it has it."""


ModelsAction = (
    Annotated[ListModels, tyro.conf.subcommand("list", prefix_name=False)]
    | Annotated[FetchModels, tyro.conf.subcommand("fetch", prefix_name=False)]
    | Annotated[VerifyModels, tyro.conf.subcommand("verify", prefix_name=False)]
    | Annotated[ExportModel, tyro.conf.subcommand("export", prefix_name=False)]
)


@dataclass(frozen=True)
class Models:
    """List the pretrained models, fetch their weights, verify what was fetched, export tuned ones."""

    action: tyro.conf.OmitArgPrefixes[ModelsAction] = ListModels()


class Relax(RelaxSettings):
    """Relax structures with a model, many at once."""

    paths: tyro.conf.Positional[tuple[Path, ...]]
    """Files that ASE reads and folders of them. Every structure of a file is relaxed, of the output of a DFT run the
    last step; FILE@INDEX picks, as in ASE (FILE@-1, FILE@0:10)."""


@dataclass(frozen=True)
class Selftest:
    """Certify a model on this machine: gradients, symmetries, smoothness, step size."""

    model: str
    """Name of a pretrained model, or a file with weights."""
    data: Path | None = None
    """Take the first relaxation found here; a strained silicon vacancy when not given."""
    steps: int = 10
    """Length of the unroll that is differentiated."""
    step_size: float = 0.02
    """angstrom^2/eV."""
    decay: float = 0.5
    """Weight of the previous displacement."""
    seed: int = 0
    """Of the random directions."""


@dataclass(frozen=True)
class Replay:
    """Repeat an update of training that could not be used, and say what happens to each of its examples."""

    bundle: tyro.conf.Positional[Path]
    """File that the run left in its folder bad_updates."""


@dataclass(frozen=True)
class Publish:
    """Make a finished run the published one: copy its results and figures to experiments/NAME."""

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    experiments: Path = Path("experiments")
    """Folder that holds one folder per experiment."""


Command = (
    Annotated[Check, tyro.conf.subcommand("check")]
    | Annotated[Finetune, tyro.conf.subcommand("finetune")]
    | Annotated[Models, tyro.conf.subcommand("models")]
    | Annotated[Relax, tyro.conf.subcommand("relax")]
    | Annotated[Selftest, tyro.conf.subcommand("selftest")]
    | Annotated[Replay, tyro.conf.subcommand("replay")]
    | Annotated[Publish, tyro.conf.subcommand("publish")]
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line; the process's own when not given.

    Returns:
        exit code: 0 for success, 1 for a certificate that was not given, 2 for input that was refused.

    Raises:
        InputError: the input is at fault.
    """
    command = tyro.cli(
        Command,
        prog="bptt-relax",
        description="Fine-tune interatomic potentials by backpropagation through structural relaxation.\n\n"
        "Experiments are programs of their own: python -m bptt_relax.experiments.silicon --help",
        args=arguments,
    )
    handlers = {
        Check: _check,
        Finetune: _finetune,
        Models: _models,
        Relax: _relax,
        Selftest: _selftest,
        Replay: _replay,
        Publish: _publish,
    }
    return handlers[type(command)](command)


def _check(command: Check) -> int:
    from bptt_relax import io
    from bptt_relax.io.options import on_command_line
    from bptt_relax.io.problems import refuse_existing, summarize

    if not command.path.exists():
        raise InputError(f"cannot read {command.path}: no such file or folder")
    if command.rejected_to is not None:
        refuse_existing(command.rejected_to)
    spelling = on_command_line()
    found = io.inspect(command.path, command.reading)
    for relaxation in found.relaxations:
        made = relaxation.calculation.describe()
        say(
            f"{relaxation.name}: {len(relaxation.initial.species)} atoms, {len(relaxation.frames)} steps, "
            f"largest force at the end {relaxation.fmax:.3f} eV/A" + (f"; {made}" if made else "")
        )
    for line in summarize(found.notes, spelling):
        say(f"note: {line}")
    for problem in found.rejected:
        say(f"refused: {problem.written(spelling)}", error=True)
    if command.rejected_to is not None:
        io.write_rejected(command.rejected_to, found.rejected, spelling)
    if command.model is not None and found.relaxations:
        from bptt_relax import analysis
        from bptt_relax.models import pretrained

        _say_device()
        agreement = analysis.compare_labels(*pretrained.load(command.model), found.relaxations)
        for sentence in agreement.sentences:
            say(sentence)
        for doubt in agreement.doubts:
            say(f"note: {doubt}")
    say(f"{len(found.relaxations)} relaxations fit for use, {len(found.rejected)} problems")
    return 2 if found.rejected and not (command.reading.skip_bad and found.relaxations) else 0


def _say_device() -> None:
    """Where the numbers that follow come from; not among them."""
    from bptt_relax.report.environment import device_line

    say(device_line(), error=True)


def _finetune(command: Finetune) -> int:
    from bptt_relax import compilation, distributed
    from bptt_relax.finetuning.own_data import run
    from bptt_relax.report.tables import print_results

    compilation.keep_compiled_programs()
    with distributed.joined(**command.distributed.model_dump()):
        _say_device()
        finished = run(command.path, command)
        print_results(finished.results)
        say(f"results, figures, relaxed structures and tuned models: {finished.folder}")
    return 0


def _models(command: Models) -> int:
    from bptt_relax.models import pretrained

    match command.action:
        case FetchModels(names, source):
            if not names:
                raise InputError(f"name a model to fetch: {', '.join(pretrained.names())}")
            for name in names:
                say(f"{name}: verified, in {pretrained.fetch(name, source=source)}")
        case VerifyModels(names):
            verdicts = [pretrained.verify(name) for name in names or pretrained.cached()]
            for verdict in verdicts:
                say(f"{verdict.model}: {verdict.sentence}")
            return 0 if all(v.passed for v in verdicts) else 2
        case ExportModel(weights, to, python):
            from bptt_relax.models.exporting import export

            _say_device()
            found = export(to, weights, python=python)
            agrees = (
                "not compared: this Python lacks the original package"
                if found is None
                else (
                    f"{found.package} agrees to {found.energy:.0e} eV, {found.forces:.0e} eV/A, "
                    f"{found.stress:.0e} eV/A^3"
                )
            )
            say(f"{to}: {agrees}")
        case _:
            for model in pretrained.MODELS.values():
                say(pretrained.describe(model))
    return 0


def _relax(command: Relax) -> int:
    from bptt_relax import compilation
    from bptt_relax.relaxing.run import run, summary

    compilation.keep_compiled_programs()
    _say_device()
    say(f"{summary(run(command.paths, command))}; written to {command.out}")
    return 0


def _selftest(command: Selftest) -> int:
    from bptt_relax import analysis, io, relax, systems
    from bptt_relax.models import pretrained

    _say_device()
    potential, params = pretrained.load(command.model)
    if command.data is None:
        structure = _silicon_vacancy()
    else:
        structure = io.read_relaxations(command.data, allow_unconverged=True, skip_bad=True)[0].initial
    positions, system = systems.prepare(structure, potential.graph)
    rule = relax.chain(relax.momentum(command.step_size, command.decay), relax.cap_displacement(0.1))
    certificate = analysis.selftest(
        potential, params, positions, system, rule, command.steps, seed=command.seed
    )
    say(analysis.format_certificate(certificate))
    return 0 if certificate.passed else 1


def _replay(command: Replay) -> int:
    from bptt_relax.finetuning import bad_update

    _say_device()
    update, examples = bad_update.repeat(command.bundle)
    say(update)
    for example in examples:
        say(example.sentence)
    return 0


def _publish(command: Publish) -> int:
    from bptt_relax.runs.publish import publish

    say(f"published in {publish(command.run, command.experiments)}")
    return 0


def _silicon_vacancy():
    """A small strained vacancy: an ideal one is its own minimum under some potentials and would test nothing."""
    import numpy as np
    from ase.build import bulk

    from bptt_relax.io import to_structure

    atoms = bulk("Si", cubic=True, a=5.5)
    del atoms[0]
    atoms.positions += 0.05 * np.random.default_rng(0).normal(size=atoms.positions.shape)
    return to_structure(atoms, "silicon vacancy")
