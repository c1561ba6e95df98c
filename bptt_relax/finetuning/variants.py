"""Variants of a run: a few settings changed on top of those that all of them share."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from bptt_relax.finetuning.settings import RecipeSettings
from bptt_relax.runs.settings import Settings

Changes = Mapping[str, Mapping[str, Any]]
"""Settings by section: {"relaxation": {"step_size": 0.06}}."""


class Variant(NamedTuple):
    """One way of fine-tuning.

    Attributes:
        label: for figures and tables.
        group: which family it belongs to.
        changes: settings by section, on top of those all variants share.
    """

    label: str
    group: str
    changes: Changes


def changed(config: Settings, changes: Changes) -> RecipeSettings:
    """The recipe in a configuration, with changes on top.

    Args:
        config: of an experiment; what it has beyond a recipe is left out.
        changes: by section.

    Raises:
        pydantic.ValidationError: a change that is no setting or has an impossible value.
    """
    base = config.model_dump(include=set(RecipeSettings.model_fields))
    for section, values in changes.items():
        base[section] = base[section] | dict(values)
    return RecipeSettings.model_validate(base)


def check_names(names: tuple[str, ...], known: Mapping[str, Any], what: str = "variant") -> tuple[str, ...]:
    """The names, if there are some and all are known.

    Raises:
        ValueError: otherwise, with what there is.
    """
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        raise ValueError(f"no {what} {', '.join(unknown) or 'given'}; there are {', '.join(known)}")
    return names
