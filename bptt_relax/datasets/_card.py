"""The card of the bundled data, written from the data itself."""

from collections import Counter

import numpy as np

from bptt_relax.datasets import acceptance, crystals, silicon
from bptt_relax.datasets._bundle import Dataset
from bptt_relax.io import geometry, labels

_HEAD = """# Bundled reference data

Written by `python -m bptt_relax.datasets.merge`; don't edit. Version {version}.

Relaxations of silicon point defects and of small crystals, every ionic step with energy, forces and stress,
computed for this package with Quantum ESPRESSO 6.7 (pw.x, BFGS) and free to use under the package's licence.

## Settings
- PBE, plane waves 24 Ry (crystals 30 Ry), density 96 Ry, 144 Ry where an ultrasoft or PAW dopant is present
  (crystals 120 and 180 Ry), Gaussian smearing 0.005 Ry, no spin, no symmetry, self-consistency 1e-7 Ry.
- Ends when no force component exceeds 1e-3 Ry/bohr (0.026 eV/angstrom) and the energy changes by less than 2e-4 Ry.
- Silicon lattice constant of this setup: 5.475 angstrom. 32-site body-centered cells.
- `p32_KIND_sSEED`: one special k point, (1/4, 1/4, 1/4); forces within 22 meV/angstrom (rms) of the 2x2x2 mesh.
  `d32_KIND_sSEED`: the same start with the shifted 2x2x2 mesh, 9 meV/angstrom from 3x3x3.
  The two share a group; `silicon.twins` pairs them up and says what the labels are worth.
- `x_NAME_vcrelax_sSEED`, `x_NAME_relax_sSEED`: small crystals with free and with fixed cell, dense k meshes
  (spacing below 0.42 per angstrom).
- Starts: random displacements of 0.02-0.12 angstrom (standard deviation per component; 0.1-0.25 in the bulk), in
  odd seeds the neighbors moved by up to 12% of the bond; strain up to 1.5% unless the seed is a multiple of three.
- Pseudopotentials: Si.pbe-rrkj, B.pbe-n-rrkjus_psl.1.0.0, C.pbe-rrkjus, O.pbe-rrkjus, Ge.pbe-kjpaw,
  As.pbe-n-kjpaw_psl.0.2 as distributed with Quantum ESPRESSO; P and Al (Troullier-Martins) generated with its ld1.x.

## Limits
Energies carry the constants of these pseudopotentials: never compare them with another code's without a shift per
element. The cells are small (defects see their images), without spin and charge: labels to learn to relax with,
not formation energies to publish.

## What is accepted
All relaxations are stored; `datasets.load` decides by this rule (`acceptance.py`) and lists the others as rejected:
converged according to the code; largest force at the end at most {force} eV/angstrom; in one piece (bonds up to
{bond} times the sum of covalent radii); no atom further than {moved} angstrom from the start, drift removed.
The start is the first frame whose largest force is below {start} eV/angstrom.

## Split
`datasets.silicon.split`: by kind and seed, fixed before any potential was tried, unchanged by data added later.
Never trained on:
{unseen}

`datasets.crystals.split`: by crystal, likewise; half of them train, a sixth validation, a third test, and over its
{folds} folds each crystal is tested on once. `datasets.crystals.in_given_cells` gives relaxations of the atoms alone.
"""


def render(datasets: dict[str, Dataset], manifest: dict) -> str:
    """The card as Markdown.

    Args:
        datasets: by name, as they are now.
        manifest: of the folder they were loaded from.
    """
    unseen = "\n".join(f"- `{kind}`: {why}" for kind, why in silicon.UNSEEN.items())
    parts = [
        _HEAD.format(
            version=manifest["version"],
            force=acceptance.FINAL_FORCE,
            bond=acceptance.BOND_FACTOR,
            moved=acceptance.LARGEST_DISPLACEMENT,
            start=acceptance.START_FORCE,
            unseen=unseen,
            folds=crystals.FOLDS,
        )
    ]
    for dataset in datasets.values():
        entry = manifest["datasets"][dataset.name]
        accepted = dataset.relaxations
        late = [r for r in accepted if r.start > 0]
        parts.append(
            f"## `{dataset.name}`\n"
            f"`{entry['file']}`, sha256 `{entry['sha256']}`: {entry['relaxations']} relaxations, "
            f"{entry['frames']} ionic steps; {len(accepted)} accepted, {len(dataset.rejected)} rejected.\n"
        )
        if late:
            listed = ", ".join(f"{r.name} (step {r.start})" for r in late)
            parts.append(f"Start moved past harsh steps: {listed}.\n")
        if dataset.name == "silicon-defects":
            division = silicon.split(accepted)
            sizes = ", ".join(f"{len(getattr(division, part))} {part}" for part in division._fields)
            parts.append(f"Default split (p32): {sizes}.\n")
            parts.append(_twins(dataset))
        if works := [work.ratio for work in map(labels.work_ratio, accepted) if work is not None]:
            parts.append(
                "Energy gained over work done by the forces, a check that needs no model: "
                f"{min(works):.3f} to {max(works):.3f} over {len(works)} relaxations (1 is right).\n"
            )
        kinds = Counter(r.kind for r in accepted)
        steps = Counter({kind: sum(len(r.frames) for r in accepted if r.kind == kind) for kind in kinds})
        rows = "\n".join(f"| {kind} | {kinds[kind]} | {steps[kind]} |" for kind in sorted(kinds))
        parts.append(f"| kind | relaxations | ionic steps |\n|---|---|---|\n{rows}\n")
        for rejected in dataset.rejected:
            parts.append(f"Rejected `{rejected.name}`: {'; '.join(rejected.reasons)}.\n")
    return "\n".join(parts)


def _twins(dataset: Dataset) -> str:
    """How far the ends of the same start lie apart at the two levels: no potential can be measured more finely."""
    rows = []
    for sparse, dense in silicon.twins(dataset.relaxations):
        apart = _deviation(sparse.relaxed, dense.relaxed)
        way = _deviation(dense.frames[0], dense.relaxed)
        mass = sparse.initial.masses[:, None]
        delta_q, whole = (float(np.sqrt(np.sum(mass * d**2))) for d in (apart, way))
        furthest = float(np.linalg.norm(apart, axis=1).max())
        rows.append(f"| {sparse.group} | {delta_q:.3f} | {furthest:.3f} | {whole:.2f} |")
    if not rows:
        return ""
    return (
        "The same start at both levels, distance between the two ends and, to compare with, from start to end:\n\n"
        "| start | Delta Q, sqrt(u) angstrom | largest displacement, angstrom | Delta Q of the relaxation |\n"
        "|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _deviation(a, b) -> np.ndarray:
    d = geometry.displacement(a, b)
    return d - d.mean(axis=0)
