"""Merge finished DFT relaxations into the bundled data: ``python -m bptt_relax.datasets.merge FOLDER``.

Takes every finished ``*.extxyz`` of the folders, adds the relaxations that are not there yet, and rewrites
manifest and card. Frames are stored as they were written, character by character; nothing stored is replaced.
"""

import argparse
import hashlib
import json
import lzma
import os
import sys
from pathlib import Path
from typing import NamedTuple

from bptt_relax.datasets import _card, _extxyz, _records
from bptt_relax.datasets._bundle import FILES, HERE, MANIFEST, Dataset, load, read_manifest, read_text
from bptt_relax.outcomes import InputError, say


class Report(NamedTuple):
    """What a merge did.

    Attributes:
        added: names of new relaxations.
        known: names that were there already, with the same text.
        refused: what could not be taken, with the reason.
        datasets: the data as it is now.
    """

    added: list[str]
    known: list[str]
    refused: dict[str, str]
    datasets: dict[str, Dataset]


def merge(folders: list[Path], into: Path = HERE) -> Report:
    """Merge the finished relaxations of some folders.

    Args:
        folders: results of the generator; files it is still writing don't end in ``.extxyz``.
        into: where the data sets are.

    Raises:
        InputError: a folder does not exist, or the stored data is damaged.
    """
    stored: dict[str, dict[str, str]] = {name: _stored(name, into) for name in FILES}
    added, known, refused = [], [], {}
    for folder in folders:
        if not folder.is_dir():
            raise InputError(
                f"{folder} is not a folder; give the folder that holds the generator's *.extxyz files"
            )
        for path in sorted(folder.glob("*.failed.out")):
            refused[path.name.removesuffix(".failed.out")] = (
                "the calculation failed (fewer than two ionic steps)"
            )
        for path in sorted(folder.glob("*.extxyz")):
            try:
                jobs = _read(path)
            except InputError as error:
                refused[path.name] = str(error)
                continue
            for job, text in jobs.items():
                have = stored["crystals" if _records.level_of(job) == "x" else "silicon-defects"]
                if job not in have:
                    have[job] = text
                    added.append(job)
                elif have[job] == text:
                    known.append(job)
                else:
                    refused[job] = (
                        f"{path} differs from what is stored; stored relaxations are never replaced"
                    )
    if added or not (into / MANIFEST).exists():
        _store(stored, into)
    datasets = {name: load(name, folder=into) for name in FILES}
    _write(into / "README.md", _card.render(datasets, read_manifest(into)).encode())
    return Report(added, known, refused, datasets)


def _stored(name: str, into: Path) -> dict[str, str]:
    if not (into / MANIFEST).exists():
        return {}
    text, _ = read_text(name, into)
    jobs = _records.by_job(_extxyz.parse(text, FILES[name]), FILES[name])
    return {job: "".join(step.text for step in steps) for job, steps in jobs.items()}


def _read(path: Path) -> dict[str, str]:
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} ({error})") from None
    jobs = _records.by_job(_extxyz.parse(text, str(path)), str(path))
    if not jobs:
        raise InputError(f"{path} holds no frames")
    for job, steps in jobs.items():
        _records.to_relaxation(job, steps, str(path))  # refuse here what could not be loaded later
    return {job: "".join(step.text for step in steps) for job, steps in jobs.items()}


def _store(stored: dict[str, dict[str, str]], into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    version = read_manifest(into)["version"] + 1 if (into / MANIFEST).exists() else 1
    manifest: dict = {"version": version, "datasets": {}}
    for name, jobs in stored.items():
        content = lzma.compress(
            "".join(jobs[job] for job in sorted(jobs)).encode(), preset=9 | lzma.PRESET_EXTREME
        )
        _write(into / FILES[name], content)
        manifest["datasets"][name] = {
            "file": FILES[name],
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "relaxations": len(jobs),
            "frames": sum(text.count("Lattice=") for text in jobs.values()),
        }
    # Last: killed before this line, the manifest names the files it belongs to as damaged instead of trusting them.
    _write(into / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)


def main(arguments: list[str] | None = None) -> int:
    """Merge and say what happened. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bptt_relax.datasets.merge", description=__doc__)
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="results of the DFT generator"
    )
    parser.add_argument("--into", type=Path, default=HERE, metavar="FOLDER", help="where the data sets are")
    options = parser.parse_args(arguments)
    try:
        report = merge(options.folders, options.into)
    except InputError as error:
        say(str(error), error=True)
        return 2
    say(f"{len(report.added)} new, {len(report.known)} known, {len(report.refused)} refused")
    for name, reason in report.refused.items():
        say(f"  refused {name}: {reason}")
    for dataset in report.datasets.values():
        say(f"{dataset.name}: {len(dataset.relaxations)} accepted, {len(dataset.rejected)} rejected")
        for rejected in dataset.rejected:
            say(f"  rejected {rejected.name}: {'; '.join(rejected.reasons)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
