"""A strict, quick reader of the extended XYZ that the bundled data is stored in.

ASE reads any extended XYZ; this reads one layout, ten times faster, and refuses everything else.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers

from bptt_relax.outcomes import InputError

COLUMNS = "species:S:1:pos:R:3:forces:R:3"
_ITEM = re.compile(r'(\w+)=(?:"([^"]*)"|(\S+))')


class Frame(NamedTuple):
    """One ionic step as stored.

    Attributes:
        info: the key=value items of the comment line, values as text.
        species: (n,) atomic numbers.
        positions: (n, 3) angstrom.
        forces: (n, 3) eV/angstrom.
        text: the frame's own text, unchanged.
    """

    info: dict[str, str]
    species: np.ndarray
    positions: np.ndarray
    forces: np.ndarray
    text: str


def parse(text: str, source: str) -> Iterator[Frame]:
    """Yield the frames of a file.

    Args:
        text: contents of the file.
        source: what messages call it.

    Raises:
        InputError: the text ends within a frame, or is laid out differently.
    """
    lines = text.splitlines(keepends=True)
    at = 0
    while at < len(lines):
        where = f"{source}, line {at + 1}"
        try:
            n = int(lines[at])
        except ValueError:
            raise InputError(f"{where}: expected a number of atoms, found {lines[at][:40]!r}") from None
        block = lines[at : at + n + 2]
        if len(block) < n + 2 or not block[-1].endswith("\n"):
            raise InputError(f"{where}: the file ends within a frame of {n} atoms; was its writing cut off?")
        info = {key: quoted or plain for key, quoted, plain in _ITEM.findall(block[1])}
        if info.get("Properties") != COLUMNS:
            raise InputError(f"{where}: columns {info.get('Properties')}, expected {COLUMNS}")
        words = [line.split() for line in block[2:]]
        try:
            species = np.array([atomic_numbers[w[0]] for w in words])
            numbers = np.array([w[1:] for w in words], dtype=float)
        except (KeyError, ValueError, IndexError) as error:
            raise InputError(f"{where}: cannot read the atoms of this frame ({error})") from None
        if numbers.shape != (n, 6):
            raise InputError(f"{where}: every atom needs a symbol and six numbers")
        yield Frame(info, species, numbers[:, :3], numbers[:, 3:], "".join(block))
        at += n + 2


def numbers_of(info: dict[str, str], key: str, shape: tuple[int, ...], source: str) -> np.ndarray:
    """An item of the comment line as an array.

    Raises:
        InputError: it is missing or has another number of values.
    """
    try:
        return np.array(info[key].split(), dtype=float).reshape(shape)
    except (KeyError, ValueError) as error:
        raise InputError(f"{source}: comment item {key} is missing or unreadable ({error})") from None
