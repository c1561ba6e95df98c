"""Compiled programs: kept between runs, as a CHGNet gradient takes a minute to compile; not kept until memory fails."""

from pathlib import Path

import jax

from bptt_relax.weights import cache


def keep_compiled_programs() -> None:
    """Turn on JAX's persistent compilation cache, in the package's cache folder; call from a program's main only."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def make_room(most: float = 0.5) -> bool:
    """Forget the programs of this process, where they take up most of the memory maps that Linux allows it.

    A gradient of CHGNet takes some 800 of 65,530. Where none is left, XLA ends the process, with a segmentation fault
    or with "Unable to allocate section memory". What is forgotten and needed again comes from the cache.

    Args:
        most: share of the maps that may be taken.

    Returns:
        Programs were forgotten. Never where a system counts no maps.
    """
    maps, limit = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
    if not (maps.exists() and limit.exists()):
        return False
    taken = maps.read_bytes().count(b"\n")
    if taken < most * int(limit.read_text()):
        return False
    jax.clear_caches()
    return True
