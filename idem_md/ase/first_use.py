"""Training at first use. Loading PyTorch Geometric takes as long as loading PyTorch, so this is imported when it is
needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ..checks import energies_agree
from ..errors import FileFormatError, UsageError
from ..files import write_atomic
from ..systems import System
from ..training import TrainingConfig, default_preset, load_checkpoint, preset, run_config, run_samples, train
from ..tuning import HeadTraining, default_nfes, tune
from .cache import read_card

__all__ = ["first_settings", "train_once"]

# Training steps of the elastic network at first use: most of what longer ones give, in a few minutes.
ELASTIC_NETWORK_STEPS = 1000
# Network evaluations that plans are made for at first use, and samples to try them on: fewer than `tune` has, to save
# time.
NFES, PILOT = (4, 6, 12, 25, 50), 600


def first_settings(
    system: System, name: str | None, seed: int, temperatures: tuple[float, float] | None, budget: dict
) -> TrainingConfig:
    """Settings of a training at first use, with a preset or the one that suits the potential and the budget."""
    calls = None if budget["twin"] else budget["max_energy_calls"]
    return preset(system, name or default_preset(system, calls, budget["twin"]), seed, temperatures, calls)


def _nfes(temperatures: tuple[float, float] | None) -> dict[str, tuple[int, ...]] | None:
    """Numbers of evaluations to plan for, by method; for a range of temperatures those of `tune`."""
    return dict.fromkeys(default_nfes(), NFES) if temperatures is None else None


def _isomer(system: System) -> str | None:
    """What tells isomers of a molecule apart."""
    return None if system.chemistry is None else system.chemistry.digest


def train_once(
    system: System,
    positions,
    folder: Path,
    budget: dict,
    temperatures: tuple[float, float] | None,
    settings: Callable[[], TrainingConfig],
) -> None:
    """Leave a trained sampler in ``folder``: found there, finished from where it stopped, or trained from scratch with
    the ``settings``; then with an elastic network and, if energy calls have no budget or there is a twin, plans."""
    energy, length = system.energy(), system.units.length_angstrom

    def evaluate(x: np.ndarray) -> np.ndarray:
        return energy(torch.from_numpy(x / length))[0].numpy()

    known = read_card(folder)
    if known is not None:
        x = known["positions"]
        if known["isomer"] not in (None, _isomer(system)):
            raise FileFormatError(
                f"{folder}: holds a sampler for another isomer (bonds, stereocentres); choose another folder (cache=)"
            )
        if x.shape[1:] != np.shape(positions) or not energies_agree(evaluate(x), known["energies"], 1e-5, 1e-5).all():
            raise FileFormatError(
                f"{folder}: holds a sampler for another potential; choose another folder (cache=) or remove it"
            )
    else:
        # A few geometries and their energies: by them the potential is known again.
        x = np.asarray(positions) + 0.05 * length * np.random.default_rng(0).standard_normal((4, *np.shape(positions)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cache: cannot write to {folder} ({error.strerror}); give cache= another") from None
        write_atomic(
            folder / "potential.json",
            json.dumps(
                {
                    "positions": x.tolist(),
                    "energies": evaluate(x).tolist(),
                    "length_angstrom": length,
                    "sigma_data": system.sigma_data,
                    "labels": system.labels,
                    "isomer": _isomer(system),
                    "temperatures": temperatures,
                }
            ).encode(),
        )
    model = folder / "model.safetensors"
    # Earlier versions trained in a folder of its own and wrote only the tuned model here.
    run = folder / "run" if (folder / "run").is_dir() else folder
    if model.exists():
        there = load_checkpoint(model)
        if budget["twin"] and there.twin is None:
            raise FileFormatError(f"{folder}: holds a sampler without a twin; choose another folder (cache=)")
        if run != folder or there.expensive is not None:
            return
    resume = (run / "state.safetensors").exists()
    # What was begun goes on with the settings that it began with.
    config = run_config(run) if resume else settings()
    checkpoint = train(config, run, system=system, resume=resume, **budget)
    nfes = {} if budget["max_energy_calls"] is not None else _nfes(temperatures)
    tune(
        checkpoint,
        run_samples(run),
        model,
        system=system,
        heads=HeadTraining(steps=ELASTIC_NETWORK_STEPS),
        nfes=nfes if checkpoint.twin is None else None,
        pilot=PILOT,
    )
