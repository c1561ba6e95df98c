"""The package as a whole: what importing costs and changes, what lies where, what the repository may hold."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jax
import numpy as np
import pytest

import bptt_relax

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run_python(code: str) -> dict:
    """Run code in a process with default settings; it prints one line of JSON."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    environment["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# The tests' own settings.


def test_tests_run_strictly():
    assert jax.config.jax_enable_x64
    assert jax.config.jax_numpy_rank_promotion == "raise"
    assert np.asarray(jax.numpy.ones(1)).dtype == np.float64
    if jax.default_backend() == "cpu":
        assert jax.device_count() == 4
    with pytest.raises(ValueError, match="rank_promotion"):
        jax.numpy.ones((2, 3)) + jax.numpy.ones(3)


# Importing.

# Modules that cost seconds, or that only some users have; everything below must do without them at import.
HEAVY = (
    "jax_md",
    "flax",
    "optax",
    "orbax",
    "matplotlib",
    "pymatgen",
    "e3nn_jax",
    "torch",
    "chgnet",
    "pandas",
)


def test_import_does_nothing_and_changes_nothing():
    answer = run_python(f"""
import json, sys
import jax
before = dict(jax.config.values)
import bptt_relax
heavy = [name for name in {HEAVY!r} if name in sys.modules]
changed = [name for name, value in before.items() if jax.config.values[name] != value]
from jax._src import xla_bridge
print(json.dumps({{"heavy": heavy, "changed": changed, "backends": list(xla_bridge._backends)}}))
""")
    assert answer == {"heavy": [], "changed": [], "backends": []}


def test_import_alone_does_not_even_import_jax():
    answer = run_python("""
import json, sys
import bptt_relax
print(json.dumps({"jax": "jax" in sys.modules, "numpy": "numpy" in sys.modules}))
""")
    assert answer == {"jax": False, "numpy": False}


def test_reading_and_checking_structures_needs_no_jax_md():
    answer = run_python("""
import json, sys
import bptt_relax as br
br.systems, br.neighbors, br.io, br.outcomes, br.units, br.potentials, br.potentials.conservative, br.datasets
print(json.dumps({"jax_md": "jax_md" in sys.modules}))
""")
    assert answer == {"jax_md": False}


def test_no_module_changes_a_jax_setting():
    answer = run_python("""
import importlib, json, pkgutil
import jax
before = dict(jax.config.values)
import bptt_relax
skip = ("__main__",)
names = [m.name for m in pkgutil.walk_packages(bptt_relax.__path__, "bptt_relax.") if not m.name.endswith(skip)]
for name in names:
    importlib.import_module(name)
changed = [name for name, value in before.items() if jax.config.values[name] != value]
print(json.dumps({"changed": changed, "enough": len(names) > 20}))
""")
    assert answer == {"changed": [], "enough": True}


@pytest.mark.parametrize("name", bptt_relax.__all__)
def test_public_names_resolve(name):
    assert getattr(bptt_relax, name) is not None
    assert name in dir(bptt_relax)


def test_unknown_names_raise():
    with pytest.raises(AttributeError, match="no attribute 'unrol'"):
        _ = bptt_relax.unrol


def packages() -> list[str]:
    return sorted(p.parent.name for p in (ROOT / "bptt_relax").glob("*/__init__.py"))


@pytest.mark.parametrize("name", packages())
def test_every_name_a_package_promises_is_there(name):
    package = getattr(bptt_relax, name, None) or __import__(f"bptt_relax.{name}", fromlist=["_"])
    promised = getattr(package, "__all__", [])
    assert list(promised) == sorted(set(promised), key=promised.index), "a name is promised twice"
    for public in promised:
        assert getattr(package, public) is not None


# What lies where.


def tracked() -> list[Path]:
    """Files of the repository: what git knows and what it would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    files = [Path(name) for name in listed.stdout.split("\0") if name]
    return [file for file in files if (ROOT / file).is_file()]


def test_top_level_holds_only_what_it_may():
    allowed = {
        "pyproject.toml",
        "README.md",
        "bptt_relax",
        "experiments",
        "tests",
        "benchmarks",
        "docs",
    }
    top = {file.parts[0] for file in tracked()}
    assert {name for name in top if not name.startswith(".")} <= allowed


def test_python_lies_where_imports_and_tests_find_it():
    python = [file for file in tracked() if file.suffix == ".py"]
    assert {file.parts[0] for file in python} <= {"bptt_relax", "tests", "benchmarks"}
    for folder in {file.parent for file in python if file.parts[0] == "bptt_relax"}:
        assert (ROOT / folder / "__init__.py").exists(), f"{folder} would be a namespace package"


def test_no_file_is_large():
    # Data that a test or a user needs is small here; large files belong outside the repository.
    sizes = {str(file): (ROOT / file).stat().st_size for file in tracked()}
    assert {name: size for name, size in sizes.items() if size > 5e6} == {}


@pytest.mark.parametrize("folder", ["bptt_relax", "tests", "benchmarks", "docs", "experiments", ".ci", "."])
def test_no_path_of_a_developers_machine(folder):
    # Split, or this file would find itself.
    forbidden = re.compile(
        "|".join(["/ro" + "ot/", "/ho" + "me/[a-z]", "/wo" + "rk/", "file:" + "//", "/op" + "t/py"])
    )
    suffixes = {".py", ".md", ".toml", ".txt", ".json", ".yml", ".yaml", ".cfg", ".csv", "", ".html", ".svg"}
    found = []
    for file in tracked():
        inside = len(file.parts) == 1 if folder == "." else file.parts[0] == folder
        # Files that a DFT code wrote are kept as they are.
        if not inside or file.suffix not in suffixes or "files" in file.parts:
            continue
        for number, line in enumerate((ROOT / file).read_text(errors="replace").splitlines(), 1):
            if forbidden.search(line):
                found.append(f"{file}:{number}: {line.strip()[:100]}")
    assert found == []


# Dependencies.


def _name(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]).lower()


def test_constraints_are_names_and_versions_only():
    lines = (ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    for line in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.!+]*", line), line
    names = [line.split("==")[0] for line in pins]
    assert names == sorted(set(names))
    wanted = PYPROJECT["project"]["dependencies"] + PYPROJECT["project"]["optional-dependencies"]["dev"]
    wanted += PYPROJECT["project"]["optional-dependencies"]["test"]
    assert {_name(r) for r in wanted} - {"bptt-relax"} <= set(names)


def test_imports_are_declared():
    declared = {_name(r) for r in PYPROJECT["project"]["dependencies"]}
    renamed = {"orbax": "orbax-checkpoint", "jaxlib": "jax"}
    optional = {"chgnet", "torch", "nequix", "sevenn", "pymatgen", "mlip", "equinox", "pytest"}
    imported = set()
    for file in tracked():
        if file.parts[0] != "bptt_relax" or file.suffix != ".py":
            continue
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                imported.add(node.module.split(".")[0])
    outside = {
        renamed.get(m, m).replace("_", "-") for m in imported - sys.stdlib_module_names - {"bptt_relax"}
    }
    assert outside - declared - optional == set()


def test_known_bad_releases_are_excluded():
    (jax_requirement,) = [r for r in PYPROJECT["project"]["dependencies"] if _name(r) == "jax"]
    assert "!=0.10.2" in jax_requirement, "miscompiles on the CPU"
    assert "!=0.11.1" in jax_requirement, "breaks flax"
