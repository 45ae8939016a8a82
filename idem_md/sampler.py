"""A trained sampler: load a checkpoint, draw weighted samples."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

from .checkpoint import Checkpoint, load_checkpoint
from .checks import check_choice, check_int
from .diffusion import PROPOSALS, PlainLastStep, noise_grid, sample_paths
from .ensemble import WeightedEnsemble
from .errors import FileFormatError, UsageError
from .provenance import provenance
from .systems import SYSTEMS, System

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
        raise UsageError(
            f"system: expected one of {', '.join(SYSTEMS)}, a run folder or a checkpoint file, got {str(source)!r}"
        )
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
        kinds = checkpoint.system.kinds
        if self.system.kinds != kinds:
            raise UsageError(
                f"system: expected {len(kinds)} atoms of kinds {kinds} as in the checkpoint, got {self.system.kinds}"
            )

    def sample(
        self,
        n: int,
        nfe: int = 25,
        seed: int = 0,
        method: str = "diffusion",
        kernel: str = "analytic",
        progress: Callable[[int], None] | None = None,
    ) -> WeightedEnsemble:
        """Draw ``n`` samples with importance weights.

        Parameters
        ----------
        n : int
        nfe : int
            Network evaluations a sample, at least 2.
        seed : int
            Same seed, same machine: same samples.
        method : str
            ``diffusion``: the reverse diffusion; see `diffusion.sample_paths`.
        kernel : str
            Transition kernel, one of `diffusion.PROPOSALS`: ``analytic`` or ``ddpm``.
        progress : callable (int), optional
            Called with the number of samples finished since the last call.

        Raises
        ------
        UsageError
            A parameter out of range.
        """
        n, nfe = check_int("n", n, 1), check_int("nfe", nfe, 2)
        seed = check_int("seed", seed, 0, 2**32 - 1)  # beyond, torch repeats its streams
        check_choice("method", method, METHODS)
        checkpoint, energy = self.checkpoint, self.system.energy()
        proposal = PROPOSALS.find(kernel)(checkpoint.denoiser, checkpoint.accuracy)
        start = time.perf_counter()
        paths = sample_paths(
            proposal,
            PlainLastStep(checkpoint.accuracy),
            energy,
            noise_grid(*checkpoint.noise_range, nfe),
            checkpoint.system.sigma_data,
            n,
            torch.Generator().manual_seed(seed),
            progress or (lambda _: None),
        )
        record = provenance(
            self.system.name,
            energy.parameters,
            energy.calls,
            start,
            checkpoint=checkpoint.digest,
            seed=seed,
            method=method,
            kernel=kernel,
            nfe=paths.nfe,
            failed=paths.failed,
        )
        return WeightedEnsemble(
            paths.positions.numpy(),
            paths.energies.numpy(),
            paths.log_weights.numpy(),
            self.system,
            record,
            kind="importance",
        )


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
