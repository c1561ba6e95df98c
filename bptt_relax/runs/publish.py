"""Making a run the published one: a deliberate act, separate from running."""

import re
import shutil
from pathlib import Path

from bptt_relax import processes
from bptt_relax.outcomes import InputError


def publish(run: Path, experiments: Path) -> Path:
    """Copy the results and figures of a finished run to where people look for them.

    Results that name a ``variant`` of their experiment are kept as ``results_VARIANT.json``, beside those of others.

    Args:
        run: folder of the run.
        experiments: folder that holds one folder per experiment.

    Returns:
        the folder of the experiment.

    Raises:
        InputError: the run is not finished, its results are damaged or name no experiment, or that has no folder.
    """
    results = run / "results.json"
    if not results.is_file():
        raise InputError(f"{run} is not a finished run: no results.json; finish it first")
    found = processes.read_json(
        results, lambda found: {key: found.get(key) for key in ("experiment", "variant")}
    )
    name, variant = found["experiment"], found["variant"]
    for key, value in found.items():
        if not (_is_name(value) or (key == "variant" and value is None)):
            raise InputError(
                f"{results} is not the results of an experiment ({key} {value!r} is no plain name): "
                "publish the folder of another run"
            )
    target = experiments / name
    if not target.is_dir():
        raise InputError(
            f"no folder {target}: run this from the repository, or name the folder with --experiments"
        )
    shutil.copyfile(results, target / (f"results_{variant}.json" if variant else "results.json"))
    (target / "figures").mkdir(exist_ok=True)
    for figure in sorted((run / "figures").glob("*.png")):
        shutil.copyfile(figure, target / "figures" / figure.name)
    return target


def _is_name(value: object) -> bool:
    """What may be a part of a path: names of experiments are those of modules."""
    return isinstance(value, str) and re.fullmatch(r"\w[\w-]*", value, re.ASCII) is not None
