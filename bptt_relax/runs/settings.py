"""Settings that every run has: plain data, nothing heavy to import, so that --help is fast."""

from pathlib import Path
from typing import Annotated

import tyro
from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: nothing misspelled passes, nothing changes after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DistributedSettings(Settings):
    """Several processes that work on one run: each is started with the same command."""

    auto: Annotated[bool, tyro.conf.arg(name="distributed", prefix_name=False)] = False
    """As SLURM's srun started them."""
    coordinator: str | None = None
    """host:port of the first process, reachable from all; where SLURM does not start them, like the rest."""
    num_processes: int | None = None
    """How many there are."""
    process_id: int | None = None
    """Of this one, from 0."""


class RunSettings(Settings):
    """Where a run is kept."""

    out: Path | None = None
    """Folder for the run; one of its own under runs/ when not given. Nothing is ever written over."""
    resume: bool = False
    """Continue an interrupted run."""
    distributed: DistributedSettings = DistributedSettings()

    def resolved(self) -> dict:
        """Everything that decides the outcome, as JSON."""
        return self.model_dump(mode="json", exclude={"out", "resume", "distributed"})
