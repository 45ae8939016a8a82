"""What a twin is made by, what it has come to, and where that lies in the folder of a run."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checks import check_float, check_int
from ..energies import Twin
from ..errors import FileFormatError, UsageError
from ..systems import System
from ..tensor_files import read_tensors
from .data import forget_data
from .files import twin_of
from .fit import FitSettings
from .gather import least_calls

__all__ = [
    "CALLS",
    "DEFAULT",
    "GATHERED",
    "SETTINGS",
    "SO_FAR",
    "MadeTwin",
    "Round",
    "TwinSettings",
    "begun_settings",
    "forget_twin",
    "has_twin",
    "load_made",
]

# Files in the folder of a run.
CALLS, SETTINGS = "energy_calls.bin", "twin.json"
GATHERED, SO_FAR = "gathered.safetensors", "twin.safetensors"


@dataclass(frozen=True)
class TwinSettings:
    """How a twin is made.

    Attributes
    ----------
    network : dict
        Options of a registered network with features, such as ``painn``.
    gathering_calls : int
        Energy calls of the chains of the real potential.
    round_calls, rounds : int
        Energy calls of a round, and how many there are at most.
    loss : float
        Rounds end when the twin costs no larger share of the effective samples, twice in turn.
    data : str
        A file of configurations with energies and forces of this potential that are there already (extended XYZ, or a
        database of ASE), to learn from as well; the chains take as many calls fewer.
    first_fit, next_fit : FitSettings
    """

    network: dict[str, Any] = field(
        default_factory=lambda: {"name": "painn", "channels": 32, "layers": 2, "n_basis": 24}
    )
    gathering_calls: int = 3000
    round_calls: int = 300
    rounds: int = 10
    loss: float = 0.2
    data: str = ""
    first_fit: FitSettings = FitSettings()
    next_fit: FitSettings = FitSettings(steps=400, learning_rate=1.5e-3)

    def __post_init__(self):
        check_int("gathering_calls", self.gathering_calls, least_calls())
        check_int("round_calls", self.round_calls, 30)
        check_int("rounds", self.rounds, 0)
        check_float("loss", self.loss, minimum=0.0)

    def within(self, max_energy_calls: int | None) -> TwinSettings:
        """The settings with shorter chains, if they would take more than half of a budget of energy calls.

        Raises
        ------
        UsageError
            A budget that does not hold the shortest chains and a round.
        """
        if max_energy_calls is None:
            return self
        least = 2 * least_calls() + self.round_calls
        if check_int("max_energy_calls", max_energy_calls, 1) < least:
            raise UsageError(
                f"max_energy_calls: expected at least {least:,} for a twin, got {max_energy_calls:,}; train without one"
            )
        return replace(self, gathering_calls=min(self.gathering_calls, max_energy_calls // 2))


DEFAULT = TwinSettings()


@dataclass(frozen=True)
class Round:
    """What a round has found.

    Attributes
    ----------
    kept : float
        Share of the effective samples that the twin leaves, judged by its own samples in equilibrium, which it had not
        learnt from.
    spread : float
        Standard deviation of u_twin - u_real on them, in kT.
    holes : float
        Share of the configurations from hotter chains and from noise that the twin takes for ordinary ones, and that
        are not.
    """

    kept: float
    spread: float
    holes: float


@dataclass(frozen=True)
class MadeTwin:
    """A twin, and what it has taken.

    Attributes
    ----------
    twin : Twin
    rounds : tuple of Round
    energy_calls : int
        Of the real potential.
    seconds : float
    """

    twin: Twin
    rounds: tuple[Round, ...]
    energy_calls: int
    seconds: float

    def record(self) -> dict[str, Any]:
        """What provenances say of it, as JSON."""
        return {"seconds": self.seconds, "rounds": [asdict(one) for one in self.rounds]}


def begun_settings(folder: Path, seed: int) -> TwinSettings | None:
    """The settings with which a twin was begun in a folder.

    Raises
    ------
    UsageError
        It was begun with another seed: its energy calls would be made again.
    """
    path = folder / SETTINGS
    if not path.exists():
        return None
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        begun = table.pop("seed")
        fits = {name: FitSettings(**table[name]) for name in ("first_fit", "next_fit")}
        settings = TwinSettings(**{**table, **fits})
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise FileFormatError(f"{path}: expected the settings of a twin, they cannot be read ({error})") from None
    if begun != seed:
        raise UsageError(f"seed: expected {begun}, with which the twin in {folder} was begun, got {seed}")
    return settings


def has_twin(folder: Path) -> bool:
    """Whether the run of a folder has a twin, which may still be under way."""
    return (Path(folder) / SETTINGS).exists()


def forget_twin(folder: Path) -> None:
    """Remove the twin of a folder; the energy calls stay."""
    for name in (SETTINGS, GATHERED, SO_FAR):
        (Path(folder) / name).unlink(missing_ok=True)
    forget_data(Path(folder))


def load_made(folder: Path, system: System) -> MadeTwin | None:
    """The twin of a run, if it has one.

    Raises
    ------
    FileFormatError
        A damaged one.
    """
    path = Path(folder) / SO_FAR
    if not path.exists():
        return None
    tensors, header = read_tensors(path, "twin")
    try:
        rounds, calls, seconds = (header[key] for key in ("rounds", "energy_calls", "seconds"))
        twin = twin_of(header["twin"], tensors, system, str(path))
        return MadeTwin(twin, tuple(Round(**one) for one in rounds), int(calls), float(seconds))
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path}: its header does not describe a twin ({error})") from None
