"""Names for people: what tables and figures call a structure, a stage and a part of the data."""

import re

STAGES = ("pretrained", "force_matching", "bptt")
"""The stages of a result, in the order they are told."""

PARTS = {"test": "Test structures", "unseen": "Kinds never trained on"}
"""The parts of the data that models are measured on, as headings."""

_STAGE_LABELS = {
    "pretrained": "pretrained",
    "force_matching": "force matching",
    "bptt": "BPTT",
    "control": "force matching, as long again",
}

_LEVELS = {"p32": "", "d32": ", dense k"}

_KINDS = (
    (r"VV", "divacancy"),
    (r"V", "vacancy"),
    (r"ffcd", "fourfold defect"),
    (r"bulk", "rattled bulk"),
    (r"pairV_(\w+)", r"V–\1 pair"),
    (r"pair_([A-Z][a-z]?)_([A-Z][a-z]?)", r"\1–\2 pair"),
    (r"sub_(\w+)", r"substitutional \1"),
    (r"split(\d{3})_(\w+)", r"⟨\1⟩ split \2"),
    (r"bc_(\w+)", r"bond-center \1"),
    (r"tet_(\w+)", r"tetrahedral \1"),
    (r"hex_(\w+)", r"hexagonal \1"),
)

_ASCII = str.maketrans(
    {
        "–": "-",
        "−": "-",
        "⟨": "<",
        "⟩": ">",
        "Δ": "Delta ",
        "Å": "A",
        "√": "sqrt ",
        "·": " ",
        "→": "->",
        "²": "^2",
    }
)


def readable(name: str) -> str:
    """What a person calls a structure: ``p32_pairV_Ge_s0`` becomes ``V–Ge pair s0``.

    Names that follow no rule of the bundled data are returned as they are, on one line.
    """
    name = " ".join(name.split())
    defect = re.fullmatch(r"(p32|d32)_(\w+?)_s(\d+)", name)
    if defect:
        level, kind, seed = defect.groups()
        return f"{readable_kind(kind)} s{seed}{_LEVELS[level]}"
    crystal = re.fullmatch(r"x_(\w+?)_(vcrelax|relax|atoms)_s(\d+)", name)
    if crystal:
        formula, mode, seed = crystal.groups()
        cell = {"vcrelax": ", free cell", "atoms": ", relaxed cell"}.get(mode, "")
        return f"{formula} s{seed}{cell}"
    return name


def readable_kind(kind: str) -> str:
    """What a person calls a kind of defect: ``pairV_Ge`` becomes ``V–Ge pair``."""
    for pattern, label in _KINDS:
        if re.fullmatch(pattern, kind):
            return re.sub(pattern, label, kind)
    return kind


def stage_label(stage: str) -> str:
    """What a person calls a stage; unknown ones lose their underscores."""
    return _STAGE_LABELS.get(stage, stage.replace("_", " "))


def to_ascii(text: str) -> str:
    """The same in ASCII, for terminals and pipes that can't encode more; what has no substitute becomes ``?``."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()
