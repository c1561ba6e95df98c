"""What a result was computed with: versions, device, precision, commit; nothing that names a person or a path."""

import os
import platform
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bptt_relax import threads

_PACKAGES = (
    "jax",
    "jaxlib",
    "jax-md",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "ase",
    "vesin",
    "bptt-relax",
)


def environment() -> dict[str, Any]:
    """Everything about the machine and the software that may change a number.

    Returns:
        python, platform, processor count, package versions, devices, precision, the commit of the package (None
        outside a checkout; ``+changes`` where files differ from it) and the command line without directories.
    """
    # Only a run asks for its environment, and a run has imported jax; reading a report has not.
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "device": {
            "backend": jax.default_backend(),
            "kind": devices[0].device_kind,
            "count": len(devices),
        },
        "precision": {
            "floats": "float64" if jax.config.jax_enable_x64 else "float32",  # pyright: ignore[reportAttributeAccessIssue]
            "matmul": jax.config.jax_default_matmul_precision or "default",  # pyright: ignore[reportAttributeAccessIssue]
        },
        "commit": _commit(),
        "command": command_line(),
    }


def device_line() -> str:
    """Where this process computes, and in which precision: ``on 2 cpu cores, in single precision (float32)``."""
    import jax

    devices = jax.devices()
    kind, count = devices[0].device_kind, len(devices)
    if jax.default_backend() == "cpu":
        kind, count = "cpu core", threads.cores()
    floats = "double precision (float64)" if jax.config.jax_enable_x64 else "single precision (float32)"  # pyright: ignore[reportAttributeAccessIssue]
    return f"on {count} {kind}{'s' * (count > 1)}, in {floats}"


def command_line(arguments: list[str] | None = None) -> str:
    """The command that runs, with every absolute path cut to its last part.

    Args:
        arguments: of the process, interpreter first; the running one's when not given.
    """
    return " ".join(_without_directory(part) for part in (arguments or sys.orig_argv))


def peak_rss_mb() -> float:
    """Largest resident memory of this process so far, MB; NaN where the system doesn't tell."""
    try:
        # Not ru_maxrss first: on Linux a process inherits the peak of the one that started it.
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # pyright: ignore[reportOptionalSubscript]
    except (OSError, TypeError):
        pass
    try:
        import resource
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024**2 if sys.platform == "darwin" else 1024)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _without_directory(argument: str) -> str:
    option, separator, value = argument.rpartition("=") if argument.startswith("-") else ("", "", argument)
    if re.match(r"/|~|[A-Za-z]:[\\/]|\\\\", value):
        value = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return f"{option}{separator}{value}"


def _commit() -> str | None:
    """Commit of the checkout this package runs from; None for an installed copy, even inside another checkout."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        # GIT_DIR and the like, as set inside a hook, would make git answer for another repository.
        clean = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        return subprocess.run(
            ["git", "-C", str(package), *arguments],
            env=clean,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "report/environment.py")
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None
