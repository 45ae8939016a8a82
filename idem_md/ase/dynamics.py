"""Weighted sampling as an ASE dynamics object."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.optimize.optimize import Dynamics

from ..callers import warn_caller
from ..checks import check_choice, check_float, check_int, check_range
from ..energies import ForeignEnergy, HasWorkers
from ..energies.native_ase import native_potential
from ..ensemble import WeightedEnsemble, WeightSums
from ..errors import FileFormatError, UsageError, WeightWarning
from ..progress import reporting
from ..provenance import Provenance
from .cache import cache_folder, check_cache, name_and_trap, read_card, system_of
from .known import KnownEnergy

if TYPE_CHECKING:
    from ..sampler import Sampler
    from ..systems import System

__all__ = ["BoltzmannSampler"]


# What `ase.md` objects write, with their defaults.
OUTPUT: dict[str, Any] = {"trajectory": None, "logfile": None, "append_trajectory": False, "loginterval": 1}
BATCH = 250


def _checked_range(kelvin: float, temperatures) -> tuple[float, float] | None:
    """The lowest and the highest temperature, if there are several."""
    if temperatures is None:
        return None
    low, high = check_range("temperatures", temperatures)
    if not low <= kelvin <= high:
        raise UsageError(f"temperatures: expected two with {kelvin:g} K between them, got {low:g} and {high:g}")
    return low, high


class BoltzmannSampler(Dynamics):
    """Independent weighted samples of the Boltzmann distribution, one a step, in the manner of `ase.md`.

    Every step puts the next sample into ``atoms``, with its log weight in ``atoms.info["log_weight"]``; observers,
    trajectory and logfile are then called as by a molecular dynamics object. The starting geometry is not a sample and
    is not written, so `irun` yields once a step. A sample that failed leaves the positions as they were, with log
    weight -inf. Samples are centred where the atoms were. Trajectories and logfile show the potential energy, which is
    the calculator's own, without an added trap; an observer that asks for forces has it called.

    Parameters
    ----------
    atoms : ase.Atoms
        Composition, an ordinary geometry (it sets the scale), and a calculator; not periodic, no constraints.
    temperature_K : float
    temperatures : tuple of float, optional
        The lowest and the highest temperature (K) for which the network is trained, from replicas that exchange places:
        it then serves all between, ``temperature_K`` among them. By default it is trained for that one alone.
    trap : float, optional
        Stiffness in kT / Å^2 (of the lowest temperature, if there are several) of a harmonic trap about the centroid,
        without which a cluster evaporates, added to the calculator's potential. By default 0.05, for a molecule in one
        piece 0.005, or none for a `LennardJonesCluster` that has a trap; 0 only for what confines by itself.
    labels : sequence of int, optional
        One number an atom, the same for atoms that are interchangeable. By default those of the sampler that is found
        or given, else by the bonds of a molecule, or the elements of a cluster; see `System.of_energy`.
    checkpoint : str or path, optional
        A built-in system (``"lj13"``), a run folder or a checkpoint to sample with, instead of training. It may have
        been trained for a similar potential: the weights correct for that.
    cache : path, optional
        Where the sampler is trained at first use and found again later; by default a folder of the composition,
        isomer, calculator, temperature and trap under ``~/.cache/idem-md``.
    minutes, max_energy_calls : optional
        Budgets of that training; 20 minutes by default. The elastic network takes a few minutes more and no energy
        calls;
        plans, for a native Lennard-Jones potential without ``max_energy_calls``, do, and take two to ten minutes.
    preset : str, optional
        Settings of that training; see `training.preset`. By default ``twin`` if there is to be one, ``refined`` for a
        native potential without ``max_energy_calls``, ``classical`` for one that is as cheap as a force field, else
        ``frugal``. With ``max_energy_calls`` the buffer of both is the smaller the fewer calls there are. One that was
        begun goes on with its own.
    twin : bool
        Fit a twin to some thousand energy calls (``max_energy_calls``) first, train on that, and call the potential
        once a sample: for expensive potentials.
    nfe : int, optional
        Network evaluations a sample; by default as for `Sampler.plan`.
    seed : int
        Of the samples, and of the training at first use.
    workers : int, optional
        Processes for the calculator; it must then pickle.
    batch : int
        Samples drawn at a time; 250 by default.
    trajectory, logfile, append_trajectory, loginterval
        As for `ase.md`. To append new samples give another seed: the same one draws the same samples again.

    Attributes
    ----------
    system : System
    log_weights : list of float
        Of the samples so far; see `ensemble`.

    Raises
    ------
    UsageError
        Atoms that cannot be sampled, or a parameter out of range.
    FileFormatError
        A cache that was trained for another potential.
    """

    def __init__(
        self,
        atoms: Atoms,
        temperature_K: float,
        *,
        temperatures: tuple[float, float] | None = None,
        trap: float | None = None,
        labels=None,
        checkpoint=None,
        cache=None,
        minutes: float | None = 20.0,
        max_energy_calls: int | None = None,
        preset: str | None = None,
        twin: bool = False,
        nfe: int | None = None,
        seed: int = 0,
        workers: int | None = None,
        **output,
    ):
        batch = output.pop("batch", BATCH)
        unknown = sorted(output.keys() - OUTPUT.keys())
        if unknown:
            raise UsageError(
                f"{unknown[0]}: no such argument of {type(self).__name__}; those for output are {', '.join(OUTPUT)}"
            )
        output = OUTPUT | output
        self.temperature_K = check_float("temperature_K", temperature_K, above=0.0)
        self.nfe, self.batch = None if nfe is None else check_int("nfe", nfe, 2), check_int("batch", batch, 1)
        self.seed = check_int("seed", seed, 0, 2**31 - 1)
        self._preset = (
            None if preset is None else check_choice("preset", preset, ("refined", "classical", "frugal", "twin"))
        )
        self._budget: dict[str, Any] = {"minutes": minutes, "max_energy_calls": max_energy_calls, "twin": twin}
        labels = None if labels is None else tuple(check_int("labels", int(k)) for k in labels)
        self._range = _checked_range(self.temperature_K, temperatures)
        if self._range and checkpoint is not None:
            raise UsageError("temperatures: expected none beside checkpoint, which knows its own, got a range")
        coldest = self._range[0] if self._range else self.temperature_K
        name, total = name_and_trap(atoms, self._range or (self.temperature_K,), trap, labels)
        self._folder = None
        if checkpoint is None:
            self._folder = cache_folder(name) if cache is None else Path(cache)
        # A sampler found there was made for lengths of its own, from the geometry of then.
        card = None if self._folder is None else read_card(self._folder)
        loaded = None if checkpoint is None else self._load(checkpoint)
        given = None if loaded is None else loaded.checkpoint
        length = card["length_angstrom"] if card else None
        if given is not None and native_potential(atoms) is None:  # whose unit is that of its minimum
            length = given.system.units.length_angstrom
        known = card["labels"] if card else given.system.labels if given else None
        labels = known if labels is None else labels
        self._trained_for = system_of(atoms, coldest, total, workers, name, length, labels)
        if labels is None and (card or given):  # a sampler of a version that did not know them by the bonds
            self._trained_for = replace(self._trained_for, labels=None)
        if card and card["temperatures"] != self._range:
            raise FileFormatError(
                f"{self._folder}: holds a sampler for the temperatures {card['temperatures']}, got {self._range}; "
                "choose another folder (cache=)"
            )
        if card and known != (None if labels is None else list(labels)):
            raise FileFormatError(f"{self._folder}: holds a sampler for the labels {known}, got {labels}")
        if card:
            self._trained_for = replace(self._trained_for, sigma_data=card["sigma_data"])
        self.system = self._trained_for.at(self.temperature_K) if self._range else self._trained_for
        self._centre = atoms.positions.mean(0)
        # Now, not after an hour of other steps: it may be misspelt, or there may be no place to train in.
        self._sampler: Sampler | None = None if loaded is None else type(loaded)(loaded.checkpoint, self.system)
        if self._folder is not None:
            check_cache(self._folder)
        self._batches: list[WeightedEnsemble] = []
        self._energy_eV: float | None = None  # of the last sample, without an added trap, if it is known
        self.log_weights: list[float] = []
        self._sums, self._quiet = WeightSums(), output["logfile"] is None
        self._loginterval = check_int("loginterval", output["loginterval"], 1)
        super().__init__(atoms, **output)

    def todict(self) -> dict:
        """What trajectories say of their origin."""
        return {
            "type": "boltzmann-sampler",
            "md-type": type(self).__name__,
            "temperature_K": self.temperature_K,
            "nfe": self.nfe,
            "seed": self.seed,
        }

    @property
    def sampler(self) -> Sampler:
        """The `Sampler`, trained now if it has to be."""
        if self._sampler is None:
            assert self._folder is not None
            with reporting("loading the networks' libraries") as work:
                from ..sampler import expectation
                from .first_use import first_settings, train_once

                work.phase(f"looking for a sampler in {self._folder}")
                system, budget, temperatures = self._trained_for, self._budget, self._range
                settings = partial(first_settings, system, self._preset, self.seed, temperatures, budget)
                train_once(system, self.atoms.positions, self._folder, budget, temperatures, settings)
                self._sampler = self._load(self._folder, self.system)
                work.say(f"sampler in {self._folder}; {expectation(self._sampler.checkpoint)}".removesuffix("; "))
        return self._sampler

    @staticmethod
    def _load(checkpoint, system: System | None = None) -> Sampler:
        with reporting("loading the networks' libraries"):
            from ..sampler import load_sampler

            return load_sampler(checkpoint, system)

    @property
    def ensemble(self) -> WeightedEnsemble:
        """All samples so far, with error estimates, log Z and files."""
        from ..twin import judged

        n = len(self.log_weights)
        if not n:
            raise UsageError("ensemble: expected at least one step, none has been made")

        def column(name: str) -> np.ndarray:
            return np.concatenate([getattr(b, name) for b in self._batches])[:n]

        records = [b.provenance for b in self._batches]
        record = Provenance(
            **{
                **records[-1],
                "seed": self.seed,
                "chunks": [],  # batches have streams of their own
                "batches": len(records),
                "energy_calls": sum(r["energy_calls"] for r in records),
                **({"twin_calls": sum(r["twin_calls"] for r in records)} if "twin_calls" in records[0] else {}),
                "failed": sum(r["failed"] for r in records),
                "seconds": sum(r["seconds"] for r in records),
            }
        )
        x, u, log_w = (column(name) for name in ("positions", "energies", "log_weights"))
        return judged(WeightedEnsemble(x, u, log_w, self.system, record, kind="importance"), self.sampler.twin)

    def step(self) -> None:
        """Put the next sample into the atoms; `run` and `irun` warn if weights are bad, this does not."""
        done = len(self.log_weights)
        if done == sum(len(b) for b in self._batches):
            k = len(self._batches)
            # Streams of their own for every batch.
            seed = int(np.random.SeedSequence([self.seed, k]).generate_state(1)[0])
            sampler = self.sampler
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", WeightWarning)  # of the batch; `irun` warns of all samples
                self._batches.append(sampler.sample(self.batch, nfe=self.nfe, seed=seed))
        batch = self._batches[-1]
        index = done - sum(len(b) for b in self._batches[:-1])
        self.log_weights.append(float(batch.log_weights[index]))
        if np.isfinite(batch.log_weights[index]):
            x = self.system.units.to_angstrom(batch.positions[index])
            self.atoms.positions = x + self._centre
            if isinstance(self._trained_for.make_energy(), ForeignEnergy):  # a call of native code costs nothing
                trap = 0.5 * (self.system.trap or 0.0) * float(((x - x.mean(0)) ** 2).sum())
                self._energy_eV = (float(batch.energies[index]) - trap) * self.system.units.kT_eV
        self.atoms.info["log_weight"] = self.log_weights[-1]
        self._sums.add(self.log_weights[-1])

    def close(self) -> None:
        """Stop the processes of ``workers``."""
        energy = self._trained_for.make_energy()
        if isinstance(energy, HasWorkers):
            energy.close()
        super().close()

    def irun(self, steps: int = 50):
        """Draw ``steps`` samples, one each time round; yields whether that was the last."""
        self.max_steps, given = self.nsteps + steps, self.atoms.calc
        try:
            while self.nsteps < self.max_steps:
                self.step()
                self.nsteps += 1
                if self._energy_eV is not None:
                    self.atoms.calc = KnownEnergy(self.atoms, self._energy_eV, given)
                self.atoms.get_potential_energy()  # so that trajectories and observers find it, as after a step of MD
                self.log()
                self.call_observers()
                yield self.nsteps == self.max_steps
        finally:
            if isinstance(self.atoms.calc, KnownEnergy):  # and not another one that the user has put there
                self.atoms.calc = given
        if self.log_weights and any(np.isfinite(self.log_weights)) and (advice := self.ensemble.advice):
            warn_caller(advice.replace("samples (n)", "samples (steps of run)"), WeightWarning)

    def run(self, steps: int = 50) -> bool:
        """Draw ``steps`` samples."""
        for _ in self.irun(steps):
            pass
        return True

    def log(self, *_) -> None:
        """One line to the logfile every ``loginterval`` samples: energy, log weight, effective samples so far."""
        if self._quiet or self.nsteps % self._loginterval:
            return
        if self.nsteps == self._loginterval:
            self.logfile.write(f"{'sample':>9} {'Epot[eV]':>12} {'log_weight':>12} {'ESS so far':>12}\n")
        self.logfile.write(
            f"{self.nsteps:9d} {self.atoms.get_potential_energy():12.4f} {self.atoms.info['log_weight']:12.3f} "
            f"{self._sums.ess:12.1f}\n"
        )
