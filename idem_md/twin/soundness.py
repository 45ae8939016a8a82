"""Whether a potential is one that a twin can learn: the same each time, with forces that are its gradient."""

from __future__ import annotations

import numpy as np
import torch

from ..callers import warn_caller
from ..chains import ChainState
from ..energies import ForeignEnergy
from ..energies.foreign import digest_of
from ..errors import EnergyError, TrainingWarning
from ..geometry import standard_normal
from ..systems import System
from .record import Recorded

__all__ = ["check_gradient", "check_repeatable"]

# kT by which two calls for one geometry may differ before that is said, and the same as a share of the energy.
NOISE, NOISE_SHARE = 1e-3, 1e-9
# Configurations on which forces are compared with differences of the energy, which are about so many kT; and the
# relative error that is too much.
COMPARED, DIFFERENCE, TOO_WRONG = 5, 0.4, 0.3
# Longest displacement for that, in reduced length.
LONGEST = 0.02


def check_repeatable(energy: Recorded, system: System, reference: float) -> None:
    """Warn if the geometry of the system has another energy (kT, without trap) than when the potential was made."""
    known = energy.energy._known if isinstance(energy.energy, ForeignEnergy) else None
    if known is None or known["geometry"] != digest_of(np.array(system.geometry) * system.units.length_angstrom):
        return
    apart = abs(reference - known["energy_kT"])
    if apart > NOISE + NOISE_SHARE * abs(reference):
        warn_caller(
            f"twin: the potential is noisy: two calls for the same geometry are {apart:.2g} kT apart; tighten the "
            "convergence of the code behind it",
            TrainingWarning,
        )


def check_gradient(energy: Recorded, late: ChainState, seed: int) -> None:
    """Compare forces with differences of the energy, for two energy calls at each of a few configurations.

    Raises
    ------
    EnergyError
        They disagree on most of them.
    """
    x, f = late.x[-COMPARED:].double(), late.f[-COMPARED:].double()
    d = standard_normal(x.shape, torch.Generator().manual_seed(seed))
    slope = -(f * d).sum((1, 2))
    step = (0.5 * DIFFERENCE / slope.abs().clamp(min=1e-9)).clamp(max=LONGEST)[:, None, None]
    up, down = energy(x + step * d)[0].double(), energy(x - step * d)[0].double()
    found = (up - down) / (2 * step[:, 0, 0])
    # Where the slope happens to be next to nothing, beside one that is usual.
    wrong = ((found - slope) / slope.abs().clamp(min=0.1 * float(slope.abs().median()))).abs()
    if not bool(torch.isfinite(wrong).all()):
        raise EnergyError(
            "twin: expected a smooth potential, next to an ordinary configuration its energy is no number"
        )
    if float(wrong.median()) > TOO_WRONG:
        raise EnergyError(
            f"twin: expected forces that are minus the gradient of the energy, along a random direction they are "
            f"{100 * float(wrong.median()):.0f}% off in the median of {len(wrong)} configurations"
        )
