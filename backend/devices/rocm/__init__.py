"""Device `rocm`: the real aiter on an AMD GPU, each case in a child process that it may kill."""

from backend.devices.rocm.device import RocmDevice

__all__ = ["RocmDevice"]
