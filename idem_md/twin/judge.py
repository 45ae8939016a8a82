"""What a twin has cost samples that were drawn with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from ..energies import Energy, Twin
from ..ensemble import WeightedEnsemble, effective_size
from ..errors import UsageError

__all__ = ["TwinError", "judged", "twin_error"]


class TwinError(NamedTuple):
    """How far a twin is from the potential on samples.

    Attributes
    ----------
    spread : float
        Weighted standard deviation of u_twin - u, in kT.
    largest : float
        Largest deviation of u_twin - u from its weighted mean, among samples with weight, in kT.
    ess_fraction : float
        Share of effective samples if the twin were the potential: beside that of the samples, what the twin has cost.
    """

    spread: float
    largest: float
    ess_fraction: float


def judged(samples: WeightedEnsemble, twin: Energy | None) -> WeightedEnsemble:
    """The samples, whose provenance says what `twin_error` does if they have weights and there is a twin."""
    samples.provenance.pop("twin_error", None)
    if twin is not None and samples.kind != "raw" and samples.alive.any():
        samples.provenance["twin_error"] = twin_error(samples, twin)._asdict()
    return samples


def twin_error(samples: WeightedEnsemble, twin: Energy) -> TwinError:
    """u_twin - u of samples that were drawn with a twin, for a call of the twin each and none of the potential.

    Parameters
    ----------
    samples : WeightedEnsemble
        With weights.
    twin : Energy
        A `Twin` at any temperature, that of the samples is taken; or another energy at theirs.

    Raises
    ------
    UsageError
        Samples of other atoms than the twin's.
    ResultError
        No sample has a weight.
    """
    if isinstance(twin, Twin):
        if samples.system.elements != twin.elements:
            raise UsageError(f"samples: expected samples of {twin.elements}, got some of {samples.system.elements}")
        twin = twin.scaled(twin.units.temperature_kelvin / samples.system.units.temperature_kelvin / twin.factor)
    w = samples.weights
    alive = w > 0
    u_twin = twin(torch.from_numpy(samples.positions[alive].copy()))[0].double().numpy()
    gap, w = u_twin - samples.energies[alive], w[alive] / w[alive].sum()
    gap -= w @ gap
    # What the weights would be without log w <- log w + u_twin - u.
    by_twin = w * np.exp(gap.min() - gap)
    return TwinError(float(np.sqrt(w @ gap**2)), float(np.abs(gap).max()), effective_size(by_twin) / len(samples))
