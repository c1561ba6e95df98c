"""Programs that ask another package for its predictions, each run by the Python that has that package.

They are never imported: torch must not share a process with JAX, and the nequix package changes JAX's settings.
Each reads ``{"file": path, "structures": {name: {numbers, cell, positions}}}`` from standard input and writes
``{"package": name and version, "predictions": {name: {energy, forces, stress}}}``, in eV and angstrom, ASE's signs.
"""
