"""The chgnet package's own model under the same heavy ball: what the torch peers share.

The graph of the start is built once and kept. Of a structure that moves this is less work than anybody's real
relaxation does (ours refreshes its neighbors at every step), and none of it is differentiated.
"""

from typing import NamedTuple

import torch
from chgnet.graph import CrystalGraph
from chgnet.model import CHGNet
from pymatgen.io.ase import AseAtomsAdaptor

from benchmarks import cases
from benchmarks.cases import DECAY, STEP_SIZE
from benchmarks.contract import Case, Digest


class TorchProblem(NamedTuple):
    """A case, ready to run.

    Attributes:
        model: pretrained CHGNet.
        graph: of the start.
        positions: (N, 3) start, angstrom.
        target: (N, 3) what the loss compares with, angstrom.
    """

    model: CHGNet
    graph: CrystalGraph
    positions: torch.Tensor
    target: torch.Tensor


def prepare(case: Case) -> TorchProblem:
    """Load the model and build the graph, on a GPU where torch sees one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = CHGNet.load(model_name=case.model.removeprefix("chgnet-"), use_device=device, verbose=False)
    model.eval()
    atoms, ideal = cases.silicon(case.atoms)
    graph = model.graph_converter(AseAtomsAdaptor.get_structure(atoms)).to(device)
    tensors = [torch.tensor(array, dtype=torch.float32, device=device) for array in (atoms.positions, ideal)]
    return TorchProblem(model, graph, *tensors)


def step(problem: TorchProblem, positions: torch.Tensor, displacement: torch.Tensor):
    """One step of the heavy ball: new positions and displacement, (N, 3) angstrom."""
    graph = problem.graph
    moved = CrystalGraph(
        **(graph.to_dict() | {"atom_frac_coord": positions @ torch.linalg.inv(graph.lattice)})
    )
    forces = problem.model([moved], task="ef")["f"][0]
    displacement = STEP_SIZE * forces + DECAY * displacement
    return positions + displacement, displacement


def value_and_gradient(problem: TorchProblem, steps: int, one_step) -> float:
    """Unroll, compare, pull back; the gradient is left in the parameters.

    Args:
        problem: from `prepare`.
        steps: length of the unroll.
        one_step: (problem, positions, displacement) -> (positions, displacement).
    """
    problem.model.zero_grad(set_to_none=True)
    # Forces are a derivative with respect to positions, so the start must ask for one.
    positions, displacement = problem.positions.clone().requires_grad_(), torch.zeros_like(problem.positions)
    for _ in range(steps):
        positions, displacement = one_step(problem, positions, displacement)
    value = torch.sum((positions - problem.target) ** 2)
    value.backward()
    synchronize()
    return value.item()


def gradient_digest(problem: TorchProblem, value: float) -> Digest:
    """Value and norm of the gradient that the last run left."""
    squares = [float(p.grad.square().sum()) for p in problem.model.parameters() if p.grad is not None]
    return Digest(value, sum(squares) ** 0.5)


def synchronize() -> None:
    """Wait for a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
