"""Which stored relaxations may be learned from. Decided at load, so that the rejected ones stay inspectable.

A relaxation is accepted when

- the reference code says it converged, and the largest force at its end is at most `FINAL_FORCE`;
- it is in one piece: every two atoms of the relaxed structure are connected by bonds shorter than
  `BOND_FACTOR` times the sum of the covalent radii;
- no atom is displaced by more than `LARGEST_DISPLACEMENT` once the drift is removed: a target that far away is
  another structure, not the minimum next to the start;
- some frame before the last has all forces below `START_FORCE`. The first such frame is the start.
"""

import numpy as np

from bptt_relax.io import geometry
from bptt_relax.io.relaxations import Relaxation, start_below

FINAL_FORCE = 0.05
"""eV/angstrom."""
START_FORCE = 8.0
"""eV/angstrom."""
BOND_FACTOR = 1.3
"""Of the sum of covalent radii; silicon: 2.89 angstrom against bonds of 2.37 and second neighbors at 3.87."""
LARGEST_DISPLACEMENT = 3.0
"""angstrom; a silicon bond is 2.37."""


def judge(relaxation: Relaxation) -> tuple[Relaxation, tuple[str, ...]]:
    """Apply the rule to one relaxation.

    Args:
        relaxation: as stored.

    Returns:
        The relaxation with its fair start where there is one, and the reasons to reject it (none: accepted).
    """
    reasons = []
    if not relaxation.converged:
        reasons.append("the reference code did not converge")
    # `not <=` so that NaN is rejected too.
    if not relaxation.fmax <= FINAL_FORCE:
        reasons.append(f"largest force at the end {relaxation.fmax:.3f} > {FINAL_FORCE} eV/angstrom")
    pieces = geometry.fragments(relaxation.relaxed, BOND_FACTOR)
    if len(pieces) > 1:
        loose = ", ".join(str(atom) for piece in pieces[1:] for atom in piece[:4])
        reasons.append(f"broken apart into {len(pieces)} pieces (loose atoms: {loose})")
    fair = start_below(relaxation, START_FORCE)
    if fair is None:
        reasons.append(f"no frame before the last has all forces below {START_FORCE} eV/angstrom")
        fair = relaxation
    # Unwrapped positions are continuous, so no image has to be guessed.
    moved = geometry.displacement(fair.initial, fair.relaxed, minimum_image=False)
    furthest = np.linalg.norm(moved - moved.mean(axis=0), axis=1)
    if furthest.max() > LARGEST_DISPLACEMENT:
        reasons.append(
            f"atom {furthest.argmax()} moves {furthest.max():.2f} > {LARGEST_DISPLACEMENT} angstrom from the start"
        )
    return fair, tuple(reasons)
