"""One number compared with one tolerance."""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bptt_relax._types import PyTree


class Check(NamedTuple):
    """Outcome of one check.

    Attributes:
        name: what was checked.
        value: what was found; its meaning is in ``detail``.
        tolerance: the largest value that passes, or None where there is nothing to fail.
        passed: None where the check does not apply or could not decide.
        detail: what the value is, and what to do where it fails.
    """

    name: str
    value: float
    tolerance: float | None
    passed: bool | None
    detail: str


def check(name: str, value: float, tolerance: float, detail: str) -> Check:
    """A check that passes up to the tolerance; NaN fails."""
    return Check(name, float(value), tolerance, bool(float(value) <= tolerance), detail)


def note(name: str, value: float, detail: str) -> Check:
    """A number that is reported and not judged."""
    return Check(name, float(value), None, None, detail)


def failures(checks: Iterable[Check]) -> list[Check]:
    """Those that did not pass."""
    return [c for c in checks if c.passed is False]


def to_host(tree: PyTree) -> PyTree:
    """Numpy copies of all leaves."""
    return jax.tree.map(np.asarray, tree)


def to_device(tree: PyTree, *, double: bool) -> PyTree:
    """JAX arrays of host arrays, floats in the given precision."""

    def convert(leaf):
        leaf = np.asarray(leaf)
        if np.issubdtype(leaf.dtype, np.inexact) or leaf.dtype == jnp.bfloat16:
            leaf = leaf.astype(np.float64 if double else np.float32)
        return jnp.asarray(leaf)

    return jax.tree.map(convert, tree)
