"""The benchmark suite is no part of the package: it is found from the root of the checkout."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks import presets, schema
from benchmarks.entries import ENTRIES


@pytest.fixture
def results() -> schema.Results:
    """What a laptop run could have found: rounds that drift together, one refusal, one peer that is missing."""
    preset = presets.PRESETS["laptop"]
    comparisons = []
    for plan in preset.plans:
        case, measured = plan.case, []
        for i, entry in enumerate(plan.entries):
            once = 1e-3 * case.steps * case.atoms * (i + 1)
            compiled = not ENTRIES[entry].chgnet_only
            memory = 1000 * case.atoms * (case.steps if entry == "full" else 1)
            measured.append(
                schema.Measured(
                    entry=entry,
                    # The machine slows down twofold and threefold: a ratio within a round must not notice.
                    rounds=[once, 2 * once, 3 * once] if plan.timed else [],
                    trace_seconds=1.0 if compiled else None,
                    compile_seconds=2.0 if compiled else None,
                    temp_bytes=memory if compiled else None,
                    peak_bytes=100 * memory,
                    value=0.5,
                    gradient_norm=2.0 if ENTRIES[entry].kind == "gradient" else None,
                )
            )
        comparisons.append(
            schema.Comparison(
                name=case.name,
                model=case.model,
                atoms=case.atoms,
                steps=case.steps,
                entries=measured,
                environment={"cpu_count": 2, "processor": "abacus", "packages": {"jax": "1"}},
            )
        )
    refused = comparisons[0].get("implicit")
    refused.rounds, refused.gradient_norm, refused.note = [], None, "refused: not converged after these steps"
    steps = [4, 16, 64]
    convergence = schema.Convergence(
        model=presets.SW,
        atoms=31,
        steps=steps,
        max_force=[1.0, 1e-3, 1e-9],
        errors={"force": [1.0, 0.1, 1e-6], "implicit": [70.0, 1e-3, 0.0], "guided": [None, 0.5, 0.4]},
    )
    return schema.Results(
        preset="laptop", comparisons=comparisons, convergence=convergence, left_out=list(preset.left_out)
    )
