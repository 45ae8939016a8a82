"""A trained sampler: load a checkpoint, draw weighted samples."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from .chains import first_step
from .checkpoint import Checkpoint, checkpoint_path, load_checkpoint
from .checks import check_choice, check_fits, check_int
from .diffusion import (
    PROPOSALS,
    LastStep,
    Proposal,
    SamplingPlan,
    best_plan,
    forward_paths,
    raw_paths,
    sample_paths,
)
from .energies import NativeAnnealing
from .ensemble import ForwardWeights, WeightedEnsemble, warn
from .errors import FileFormatError, UsageError
from .native import check_device
from .provenance import provenance
from .systems import System
from .torch_state import own_torch

__all__ = ["Sampler", "load_sampler", "methods"]

# Network evaluations, where nothing has been measured that they could be chosen by.
NFE = 25
# Of raw samples.
RAW_NFE = 4
# More levels than that differ by rounding only.
MOST_NFE = 100_000
# Positions in double precision, and once more while parts are put together.
BYTES_A_COORDINATE = 16


def methods() -> tuple[str, ...]:
    """What `Sampler.sample` takes as ``method``: ``auto``, and those of the kernels that are registered."""
    return "auto", *dict.fromkeys(kind.method for kind in PROPOSALS.values())


class _Route(NamedTuple):
    """How samples are drawn: plan and options put together."""

    plan: SamplingPlan
    proposal: Proposal
    ending: LastStep
    levels: Sequence[float]
    weighted: bool = True
    spared: bool = False


class Sampler:
    """Draws weighted samples of one system with a trained denoiser.

    Parameters
    ----------
    checkpoint : Checkpoint
    system : System, optional
        What to sample, by default what the checkpoint was trained for. Another potential of the same atoms will do:
        the weights see to it that averages are those of this system, at the price of effective samples.

    device : torch.device or str
        ``cpu`` or ``cuda``: where network, paths and native chains run. Random numbers are drawn for as many samples at
        a time as suits the device, so a seed gives other samples there.

    Raises
    ------
    UsageError
        Another number or order of kinds of atoms than the checkpoint's; a device that cannot be used.
    """

    def __init__(self, checkpoint: Checkpoint, system: System | None = None, device: torch.device | str = "cpu"):
        self.checkpoint = checkpoint
        self.device = check_device("device", device)
        self._denoiser = checkpoint.denoiser
        if self.device.type != "cpu":
            self._denoiser = copy.deepcopy(checkpoint.denoiser).to(self.device)
        self.system = checkpoint.system if system is None else system
        kinds, n_dims = checkpoint.system.kinds, checkpoint.system.n_dims
        if self.system.n_dims != n_dims:
            raise UsageError(f"system: expected {n_dims} dimensions as in the checkpoint, got {self.system.n_dims}")
        if self.system.kinds != kinds:
            raise UsageError(
                f"system: expected {len(kinds)} atoms of kinds {kinds} as in the checkpoint, got {self.system.kinds}"
            )

    def choose(self, nfe: int | None = None, method: str = "auto") -> tuple[int, SamplingPlan]:
        """How many network evaluations are spent, and how, unless `sample` is told otherwise.

        Plans were tuned for the checkpoint's own system. They also serve other potentials with annealing in native
        code; any other one gets few energy calls a sample, as they may be dear.

        Parameters
        ----------
        nfe : int, optional
            By default as many as the plan with the most effective samples a second, as measured when it was tuned.
        method : str
            ``diffusion``, ``consistency`` or ``auto``, by the same measure.

        Raises
        ------
        UsageError
            A parameter out of range, or a method that the checkpoint has nothing for.
        """
        checkpoint, known = self.checkpoint, list(self.checkpoint.plans)
        check_choice("method", method, methods())
        if nfe is not None:
            check_int("nfe", nfe, 2, MOST_NFE)
        if method == "consistency" and not checkpoint.denoiser.has_jumps:
            raise UsageError("method: expected diffusion, the checkpoint has no jumps; see idem-md distill")
        own = self.system is checkpoint.system or isinstance(self.system.make_energy(), NativeAnnealing)
        able = known if method == "auto" else [method]
        plans = {(m, k): p for m in able for k, p in checkpoint.plans.get(m, {}).items()}
        if not own or not plans:
            return nfe or NFE, checkpoint.frugal_plan("diffusion" if method == "auto" else method)
        if nfe is not None:
            plans = {(m, nfe): checkpoint.plan(nfe, m) for m in able}
        best = best_plan(plans)
        return best[1], plans[best]

    def plan(self, nfe: int | None = None, method: str = "auto") -> SamplingPlan:
        """The plan of `choose`."""
        return self.choose(nfe, method)[1]

    @own_torch
    def sample(
        self,
        n: int,
        nfe: int | None = None,
        seed: int = 0,
        method: str = "auto",
        kernel: str | None = None,
        last_step: str | None = None,
        last_step_calls: int | None = None,
        temperature_K: float | None = None,
        progress: Callable[[np.ndarray], None] | None = None,
        moves: int | None = None,
        weighted: bool = True,
    ) -> WeightedEnsemble:
        """Draw ``n`` samples with importance weights.

        Parameters
        ----------
        n : int
        nfe : int, optional
            Network evaluations a sample, at least 2; by default those of the plan with the most effective samples a
            second, see `choose`.
        seed : int
            Same seed, same machine: same samples.
        method : str
            ``diffusion``: the reverse diffusion. ``consistency``: jumps along the probability flow, where they have
            been learnt. ``auto``: what `choose` takes. The provenance says which.
        kernel : str, optional
            Transition kernel, one of `diffusion.PROPOSALS`: ``analytic``, ``ddpm`` or, with springs, ``elastic``; with
            jumps ``consistency`` or ``isotropic-consistency``. By default that of the plan.
        last_step : str, optional
            How the lowest noise level is left, one of `diffusion.LAST_STEPS`: ``plain``, ``nested`` or ``annealed``. By
            default that of the `plan`.
        last_step_calls : int, optional
            Energy calls a sample that ``nested`` or ``annealed`` may spend, the plan's moves included.
        temperature_K : float, optional
            Sample the same potential at another temperature, in kT of that temperature; see `System.at`. Near the one
            that the network was trained for the weights make up for the difference.
        progress : callable (log weights), optional
            Called with the log weights of the samples finished since the last call.
        moves : int, optional
            Langevin steps on u after the last step, which improve the end points and leave the weights alone; by
            default those of the plan.
        weighted : bool
            Otherwise the ensemble is ``raw``: end points of the paths, the plan's last step and moves included, and
            nothing that says how good they are. Then ``auto`` takes consistency where there are jumps, which will do
            with few evaluations, even one; four if ``nfe`` is not given.

        Raises
        ------
        UsageError
            A parameter out of range, or one that the checkpoint has nothing for.

        Warns
        -----
        WeightWarning
            The weights are not to be trusted; says why, and what to do.
        """
        system = self.system if temperature_K is None else self.system.at(temperature_K)
        nfe = RAW_NFE if nfe is None and not weighted else nfe
        spared = not weighted and nfe == 1
        if not weighted and method == "auto" and kernel is None and self.checkpoint.denoiser.has_jumps:
            method = "consistency"
        nfe, plan = self._chosen(2 if spared else nfe, method, kernel, last_step)
        route = self._route(nfe, plan.changed(kernel, last_step, last_step_calls, moves))
        return self._draw([system], n, seed, route._replace(weighted=weighted, spared=spared), progress)[0]

    @own_torch
    def scan(
        self,
        n: int,
        temperatures_K: Sequence[float],
        nfe: int | None = None,
        seed: int = 0,
        method: str = "auto",
        kernel: str | None = None,
        last_step: str | None = None,
        last_step_calls: int | None = None,
        progress: Callable[[np.ndarray], None] | None = None,
        moves: int | None = None,
    ) -> list[WeightedEnsemble]:
        """``n`` samples at each of several temperatures; the paths above the last step are shared.

        So the network is evaluated for one temperature only, and differences between neighbours are less noisy than
        the ensembles, which are not independent of each other. Each bears the cost of all in its provenance, but for
        the energy calls, which are its own.

        Parameters
        ----------
        temperatures_K : sequence of float
            Different ones, in the order of the ensembles.
        others
            As for `sample`.
        """
        systems = [self.system.at(t) for t in temperatures_K]
        if not systems or len({system.name for system in systems}) != len(systems):  # names end in the temperature
            raise UsageError(f"temperatures_K: expected one or more different numbers, got {list(temperatures_K)}")
        nfe, plan = self._chosen(nfe, method, kernel, last_step)
        route = self._route(nfe, plan.changed(kernel, last_step, last_step_calls, moves))
        return self._draw(systems, n, seed, route, progress)

    @own_torch
    def forward(
        self,
        samples: WeightedEnsemble,
        nfe: int | None = None,
        seed: int = 0,
        plan: SamplingPlan | None = None,
        n: int = 1000,
    ) -> ForwardWeights:
        """What the weights of `sample` should look like, by the same plan the other way: from samples of the system.

        Sampling cannot know of a mode that it never visits. Paths that go up from equilibrium samples see every mode
        that those have.

        Parameters
        ----------
        samples : WeightedEnsemble
            Of the system, by a method that does not miss modes; the first ``n`` after resampling by their weights.
        nfe, seed : int
            As for `sample`; with a plan ``nfe`` has to be given.
        plan : SamplingPlan, optional
            By default that of `choose`; that of an ensemble is in its provenance.

        Raises
        ------
        UsageError
            A parameter out of range, or samples of another system.
        """
        if samples.system.name != self.system.name or samples.positions.shape[1:] != (
            self.system.n_atoms,
            self.system.n_dims,
        ):
            raise UsageError(f"samples: expected some of {self.system.name!r}, got {samples.system.name!r}")
        if plan is None:
            nfe, plan = self.choose(nfe)
        elif nfe is None:
            raise UsageError("nfe: expected the number of evaluations of the plan, got None")
        route = self._route(nfe, plan)
        known = samples if samples.kind == "equilibrium" else samples.resample(seed=seed)
        x = known.positions[known.alive]
        order = np.random.default_rng(seed).permutation(len(x))[: check_int("n", n, 2)]
        log_w = forward_paths(
            route.proposal,
            route.ending,
            self.system.energy(),
            route.levels,
            self.checkpoint.system.sigma_data,
            torch.from_numpy(x[order]).to(self.device),
            torch.Generator().manual_seed(check_int("seed", seed, 0, 2**32 - 1)),
        )
        return ForwardWeights(log_w.cpu().numpy())

    def _chosen(
        self, nfe: int | None, method: str, kernel: str | None, last_step: str | None
    ) -> tuple[int, SamplingPlan]:
        """`choose`, for the method of the kernel, or the plan for dear potentials if its last step is asked for."""
        if kernel is not None:
            of_kernel = PROPOSALS.find(kernel).method
            if method not in ("auto", of_kernel):
                raise UsageError(f"kernel: expected one for the method {method!r}, got {kernel!r}")
            method = of_kernel
        chosen = self.choose(nfe, method)
        frugal = self.checkpoint.frugal_plan("diffusion" if method == "auto" else method)
        return (nfe or NFE, frugal) if last_step == frugal.last_step else chosen

    def _route(self, nfe: int, plan: SamplingPlan) -> _Route:
        if plan.moves and plan.move_step is None:
            plan = replace(plan, move_step=first_step(self.checkpoint.system.sigma_data))
        proposal = plan.proposal(self._denoiser, self.checkpoint.accuracy)
        levels = plan.levels(nfe, *self.checkpoint.noise_range)
        return _Route(plan, proposal, plan.build(), levels)

    def _draw(self, systems: Sequence[System], n: int, seed: int, route: _Route, progress) -> list[WeightedEnsemble]:
        n = check_int("n", n, 1)
        check_fits("n", n, BYTES_A_COORDINATE * self.system.n_atoms * self.system.n_dims * len(systems))
        seed = check_int("seed", seed, 0, 2**32 - 1)  # beyond, torch repeats its streams
        energies = [system.energy() for system in systems]
        start = time.perf_counter()
        generator = torch.Generator().manual_seed(seed)

        def tell(log_w: torch.Tensor) -> None:
            if progress is not None:
                progress(log_w.numpy())

        _, proposal, ending, levels, weighted, spared = route
        sigma_data = self.checkpoint.system.sigma_data
        if weighted:
            drawn = sample_paths(proposal, ending, energies, levels, sigma_data, n, generator, tell, self.device)
        else:
            arguments = (levels, sigma_data, n, generator, tell, spared, self.device)
            drawn = [raw_paths(proposal, ending, energies[0], *arguments)]
        ensembles = []
        for system, energy, paths in zip(systems, energies, drawn):
            record = provenance(
                system.name,
                energy.parameters,
                energy.calls,
                start,
                checkpoint=self.checkpoint.digest,
                training=self.checkpoint.training_cost,
                seed=seed,
                device=self.device.type,
                method=route.proposal.method,
                kernel=route.plan.kernel,
                last_step=route.plan.last_step,
                plan=route.plan.table(),
                nfe=paths.nfe,
                failed=paths.failed,
            )
            x, u, log_w = (a.numpy() for a in (paths.positions, paths.energies, paths.log_weights))
            ensemble = WeightedEnsemble(x, u, log_w, system, record, kind="importance" if weighted else "raw")
            if np.isfinite(ensemble.log_z):
                warn(ensemble, "" if len(systems) == 1 else f"{system.name}: ", stacklevel=3)
            ensembles.append(ensemble)
        return ensembles


@own_torch
def load_sampler(source, system: System | None = None, device: torch.device | str = "cpu") -> Sampler:
    """The sampler of a shipped system (``"lj13"``), a run folder or a checkpoint file.

    Of a run that was killed before it wrote its model: that after the last whole iteration.

    Parameters
    ----------
    source : str or path
    system : System, optional
        Needed for a potential that is not built in; see `Sampler`.
    device : torch.device or str
        See `Sampler`.

    Raises
    ------
    UsageError
        No such system or path, or a device that cannot be used.
    FileFormatError
        Not a checkpoint.
    """
    path = checkpoint_path(source)
    if not path.exists() and (path.parent / "state.safetensors").exists():
        from .training import recover  # a run that was killed

        return Sampler(recover(path.parent), system, device)
    if not path.exists():
        raise FileFormatError(f"{path.parent}: expected a run folder with model.safetensors, there is none")
    return Sampler(load_checkpoint(path), system, device)
