"""Made-up results of the size of a real run, so that reports are tested without computing anything."""

import numpy as np
import pytest

TEST = (
    "sub_Ge_s3",
    "sub_B_s1",
    "V_s2",
    "pairV_P_s0",
    "pairV_Ge_s0",
    "split110_Si_s0",
    "bc_O_s1",
    "pair_B_P_s2",
    "ffcd_s0",
)
UNSEEN = ("VV_s0", "hex_Si_s1", "sub_As_s2", "pairV_As_s0", "tet_Si_s0")
FACTORS = {"pretrained": 1.0, "force_matching": 0.92, "bptt": 0.5}


def make_block(kinds, seed):
    rng = np.random.default_rng(seed)
    before = np.exp(rng.uniform(np.log(0.08), np.log(4.7), len(kinds)))
    block = {}
    for stage, factor in FACTORS.items():
        noise = np.exp(rng.normal(0.0, 0.3, len(kinds))) if stage != "pretrained" else 1.0
        values = before * factor * noise
        names = [f"p32_{kind}" for kind in kinds]
        block[stage] = {
            "delta_q": {
                "mean": float(values.mean()),
                "geometric_mean": float(np.exp(np.log(values).mean())),
                "per_structure": dict(zip(names, values.tolist(), strict=True)),
            },
            "max_displacement": {"per_structure": dict(zip(names, (values / 8).tolist(), strict=True))},
            "force_mae": 0.12 * factor,
            "fmax_at_dft": 0.9 * factor,
            "converged_fraction": 0.9,
            "basin_fraction": float(np.mean(values / 8 < 0.25)),
        }
    means = {stage: block[stage]["delta_q"]["mean"] for stage in FACTORS}
    block["reduction"] = {
        "bptt_vs_pretrained": 1 - means["bptt"] / means["pretrained"],
        "ci95": [0.31, 0.58],
        "bptt_vs_force_matching": 1 - means["bptt"] / means["force_matching"],
        "geometric_mean": 0.4,
    }
    return block


def make_forgetting(light="yellow", holes=(), lights=("yellow",)):
    """What the check found for one stage."""

    def block(change, scale, worst):
        return {
            "light": "green", "change": change, "scale": scale, "ratio": change / scale,
            "worst": worst, "worst_change": -2 * change,
        }  # fmt: skip

    short = {"pairs": 26, "holes": list(holes), "weakest_share": 0.8, "weakest": "O-Ti", "mean_share": 0.97}
    return {
        "light": light,
        "lights": list(lights),
        "minima_lost": [],
        "crystals": {},
        "blocks": {
            "energy": block(0.012, 0.029, "NaCl"),
            "volume": block(0.008, 0.025, "KBr"),
            "bulk_modulus": block(0.03, 0.1, "W"),
            "forces": block(0.051, 0.068, "C"),
            "short_range": short | {"light": "red" if holes else "green"},
        },
    }


def make_run(results, seeds=(0,)):
    """The rest of results.json, as a run of these seeds writes it."""
    entry = results["models"]["chgnet-0.3.0"]
    for block in (entry, entry.get("unseen", {})):
        for stage in FACTORS:
            if stage in block:
                delta_q = block[stage]["delta_q"]
                delta_q["ci95"] = [0.8 * delta_q["mean"], 1.2 * delta_q["mean"]]
                delta_q["per_seed"] = {n: [v] * len(seeds) for n, v in delta_q["per_structure"].items()}
    return results | {
        "config": {
            "model": "chgnet-0.3.0", "parameters": {"rank": 0}, "bptt": {"start_from": "force_matching"},
        },
        "seeds": list(seeds),
        "dataset": {
            "name": "mine", "sha256": "ab" * 32, "train": ["a", "b"], "validation": ["c"],
            "test": sorted(entry["bptt"]["delta_q"]["per_structure"]), "unseen_kinds": [],
        },
        "base_model": {
            "name": "chgnet-0.3.0", "licence": "BSD-3-Clause-LBNL", "notice": "Copyright (c) 2023\n\nThe Regents",
            "functional": "PBE", "citation": "doi:10.1038/s42256-023-00716-3", "sha256": "cd" * 32, "cutoff": 6.0,
            "num_elements": 89, "started_from": None,
        },
        "environment": {
            "python": "3.12.1", "packages": {"jax": "0.10.1", "bptt-relax": "0.1.0", "flax": None},
            "device": {"kind": "cpu"}, "commit": "0123abc",
        },
        "forgetting": {
            "probe": {"crystals": ["NaCl"], "pairs": ["O-Ti"]},
            "stages": {"force_matching": make_forgetting("green", lights=["green"] * len(seeds)),
                       "bptt": make_forgetting(lights=["green"] * (len(seeds) - 1) + ["yellow"])},
        },
    }  # fmt: skip


def make_results(test=TEST, unseen=UNSEEN):
    entry = make_block(test, 0)
    if unseen:
        entry["unseen"] = make_block(unseen, 1)
    return {"schema": 1, "experiment": "silicon", "preset": "quick", "models": {"chgnet-0.3.0": entry}}


def make_events(seeds=1, epochs=8, steps=11, tag_seeds=True):
    """Force matching, BPTT from there, force matching as long again, as the training loop tells it."""
    events = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        fork = 1.9
        for stage, rate, pace, loss0 in (
            ("force_matching", 0.03, 0.3, 0.02),
            ("bptt", 0.12, 2.2, 1.6),
            ("control", 0.01, 0.3, 0.01),
        ):
            start = {"force_matching": 1.9, "bptt": fork, "control": fork}[stage]
            count = {"bptt": epochs, "force_matching": 4, "control": 14}[stage]
            per_epoch = steps if stage == "bptt" else 4 * steps
            extra = {"seed": seed} if tag_seeds else {}
            base = {"stage": stage, **extra}
            events.append({"event": "epoch", **base, "epoch": 0, "validation": start, "best": True})
            seconds, best, step = 0.0, start, 0
            for epoch in range(1, count + 1):
                losses = []
                for _ in range(per_epoch):
                    seconds += pace * float(rng.uniform(0.8, 1.2))
                    step += 1
                    losses.append(
                        loss0
                        * (0.35 + 0.65 * np.exp(-2.5 * step / count / per_epoch))
                        * float(np.exp(rng.normal(0, 0.5)))
                    )
                    events.append(
                        {
                            "event": "step",
                            **base,
                            "epoch": epoch,
                            "step": step,
                            "structure": "p32_V_s0",
                            "loss": losses[-1],
                            "grad_norm": 1.0,
                            "seconds": seconds,
                        }
                    )
                score = float(start * np.exp(-rate * epoch) * np.exp(rng.normal(0, 0.05)))
                events.append(
                    {
                        "event": "epoch",
                        **base,
                        "epoch": epoch,
                        "loss": float(np.mean(losses)),
                        "validation": score,
                        "best": score < best,
                        "seconds": seconds,
                    }
                )
                best = min(best, score)
            if stage == "force_matching":
                fork = best
    return events


def make_entries(structures=9, atoms=32):
    entries = []
    for i in range(structures):
        rng = np.random.default_rng(i)
        distance = np.sort(rng.uniform(0.2, 7.3**3, atoms)) ** (1 / 3)
        scale = np.exp(-distance / 2.5) * np.exp(rng.normal(0, 0.5, atoms))
        entries.append(
            {"name": f"p32_{TEST[i % len(TEST)]}", "distance": distance.tolist()}
            | {stage: (0.5 * factor * scale + 0.01).tolist() for stage, factor in FACTORS.items()}
            | {"reference": (0.7 * scale + 0.05).tolist()}
        )
    return entries


def make_path():
    stages = {}
    for (stage, factor), length in zip(FACTORS.items(), (150, 118, 92), strict=True):
        t = np.arange(1, length + 1)
        stages[stage] = {
            "delta_q": (1.3 * factor + (2.6 - 1.3 * factor) * np.exp(-t / 25)).tolist(),
            "max_force": (2.4 * np.exp(-t / 22) * (1 + 0.3 * np.cos(t / 4)) + 0.008).tolist(),
        }
    return {"name": "p32_pairV_Ge_s0", "stages": stages}


@pytest.fixture
def results():
    return make_results()


@pytest.fixture(name="make_run")
def _make_run():
    return make_run


@pytest.fixture(name="make_forgetting")
def _make_forgetting():
    return make_forgetting


@pytest.fixture
def events():
    return make_events()


@pytest.fixture
def entries():
    return make_entries()


@pytest.fixture
def path():
    return make_path()


@pytest.fixture(name="make_events")
def _make_events():
    return make_events
