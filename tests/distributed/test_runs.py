"""``bptt-relax finetune`` by two real processes on this host: as by one, whatever happens to them."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

import bptt_relax as br
from bptt_relax.io import Relaxation, write_relaxations

# Five relaxations to train on in batches of three: no batch is even.
OPTIONS = [
    *("--split.validation", "0.15", "--split.test", "0.25", "--relaxation.step-size", "0.015"),
    *("--relaxation.decay", "0.5", "--relaxation.train-steps", "8", "--relaxation.test-steps", "40"),
    *(
        "--relaxation.skin",
        "1.0",
        "--force-matching.epochs",
        "0",
        "--no-forgetting",
        "--bptt.batch-size",
        "3",
    ),
    *("--bptt.ionic-steps", "3", "--bptt.epochs", "6", "--bptt.learning-rate", "0.02"),
    *("--bptt.validate-every", "2"),
]


class Case(NamedTuple):
    folder: Path
    data: Path
    model: Path

    def start(self, out: Path, *options: str) -> subprocess.Popen:
        """One process of a run; it writes what it says to a file beside the folder of the run."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_ENABLE_X64": "1",
            "XLA_FLAGS": "",
            "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
        }
        command = [sys.executable, "-m", "bptt_relax", "finetune", str(self.data), "--model", str(self.model)]
        with said_by(out, options).open("w") as said:
            return subprocess.Popen(
                [*command, "--out", str(out), *OPTIONS, *options], env=environment, stdout=said, stderr=said
            )

    def two(self, out: Path, *options: str) -> list[subprocess.Popen]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        where = ("--distributed.coordinator", f"127.0.0.1:{port}", "--distributed.num-processes", "2")
        return [self.start(out, *options, *where, "--distributed.process-id", str(k)) for k in range(2)]


def said_by(out: Path, options: tuple[str, ...]) -> Path:
    number = options[-1] if "--distributed.process-id" in options else "alone"
    return out.with_name(f"{out.name}-{number}.txt")


def end(processes: list[subprocess.Popen], out: Path, seconds: float = 600.0) -> list[int]:
    """Exit codes; what is still there after so long is an error, and ended."""
    until = time.monotonic() + seconds
    try:
        return [process.wait(max(0.1, until - time.monotonic())) for process in processes]
    except subprocess.TimeoutExpired:
        said = "\n".join(path.read_text() for path in out.parent.glob(f"{out.name}-*.txt"))
        raise AssertionError(f"still running after {seconds} s:\n{said}") from None
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for_update(out: Path, number: int, processes: list[subprocess.Popen]) -> None:
    while all(process.poll() is None for process in processes):
        metrics = out / "metrics.jsonl"
        if metrics.exists() and metrics.read_text().count('"event": "step"') >= number:
            return
        time.sleep(0.01)
    raise AssertionError(
        "ended early:\n" + "\n".join(p.read_text() for p in out.parent.glob(f"{out.name}-*"))
    )


@pytest.fixture(scope="module")
def case(make_silicon, make_structure, tmp_path_factory) -> Case:
    folder = tmp_path_factory.mktemp("runs")
    potential, params = br.models.load("stillinger-weber")
    rule = br.relax.momentum(0.015, 0.5)
    relaxation = br.relaxation(potential, rule, force_tolerance=0.005)
    theta = br.Theta(params, rule.hyper)
    run = jax.jit(br.unroll(relaxation, 100, record=br.unrolling.path))

    @jax.jit
    def predict(positions, system):
        graph = br.neighbors.refresh(system.candidates, positions, system.cell)
        return potential.apply(params, positions, system, graph)

    relaxations = []
    structures = [
        make_structure(make_silicon(1, strain=0.01 + 0.004 * k, seed=k), f"vacancy {k}") for k in range(8)
    ]
    layout = br.systems.plan_layout(structures, potential.graph, skin=3.0)
    for seed, structure in enumerate(structures):
        positions, system = br.systems.prepare(structure, potential.graph, layout, skin=3.0)
        path = run(theta, relaxation.init(theta, positions, system), system).trace["positions"]
        frames = [np.asarray(path[step]) for step in (0, 8, -1)]
        said = [predict(there, system) for there in frames]
        relaxations.append(
            Relaxation(
                structure.name,
                str(seed),
                "V_Si",
                tuple(structure._replace(positions=there) for there in frames),
                np.array([float(each.energy) for each in said]),
                np.stack([np.asarray(each.forces) for each in said]),
                None,
                True,
            )
        )
    write_relaxations(folder / "silicon.extxyz", relaxations)
    wrong = params | {"sigma": 1.01 * params["sigma"], "lam": 15.0 + 0 * params["lam"]}
    br.models.save(folder / "wrong.safetensors", "stillinger-weber", wrong)
    return Case(folder, folder / "silicon.extxyz", folder / "wrong.safetensors")


@pytest.fixture(scope="module")
def by_one(case) -> Path:
    out = case.folder / "one"
    assert end([case.start(out)], out) == [0], said_by(out, ()).read_text()
    return out


def assert_same(run: Path, expected: Path) -> None:
    found, wanted = (load_file(folder / "seed0" / "bptt.safetensors") for folder in (run, expected))
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, atol=1e-10)
    found, wanted = (
        json.loads((folder / "results.json").read_text())["models"] for folder in (run, expected)
    )
    (found,), (wanted,) = found.values(), wanted.values()
    for stage in ("pretrained", "bptt"):
        for name, value in wanted[stage]["delta_q"]["per_structure"].items():
            assert found[stage]["delta_q"]["per_structure"][name] == pytest.approx(value, abs=1e-9), (
                stage,
                name,
            )
    assert wanted["bptt"]["delta_q"]["mean"] < 0.8 * wanted["pretrained"]["delta_q"]["mean"]


def updates(run: Path) -> list[dict]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "step"]


def test_two_processes_do_what_one_does(case, by_one):
    out = case.folder / "two"
    codes = end(case.two(out), out)
    said = [out.with_name(f"two-{k}.txt").read_text() for k in range(2)]
    assert codes == [0, 0], "\n".join(said)
    assert_same(out, by_one)
    both = list(zip(updates(out), updates(by_one), strict=True))
    assert len(both) == 12
    for found, wanted in both:
        assert found["examples"] == wanted["examples"]
        assert found["loss"] == pytest.approx(wanted["loss"], rel=1e-10)
        assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-10)
    assert "results, figures" in said[0]
    assert "[Gloo]" in said[1] or not said[1]
    assert "vacancy" not in said[1]
    assert not (out / "lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_is_killed_the_other_ends_and_any_number_goes_on(case, by_one, killed):
    out = case.folder / f"killed{killed}"
    processes = case.two(out)
    wait_for_update(out, 4, processes)
    processes[killed].kill()
    start = time.monotonic()
    codes = end(processes, out, 60.0)
    assert time.monotonic() - start < 60
    said = out.with_name(f"{out.name}-{1 - killed}.txt").read_text()
    assert codes[1 - killed] == 5, said
    assert f"error: process {killed} of 2 is gone" in said
    assert "--resume" in said
    assert "Traceback" not in said

    # On with two, of which one is asked to stop: both do, at the same update; then on with one, and with two.
    before = len(updates(out))
    again = case.two(out, "--resume")
    wait_for_update(out, before + 1, again)
    assert updates(out)[before]["step"] in (3, 5, 7)  # after the last checkpoint
    again[1].send_signal(signal.SIGUSR1)
    assert end(again, out) == [128 + signal.SIGUSR1 if k else 130 for k in range(2)]
    copy = Path(shutil.copytree(out, case.folder / f"copy{killed}"))
    assert end([case.start(out, "--resume")], out) == [0]
    assert_same(out, by_one)
    assert end(case.two(copy, "--resume"), copy) == [0, 0]
    assert_same(copy, by_one)
