"""Whether a twin can learn a potential: the same each time, without steps, with forces that are its gradient."""

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
from .fit import Frames
from .record import Recorded

__all__ = ["check_continuous", "check_gradient", "check_repeatable"]

# kT by which two calls for one geometry may differ before that is said, and the same as a share of the energy.
NOISE, NOISE_SHARE = 1e-3, 1e-9
# Configurations on which forces are compared with differences of the energy, which are about so many kT; and the
# relative error that is too much.
COMPARED, DIFFERENCE, TOO_WRONG = 5, 0.4, 0.3
# Longest displacement for that, in reduced length.
LONGEST = 0.02
# Pairs of frames between which a step is sought, how often each is halved, and kT that are no step.
SOUGHT, HALVINGS, NO_STEP = 3, 7, 0.2


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


def check_continuous(energy: Recorded, walkers: int, typical: float, length_angstrom: float) -> None:
    """Warn if the energy has steps; for some twenty energy calls where one is suspected, and none elsewhere.

    Between neighbouring frames of a chain the energy changes as the mean of their forces says, but for the third power
    of their distance. Where it does not, the pair is halved again and again, always towards the half that is further
    off: a smooth potential is soon within `NO_STEP`, and a step stays.

    Parameters
    ----------
    energy : Recorded
        Of so many ``walkers`` at a time.
    walkers : int
    typical : float
        Highest energy (kT) of the frames that count.
    length_angstrom : float
        The unit of positions.
    """
    frames = energy.frames()
    one, other = frames[:-walkers], frames[walkers:]
    moved = (other.x - one.x).flatten(1).norm(dim=1)
    # Where a frame is missing, the next ones belong to other chains.
    near = (moved > 0) & (moved < 2 * moved.median()) & (one.u < typical) & (other.u < typical)
    one, other = one[near], other[near]
    for row in unexplained(one, other).abs().argsort(descending=True)[:SOUGHT].tolist():
        a, b = one[row : row + 1], other[row : row + 1]
        for _ in range(HALVINGS):
            if abs(float(unexplained(a, b))) < NO_STEP:
                break
            x = (a.x + b.x) / 2
            u, f = energy(x)
            if not bool(torch.isfinite(u)):  # a call that failed, which is told elsewhere
                break
            middle = Frames(x, u.double(), f.double())
            a, b = max(((a, middle), (middle, b)), key=lambda pair: abs(float(unexplained(*pair))))
        else:
            step = abs(float(unexplained(a, b)))
            if step > NO_STEP:
                apart = float((b.x - a.x).norm()) * length_angstrom
                warn_caller(
                    f"twin: the potential has steps: its energies differ by {step:.2g} kT between two geometries "
                    f"{apart:.1g} Å apart; averages stay exact, but fewer samples are effective",
                    TrainingWarning,
                )
                return


def unexplained(a: Frames, b: Frames) -> torch.Tensor:
    """Difference of the energies of frames (kT) beyond what their forces say."""
    return b.u - a.u + 0.5 * ((a.f + b.f) * (b.x - a.x)).sum((1, 2))
