"""Making a run the published one: a deliberate act, separate from running."""

import json
import shutil
from pathlib import Path

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
        InputError: the run is not finished, or there is no folder for its experiment.
    """
    results = run / "results.json"
    if not results.is_file():
        raise InputError(f"{run} is not a finished run: no results.json; finish it with --resume")
    try:
        found = json.loads(results.read_text())
        name, variant = found["experiment"], found.get("variant")
    except (ValueError, KeyError) as error:
        raise InputError(f"{results} is not the results of an experiment ({error})") from error
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
