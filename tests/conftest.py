"""What every test shares: the numeric settings, the compilation cache and small structures.

Strict on purpose: double precision, no silent rank promotion, every warning an error (pyproject.toml), and four
fake devices, so that code which only works on one device fails here.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before jax is imported, or it has no effect. Tests run on the CPU unless told otherwise (JAX_PLATFORMS=cuda).
_FAKE_DEVICES = "--xla_force_host_platform_device_count=4"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FAKE_DEVICES}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Reading a cached CPU program logs pages of processor features that are tuning hints (jax issue 38445).
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import jaxlib  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from ase import Atoms  # noqa: E402
from ase.build import bulk  # noqa: E402

from bptt_relax import potentials  # noqa: E402
from bptt_relax.io import to_structure  # noqa: E402
from bptt_relax.models import BaseModel, own_model  # noqa: E402
from bptt_relax.neighbors import GraphSpec  # noqa: E402
from bptt_relax.systems import Structure  # noqa: E402
from bptt_relax.trees import safe_norm  # noqa: E402

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")


def _machine() -> str:
    """Which processor and which compiler: compiled programs must not travel between different ones."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    processor = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    content = "\n".join([jax.__version__, jaxlib.__version__, *processor])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


# A repeated run spends a quarter of the time: compiling is most of what the tests do.
_CACHE = Path(os.environ.get("BPTT_RELAX_TEST_CACHE", Path(tempfile.gettempdir()) / "bptt-relax-test-cache"))
jax.config.update("jax_compilation_cache_dir", str(_CACHE / _machine()))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)

# Compiling makes the first example slow, and a failure must be the same one for everybody.
hypothesis.settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=30,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.differing_executors],
)
hypothesis.settings.register_profile(
    "thorough", parent=hypothesis.settings.get_profile("default"), max_examples=500
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Compiled programs of modules that are done are dropped once they fill memory: gigabytes over the whole suite."""
    yield
    memory = Path("/proc/self/statm")
    if memory.exists() and int(memory.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 2.5e9:
        jax.clear_caches()


@pytest.fixture(scope="session")
def make_structure() -> Callable[..., Structure]:
    """ASE atoms to the host's form of a structure, whatever their cell and pbc."""

    def make(atoms: Atoms, name: str = "test", free: np.ndarray | None = None) -> Structure:
        structure = to_structure(atoms, name)
        return structure if free is None else structure._replace(free=np.asarray(free, bool))

    return make


@pytest.fixture(scope="session")
def make_silicon() -> Callable[..., Atoms]:
    """Strained, rattled diamond silicon, with a vacancy if asked.

    Strained because the ideal vacancy at 5.431 angstrom is its own minimum under Stillinger-Weber: its relaxation
    depends on no parameter, so a test of gradients on it passes with any gradient.
    """

    def make(
        repeat: int = 2,
        *,
        vacancy: bool = True,
        strain: float = 0.02,
        rattle: float = 0.05,
        seed: int = 0,
    ) -> Atoms:
        generator = np.random.default_rng(seed)
        atoms = bulk("Si", cubic=True, a=5.431).repeat(repeat)
        if vacancy:
            del atoms[0]
        # Not only a volume change: every symmetry that could hide an error is broken.
        deformation = np.eye(3) + strain * np.array([[1.0, 0.3, -0.2], [0.0, -0.6, 0.4], [0.0, 0.0, 0.8]])
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
        atoms.positions += rattle * generator.normal(size=(len(atoms), 3))
        return atoms

    return make


@pytest.fixture(scope="session")
def springs() -> BaseModel:
    """Bonds of 2.37 angstrom in a harmonic well that fades out at 3.5, whatever the elements: compiles in no time."""

    def init(key):
        del key
        return {"stiffness": jnp.asarray(3.0), "length": jnp.asarray(2.37)}

    def energy(params, vectors, system, graph):
        del system
        r = jnp.where(graph.mask, safe_norm(vectors), 3.5)
        well = params["stiffness"] * (r - params["length"]) ** 2 * (1 - r / 3.5) ** 2
        return jnp.sum(jnp.where(r < 3.5, well, 0.0)) / 4

    potential = potentials.conservative(energy, init, GraphSpec(3.5), name="springs")
    return own_model(potential, init(None))
