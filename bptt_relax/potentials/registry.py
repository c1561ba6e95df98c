"""The pretrained models this package knows: plain data, no weights, nothing heavy to import.

A new model is one more entry; a new kind of model is one more family (see `pretrained`).
"""

from typing import NamedTuple


class WheelMember(NamedTuple):
    """Weights that come inside a wheel of the Python package index.

    Attributes:
        requirement: exact version, as pip understands it.
        package: the import name; an installed copy is used where there is one.
        member: path of the weights inside the wheel.
    """

    requirement: str
    package: str
    member: str


class Model(NamedTuple):
    """One pretrained model.

    Attributes:
        name: what `pretrained.load` takes.
        family: the implementation its weights belong to.
        source: where the weights come from; None where there is nothing to fetch.
        sha256: of the published file.
        size: of the published file, bytes.
        licence: of the weights.
        notice: kept beside the weights where the source's own licence file isn't found.
        elements: atomic numbers it was trained on.
        cutoff: angstrom.
        functional: density functional of its training data.
        citation: DOI.
    """

    name: str
    family: str
    source: WheelMember | None
    sha256: str
    size: int
    licence: str
    notice: str
    elements: tuple[int, ...]
    cutoff: float
    functional: str
    citation: str


# Up to plutonium, without Po, At, Rn, Fr and Ra, of which the training data hold nothing.
_MPTRJ_ELEMENTS = tuple(z for z in range(1, 95) if not 84 <= z <= 88)

_CHGNET_NOTICE = (
    "Crystal Hamiltonian Graph neural Network (CHGNet) Copyright (c) 2023, The Regents of the University of "
    "California, through Lawrence Berkeley National Laboratory and the University of California, Berkeley. "
    "All rights reserved. Modified BSD licence; its full text is in the chgnet package."
)


def _chgnet(
    name: str,
    file: str,
    sha256: str,
    size: int,
    cutoff: float = 6.0,
    functional: str = "PBE / PBE+U (MPtrj)",
    elements: tuple[int, ...] = _MPTRJ_ELEMENTS,
) -> Model:
    return Model(
        name=name,
        family="chgnet",
        source=WheelMember("chgnet==0.4.2", "chgnet", f"chgnet/pretrained/{file}"),
        sha256=sha256,
        size=size,
        licence="BSD-3-Clause-LBNL",
        notice=_CHGNET_NOTICE,
        elements=elements,
        cutoff=cutoff,
        functional=functional,
        citation="doi:10.1038/s42256-023-00716-3",
    )


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        _chgnet(
            "chgnet-0.3.0",
            "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
            "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
            4_863_221,
        ),
        _chgnet(
            "chgnet-0.2.0",
            "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
            "ef624f78b6db9d315b4ef256f1bb3207449924191b91720dc17d3f60c5df980e",
            4_639_235,
            cutoff=5.0,
        ),
        _chgnet(
            "chgnet-r2scan",
            "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
            "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
            4_872_387,
            functional="r2SCAN (MP-r2SCAN, transfer from MPtrj)",
            # Its reference energy of Yb is zero: the transfer set has no ytterbium.
            elements=tuple(z for z in _MPTRJ_ELEMENTS if z != 70),
        ),
        Model(
            name="stillinger-weber",
            family="stillinger-weber",
            source=None,
            sha256="",
            size=0,
            licence="published numbers",
            notice="",
            elements=(14,),
            cutoff=3.77118,
            functional="fitted to experiment",
            citation="doi:10.1103/PhysRevB.31.5262",
        ),
    )
}
