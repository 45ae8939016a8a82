"""For ASE scripts: the native Lennard-Jones cluster as a calculator, and weighted sampling as a dynamics object."""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.optimize.optimize import Dynamics

from .checks import FileFormatError, UsageError, check_float, check_int
from .energies import ASE, Energy, LennardJones
from .energies.batch import DEFAULT_TRAP
from .ensemble import WeightedEnsemble
from .files import write_atomic
from .sampler import load_sampler
from .systems import System, nearest_neighbour_distance
from .training import preset, train
from .units import Units

__all__ = ["BoltzmannSampler", "LennardJonesCluster"]

# Argon (Rahman): epsilon/k_B = 119.8 K, sigma = 3.405 Å.
ARGON_EPSILON, ARGON_R_MIN = 119.8 * units.kB, 3.8220


class LennardJonesCluster(Calculator):
    """Lennard-Jones energies and forces of a free cluster, all pairs, by the native kernel.

    U = epsilon sum_{i<j} [(r_min/r)^12 - 2 (r_min/r)^6] + trap/2 sum_i |x_i - centroid|^2

    Parameters
    ----------
    epsilon : float
        Well depth in eV; argon's by default. ASE's own `LennardJones` has the same epsilon.
    r_min : float
        Distance of the minimum in Å, 2^(1/6) times ASE's sigma.
    trap : float
        Stiffness of a harmonic trap about the centroid, in eV/Å^2; none by default.

    Raises
    ------
    UsageError
        Periodic atoms, or a parameter out of range.
    """

    implemented_properties = ["energy", "free_energy", "forces"]
    default_parameters = {"epsilon": ARGON_EPSILON, "r_min": ARGON_R_MIN, "trap": 0.0}
    nolabel = True

    def __init__(self, **parameters):
        unknown = set(parameters) - set(self.default_parameters)
        if unknown:
            raise UsageError(f"{sorted(unknown)[0]}: expected one of {', '.join(self.default_parameters)}")
        super().__init__(**parameters)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        """See `ase.calculators.calculator.Calculator.calculate`."""
        super().calculate(atoms, properties, system_changes)
        if self.atoms.pbc.any():
            raise UsageError(f"atoms: expected no periodic boundary conditions, got pbc = {self.atoms.pbc.tolist()}")
        # Lengths in Å and energies in eV: the formula is the same in any unit.
        energy = LennardJones(len(self.atoms), **self.parameters)
        u, f = energy(torch.from_numpy(self.atoms.positions[None].copy()))
        self.results = {"energy": float(u[0]), "free_energy": float(u[0]), "forces": f[0].numpy()}


def _cache_folder(name: str) -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "idem-md" / name


class BoltzmannSampler(Dynamics):
    """Independent weighted samples of the Boltzmann distribution, one a step, in the manner of `ase.md`.

    Every step puts the next sample into ``atoms``, with its log weight in ``atoms.info["log_weight"]``; observers,
    trajectory and logfile are then called as by a molecular dynamics object. The starting geometry is not a sample and
    is not written, so `irun` yields once a step. A sample that failed leaves the positions as they were, with log weight
    -inf. Samples are centred where the atoms were. The calculator is called once more a sample for the potential energy
    that trajectories and logfile show, which is the calculator's own, without an added trap.

    Parameters
    ----------
    atoms : ase.Atoms
        Composition, an ordinary geometry (it sets the scale), and a calculator; not periodic, no constraints.
    temperature_K : float
    trap : float, optional
        Stiffness in kT / Å^2 of a harmonic trap about the centroid, without which a cluster evaporates, added to the
        calculator's potential. By default 0.05, or none for a `LennardJonesCluster` that has a trap; 0 only for what
        confines by itself.
    checkpoint : str or path, optional
        A built-in system (``"lj13"``), a run folder or a checkpoint to sample with, instead of training. It may have been
        trained for a similar potential: the weights correct for that.
    cache : path, optional
        Where the sampler is trained at first use and found again later; by default a folder of the composition,
        calculator, temperature and trap under ``~/.cache/idem-md``.
    minutes, max_energy_calls : optional
        Budgets of that training; 20 minutes by default.
    nfe, batch, seed : int
        Network evaluations a sample, samples drawn at a time, seed.
    workers : int, optional
        Processes for the calculator; it must then pickle.
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

    def __init__(self, atoms: Atoms, temperature_K: float, *, trap: float | None = None, checkpoint=None, cache=None,
                 minutes: float | None = 20.0, max_energy_calls: int | None = None, nfe: int = 25, batch: int = 250, seed: int = 0,
                 workers: int | None = None, trajectory=None, logfile=None, append_trajectory: bool = False, loginterval: int = 1):
        self.temperature_K = check_float("temperature_K", temperature_K, above=0.0)
        self.nfe, self.batch, self.seed = check_int("nfe", nfe, 2), check_int("batch", batch, 1), check_int("seed", seed, 0, 2**31 - 1)
        self._checkpoint, self._budget = checkpoint, {"minutes": minutes, "max_energy_calls": max_energy_calls}
        name, total = _name_and_trap(atoms, self.temperature_K, trap)
        self._folder = None if checkpoint is not None else Path(cache) if cache is not None else _cache_folder(name)
        # A sampler found there was made for lengths of its own, from the geometry of then.
        card = None if self._folder is None else _read_card(self._folder)
        self.system = _system(atoms, self.temperature_K, total, workers, name, card)
        self._centre = atoms.positions.mean(0)
        self._sampler, self._batches, self.log_weights = None, [], []
        self._sums, self._quiet = (-math.inf, 0.0, 0.0), logfile is None
        self._loginterval = check_int("loginterval", loginterval, 1)
        super().__init__(atoms, logfile=logfile, trajectory=trajectory, append_trajectory=append_trajectory, loginterval=loginterval)

    def todict(self) -> dict:
        """What trajectories say of their origin."""
        return {"type": "boltzmann-sampler", "md-type": type(self).__name__, "temperature_K": self.temperature_K,
                "nfe": self.nfe, "seed": self.seed}

    @property
    def sampler(self):
        """The `Sampler`, trained now if it has to be."""
        if self._sampler is None:
            if self._checkpoint is not None:
                self._sampler = load_sampler(self._checkpoint, self.system)
            else:
                _train_once(self.system, self.atoms.positions, self._folder, self._budget)
                self._sampler = load_sampler(self._folder, self.system)
        return self._sampler

    @property
    def ensemble(self) -> WeightedEnsemble:
        """All samples so far, with error estimates, log Z and files."""
        n = len(self.log_weights)
        if not n:
            raise UsageError("ensemble: expected at least one step, none has been made")
        columns = (np.concatenate([getattr(b, name) for b in self._batches])[:n] for name in ("positions", "energies", "log_weights"))
        provenance = {**self._batches[-1].provenance, "seed": self.seed, "batches": len(self._batches),
                      **{key: sum(b.provenance[key] for b in self._batches) for key in ("energy_calls", "failed", "seconds")}}
        return WeightedEnsemble(*columns, self.system, provenance)

    def step(self) -> None:
        """Put the next sample into the atoms."""
        done = len(self.log_weights)
        if done == sum(len(b) for b in self._batches):
            k = len(self._batches)
            seed = int(np.random.SeedSequence([self.seed, k]).generate_state(1)[0])  # streams of their own for every batch
            self._batches.append(self.sampler.sample(self.batch, nfe=self.nfe, seed=seed))
        batch = self._batches[-1]
        index = done - sum(len(b) for b in self._batches[:-1])
        self.log_weights.append(float(batch.log_weights[index]))
        if np.isfinite(batch.log_weights[index]):
            self.atoms.positions = self.system.units.to_angstrom(batch.positions[index]) + self._centre
        w = self.atoms.info["log_weight"] = self.log_weights[-1]
        top, one, two = self._sums  # running sums of weights and their squares, relative to the largest
        if w > top:
            scale = math.exp(top - w)
            top, one, two = w, one * scale, two * scale**2
        if w > -math.inf:
            one, two = one + math.exp(w - top), two + math.exp(2 * (w - top))
        self._sums = top, one, two

    def close(self) -> None:
        """Stop the processes of ``workers``."""
        energy = self.system.make_energy()
        if hasattr(energy, "close"):
            energy.close()
        super().close()

    def irun(self, steps: int = 50):
        """Draw ``steps`` samples, one each time round; yields whether that was the last."""
        self.max_steps = self.nsteps + steps
        while self.nsteps < self.max_steps:
            self.step()
            self.nsteps += 1
            self.atoms.get_potential_energy()  # so that trajectories and observers find it, as after a step of MD
            self.log()
            self.call_observers()
            yield self.nsteps == self.max_steps

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
        _, one, two = self._sums
        self.logfile.write(f"{self.nsteps:9d} {self.atoms.get_potential_energy():12.4f} {self.atoms.info['log_weight']:12.3f} "
                           f"{one**2 / two if two else 0.0:12.1f}\n")


def _name_and_trap(atoms: Atoms, temperature_K: float, trap: float | None) -> tuple[str, float]:
    """What the cache calls this potential, and the stiffness to add in kT / Å^2."""
    if atoms.calc is None:
        raise UsageError("atoms: expected a calculator, got none")
    own = atoms.calc.parameters["trap"] if isinstance(atoms.calc, LennardJonesCluster) else 0.0
    added = check_float("trap", trap, minimum=0.0) if trap is not None else 0.0 if own else DEFAULT_TRAP
    calculator = atoms.calc.name if isinstance(getattr(atoms.calc, "name", None), str) else type(atoms.calc).__name__
    return re.sub(r"[^A-Za-z0-9.-]+", "-", f"{atoms.get_chemical_formula()}-{calculator}-{temperature_K:g}K-trap{added:.3g}"), added


def _system(atoms: Atoms, temperature_K: float, trap: float, workers: int | None, name: str, card: dict | None) -> System:
    """The atoms' potential in units of kT and of the distance of nearest neighbours (of r_min for Lennard-Jones)."""
    if isinstance(atoms.calc, LennardJonesCluster):
        if workers is not None:
            raise UsageError("workers: expected none for the native kernel, which has its own threads")
        if atoms.pbc.any() or atoms.constraints:
            raise UsageError("atoms: expected neither periodic boundary conditions nor constraints")
        kT, p = Units(1.0, temperature_K).kT_eV, atoms.calc.parameters
        total = p["trap"] / kT + trap
        if total == 0:
            raise UsageError("trap: expected a positive stiffness (kT / Å^2), got 0: without a trap a cluster evaporates")
        energy: Energy = LennardJones(len(atoms), p["epsilon"] / kT, 1.0, total * p["r_min"]**2)
        energy.units, energy.elements = Units(p["r_min"], temperature_K), tuple(atoms.get_chemical_symbols())
    else:
        length = nearest_neighbour_distance(atoms.positions) if card is None else card["length_angstrom"]
        energy = ASE(atoms, temperature_K=temperature_K, length_angstrom=length, trap=trap, workers=workers)
    system = System.of_energy(energy, atoms.positions, name)
    return system if card is None else replace(system, sigma_data=card["sigma_data"])


def _read_card(folder: Path) -> dict | None:
    """What the sampler in a cache folder was trained for, or None if there is none."""
    card = folder / "potential.json"
    if not card.exists():
        if (folder / "state.safetensors").exists() or (folder / "model.safetensors").exists():
            raise FileFormatError(f"{folder}: holds a run of unknown origin; pass it as checkpoint=, or choose another folder (cache=)")
        return None
    try:
        table = json.loads(card.read_text())
        return {"length_angstrom": float(table["length_angstrom"]), "sigma_data": float(table["sigma_data"]),
                "positions": np.array(table["positions"], dtype=np.float64), "energies": np.array(table["energies"], dtype=np.float64)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{card}: expected what a sampler was trained for, it cannot be read ({error})") from None


def _train_once(system: System, positions, folder: Path, budget: dict) -> None:
    """Leave a trained sampler in ``folder``: found there, finished from where it stopped, or trained from scratch."""
    energy, length = system.energy(), system.units.length_angstrom
    evaluate = lambda x: energy(torch.from_numpy(x / length))[0].numpy()  # noqa: E731
    known = _read_card(folder)
    if known is not None:
        x = known["positions"]
        if x.shape[1:] != np.shape(positions) or not np.allclose(evaluate(x), known["energies"], rtol=1e-5, atol=1e-5):
            raise FileFormatError(f"{folder}: holds a sampler for another potential; choose another folder (cache=) or remove it")
    else:
        # A few geometries and their energies: by them the potential is known again.
        x = np.asarray(positions) + 0.05 * length * np.random.default_rng(0).standard_normal((4, *np.shape(positions)))
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "potential.json", json.dumps({
            "positions": x.tolist(), "energies": evaluate(x).tolist(), "length_angstrom": length, "sigma_data": system.sigma_data,
        }).encode())
    if not (folder / "model.safetensors").exists():
        name = "refined" if isinstance(energy, LennardJones) else "frugal"
        train(preset(system, name), folder, system=system, resume=(folder / "state.safetensors").exists(), **budget)
