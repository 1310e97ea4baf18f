"""Put off an import that takes more than a second of every command and that none of them needs.

torchmetrics, which Lightning imports, imports scipy.signal only to see whether one old name is in it.
"""

import importlib
import sys
from types import ModuleType

PUT_OFF = "scipy.signal"


class _PutOff(ModuleType):
    """Becomes the real module when anything of it is used."""

    hamming = None  # the name that torchmetrics looks for
    __file__ = None  # inspect looks at that of every module

    def __getattr__(self, name: str) -> object:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def put_off() -> None:
    """For a process of our own: whoever imports the module gets it as soon as he uses it."""
    sys.modules.setdefault(PUT_OFF, _PutOff(PUT_OFF))
