"""Settings of a relaxation of files: plain data, nothing heavy to import, so that --help is fast."""

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from bptt_relax.runs.settings import Settings

_CELLS = ("fixed", "free", "hydrostatic", "fixed-volume")


class RelaxSettings(Settings):
    """How structures are relaxed, and where the result goes."""

    out: Path
    """Extended XYZ file for the relaxed structures, in the order they are given. Never written over."""
    model: str = "chgnet-0.3.0"
    """Name of a pretrained model, or a file with weights."""
    fmax: float = Field(default=0.05, gt=0)
    """Converged when no force exceeds this, eV/angstrom. For small values set JAX_ENABLE_X64=1."""
    steps: int = Field(default=500, ge=1)
    """Largest number of steps of one structure."""
    rule: Literal["fire", "momentum"] = "fire"
    """fire: as in ASE, with its settings. momentum: steady steps, as in fine-tuning."""
    step_size: float = Field(default=0.03, gt=0)
    """Of momentum, angstrom^2/eV."""
    decay: float = Field(default=0.7, gt=0, lt=1)
    """Of momentum: weight of the previous displacement."""
    cell: str = "fixed"
    """fixed, free, hydrostatic (keeps the shape), fixed-volume, or which strains may change: six digits 0 or 1 for
    xx, yy, zz, yz, xz, xy. Axes that are not periodic are never strained by name."""
    smax: float = Field(default=0.1, gt=0)
    """With a cell that moves: converged when, besides, no component of the stress exceeds this, GPa."""
    pressure: float = 0.0
    """External pressure on a cell that moves, GPa."""
    trajectory: Path | None = None
    """Folder for the path of each structure, one extended XYZ file each."""
    skip_bad: bool = False
    """Relax what can be relaxed, and write what can't, with the reasons, to --rejected-to."""
    rejected_to: Path | None = None
    """rejected.csv in the folder of --out when not given."""
    resume: bool = False
    """Go on with an --out that was interrupted: what is in it is not relaxed again."""
    workers: int | None = Field(default=None, ge=1)
    """Structures relaxed at the same time on a CPU; one per core when not given."""

    @field_validator("cell")
    @classmethod
    def _cell_is_known(cls, value: str) -> str:
        if value not in _CELLS and not (re.fullmatch("[01]{6}", value) and "1" in value):
            raise ValueError(f"must be {', '.join(_CELLS)} or six digits 0 or 1, not all 0, got {value!r}")
        return value

    def physics(self) -> dict:
        """What decides where structures end, as JSON: what must not change between start and resume."""
        return self.model_dump(mode="json", include=_PHYSICS)


_PHYSICS = {"model", "fmax", "steps", "rule", "step_size", "decay", "cell", "smax", "pressure"}
