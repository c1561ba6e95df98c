"""The pretrained models this package knows: plain data, no weights, nothing heavy to import.

A new model is one more row; a new family is one more folder of `bptt_relax.models`.
"""

from typing import NamedTuple

from bptt_relax.elements.properties import ELEMENTS


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

    @property
    def file_name(self) -> str:
        """Name of the weights themselves."""
        return self.member.rsplit("/", 1)[-1]


class PublicFile(NamedTuple):
    """Weights that are a file of a public repository.

    Attributes:
        address: of one commit, so that it never changes.
    """

    address: str

    @property
    def file_name(self) -> str:
        """Name of the weights themselves."""
        return self.address.rsplit("/", 1)[-1]


class Bundled(NamedTuple):
    """Weights that come with this package, trained by one of its experiments.

    Attributes:
        file_name: in ``weights/bundled``.
    """

    file_name: str


class Model(NamedTuple):
    """One pretrained model.

    Attributes:
        name: what `models.load` takes.
        family: the implementation its weights belong to: a folder of `bptt_relax.models`.
        source: where the weights come from; None where there is nothing to fetch.
        sha256: of the published file.
        size: of the published file, bytes.
        licence: of the weights.
        notice: kept beside the weights where the source's own licence file isn't found.
        elements: atomic numbers its tables cover; `functional` says where it was trained on fewer.
        cutoff: angstrom.
        functional: density functional of its training data.
        citation: DOI.
        modality: the level of theory that is predicted by a model trained on several, as its weights call it.
        test_errors: mean absolute errors of energies (eV/atom) and forces (eV/angstrom) on held-out structures of its
            training data, as its authors give them with the weights; None where they don't.
    """

    name: str
    family: str
    source: WheelMember | PublicFile | Bundled | None
    sha256: str
    size: int
    licence: str
    notice: str
    elements: tuple[int, ...]
    cutoff: float
    functional: str
    citation: str
    test_errors: tuple[float, float] | None = None
    modality: str = ""


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
    test_errors: tuple[float, float],
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
        test_errors=test_errors,
    )


_NEQUIX_FILES = (
    "https://github.com/atomicarchitects/nequix/raw/9c852a9c4cce69ae5e75bc5a2cf670be21ff8c28/models"
)

_NEQUIX_NOTICE = """MIT License

Copyright (c) 2025 Teddy Koker

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE."""

_NEQUIX = "doi:10.48550/arXiv.2508.16067"
_PHONON_FINE_TUNING = "doi:10.48550/arXiv.2601.07742"


def _nequix(name: str, sha256: str, size: int, functional: str, citation: str) -> Model:
    return Model(
        name=name,
        family="nequix",
        source=PublicFile(f"{_NEQUIX_FILES}/{name}.nqx"),
        sha256=sha256,
        size=size,
        licence="MIT",
        notice=_NEQUIX_NOTICE,
        elements=_MPTRJ_ELEMENTS,
        cutoff=6.0,
        functional=functional,
        citation=citation,
    )


_SEVENNET_NOTICE = _NEQUIX_NOTICE.replace("2025 Teddy Koker", "2024 Yutack Park")
_SEVENNET = "doi:10.1021/acs.jctc.4c00190"


def _sevennet(
    name: str,
    file: str,
    sha256: str,
    size: int,
    functional: str = "PBE / PBE+U (MPtrj)",
    citation: str = _SEVENNET,
    modality: str = "",
) -> Model:
    return Model(
        name=name,
        family="sevennet",
        source=WheelMember("sevenn==0.13.0", "sevenn", f"sevenn/pretrained_potentials/{file}"),
        sha256=sha256,
        size=size,
        licence="MIT",
        notice=_SEVENNET_NOTICE,
        elements=_MPTRJ_ELEMENTS,
        cutoff=5.0,
        functional=functional,
        citation=citation,
        modality=modality,
    )


_SEVENNET_MF = (
    "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth",
    "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd",
    10_322_158,
)

SILICON_AND_DOPANTS = (1, 5, 6, 7, 8, 9, 13, 14, 15, 16, 31, 32, 33, 49, 50, 51)
"""H, B, C, N, O, F, Al, Si, P, S, Ga, Ge, As, In, Sn, Sb: what the NequIP made here has rows for."""

_BUNDLED_NOTICE = (
    "Trained for bptt_relax on the silicon part of the mlearn data set (Zuo et al., doi:10.1021/acs.jpca.9b08723, "
    "BSD-3-Clause), and under the licence of bptt_relax itself: BSD-3-Clause."
)


def _bundled(
    name: str, sha256: str, size: int, *, elements: tuple[int, ...], cutoff: float, citation: str
) -> Model:
    return Model(
        name=name,
        family=name.partition("-")[0],
        source=Bundled(f"{name}.safetensors"),
        sha256=sha256,
        size=size,
        licence="BSD-3-Clause",
        notice=_BUNDLED_NOTICE,
        elements=elements,
        cutoff=cutoff,
        functional="PBE (mlearn silicon); every other element read as silicon until tuned",
        citation=citation,
    )


MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        _chgnet(
            "chgnet-0.3.0",
            "0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
            "d14ab7c0f093efe64b60a7bcd540bca10e74fb7f46c86108a079af60524659d1",
            4_863_221,
            (0.029, 0.068),
        ),
        _chgnet(
            "chgnet-0.2.0",
            "0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar",
            "ef624f78b6db9d315b4ef256f1bb3207449924191b91720dc17d3f60c5df980e",
            4_639_235,
            (0.030, 0.077),
            cutoff=5.0,
        ),
        _chgnet(
            "chgnet-r2scan",
            "r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar",
            "8eba3db0f35a2788bb3ae22885ad340591e27996f213c6643af522a633b50dad",
            4_872_387,
            (0.017, 0.038),
            functional="r2SCAN (MP-r2SCAN, transfer from MPtrj)",
            # Its reference energy of Yb is zero: the transfer set has no ytterbium.
            elements=tuple(z for z in _MPTRJ_ELEMENTS if z != 70),
        ),
        _nequix(
            "nequix-mp-1",
            "1647af8e627e1afa11e2bfadeab0797326513a521afd7dd01606a96f56783eee",
            2_842_366,
            "PBE / PBE+U (MPtrj)",
            _NEQUIX,
        ),
        _nequix(
            "nequix-mp-1-pft",
            "a88aeaed71fd447572dc57af21d469207d7737b85a6dbb66f8c38156f175c5f1",
            2_842_840,
            "PBE / PBE+U (MPtrj, MDR phonons)",
            _PHONON_FINE_TUNING,
        ),
        _nequix(
            "nequix-omat-1",
            "2d0802ae7f5915cb488c44d25649d98404a103697e6500abb40f515e003a46a6",
            2_841_752,
            "PBE / PBE+U, VASP 54 (OMat24)",
            _PHONON_FINE_TUNING,
        ),
        _nequix(
            "nequix-oam-1",
            "6a43475eaeb32a7a049f36c1306d78aa1e7a17e8af37aeda7901c8fec0ca845c",
            2_869_928,
            "PBE / PBE+U (OMat24, sAlex, MPtrj)",
            _PHONON_FINE_TUNING,
        ),
        _nequix(
            "nequix-oam-1-pft",
            "4ce693d68886512aab50c84ea2400efd68163e11155f7c7babe98e695177e809",
            2_842_066,
            "PBE / PBE+U (OMat24, sAlex, MPtrj, MDR phonons)",
            _PHONON_FINE_TUNING,
        ),
        _sevennet(
            "sevennet-0",
            "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
            "7052cb42b7b3be42b40b97fa0d21077a48c54b5548948fc4dcf346629f813c36",
            10_268_648,
        ),
        _sevennet(
            "sevennet-0-22may2024",
            "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
            "5d389fafd512e6ae2830d74d0b66ffc49a55d3832653ff8e7bf7f1343013c1d1",
            10_268_712,
        ),
        _sevennet(
            "sevennet-l3i5",
            "SevenNet_l3i5/checkpoint_l3i5.pth",
            "a7ff190d41efe5b8317a03d20a468e4036a1a3e64e0b14fdbab64ac3f4bfc09d",
            14_345_754,
        ),
        _sevennet(
            "sevennet-mf-0",
            *_SEVENNET_MF,
            citation="doi:10.1021/jacs.4c14455",
            modality="PBE",
        ),
        _sevennet(
            "sevennet-mf-0-r2scan",
            *_SEVENNET_MF,
            functional="r2SCAN (MP-r2SCAN, with PBE of MPtrj)",
            citation="doi:10.1021/jacs.4c14455",
            modality="R2SCAN",
        ),
        _bundled(
            "adapt-silicon",
            "a3aca23a8aec482c23ef350162517fd7cf73e6da48bb742c5ed4166af93dd6a5",
            328_300,
            elements=ELEMENTS,
            cutoff=5.0,
            citation="doi:10.48550/arXiv.2509.24115",
        ),
        _bundled(
            "nequip-silicon",
            "cca1fc8280a0ae3e6b2d7cccd0980de56eadd3e70d8250e912449345f0050a8e",
            171_208,
            elements=SILICON_AND_DOPANTS,
            cutoff=4.5,
            citation="doi:10.1038/s41467-022-29939-5",
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
