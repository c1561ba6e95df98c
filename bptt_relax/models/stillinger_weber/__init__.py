"""Stillinger-Weber for silicon: `potentials.stillinger_weber` with its published numbers."""
