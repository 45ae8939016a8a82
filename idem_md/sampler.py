"""A trained sampler: load a checkpoint, draw weighted samples."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from .checks import FileFormatError, UsageError, check_choice, check_int
from .diffusion import KERNELS, noise_grid
from .ensemble import WeightedEnsemble
from .sampling import sample_paths
from .systems import SYSTEMS, System
from .training import Checkpoint, load_checkpoint

__all__ = ["METHODS", "Sampler", "checkpoint_path", "load_sampler"]

METHODS = ("diffusion",)
SHIPPED = Path(__file__).parent / "checkpoints"


def checkpoint_path(source) -> Path:
    """Where the checkpoint of a named system, a run folder or a file lies.

    Raises
    ------
    UsageError
        Neither a shipped system nor an existing path.
    """
    path = Path(source)
    if str(source) in SYSTEMS:
        path = SHIPPED / str(source) / "model.safetensors"
        if not path.exists():
            raise UsageError(f"system: no checkpoint is shipped for {source!r}; train one with idem-md train {source}")
        return path
    if path.is_dir():
        return path / "model.safetensors"
    if not path.exists():
        raise UsageError(f"system: expected one of {', '.join(SYSTEMS)}, a run folder or a checkpoint file, got {str(source)!r}")
    return path


class Sampler:
    """Draws weighted samples of one system with a trained denoiser.

    Parameters
    ----------
    checkpoint : Checkpoint
    system : System, optional
        What to sample, by default what the checkpoint was trained for. Another potential of the same atoms will do:
        the weights see to it that averages are those of this system, at the price of effective samples.

    Raises
    ------
    UsageError
        Another number or order of kinds of atoms than the checkpoint's.
    """

    def __init__(self, checkpoint: Checkpoint, system: System | None = None):
        self.checkpoint = checkpoint
        self.system = checkpoint.system if system is None else system
        if self.system.kinds != checkpoint.system.kinds:
            raise UsageError(f"system: expected {len(checkpoint.system.kinds)} atoms of kinds {checkpoint.system.kinds} as in the "
                             f"checkpoint, got {self.system.kinds}")

    def sample(self, n: int, nfe: int = 25, seed: int = 0, method: str = "diffusion", kernel: str = "analytic",
               progress: Callable[[int], None] | None = None) -> WeightedEnsemble:
        """Draw ``n`` samples with importance weights.

        Parameters
        ----------
        n : int
        nfe : int
            Network evaluations a sample, at least 2.
        seed : int
            Same seed, same machine: same samples.
        method : str
            ``diffusion``: the reverse diffusion; see `sampling.sample_paths`.
        kernel : str
            Transition kernel: ``analytic`` or ``ddpm``.
        progress : callable, optional
            Called with the number of samples finished since the last call.

        Raises
        ------
        UsageError
            A parameter out of range.
        """
        n, nfe = check_int("n", n, 1), check_int("nfe", nfe, 2)
        seed = check_int("seed", seed, 0, 2**32 - 1)  # beyond, torch repeats its streams
        check_choice("method", method, METHODS)
        check_choice("kernel", kernel, KERNELS)
        noise, energy = self.checkpoint.config.noise, self.system.energy()
        start = time.perf_counter()
        paths = sample_paths(
            self.checkpoint.denoiser, energy, noise_grid(noise.sigma_min, noise.sigma_max, nfe), self.checkpoint.error,
            self.checkpoint.system.sigma_data, n, torch.Generator().manual_seed(seed), kernel, progress=progress)
        seconds = time.perf_counter() - start
        provenance = {
            "system": self.system.name, "parameters": energy.parameters, "checkpoint": self.checkpoint.digest,
            "seed": seed, "method": method, "kernel": kernel, "nfe": paths.nfe, "energy_calls": energy.calls,
            "failed": paths.failed, "seconds": seconds, "hardware": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "versions": {name: version(name) for name in ("idem-md", "torch", "numpy", "mdtraj")},
        }
        return WeightedEnsemble(paths.positions.numpy(), paths.energies.numpy(), paths.log_weights.numpy(), self.system, provenance)


def load_sampler(source, system: System | None = None) -> Sampler:
    """The sampler of a shipped system (``"lj13"``), a run folder or a checkpoint file.

    Parameters
    ----------
    source : str or path
    system : System, optional
        Needed for a potential that is not built in; see `Sampler`.

    Raises
    ------
    UsageError
        No such system or path.
    FileFormatError
        Not a checkpoint.
    """
    path = checkpoint_path(source)
    if not path.exists():
        raise FileFormatError(f"{path.parent}: expected a run folder with model.safetensors, there is none")
    return Sampler(load_checkpoint(path), system)
