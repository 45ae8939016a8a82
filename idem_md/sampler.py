"""A trained sampler: load a checkpoint, draw weighted samples."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .checkpoint import Checkpoint, load_checkpoint
from .checks import check_choice, check_int
from .diffusion import PROPOSALS, SamplingPlan, noise_grid, sample_paths
from .energies import NativeAnnealing
from .ensemble import WeightedEnsemble, WeightWarning
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

    def plan(self, nfe: int = 25) -> SamplingPlan:
        """How ``nfe`` network evaluations are spent unless `sample` is told otherwise.

        The checkpoint's plan was tuned for its own system. It also serves other potentials with annealing in native
        code; for any other a plan with one energy call a sample, as its calls may be dear.
        """
        own = self.system is self.checkpoint.system or isinstance(self.system.make_energy(), NativeAnnealing)
        return self.checkpoint.plan(nfe) if own else self.checkpoint.frugal_plan

    def sample(
        self,
        n: int,
        nfe: int = 25,
        seed: int = 0,
        method: str = "diffusion",
        kernel: str | None = None,
        last_step: str | None = None,
        last_step_calls: int | None = None,
        temperature_K: float | None = None,
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
        kernel : str, optional
            Transition kernel, one of `diffusion.PROPOSALS`: ``analytic``, ``ddpm`` or, with springs, ``elastic``. By
            default that of the `plan`.
        last_step : str, optional
            How the lowest noise level is left, one of `diffusion.LAST_STEPS`: ``plain``, ``nested`` or ``annealed``. By
            default that of the `plan`.
        last_step_calls : int, optional
            Energy calls a sample that ``nested`` or ``annealed`` may spend.
        temperature_K : float, optional
            Sample the same potential at another temperature, in kT of that temperature; see `System.at`. Near the one
            that the network was trained for the weights make up for the difference.
        progress : callable (int), optional
            Called with the number of samples finished since the last call.

        Raises
        ------
        UsageError
            A parameter out of range, or one that the checkpoint has nothing for.

        Warns
        -----
        WeightWarning
            The weights are not to be trusted; says why, and what to do.
        """
        n, nfe = check_int("n", n, 1), check_int("nfe", nfe, 2)
        seed = check_int("seed", seed, 0, 2**32 - 1)  # beyond, torch repeats its streams
        check_choice("method", method, METHODS)
        plan = self.plan(nfe).changed(kernel, last_step, last_step_calls)
        system = self.system if temperature_K is None else self.system.at(temperature_K)
        checkpoint, energy = self.checkpoint, system.energy()
        proposal = PROPOSALS.find(plan.kernel)(checkpoint.denoiser, checkpoint.accuracy)
        ending = plan.build()
        lowest, highest = checkpoint.noise_range
        start = time.perf_counter()
        paths = sample_paths(
            proposal,
            ending,
            energy,
            noise_grid(plan.sigma_1 or lowest, highest, nfe),
            checkpoint.system.sigma_data,
            n,
            torch.Generator().manual_seed(seed),
            progress or (lambda _: None),
        )
        record = provenance(
            system.name,
            energy.parameters,
            energy.calls,
            start,
            checkpoint=checkpoint.digest,
            seed=seed,
            method=method,
            kernel=plan.kernel,
            last_step=plan.last_step,
            nfe=paths.nfe,
            failed=paths.failed,
        )
        ensemble = WeightedEnsemble(
            paths.positions.numpy(),
            paths.energies.numpy(),
            paths.log_weights.numpy(),
            system,
            record,
            kind="importance",
        )
        if np.isfinite(ensemble.log_z) and ensemble.advice:
            warnings.warn(ensemble.advice, WeightWarning, stacklevel=2)
        return ensemble


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
