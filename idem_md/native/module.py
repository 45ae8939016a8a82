"""The native module, found or complained about; where an op is to run; checks of what it is given."""

from __future__ import annotations

import torch

from ..errors import UsageError

try:
    from . import _native as native
except ImportError as error:  # importing from a source tree that was never built
    raise ImportError(
        "idem_md: the native module is missing; install the package (pip install .) and import it from there, not "
        f"from the source folder ({error})"
    ) from error

__all__ = ["check_batch", "check_device", "check_tensor", "instruction_sets", "native", "peak_flops", "place"]


def instruction_sets() -> list[str]:
    """Names of the instruction sets this processor can run, fastest first; the first is the default.

    The last, ``scalar``, is one float at a time with the random numbers of the CUDA kernels: the arithmetic of a CUDA
    thread, for tests.
    """
    return native.instruction_sets()


def check_device(name: str, device) -> torch.device:
    """The device asked for, if the kernels can run there.

    Raises
    ------
    UsageError
        Neither cpu nor cuda; cuda, but built without it or no such device.
    """
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise UsageError(f"{name}: expected cpu or cuda, got {device}")
    device = found
    if device.type == "cuda":
        if not native.built_with_cuda:
            raise UsageError(
                f"{name}: expected cpu, got {device}: installed without CUDA kernels, as no suitable nvcc was found"
            )
        count, problem = native.cuda_devices()
        both = min(count, torch.cuda.device_count())
        if both == 0 or (device.index or 0) >= both:
            raise UsageError(
                f"{name}: expected one of the CUDA devices, of which the kernels see {count}"
                f"{f' ({problem})' if problem else ''} and torch {torch.cuda.device_count()}, got {device}"
            )
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
    return device


def place(device: torch.device, isa: str = ""):
    """Where the native code is to run, for tensors on ``device``."""
    if device.type == "cpu":
        if isa and isa not in instruction_sets():
            raise UsageError(f"isa: expected one of {', '.join(instruction_sets())}, got {isa!r}")
        return native.Place(torch.get_num_threads(), isa, -1, 0, 0)
    device = check_device("x", device)
    if isa:
        raise UsageError(f"isa: expected none on {device}, got {isa!r}")
    return native.Place(0, "", device.index, torch.cuda.current_stream(device).cuda_stream, 0)


def peak_flops(device="cpu", n: int = 400_000_000) -> float:
    """Float32 operations a second of a loop of fused multiply-adds (two each), by measurement on all threads.

    Parameters
    ----------
    device : torch.device or str
    n : int
        Multiply-adds a lane; fewer on CUDA, which has more lanes.
    """
    device = check_device("device", device)
    return native.peak_flops(n if device.type == "cpu" else n // 400, place(device))


def check_tensor(name: str, t: torch.Tensor, shape: tuple, dtypes=(torch.float32,)) -> None:
    """Refuse what the native code would read out of bounds; ``None`` in ``shape`` stands for any size."""
    if t.dim() != len(shape) or any(want is not None and want != got for want, got in zip(shape, t.shape)):
        raise UsageError(f"{name}: expected shape {shape}, got {tuple(t.shape)}")
    if t.dtype not in dtypes:
        raise UsageError(f"{name}: expected {' or '.join(map(str, dtypes))}, got {t.dtype}")


def check_batch(x: torch.Tensor, dtypes=(torch.float32,)) -> None:
    """Refuse positions that are not (batch, at least one atom, 2 or 3)."""
    check_tensor("x", x, (None, None, None), dtypes)
    if x.shape[1] < 1 or x.shape[2] not in (2, 3):
        raise UsageError(f"x: expected at least one atom in 2 or 3 dimensions, got shape {tuple(x.shape)}")
