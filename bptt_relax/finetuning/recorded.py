"""Measurements of a run, each made once: what an interrupted run has measured is read back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bptt_relax import processes
from bptt_relax.finetuning.forgetting import Check
from bptt_relax.finetuning.measure import Measurement, Ruler, from_json, to_json
from bptt_relax.finetuning.session import Session
from bptt_relax.relax import Theta
from bptt_relax.training import Interrupted


def measure(
    session: Session,
    ruler: Ruler,
    theta: Theta,
    names: Sequence[str],
    folder: Path,
    stage: str,
    title: str,
) -> dict[str, Measurement]:
    """Relax the named structures with a model.

    Args:
        session: the run.
        ruler: measures.
        theta: the model.
        names: of held-out relaxations.
        folder: keeps ``<stage>.json``.
        stage: that the model comes from.
        title: for the progress display.

    Raises:
        Interrupted: between two structures; nothing is kept.
    """
    path = folder / f"{stage}.json"
    if path.is_file():
        return from_json(json.loads(path.read_text()))
    session.reporter.begin(title, len(names))

    def on_structure(name: str, relaxed) -> None:
        session.reporter.advance(structure=name, delta_q=relaxed.delta_q)
        session.metrics.write(
            {"event": "structure", "stage": stage, "structure": name, "delta_q": relaxed.delta_q}
        )
        if session.stop():
            raise Interrupted(stage)

    measured = session.timed("evaluation", lambda: ruler.measure(theta, names, on_structure))
    folder.mkdir(parents=True, exist_ok=True)
    processes.write_json(path, to_json(measured))
    return measured


def forgetting(session: Session, check: Check, theta: Theta, folder: Path, stage: str) -> dict[str, Any]:
    """Compare a model with the pretrained one; arguments as for `measure`, kept in ``<stage>.forgetting.json``."""
    path = folder / f"{stage}.forgetting.json"
    if path.is_file():
        return json.loads(path.read_text())
    found = session.timed("forgetting", lambda: check(theta.potential))
    folder.mkdir(parents=True, exist_ok=True)
    processes.write_json(path, found)
    return found
