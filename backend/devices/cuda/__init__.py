"""Device `cuda`: our own Triton kernels on a real GPU, eating AITER's metadata, with red zones around every tensor."""

from backend.devices.cuda.device import CudaDevice

__all__ = ["CudaDevice"]
