"""From the name of an adjoint, as settings have it, to the adjoint."""

import re
from typing import Any

from bptt_relax.adjoints._contract import Adjoint, own_arguments


def named(name: str, **arguments: Any) -> Adjoint:
    """The adjoint of a name: ``full``, ``first_K``, ``last_K``, ``implicit``, ``guided_K`` or ``frozen``.

    K is a number of steps, as in ``guided_10``. Any other subclass of `Adjoint` is found in the same way, by its names.

    Args:
        name: the name.
        arguments: of any adjoint, such as ``force_tolerance`` of `Implicit`; each takes those it has.

    Raises:
        ValueError: no adjoint has this name; the message says which there are.
        TypeError: no adjoint has this argument.
    """
    kinds = _kinds(Adjoint)
    if unknown := arguments.keys() - {key for kind in kinds for key in own_arguments(kind, arguments)}:
        raise TypeError(f"no adjoint has an argument {', '.join(sorted(unknown))}")
    word, _, number = name.partition("_")
    steps = int(number) if re.fullmatch(r"[1-9]\d*", number) else None
    form = name if steps is None else f"{word}_K"
    for kind in kinds:
        if form in kind.names and (steps is not None) == form.endswith("_K"):
            return kind.from_name(word, steps, arguments)
    known = sorted(form for kind in kinds for form in kind.names)
    alone = ", ".join(form for form in known if not form.endswith("_K"))
    counted = ", ".join(form for form in known if form.endswith("_K"))
    raise ValueError(f"no adjoint {name!r}; there are {alone}, and with a number of steps for K {counted}")


def _kinds(base: type[Adjoint]) -> list[type[Adjoint]]:
    """Subclasses at any depth, each once, in the order of their definition."""
    found = [kind for child in base.__subclasses__() for kind in (child, *_kinds(child))]
    return list(dict.fromkeys(found))
