"""Making a twin: energy calls, a fit, and rounds in which it is asked where it is wrong."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..callers import warn_caller
from ..chains import ChainState
from ..energies import NativeChains, Twin
from ..energies.foreign import MOLECULE_TRAP
from ..errors import BudgetExhausted, EnergyError, FileFormatError, TrainingWarning, UsageError
from ..files import write_atomic
from ..geometry import centred
from ..nets import EnergyNetwork, build_energy_network
from ..progress import Work, reporting
from ..systems import System
from ..tensor_files import read_tensors, write_tensors
from ..torch_state import own_torch
from .data import data_of
from .files import twin_of, twin_table, twin_tensors
from .fit import FitResult, FitSettings, Frames, fit
from .gather import WALKERS, explore, gather, least_calls
from .made import CALLS, DEFAULT, GATHERED, SETTINGS, SO_FAR, MadeTwin, Round, TwinSettings, begun_settings
from .record import Recorded
from .soundness import check_continuous, check_gradient, check_repeatable

__all__ = ["make_twin"]

# One frame in so many is left out of a fit, to judge it by.
HELD_OUT = 20
# kT by which a configuration that the twin takes for an ordinary one may lie too high, or it is a hole; and the share
# of holes among the configurations that were sought for them with which rounds may end.
HOLE, HOLES = 5.0, 0.05
# So many rounds in turn have to be content: chains of the twin go on from one to the next, to where it was never asked.
CONTENT = 2
# The name of the tensor of where they go on.
START = "start"


def effective_share(log_w: torch.Tensor) -> float:
    """(sum w)^2 / (n sum w^2) of log weights (n,)."""
    w = torch.softmax(log_w.double(), 0)
    return 1 / (len(w) * float((w**2).sum()))


class _Making:
    """A twin that is being made."""

    def __init__(self, system: System, energy: Recorded, settings: TwinSettings, seed: int, data: Frames | None):
        self.system, self.energy, self.settings, self.seed, self.data = system, energy, settings, seed, data
        self.trap = (system.trap or 0.0) * system.units.length_angstrom**2
        geometry = torch.tensor(system.geometry, dtype=torch.float64)[None]
        self.reference = float(energy(geometry)[0] - self._trap_energy(geometry))
        if not math.isfinite(self.reference):
            raise EnergyError(
                f"twin: the potential failed at the geometry of the system: {energy.cause or 'no number'}"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = build_energy_network(settings.network, system)
        self.rounds: list[Round] = []
        self.fits, self.used = 0, 0  # and frames that the last one knew

    def _trap_energy(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.trap * (centred(x.double()) ** 2).sum((1, 2))

    def _bare(self, frames: Frames) -> Frames:
        """Frames relative to the reference, without the trap."""
        y = centred(frames.x)
        return Frames(y, frames.u - self.reference - self._trap_energy(y), frames.f + self.trap * y)

    def frames(self) -> Frames:
        """All that there is to learn from."""
        frames = self.energy.frames()
        return frames if self.data is None else self.data + frames

    @property
    def gathering_calls(self) -> int:
        """Energy calls of the chains of the real potential."""
        known = 0 if self.data is None else len(self.data)
        return max(self.settings.gathering_calls - known, least_calls())

    def begin(self, late: ChainState) -> None:
        """The scale of energies, from chains of the real potential in equilibrium."""
        u = self._go_on_from(late.x, late.u)
        self.network.shift.fill_(float(u.mean()))
        self.network.scale.fill_(max(float(u.std()), 1e-3) / math.sqrt(self.system.n_atoms))

    def _go_on_from(self, x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Configurations in equilibrium, as far as is known: chains go on from there, and such energies are ordinary.
        Returns these relative to the reference, without the trap."""
        u = u.double() - self.reference - self._trap_energy(x)
        self.start, self.typical, self.width = x, float(u.quantile(0.95)), 3 * float(u.std())
        return u

    def fit(self, frames: Frames, settings: FitSettings, on_step: Callable[[int], None]) -> FitResult:
        """A fit to all frames that there are."""
        self.fits, self.used, frames = self.fits + 1, len(frames), self._bare(frames)
        held = torch.arange(len(frames)) % HELD_OUT == HELD_OUT - 1
        settings = replace(settings, seed=self.seed + len(self.rounds))
        return fit(self.network, frames[~held], frames[held], self.typical, self.width, settings, on_step)

    def twin(self, frames: Frames) -> Twin:
        """The twin by the network as it is, and the frames that it knows."""
        known = self._bare(frames[: self.used])
        return Twin(
            self.network,
            self.system.units,
            self.system.elements,
            reference=self.reference,
            lowest=float(known.u.min()),
            contacts=self._contacts(known.x),
            # A network alone keeps nothing together; weights correct for what the potential does not have.
            trap=max(self.trap, MOLECULE_TRAP * self.system.units.length_angstrom**2),
        )

    def _contacts(self, x: torch.Tensor) -> torch.Tensor:
        """The least distance of atoms of each two kinds, for each two atoms."""
        r = torch.cdist(x, x) + torch.diag(torch.full(x.shape[1:2], torch.inf, dtype=x.dtype))
        least, kinds = r.amin(0), torch.tensor(self.system.kinds)
        for a in kinds.unique():
            for b in kinds.unique():
                pairs = (kinds[:, None] == a) & (kinds == b)
                least[pairs] = least[pairs].min()
        return least.fill_diagonal_(0.0).nan_to_num(posinf=0.0)

    def round(self, twin: Twin) -> Round:
        """Ask the real potential where chains of the twin have gone."""
        n, k = 2 * self.settings.round_calls // 3, len(self.rounds)
        own, others = explore(twin, self.system, self.start, n, self.seed + 1000 + k)
        u = self.energy(own)[0].double()
        gap = twin(own)[0].double() - u
        alive = torch.isfinite(gap)
        sound = alive & (gap.abs() < HOLE)
        if int(sound.sum()) > len(own) // 2:
            self._go_on_from(own[sound], u[sound])
        kept = effective_share(torch.where(alive, gap, -torch.inf))
        u_twin, u_real = twin(others)[0].double(), self.energy(others)[0].double()
        ordinary = u_twin - self.reference - self._trap_energy(others) < self.typical
        holes = float((ordinary & ~(u_real - u_twin < HOLE)).double().mean())
        return Round(kept, float(gap[alive].std()), holes)

    def good(self) -> bool:
        """Whether there need not be another round."""
        return self.content(max(min(CONTENT, self.settings.rounds), 1))

    def content(self, needed: int) -> bool:
        """Whether so many of the last rounds found the twin good enough."""
        last = self.rounds[-needed:]
        return len(last) == needed and all(1 - one.kept <= self.settings.loss and one.holes <= HOLES for one in last)


@own_torch
def make_twin(
    system: System,
    folder: Path,
    settings: TwinSettings | None = None,
    *,
    seed: int = 0,
    max_energy_calls: int | None = None,
    guard: Callable[[], None] = lambda: None,
) -> MadeTwin:
    """A twin of an expensive potential, by energy calls that are kept in ``folder`` as they come; another call with the
    same arguments goes on from there.

    Parameters
    ----------
    system : System
        With a geometry, as `System.of_energy` makes it.
    folder : Path
    settings : TwinSettings, optional
        By default those with which it was begun in the folder.
    seed : int
    max_energy_calls : int, optional
        Never exceeded; rounds end where the next one would.
    guard : callable ()
        Called now and then; may raise.

    Raises
    ------
    UsageError
        A system without a geometry or of fewer than three dimensions, or a budget that is too small.
    EnergyError
        Configurations whose energies or forces are no numbers.
    """
    folder, start = Path(folder), time.perf_counter()
    settings = (settings or begun_settings(folder, seed) or DEFAULT).within(max_energy_calls)
    if isinstance(system.energy(), NativeChains):
        raise UsageError(
            f"twin: expected none for {system.name!r}, whose energies are native and cost nothing, got one"
        )
    if system.geometry is None or system.n_dims != 3:
        raise UsageError(
            f"twin: expected a system in three dimensions with a geometry, as System.of_energy makes it, got "
            f"{system.name!r}"
        )
    with reporting("energy calls for the twin") as work:
        energy = Recorded(system.energy(), folder / CALLS)
        energy.max_calls = max_energy_calls

        def count(calls: int) -> None:
            guard()
            work.advance(0, f"{calls:,} energy calls")

        energy.on_count = count
        data = data_of(folder, settings.data, system, energy)  # or a misspelt name would stay
        if data is not None:  # which may be those of a call before
            work.say(f"{len(data):,} energies and forces that were there are learnt as well")
        write_atomic(folder / SETTINGS, json.dumps({**asdict(settings), "seed": seed}, indent=2).encode())
        making = _Making(system, energy, settings, seed, data)
        seconds = _gathered(folder / GATHERED, making)
        seconds = _load(folder / SO_FAR, making) or seconds
        twin, enough, known = None, making.good(), (making.fits, len(making.rounds))
        while not enough:
            frames = making.frames()
            if making.fits == len(making.rounds):
                _fit(work, making, frames, settings.next_fit if making.fits else settings.first_fit, guard)
                _save(folder / SO_FAR, making, frames, seconds + time.perf_counter() - start)
            twin = making.twin(frames)
            twin.on_count = lambda _: guard()
            if len(making.rounds) == settings.rounds:
                break
            work.phase(f"round {len(making.rounds) + 1} of the twin")
            try:
                making.rounds.append(making.round(twin))
            except BudgetExhausted:  # after calls that count
                _save(folder / SO_FAR, making, frames, seconds + time.perf_counter() - start)
                break
            enough = making.good()
            work.say(_told(making.rounds))
            _save(folder / SO_FAR, making, frames, seconds + time.perf_counter() - start)
        twin = making.twin(making.frames()) if twin is None else twin
        twin.calls, twin.on_count = 0, None
        making.network.eval().requires_grad_(False)
        if (making.fits, len(making.rounds)) != known:
            _advise(making, energy)
    return MadeTwin(twin, tuple(making.rounds), energy.calls, seconds + time.perf_counter() - start)


def _gathered(path: Path, making: _Making) -> float:
    """Chains of the potential, by energy calls or as they were; returns the seconds that these had taken."""
    start, key = time.perf_counter(), repr((making.settings, making.seed))
    with suppress(FileFormatError):
        tensors, header = read_tensors(path, "gathered")
        if header.get("settings") == key:
            making.begin(ChainState(*(tensors[name] for name in ("x", "u", "f"))))
            return float(header["seconds"])
    check_repeatable(making.energy, making.system, making.reference)
    late = gather(making.energy, making.system, making.gathering_calls, making.seed)
    check_gradient(making.energy, late, making.seed)
    check_continuous(making.energy, WALKERS, float(late.u.quantile(0.95)), making.system.units.length_angstrom)
    seconds = time.perf_counter() - start
    write_tensors(path, "gathered", {"x": late.x, "u": late.u, "f": late.f}, {"settings": key, "seconds": seconds})
    making.begin(late)
    return 0.0


def _fit(work: Work, making: _Making, frames: Frames, settings: FitSettings, guard: Callable[[], None]) -> None:
    work.phase("fitting the twin", settings.steps, "steps")

    def on_step(_: int) -> None:
        guard()
        work.advance()

    found = making.fit(frames, settings, on_step)
    work.say(
        f"twin fitted to {len(frames):,} energies and their forces: {found.spread:.2f} kT and "
        f"{100 * found.force_error:.1f}% of the forces off on those that it did not learn from"
    )


def _advise(making: _Making, energy: Recorded) -> None:
    if energy.failed:
        warn_caller(
            f"twin: {energy.failed} of {energy.calls} energy calls failed and count as infinitely high; the first one: "
            f"{energy.cause}",
            TrainingWarning,
        )
    if not (making.good() or making.content(1)):
        last = f"; {_told(making.rounds)}" if making.rounds else ""
        warn_caller(
            f"twin: not yet good after {len(making.rounds)} rounds{last}. Averages stay exact, but few samples are "
            "effective: begin anew with more energy calls (those made are kept); if the error does not fall, the "
            "potential is noisy or has steps",
            TrainingWarning,
        )


def _told(rounds: list[Round]) -> str:
    last = rounds[-1]
    return (
        f"round {len(rounds)}: {last.spread:.2f} kT apart from the real potential, which leaves "
        f"{100 * last.kept:.0f}% of the effective samples; holes: {100 * last.holes:.0f}%"
    )


def _save(path: Path, making: _Making, frames: Frames, seconds: float) -> None:
    """The network as it is, with what the rounds have found."""
    twin = making.twin(frames)
    header = {
        "twin": twin_table(twin),
        "rounds": [asdict(one) for one in making.rounds],
        "fits": making.fits,
        "used": making.used,
        "energy_calls": making.energy.calls,
        "settings": repr((making.settings, making.seed)),
        "seconds": seconds,
        "ordinary": [making.typical, making.width],
    }
    write_tensors(path, "twin", {**twin_tensors(twin), START: making.start}, header)


def _load(path: Path, making: _Making) -> float:
    """Put what was saved by the same settings into ``making``; returns the seconds that it had taken."""
    with suppress(FileFormatError):
        tensors, header = read_tensors(path, "twin")
        try:
            same = header["settings"] == repr((making.settings, making.seed))
            rounds, fits, used = [Round(**one) for one in header["rounds"]], int(header["fits"]), int(header["used"])
            seconds, table, start = float(header["seconds"]), header["twin"], tensors.pop(START)
            ordinary = tuple(map(float, header["ordinary"]))
        except (KeyError, TypeError, ValueError):
            return 0.0
        if same and used <= len(making.frames()):  # which somebody may have removed
            twin = twin_of(table, tensors, making.system, str(path))
            assert isinstance(twin.network, EnergyNetwork)
            making.network.load_state_dict(twin.network.state_dict())
            making.start, (making.typical, making.width) = start, ordinary
            making.rounds, making.fits, making.used = rounds, fits, used
            return seconds
    return 0.0
