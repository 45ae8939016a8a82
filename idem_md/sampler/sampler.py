"""A trained sampler: load a checkpoint, draw weighted samples."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..checkpoint import Checkpoint
from ..checks import check_float, check_int
from ..diffusion import PathSampler, SamplingPlan, TwinPaths
from ..energies import Energy, NativeAnnealing
from ..ensemble import ForwardWeights, WeightedEnsemble, WeightSums, next_chunk, warn
from ..errors import UsageError
from ..native import check_device
from ..progress import reported
from ..systems import System
from ..torch_state import own_torch
from .assembly import Assembly, SoFar, origin_of
from .chunks import Drawing, Wanted, gather, room_for, rounds
from .display import sampling
from .forward import forward_weights
from .planning import (
    PathOptions,
    PlanOptions,
    by_twin,
    choose_plan,
    plan_of,
    refuse_other_atoms,
    twin_for,
    with_move_step,
)
from .recording import recorded

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["Sampler"]


class Sampler:
    """Draws weighted samples of one system with a trained denoiser.

    Parameters
    ----------
    checkpoint : Checkpoint
    system : System, optional
        What to sample, by default what the checkpoint was trained for. Another potential of the same atoms will do, at
        the price of effective samples. A network for a range of temperatures is taken at that of the system.
    device : torch.device or str
        ``cpu`` or ``cuda``: where network, paths and native chains run; a seed gives other samples there.
    twin : System, optional
        The same atoms with a cheaper potential, on which paths end; that of ``system`` is called once a sample. By
        default the twin of the checkpoint, if it has one.

    Raises
    ------
    UsageError
        Other atoms than the checkpoint's, a temperature outside the range of its training, an unusable device.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        system: System | None = None,
        device: torch.device | str = "cpu",
        twin: System | None = None,
    ):
        self._range, self._base, self._given = checkpoint, checkpoint.system if system is None else system, twin
        if system is not None and checkpoint.rungs:
            checkpoint = checkpoint.at(system.units.temperature_kelvin)
        self.checkpoint, self._so_far = checkpoint, SoFar()
        self.device = check_device("device", device)
        on_cpu, denoiser = self.device.type == "cpu", checkpoint.denoiser
        self._denoiser = denoiser if on_cpu else copy.deepcopy(denoiser).to(self.device)
        self.system = checkpoint.system if system is None else system
        refuse_other_atoms("system", self.system, checkpoint)
        self._twin = twin_for(checkpoint, system, twin)
        self._apart = bool(self._range.rungs) or self._twin is not None  # temperatures cannot share paths

    @property
    def temperatures_K(self) -> tuple[float, float] | None:
        """The lowest and the highest temperature of the training, if the network was trained for several."""
        rungs = self._range.rungs
        return (rungs[0].kelvin, rungs[-1].kelvin) if rungs else None

    @property
    def twin(self) -> Energy | None:
        """What paths end on in the place of the potential, if there is one."""
        return self._twin

    def at(self, temperature_K: float) -> Sampler:
        """The sampler at another temperature, in kT of that temperature; see `System.at`.

        Raises
        ------
        UsageError
            A temperature outside the range of the training.
        """
        twin = None if self._given is None else self._given.at(temperature_K)
        other = Sampler(self._range, self._base.at(temperature_K), self.device, twin)
        if self._range.rungs and self._base is self._range.system:
            other.system = other.checkpoint.system  # which says that it was trained for it
        other._base, other._given = self._base, self._given
        return other

    def _part_at(self, temperature_K: float) -> Sampler:
        """The result of `at` for a part of a call, which `so_far` finds here."""
        (other := self.at(temperature_K))._so_far = self._so_far
        return other

    def plan(
        self,
        nfe: int | None = None,
        method: str = "auto",
        kernel: str | None = None,
        last_step: str | None = None,
        last_step_calls: int | None = None,
        moves: int | None = None,
        weighted: bool = True,
        candidate_paths: int | None = None,
    ) -> SamplingPlan:
        """How samples are drawn: by what was tuned for the checkpoint, with what is asked for in its place.

        Plans were tuned for the checkpoint's own system. They also serve other potentials that anneal natively; any
        other one gets few energy calls a sample, as they may be expensive.

        Parameters
        ----------
        nfe : int, optional
            Network evaluations a sample, at least 2; by default those of the tuned plan with the most effective samples
            a second, and four for raw samples.
        method : str
            ``diffusion``: the reverse diffusion. ``consistency``: steps along the probability flow, where a flow map
            has been learnt. ``auto``: the one with the most effective samples a second.
        kernel : str, optional
            Transition kernel, one of `diffusion.KERNELS`: ``analytic``, ``ddpm`` or, with an elastic network,
            ``elastic``; with a flow map ``consistency`` or ``isotropic-consistency``. By default the tuned one.
        last_step : str, optional
            How the lowest noise level is left, one of `diffusion.LAST_STEPS`: ``plain``, ``nested`` or ``annealed``. By
            default the tuned one.
        last_step_calls : int, optional
            Energy calls a sample that ``nested`` or ``annealed`` may spend, the plan's moves included.
        moves : int, optional
            Langevin steps on u after the last step, which improve the end points and leave the weights alone; by
            default the tuned number.
        weighted : bool
            Otherwise samples are ``raw``: end points of the paths, last step and moves included. Then ``auto`` takes
            consistency where there is a flow map, which will do with few evaluations, even one.
        candidate_paths : int, optional
            With a twin, paths by it for each sample, of which one is kept; by default the tuned number.

        Raises
        ------
        UsageError
            A parameter out of range, or one that the checkpoint has nothing for.
        """
        cheap = self._twin is not None or self.system is self.checkpoint.system
        cheap = cheap or isinstance(self.system.make_energy(), NativeAnnealing)
        if self._twin is not None:
            moves = 0 if moves is None else moves
        elif candidate_paths is None and self.system.has_energy:
            candidate_paths = 1
        return choose_plan(
            self.checkpoint, cheap, nfe, method, kernel, last_step, last_step_calls, moves, weighted, candidate_paths
        )

    @own_torch
    def sample(
        self,
        n: int,
        nfe: int | None = None,
        seed: int = 0,
        plan: SamplingPlan | None = None,
        *,
        temperature_K: float | None = None,
        progress: Callable[[np.ndarray], None] | None = None,
        executor: Executor | int | None = None,
        shard: tuple[int, int] = (0, 1),
        **options: Unpack[PathOptions],
    ) -> WeightedEnsemble:
        """Draw ``n`` samples with importance weights.

        Parameters
        ----------
        n : int
        nfe : int, optional
            Network evaluations a sample; see `plan`.
        seed : int
            Same seed, same machine: same samples, in however many processes.
        plan : SamplingPlan, optional
            By `plan` or of another ensemble's provenance; by default that of `plan` with ``nfe`` and ``options``.
        temperature_K : float, optional
            Sample the same potential at another temperature, in kT of that temperature; see `at`.
        progress : callable (log weights), optional
            Called with the log weights of the samples finished since the last call; by default see `idem_md.quiet`.
        executor : concurrent.futures.Executor or int, optional
            Where chunks are drawn: ``Client.get_executor()`` of Dask, ``mpi4py.futures.MPIPoolExecutor``, a pool of
            yours, or so many processes. The samples are the same; a chunk whose worker dies is drawn again.
        shard : tuple of int
            (k, m), with 0 <= k < m: every m-th chunk of the ``n`` samples from the k-th on, for one of m jobs, whose
            ensembles `WeightedEnsemble.concatenate` puts together.
        options
            But for ``nfe`` what `plan` takes.

        Raises
        ------
        UsageError
            A parameter out of range, one that the checkpoint has nothing for, or options beside a plan.

        Warns
        -----
        WeightWarning
            The weights are not to be trusted; says why, and what to do.
        """
        if temperature_K is not None and self._apart:
            here = self._part_at(temperature_K)
            return here.sample(n, nfe, seed, plan, progress=progress, executor=executor, shard=shard, **options)
        system = self.system if temperature_K is None else self.system.at(temperature_K)
        asked: PlanOptions = {**options} if nfe is None else {**options, "nfe": nfe}
        return self._draw([system], n, seed, self._chosen(plan, asked), progress, executor, shard)[0]

    @own_torch
    def extend(
        self,
        ensemble: WeightedEnsemble,
        n: int,
        ess: float | None = None,
        seed: int | None = None,
        progress: Callable[[np.ndarray], None] | None = None,
        executor: Executor | int | None = None,
    ) -> WeightedEnsemble:
        """More samples of the kind that an ensemble has, put together with those.

        Parameters
        ----------
        ensemble : WeightedEnsemble
            By `sample`, with this checkpoint; from it come system, plan and number of evaluations.
        n : int
            How many more.
        ess : float, optional
            As many of them as it takes for so many effective samples in all: too few where few samples carry the
            weights, which `WeightedEnsemble.advice` says.
        seed : int, optional
            By default that of the ensemble, whose random numbers go on where they ended.
        progress, executor
            As for `sample`.

        Raises
        ------
        UsageError
            A parameter out of range, or an ensemble that cannot be gone on with.
        """
        kelvin = ensemble.system.units.temperature_kelvin
        if self._apart and not math.isclose(kelvin, self.system.units.temperature_kelvin):
            return self._part_at(kelvin).extend(ensemble, n, ess, seed, progress, executor)
        p, plan = ensemble.provenance, with_move_step(plan_of(ensemble), self.checkpoint)
        if ess is not None and not plan.weighted:
            raise UsageError(f"ess: expected none for samples without weights, got {ess}")
        # Read from a file it may not know its energy.
        known = {system.name: system for system in (self._base, self.system)}
        system = known.get(ensemble.system.name) or self._base.at(kelvin)
        seed = p.get("seed", p.get("seeds", [0])[-1]) if seed is None else seed
        return self._draw([system], n, seed, plan, progress, executor, ess=ess, after=ensemble)[0]

    @own_torch
    def scan(
        self,
        n: int,
        temperatures_K: Sequence[float],
        *,
        seed: int = 0,
        plan: SamplingPlan | None = None,
        progress: Callable[[np.ndarray], None] | None = None,
        **options: Unpack[PlanOptions],
    ) -> list[WeightedEnsemble]:
        """``n`` samples at each of several temperatures.

        Those of a network for a single temperature share their paths above the last step, those of a network for a
        range random numbers. So differences between neighbours are less noisy than the ensembles themselves.

        Parameters
        ----------
        temperatures_K : sequence of float
            Different ones, in the order of the ensembles; all else as for `sample`.
        """
        systems = [self._base.at(kelvin) for kelvin in temperatures_K]
        if not systems or len({system.name for system in systems}) != len(systems):  # names end in the temperature
            raise UsageError(f"temperatures_K: expected one or more different numbers, got {list(temperatures_K)}")
        samplers = [self._part_at(kelvin) for kelvin in temperatures_K] if self._apart else [self]
        plans = [sampler._chosen(plan, options) for sampler in samplers]
        if not all(chosen.weighted for chosen in plans):
            raise UsageError("weighted: expected True, raw samples do not tell temperatures apart, got False")
        if not self._apart:
            return self._draw(systems, n, seed, plans[0], progress)
        done: list[WeightedEnsemble] = []
        for sampler, chosen in zip(samplers, plans):
            done += sampler._draw([sampler.system], n, seed, chosen, progress, done=done)
        self._so_far.end()
        return done

    @own_torch
    @reported("weights of paths from samples")
    def forward(
        self,
        samples: WeightedEnsemble,
        plan: SamplingPlan | None = None,
        seed: int = 0,
        n: int = 1000,
    ) -> ForwardWeights:
        """What the weights of `sample` should look like, by the same plan the other way: from samples of the system.

        Sampling cannot know of a mode that it never visits. Paths that go up from equilibrium samples see every mode
        that those have.

        Parameters
        ----------
        samples : WeightedEnsemble
            Of the system, by a method that does not miss modes; the first ``n`` after resampling by their weights.
        plan : SamplingPlan, optional
            By default that of `plan`; that of an ensemble is in its provenance.
        seed : int

        Raises
        ------
        UsageError
            A parameter out of range, or samples of another system.
        """
        paths = self._paths(self.plan() if plan is None else with_move_step(plan, self.checkpoint))
        return forward_weights(paths, self.system, samples, seed, n, self.device)

    def so_far(self) -> list[WeightedEnsemble]:
        """What a call that was interrupted, or is under way in another thread, has drawn: an ensemble of whole chunks
        for each temperature, to go on from with `extend`."""
        return self._so_far.ensembles()

    def _chosen(self, plan: SamplingPlan | None, options: PlanOptions) -> SamplingPlan:
        """The plan, or that of `plan` with these options."""
        if plan is None:
            return self.plan(**options)
        if options:
            raise UsageError(f"{next(iter(options))}: expected none beside a plan, give it to Sampler.plan")
        return with_move_step(plan, self.checkpoint)

    def _paths(self, plan: SamplingPlan) -> PathSampler | TwinPaths:
        c = self.checkpoint
        self.system.energy()  # before the work: it may not be known
        paths = plan.build(self._denoiser, c.accuracy, c.noise_range, c.system.sigma_data, self.device)
        return by_twin(paths, self._twin, plan.candidate_paths)

    def _draw(
        self,
        systems: Sequence[System],
        n: int,
        seed: int,
        plan: SamplingPlan,
        progress: Callable[[np.ndarray], None] | None,
        executor: Executor | int | None = None,
        shard: tuple[int, int] = (0, 1),
        ess: float | None = None,
        after: WeightedEnsemble | None = None,
        done: Sequence[WeightedEnsemble] | None = None,
    ) -> list[WeightedEnsemble]:
        n, start = check_int("n", n, 1), time.perf_counter()
        # Beyond, torch repeats its streams.
        seed, k, m = check_int("seed", seed, 0, 2**32 - 1), shard[0], check_int("shard", shard[1], 1)
        check_int("shard", k, 0, m - 1)
        drawing = Drawing(tuple(systems), self._paths(plan), plan, seed)
        facts = origin_of(drawing, self.checkpoint, self.device, self._given)
        kind, first, sums = "importance" if plan.weighted else "raw", 0, WeightSums()
        if after is not None:
            first = next_chunk(after, systems[0], kind, {**facts, "parameters": systems[0].energy().parameters})
            sums.add(after.log_weights)
        size = drawing.paths.block(systems[0].energy())
        wanted = None if ess is None else Wanted(check_float("ess", ess, above=0.0), sums)

        closing: dict[str, object] = {"shards": [[seed, k, m, n]]} if m > 1 else {}
        closing |= {} if ess is None else {"stopped_at_ess": float(ess)}
        work = self._so_far.begin(Assembly(systems, kind, facts, start, after, closing, self._twin), done or ())
        with (
            sampling(n, plan.weighted, sums, progress, ess) as tell,
            recorded(drawing, self.checkpoint.path, executor, shard) as d,
        ):
            gather(d, rounds(n, size, first, (k, m), wanted, room_for(systems)), executor, tell, work.gathered)
        ensembles = work.ensembles()
        if done is None:
            self._so_far.end(work)
        if not ensembles:
            raise UsageError(f"shard: expected at most {-(-n // size)}, chunks are of {size} samples, got ({k}, {m})")
        for ensemble in ensembles:
            if ensemble is not after and np.isfinite(ensemble.log_z):
                alone = len(systems) == 1 and done is None
                warn(ensemble, "" if alone else f"{ensemble.system.name}: ")
        return ensembles
