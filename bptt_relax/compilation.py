"""Compiled programs are kept between runs: a CHGNet gradient takes a minute to compile, a second to load."""

import jax

from bptt_relax.potentials import pretrained


def keep_compiled_programs() -> None:
    """Turn on JAX's persistent compilation cache, in the package's cache folder; call from a program's main only."""
    if jax.config.jax_compilation_cache_dir is None:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_dir", str(pretrained.cache_folder() / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
