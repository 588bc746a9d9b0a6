"""Modules that are executed when they are first used."""

import importlib.util
import sys
from types import ModuleType


def lazily(name: str) -> ModuleType:
    """The module, executed on first use, so that what does not need it does not wait for it.

    The standard library's LazyLoader: the import stays at the top of the file, only its cost moves.
    """
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None  # it is one of ours
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
