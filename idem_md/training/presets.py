"""The shipped settings: TOML files in ``presets/``, a table a system, ``any`` for all others.

Each table lists departures from the defaults of `TrainingConfig`, or from another preset that it names as its `base`.
"""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Any

from ..checks import check_int, check_range
from ..energies import COVALENT, NativeChains, bare
from ..errors import UsageError
from ..registry import Registry
from ..systems import SYSTEMS, System, get_system
from ..tables import tomllib
from .config import TrainingConfig
from .first_buffer import FirstBuffer, calls_an_iteration
from .ranks import ALONE

__all__ = ["PRESETS", "default_preset", "preset"]

# How many times as many iterations a network for a range of temperatures takes.
RANGE_ITERATIONS = 2
# Presets for potentials that are not native.
FOREIGN = ("classical", "frugal")
# Presets in which molecules get a ladder; up to how many atoms they do without, as noise relaxes to the molecule; and
# how many times as hot its other end is.
LADDERS, SMALL_MOLECULE, HOT = ("refined", *FOREIGN), 6, 3.0
# Seconds of a call up to which a potential is as cheap as a classical force field.
CHEAP = 2e-4
# Part of every batch from the coldest of several temperatures; the rest is from all.
COLD = 0.5
# How many times as many steps molecules take, of batches so many times smaller.
MOLECULE_STEPS = 2
# Rotations about bonds of a molecule that are tried, of each walker before each refinement.
TORSIONS = 3
# Pairs of unlike atoms that are tried in each other's place, of each walker in an outer iteration.
EXCHANGES = 2

# Share of the energy calls of all iterations below which the buffer is made smaller, and what is left at least.
ENOUGH_CALLS = 2 / 3
LEAST_WALKERS, LEAST_RELAXING, LEAST_WARMUP, LEAST_REFINING, LEAST_WEIGHTED = 32, 20, 60, 4, 128

PRESETS: Registry[dict[str, dict[str, Any]]] = Registry("preset")


def _over(base: Any, table: Any) -> Any:
    """A table merged over its base, table by table; of another name than its base it is as it is."""
    if not isinstance(base, dict) or not isinstance(table, dict):
        return table
    if table.get("name", base.get("name")) != base.get("name"):
        return table
    return {**base, **{key: _over(base.get(key), value) for key, value in table.items()}}


for _name in ("refined", "frugal", "classical", "twin", "idem", "pdem"):
    _table = tomllib.loads((files(__package__) / "presets" / f"{_name}.toml").read_text(encoding="utf-8"))
    PRESETS.register(_name)(_over(PRESETS[_table.pop("base")], _table) if "base" in _table else _table)


def default_preset(system: System, max_energy_calls: int | None = None, twin: bool = False) -> str:
    """The preset for a system and a budget: ``twin`` for a training on one; ``refined`` for built-in systems and, if
    energy calls have no budget, for potentials with chains in native code, whose energies cost next to nothing;
    ``classical`` for others whose calls have taken less than 0.2 ms; else ``frugal``."""
    if twin:
        return "twin"
    if system.name in SYSTEMS:
        return "refined"
    energy = system.energy()
    if max_energy_calls is None and isinstance(energy, NativeChains):
        return "refined"
    return "classical" if 0 < bare(energy).seconds_a_call < CHEAP else "frugal"


def preset(
    system: str | System,
    name: str = "refined",
    seed: int = 0,
    temperatures: tuple[float, float] | None = None,
    max_energy_calls: int | None = None,
) -> TrainingConfig:
    """The shipped settings for a system: ``refined`` (default), ``frugal`` for expensive energies, ``classical`` for
    force fields, whose calls take some ten microseconds, ``twin`` for a twin of an expensive potential, ``idem`` and
    ``pdem`` (the iDEM paper's, from a replay buffer or from prior samples).

    Molecules of more than six atoms take twice as many steps of half as large batches (not with ``twin``), and their
    networks are ``normalised``, have ``pair_factors`` and refine positions half-way. Every network of ``twin`` is
    normalised and refines positions. See `nets.PaiNN`.

    Parameters
    ----------
    system : str or System
        A name, or any system whose unit of length is near the distance of nearest neighbours.
    name, seed
    temperatures : tuple of float, optional
        The lowest and the highest one (K), for a network of all temperatures between, which takes twice as many
        iterations; see `LadderConfig`. By default one network for the system's own; for a molecule of more than six
        atoms from there to three times as hot (not with ``twin``), as walkers have to begin at its geometry;
        such a molecule is trained for all iterations that its budget holds, whatever it still gains.
    max_energy_calls : int, optional
        Budget of the training, for which ``frugal`` and ``classical`` make fewer walkers with fewer steps.

    Raises
    ------
    UsageError
        Unknown system or preset, or a preset that has no settings for it.
    """
    system = get_system(system)
    tables = PRESETS.find(name)
    if system.name in tables:
        table = tables[system.name]
    elif "any" in tables:
        # Lengths and noise levels are the system's, whatever the preset.
        table = _over(PRESETS["refined"].get(system.name, {}), tables["any"])
    else:
        raise UsageError(
            f"preset: expected another than {name!r} for {system.name!r}; it has settings for {', '.join(tables)}"
        )
    elements, steps = set(system.elements), 1
    by_element = len(set(system.kinds)) == len(elements) == len(set(zip(system.kinds, system.elements)))
    if name in (*FOREIGN, "twin") and by_element and len(elements) > 1 and not elements & COVALENT:
        table = {**table, "buffer": {**table.get("buffer", {}), "exchanges": EXCHANGES}}
    large = system.chemistry is not None and system.n_atoms > SMALL_MOLECULE
    if large and name in (*LADDERS, "twin") and len(set(system.kinds)) > 1:
        table = {**table, "network": {**table.get("network", {}), "pair_factors": True}}
    if large and name in LADDERS:
        # Its loss rises as the buffer comes to equilibrium: no sign of when to end.
        table, steps = {**table, "least_gain": 0.0}, MOLECULE_STEPS
        table["network"] = {**table.get("network", {}), "normalised": True, "refinements": 1}
        kelvin = system.units.temperature_kelvin
        temperatures = temperatures or (kelvin, HOT * kelvin)
    if name in (*LADDERS, "twin") and system.rotations.bonds:
        table = {**table, "buffer": {**table.get("buffer", {}), "torsions": TORSIONS}}
    if temperatures is not None:
        coldest, hottest = check_range("temperatures", temperatures)
        table = {**table, "ladder": {"coldest": coldest, "hottest": hottest, "cold": COLD}}
    config = TrainingConfig.parse({"system": system.name, "seed": seed, **table}, f"preset {name}")
    o, longer = config.optimizer, 1 if temperatures is None else RANGE_ITERATIONS
    changes = {
        "batch": max(o.batch // steps, 2),
        "inner_steps": steps * o.inner_steps,
        "iterations": longer * o.iterations,
    }
    config = config.model_copy(update={"optimizer": o.model_copy(update=changes)})
    if max_energy_calls is not None and name in FOREIGN:
        config = _within(config, system, check_int("max_energy_calls", max_energy_calls, 1))
    return config


def _even(n: float) -> int:
    """A number near ``n`` that many numbers of processes share out evenly."""
    return 32 * round(n / 32)


def _within(config: TrainingConfig, system: System, budget: int) -> TrainingConfig:
    """The settings with a buffer of which so many energy calls leave most of the iterations; as they are if they are
    enough for two thirds of them."""
    plan, b = FirstBuffer.of(config, system, ALONE), config.buffer
    share = budget / (plan.calls + config.optimizer.iterations * calls_an_iteration(config, plan.walkers))
    if share >= ENOUGH_CALLS:
        return config
    root = math.sqrt(share)
    smaller = {
        "walkers": max(_even(root * plan.walkers), LEAST_WALKERS),
        "relax_steps": max(round(root * b.relax_steps), LEAST_RELAXING),
        "warmup_steps": max(round(root * b.warmup_steps), LEAST_WARMUP),
        "refine_steps": max(round(root * b.refine_steps), LEAST_REFINING),
        "weighted": max(_even(share * b.weighted), LEAST_WEIGHTED),
    }
    return config.model_copy(update={"buffer": b.model_copy(update=smaller)})
