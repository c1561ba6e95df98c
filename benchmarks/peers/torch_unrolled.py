"""The chgnet package unrolled with ``create_graph``: every intermediate of every step is kept."""

from benchmarks.contract import Case, Program
from benchmarks.peers import torch_chgnet


def build(case: Case) -> Program:
    """See `Entry.build`."""
    problem = torch_chgnet.prepare(case)
    return Program(
        run=lambda: torch_chgnet.value_and_gradient(problem, case.steps, torch_chgnet.step),
        digest=lambda value: torch_chgnet.gradient_digest(problem, value),
    )
