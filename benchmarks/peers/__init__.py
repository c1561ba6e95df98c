"""What the package is measured against, one file each; the packages behind them come with the extra ``bench``.

A peer's file imports its package freely: it is itself imported only when the peer is built.
"""

import functools
from importlib import import_module

from benchmarks.contract import Case, Entry, Kind, Program


def _build(case: Case, file: str) -> Program:
    return import_module(f"benchmarks.peers.{file}").build(case)


def _entry(
    file: str, label: str, *requires: str, kind: Kind = "gradient", exact: bool = True, chgnet: bool = False
) -> Entry:
    return Entry(label, kind, functools.partial(_build, file=file), requires, exact, chgnet)


ENTRIES: dict[str, Entry] = {
    "lax-scan": _entry("lax_scan", "lax.scan by hand"),
    "equinox": _entry("equinox_scan", "equinox checkpointed", "equinox"),
    "optimistix": _entry("optimistix_implicit", "optimistix implicit", "optimistix", "lineax", exact=False),
    "torch": _entry("torch_unrolled", "torch unrolled", "torch", "chgnet", chgnet=True),
    "torch-checkpointed": _entry("torch_checkpointed", "torch checkpointed", "torch", "chgnet", chgnet=True),
    "torch-forward": _entry("torch_forward", "torch forward", "torch", "chgnet", kind="forward", chgnet=True),
    "ase": _entry("ase_relaxation", "ASE + chgnet", "torch", "chgnet", kind="forward", chgnet=True),
}
