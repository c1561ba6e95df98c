"""Type aliases that carry shape and unit in their name.

Letters: N atoms (padded), E edges, B bonds, A angles (all padded to a capacity), K structures, T steps.
"""

from typing import Any

import jax
import numpy as np

Array = jax.Array
HostArray = np.ndarray | jax.Array
"""What functions on the host accept: they work in numpy, in float64."""
PyTree = Any

Scalar = jax.Array
"""Shape (): a float."""
Positions = jax.Array
"""Shape (N, 3), angstrom, Cartesian, not wrapped into the cell."""
Displacement = jax.Array
"""Shape (N, 3), angstrom."""
Forces = jax.Array
"""Shape (N, 3), eV/angstrom."""
Cell = jax.Array
"""Shape (3, 3), angstrom, rows are the lattice vectors (the ASE convention)."""
Energy = jax.Array
"""Shape (), eV."""
Stress = jax.Array
"""Shape (3, 3), eV/angstrom^3, ASE's sign: dE/d(strain) / volume, positive when the cell wants to shrink."""
Params = Any
"""Pytree of the learnable parameters of a potential."""
