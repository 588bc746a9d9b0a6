"""JAX's persistent compilation cache: a second run starts without compiling. Importing this imports JAX."""

from pathlib import Path

import jax


def enable(folder: Path) -> None:
    """Keep everything that is compiled from now on in `folder`, however small and quick."""
    folder.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
