"""Modules that are imported when they are first used."""

import importlib
import sys
from types import ModuleType
from typing import Any


def lazily(name: str) -> ModuleType:
    """The module, imported on first use, so that what does not need it does not wait for it.

    The import stays at the top of the file, only its cost moves. Several threads may be the first.
    """
    return sys.modules.get(name) or _Unloaded(name)


def load(module: ModuleType) -> None:
    """Import the module now, if nobody has; others that need it wait meanwhile."""
    importlib.import_module(module.__name__)


class _Unloaded(ModuleType):
    # The standard library's LazyLoader shows a second thread a module that the first still executes (Python
    # 3.11.8 and before), and imports the packages around the module at once.
    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self.__name__), attribute)
