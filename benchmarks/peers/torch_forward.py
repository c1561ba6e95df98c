"""The chgnet package's bare model in a loop: forward relaxation on a graph that is never rebuilt."""

import torch

from benchmarks.contract import Case, Digest, Program
from benchmarks.peers import torch_chgnet


def build(case: Case) -> Program:
    """See `Entry.build`."""
    problem = torch_chgnet.prepare(case)

    def run() -> float:
        positions, displacement = problem.positions, torch.zeros_like(problem.positions)
        for _ in range(case.steps):
            positions, displacement = torch_chgnet.step(
                problem, positions.detach().requires_grad_(), displacement.detach()
            )
        torch_chgnet.synchronize()
        return torch.sum((positions - problem.target) ** 2).item()

    return Program(run=run, digest=lambda value: Digest(value, None))
