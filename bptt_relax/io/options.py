"""What of the data is accepted and how it is read: the same options for Python, ``check`` and ``finetune``.

Plain data, nothing heavy to import, so that --help is fast.
"""

import re
from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field


class ReadOptions(BaseModel):
    """What of the data is accepted, and where its labels stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fmax: float = Field(default=0.05, gt=0)
    """Largest force allowed at the end of a relaxation, eV/angstrom."""
    smax: float = Field(default=0.5, gt=0)
    """Where the cell was relaxed too: largest component of the stress allowed at the end, beyond the pressure, GPa."""
    pressure: float = 0.0
    """At which the cells were relaxed, GPa. Relaxations of the cell at another pressure are refused."""
    allow_unconverged: bool = False
    """Accept relaxations that did not converge."""
    start_below: float | None = Field(default=8.0, gt=0)
    """Start at the first ionic step whose largest force is below this, eV/angstrom; None: always at the first."""
    max_displacement: float = Field(default=3.0, gt=0)
    """An atom that ends further from its start than this is suspicious, angstrom."""
    relax_cell: bool = True
    """Whether the cell may change along a relaxation."""
    in_relaxed_cell: bool = False
    """Take relaxations whose cell changed as relaxations of the atoms in the final cell."""
    allow_mixed: bool = False
    """Fine-tune on relaxations by different functionals, pseudopotentials or +U."""
    reorder: bool = False
    """Match atoms that were sorted differently at start and end."""
    pbc: bool | None = None
    """Periodic along all axes (True) or none (False), whatever the files say."""
    energy_key: str | None = None
    """Where energies stand in the files, if not in the usual place (info key of extended XYZ)."""
    forces_key: str | None = None
    """Where forces stand (array)."""
    stress_key: str | None = None
    """Where stresses stand (info key), eV/angstrom^3 with ASE's sign."""
    virial_key: str | None = None
    """Where virials stand (info key), eV: minus the volume times the stress. Instead of stresses."""
    skip_bad: bool = False
    """Leave out what is wrong, with the reasons, instead of refusing everything."""

    def changed(self, **changes) -> "ReadOptions":
        """These options with others in place of some.

        Args:
            **changes: fields.

        Raises:
            pydantic.ValidationError: a field that doesn't exist, or an impossible value.
        """
        return ReadOptions(**{**self.model_dump(), **changes}) if changes else self


DEFAULT_OPTIONS = ReadOptions()

Spelling = Callable[[str, str | None], str]
"""Name of an option and, where a hint proposes one, its value -> how the one who reads the hint has to write it."""


def use(name: str, value: object = None) -> str:
    """A placeholder for an option in a hint; `spell` puts what Python or a command calls it in its place.

    Args:
        name: field of `ReadOptions`.
        value: to propose.
    """
    if name not in ReadOptions.model_fields:
        raise ValueError(f"{name} is no option of reading")
    return f"{{{name}}}" if value is None else f"{{{name}={str(value).translate(_BRACES)}}}"


def spell(text: str, spelling: Spelling) -> str:
    """Put options in the place of their placeholders.

    Args:
        text: with what `use` returns in it.
        spelling: of the reader.
    """

    def put(found: re.Match) -> str:
        name, value = found[1], found[2]
        return spelling(name, value) if name in ReadOptions.model_fields else found[0]

    return _PLACEHOLDER.sub(put, text)


def in_python(name: str, value: str | None) -> str:
    """As an argument of `io.read_relaxations`: ``forces_key='dft_forces'``."""
    if value is None:
        return f"{name}=True" if _is_flag(name) else name
    return f"{name}={value!r}" if name.endswith("_key") else f"{name}={value}"


def on_command_line(prefix: str = "") -> Spelling:
    """As an option of a command: ``--forces-key dft_forces``.

    Args:
        prefix: of the command's options of reading, with its dot.
    """

    def spelling(name: str, value: str | None) -> str:
        option = f"--{prefix}{name.replace('_', '-')}"
        return option if value is None or _is_flag(name) else f"{option} {value}"

    return spelling


_PLACEHOLDER = re.compile(r"\{(\w+)(?:=([^{}]*))?\}")
_BRACES = str.maketrans("{}", "()")


def _is_flag(name: str) -> bool:
    return ReadOptions.model_fields[name].annotation is bool
