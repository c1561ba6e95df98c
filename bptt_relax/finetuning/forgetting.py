"""The forgetting check of a run: which probe it takes, and what results.json says about it."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from bptt_relax._types import Params
from bptt_relax.analysis import forgetting, probe
from bptt_relax.datasets import prototypes
from bptt_relax.io.relaxations import Relaxation
from bptt_relax.potentials import Potential
from bptt_relax.weights.registry import Model

MOST_TRAINED_PAIRS = 12
"""Pairs of the training data that are pushed together, the most frequent ones: that is where holes are dug."""


class ForgettingCheck:
    """Compares models with the pretrained one, which is asked once.

    Args:
        potential: the model's functions.
        params: of the pretrained model.
        model: its registry entry, for its known errors; None where it has none.
        train: relaxations to learn from: their chemistry is not what is forgotten.
    """

    def __init__(
        self, potential: Potential, params: Params, model: Model | None, train: Sequence[Relaxation]
    ):
        self.crystals: list[prototypes.Crystal] = []
        self._potential, self._params, self._pairs = potential, params, trained_pairs(train)
        self._errors = (model.test_errors if model else None) or forgetting.TYPICAL_ERRORS
        self._question(prototypes.covered(prototypes.PROBE, potential.elements, chemistry(train)))
        if self.crystals and not potential.elements:
            # It may cover few of them all the same: what it never had a number for, it cannot forget.
            answers = zip(self.crystals, self._before.forces, strict=True)
            self._question([crystal for crystal, forces in answers if np.all(np.isfinite(forces))])

    def _question(self, crystals: list[prototypes.Crystal]) -> None:
        """Put the questions about these crystals to the pretrained model; what was asked already is known."""
        if crystals and crystals != self.crystals:
            self._probe = probe.build(crystals, self._pairs, self._potential.graph)
            self._ask = probe.make_asker(self._probe, self._potential)
            self._before = self._ask(self._params)
        self.crystals = crystals

    def __call__(self, params: Params) -> dict[str, Any]:
        """What a tuned model has forgotten, see `analysis.forgetting.compare`; only where there are crystals to ask."""
        return forgetting.compare(self._probe, self._before, self._ask(params), self._errors)

    def describe(self) -> dict[str, Any]:
        """The probe, for results.json."""
        return {
            "crystals": [crystal.formula for crystal in self.crystals],
            "pairs": self._probe.pair_names,
            "green_below": forgetting.GREEN_BELOW,
            "red_from": forgetting.RED_FROM,
        }


def chemistry(relaxations: Sequence[Relaxation]) -> set[frozenset[int]]:
    """Sets of atomic numbers of the given relaxations."""
    return {frozenset(r.initial.species.tolist()) for r in relaxations}


def trained_pairs(relaxations: Sequence[Relaxation]) -> list[tuple[int, int]]:
    """Pairs of elements that occur together in the most relaxations."""
    counted: Counter[tuple[int, int]] = Counter()
    for elements in map(frozenset, (r.initial.species.tolist() for r in relaxations)):
        counted.update(combinations_with_replacement(sorted(elements), 2))
    return [pair for pair, _ in counted.most_common(MOST_TRAINED_PAIRS)]
