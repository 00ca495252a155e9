"""Makes the rules of weather.py built-in backends in every Python with this folder on its path: they run where cases do."""

import importlib.abc
import importlib.util
import os
import sys
import time
from pathlib import Path

NAME = "backend.serving.backends"


class _After(importlib.abc.MetaPathFinder):
    """Adds them when the module with the backends has been executed."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def executed(module):  # type: ignore[no-untyped-def]
            execute(module)
            weather = importlib.util.spec_from_file_location("weather", Path(__file__).parents[1] / "weather.py")
            made = importlib.util.module_from_spec(weather)
            weather.loader.exec_module(made)
            made.add(module.BACKENDS, module.Backend)

        spec.loader.exec_module = executed
        return spec


sys.meta_path.insert(0, _After())


def _off() -> None:
    """Makes the wall clock be off by what the file says that a test names."""
    file, true = Path(os.environ["AITERFUZZ_TEST_CLOCK"]), time.time

    def shown() -> float:
        try:
            return true() + float(file.read_text())
        except (OSError, ValueError):
            return true()

    time.time = shown


if "AITERFUZZ_TEST_CLOCK" in os.environ:
    _off()
