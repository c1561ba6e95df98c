"""Settings that every run has: plain data, nothing heavy to import, so that --help is fast."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of all settings: nothing misspelled passes, nothing changes after the start."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RunSettings(Settings):
    """Where a run is kept."""

    out: Path | None = None
    """Folder for the run; one of its own under runs/ when not given. Nothing is ever written over."""
    resume: bool = False
    """Continue an interrupted run."""

    def resolved(self) -> dict:
        """Everything that decides the outcome, as JSON."""
        return self.model_dump(mode="json", exclude={"out", "resume"})
