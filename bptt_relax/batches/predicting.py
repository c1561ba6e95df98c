"""What a potential says about many structures: in turn on every core of a CPU, many at once elsewhere."""

from collections.abc import Hashable, Sequence

import jax

from bptt_relax import neighbors, threads, trees
from bptt_relax._types import HostArray, Params, Positions
from bptt_relax.batches.mapping import Mapping, choose_mapping, over_structures
from bptt_relax.compilation import Programs
from bptt_relax.potentials import Potential, Prediction
from bptt_relax.systems import System

SIDE_BY_SIDE = 32
"""Structures in one call, on an accelerator."""


class PredictMany:
    """Energy, forces and stress of structures, which may differ in their padding.

    Args:
        potential: the model's functions.
        mapping: as `over_structures`.
    """

    def __init__(self, potential: Potential, mapping: Mapping | None = None):
        def predict(params: Params, positions: Positions, system: System) -> Prediction:
            graph = neighbors.refresh(system.candidates, positions, system.cell)
            return potential.apply(params, positions, system, graph)

        in_turn = choose_mapping(mapping) == "in_turn"
        self._size = 1 if in_turn else SIDE_BY_SIDE
        self._programs = Programs(over_structures(predict, mapping), several_at_once=in_turn)

    def __call__(self, params: Params, structures: Sequence[tuple[HostArray, System]]) -> list[Prediction]:
        """What the potential says, on the host, padded as the structures are.

        Args:
            params: of the potential.
            structures: positions and system with neighbors, each.
        """
        alike: dict[Hashable, list[int]] = {}
        for index, structure in enumerate(structures):
            alike.setdefault(trees.shape_of(structure), []).append(index)
        pieces = [
            members[k : k + self._size]
            for members in alike.values()
            for k in range(0, len(members), self._size)
        ]
        found: list[Prediction | None] = [None] * len(structures)

        def ask(piece: list[int]) -> None:
            predictions = self._ask(params, [structures[index] for index in piece])
            for row, index in enumerate(piece):
                found[index] = trees.take(predictions, row)

        threads.on_every_core(ask, pieces)
        return [prediction for prediction in found if prediction is not None]

    def prepare(self, params: Params, structure: tuple[HostArray, System]) -> None:
        """Compile in the background for structures of this shape."""
        self._programs.prepare(params, *self._stacked([structure]))

    def _ask(self, params: Params, structures: Sequence[tuple[HostArray, System]]) -> Prediction:
        """Of structures of one shape, stacked, in one call."""
        return jax.device_get(self._programs(params, *self._stacked(structures)))

    def _stacked(self, structures: Sequence[tuple[HostArray, System]]) -> tuple[Positions, System]:
        filled = [*structures, *[structures[0]] * (self._size - len(structures))]
        return jax.device_put(trees.stack_on_host(filled))
