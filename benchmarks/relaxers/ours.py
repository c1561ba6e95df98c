"""This package: one program per bucket, compiled before the clock of the relaxations starts."""

from collections.abc import Sequence

from benchmarks.relaxers.contract import MODEL, Ended, Task
from bptt_relax import batches, models, relax
from bptt_relax.relax import Theta
from bptt_relax.systems import Structure


class Ours:
    """This package.

    Attributes:
        plan: the buckets, in words.
    """

    def __init__(self, given: Sequence[Structure], task: Task):
        potential, params = models.load(MODEL)
        rule = relax.fire(largest_time_step=1.0)
        relaxation = relax.relaxation(potential, rule, force_tolerance=task.fmax)
        self._run = batches.RelaxMany(relaxation, potential.graph, task.steps, workers=task.workers)
        self._theta = Theta(params, rule.hyper)
        self._given = given
        self._plan = batches.plan_buckets(given, potential.graph)
        self.plan = batches.describe(self._plan)

    def compile(self) -> None:
        """Relax the smallest structure of each bucket, which compiles its program."""
        self.relax([bucket.members[-1] for bucket in self._plan])

    def relax(self, indices: Sequence[int]) -> dict[int, Ended]:
        """See `Relaxer.relax`; in the buckets planned for all."""
        place = {index: k for k, index in enumerate(indices)}
        buckets = [
            bucket._replace(members=members)
            for bucket in self._plan
            if (members := tuple(place[index] for index in bucket.members if index in place))
        ]
        ends = self._run(self._theta, [self._given[index] for index in indices], buckets=buckets)
        return {indices[e.index]: Ended(e.energy, e.steps, e.converged) for e in ends}
