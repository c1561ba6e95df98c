"""What a reference calculation was, as far as its output says: kind, pressure, functional and the like."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

NOTHING: Mapping[str, str] = MappingProxyType({})
RELAXATION = "relaxation"


class Calculation(NamedTuple):
    """What one output says of how it was made; None where it says nothing.

    Attributes:
        code: program and version.
        task: "relaxation", or what it is instead, with the setting that says so.
        free_cell: the cell was relaxed too.
        pressure: at which the cell was relaxed, GPa.
        functional: such as "PBE", without dispersion and +U.
        hubbard: U and J of the elements that have them, as text.
        dispersion: correction for van der Waals forces.
        pseudopotentials: name by element.
        spin: spin-polarized.
        charge: of the cell, elementary charges.
        smearing: kind and width of the occupations.
        cutoff: of the plane waves, eV.
        electronic_steps: largest number of them (NELM, electron_maxstep).
        step: of the ions (POTIM).
    """

    code: str | None = None
    task: str | None = None
    free_cell: bool | None = None
    pressure: float | None = None
    functional: str | None = None
    hubbard: Mapping[str, str] | None = None
    dispersion: str | None = None
    pseudopotentials: Mapping[str, str] = NOTHING
    spin: bool | None = None
    charge: float | None = None
    smearing: str | None = None
    cutoff: float | None = None
    electronic_steps: int | None = None
    step: float | None = None

    @property
    def method(self) -> str | None:
        """Functional with everything that shifts its energy surface, or None where the output doesn't name it."""
        if self.functional is None:
            return None
        return self.functional + (f" + {self.dispersion}" if self.dispersion else "")

    def describe(self) -> str:
        """A few words for a list; empty where nothing is known."""
        words = [self.code or "", self.method or ""]
        if self.hubbard:
            words.append("U on " + ", ".join(sorted(self.hubbard)))
        if self.spin:
            words.append("spin-polarized")
        if self.charge:
            words.append(f"charge {self.charge:+g}")
        if self.pressure:
            words.append(f"{self.pressure:g} GPa")
        return ", ".join(word for word in words if word)

    def continues(self, earlier: "Calculation") -> bool:
        """Whether this may be the same relaxation, restarted: a program wrote both, on one energy surface."""
        same = ("free_cell", "pressure", "method", "hubbard", "pseudopotentials", "spin", "charge")
        return None not in (self.code, earlier.code) and all(
            getattr(self, key) == getattr(earlier, key) for key in same
        )


WRITTEN: dict[str, Callable] = {
    "code": str,
    "functional": str,
    "dispersion": str,
    "free_cell": bool,
    "pressure": float,
    "spin": bool,
    "charge": float,
}
"""What of a `Calculation` extended XYZ keeps."""


def differences(calculations: Sequence[tuple[str, Calculation]]) -> Iterator[str]:
    """What is not the same throughout a data set although energies and forces depend on it, with who has what.

    Args:
        calculations: of a data set, with the names of their files or relaxations.

    Yields:
        one sentence for each kind of difference.
    """
    yield from _differ("functionals", calculations, lambda c: c.method)
    elements = sorted({element for _, c in calculations for element in c.pseudopotentials})
    for element in elements:
        yield from _differ(
            f"pseudopotentials of {element}", calculations, lambda c, e=element: c.pseudopotentials.get(e)
        )
    for element in sorted({element for _, c in calculations for element in c.hubbard or ()}):

        def correction(c: Calculation, element: str = element) -> str | None:
            # Who doesn't have the element says nothing about its U.
            known = c.hubbard is not None and (not c.pseudopotentials or element in c.pseudopotentials)
            return (c.hubbard or {}).get(element, "no U") if known else None

        yield from _differ(f"+U of {element}", calculations, correction)


def _differ(
    what: str, calculations: Sequence[tuple[str, Calculation]], value: Callable[[Calculation], str | None]
) -> Iterator[str]:
    who: dict[str, list[str]] = {}
    for name, calculation in calculations:
        said = value(calculation)
        if said is not None:
            who.setdefault(said, []).append(name)
    if len(who) > 1:
        listed = "; ".join(
            f"{said} ({', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''})"
            for said, names in sorted(who.items(), key=lambda item: (-len(item[1]), item[0]))
        )
        yield f"different {what} in one data set: {listed}"
