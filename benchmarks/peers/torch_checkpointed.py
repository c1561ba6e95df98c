"""The chgnet package unrolled with ``torch.utils.checkpoint`` around every step."""

from torch.utils.checkpoint import checkpoint

from benchmarks.contract import Case, Program
from benchmarks.peers import torch_chgnet


def _checkpointed_step(problem, positions, displacement):
    # Reentrant checkpointing can't hold the derivative that the forces are.
    return checkpoint(torch_chgnet.step, problem, positions, displacement, use_reentrant=False)


def build(case: Case) -> Program:
    """See `Entry.build`."""
    problem = torch_chgnet.prepare(case)
    return Program(
        run=lambda: torch_chgnet.value_and_gradient(problem, case.steps, _checkpointed_step),
        digest=lambda value: torch_chgnet.gradient_digest(problem, value),
    )
