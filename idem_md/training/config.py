"""Training configuration: small typed tables, read from TOML; unknown keys are errors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SerializeAsAny, model_validator

from ..errors import ConfigError, UsageError
from ..nets import NetworkOptions, PaiNN, parse_network
from ..systems import get_system
from ..tables import Table, parse_table, read_toml
from ..targets import TARGETS, PosteriorTarget, TargetOptions

__all__ = [
    "BufferConfig",
    "LadderConfig",
    "NoiseConfig",
    "OptimizerConfig",
    "TrainingConfig",
    "load_config",
    "parse_target",
]


# No number of anything is larger: beyond it there is a typing error, not a plan.
MANY = 10**8


class NoiseConfig(Table):
    """Noise levels of training, in reduced length; sampling uses the same range."""

    sigma_min: float = Field(0.01, gt=0)
    sigma_max: float = Field(3.0, gt=0)


class BufferConfig(Table):
    """Replay buffer: its size, samples added an outer iteration, and MALA steps a refinement (0: none).

    Refinement carries all samples on or, with ``walkers``, only so many, and the buffer keeps where they have been:
    more samples for the same energy calls. They are correlated, but see more than the walkers alone.

    With ``weighted`` the samples that are added are drawn by weight from so many paths, for an energy call each and one
    for each that is taken: as many as there are walkers, or ``fresh`` where all samples are walkers, but no more than
    four times as many as are effective. So shares of basins of attraction come to be those of equilibrium, which chains
    alone would keep as they were. Where hardly any are effective in a process, ``fresh`` of them are added without
    regard to weights. With a ladder they are those of one rung an outer iteration, from the hottest to the coldest and
    again, take the places of walkers of that rung, and none are added without regard to weights.

    With ``exchanges`` so many pairs of unlike atoms are tried in each other's place before every refinement of a
    walker, for an energy call each and one more. Solid alloys need that; in molecules no such exchange is accepted.

    With ``torsions`` so many rotations of one side of a molecule about a bond are tried before every refinement and
    every round of the first buffer, for an energy call each and one more.

    Walkers start at noise of the extent of the system, relaxed, or at its geometry. By default (``auto``) molecules,
    known by their elements, start at their geometry if there is a ladder, whose hot rungs take them elsewhere.

    With ``train_on = "prior"`` the noised x_0 are drawn from N(0, sigma_max^2) instead, as pDEM does, and the buffer
    only serves to measure.
    """

    train_on: Literal["buffer", "prior"] = "buffer"
    size: int = Field(8192, ge=16, le=MANY)
    walkers: int | None = Field(None, ge=16, le=MANY)
    fresh: int = Field(256, ge=1, le=MANY)
    weighted: int = Field(0, ge=0, le=MANY)
    sampling_steps: int = Field(30, ge=2, le=MANY)
    relax_steps: int = Field(200, ge=0, le=MANY)
    warmup_steps: int = Field(2000, ge=0, le=MANY)
    refine_steps: int = Field(1000, ge=0, le=MANY)
    mala_step: float = Field(5e-4, gt=0)
    exchanges: int = Field(0, ge=0, le=MANY)
    torsions: int = Field(0, ge=0, le=MANY)
    start: Literal["auto", "noise", "geometry"] = "auto"


class LadderConfig(Table):
    """A range of temperatures (K), from the coldest to the hottest, all of which one network learns.

    The replay buffer is then one of ladders of replicas, whose rungs exchange places after about so many Langevin
    ``moves``, and are as many and spaced so that about half of the swaps between neighbours are accepted.
    ``buffer.size`` and ``walkers`` count the samples of all rungs together. Without ``buffer.weighted``,
    ``buffer.fresh`` samples of the network are drawn at the system's own temperature, only to measure.

    Each sample of a batch is drawn from the coldest rung, which is the hardest, with the probability ``cold``, and
    otherwise from all rungs alike.
    """

    coldest: float = Field(gt=0)
    hottest: float = Field(gt=0)
    moves: int = Field(10, ge=1, le=MANY)
    cold: float = Field(0.0, ge=0, le=1)


class OptimizerConfig(Table):
    """Optimiser, gradient clipping, exponential moving average, and a step size constant until the final decay.

    ``muon`` takes steps of orthogonal matrices (Jordan et al., 2024) with the step size ``matrix_rate`` for the
    matrices between hidden layers, and Adam's with ``learning_rate`` for all else. ``precision = "bf16"`` runs the
    dense layers in bfloat16; coordinates, distances and weights stay in float32, and messages on the CPU. Processors
    without units for bfloat16 (AMX) take float32 there, which is faster on them.
    """

    only = {"matrix_rate": ("muon",)}

    name: Literal["adam", "muon"] = "adam"
    precision: Literal["float32", "bf16"] = "float32"
    matrix_rate: float = Field(4e-3, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch: int = Field(128, ge=2, le=MANY)
    inner_steps: int = Field(100, ge=1, le=MANY)
    iterations: int = Field(110, ge=1, le=MANY)
    warmup: int = Field(200, ge=0, le=MANY)
    decay_fraction: float = Field(0.4, ge=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)


def parse_target(table: Mapping[str, Any], source: str) -> TargetOptions:
    """Options of the target that ``table["name"]`` names; raises `ConfigError`."""
    return parse_table(TARGETS.find(table["name"]).Options, table, source, "target")


class TrainingConfig(Table):
    """Everything that decides a training run, with its seed.

    With ``least_gain`` the final decay of the step size begins once a third of the outer iterations has gained less
    than so many nats over the third before, as the loss tells; see `gain`. With 0 all ``optimizer.iterations`` are
    made.
    """

    system: str
    seed: int = Field(0, ge=0, lt=2**31)
    network: SerializeAsAny[NetworkOptions] = PaiNN.Options()
    noise: NoiseConfig = NoiseConfig()
    target: SerializeAsAny[TargetOptions] = PosteriorTarget.Options(name="posterior")
    buffer: BufferConfig = BufferConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ladder: LadderConfig | None = None
    least_gain: float = Field(0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _choose_tables(cls, table: Any) -> Any:
        return _chosen(table, "configuration") if isinstance(table, Mapping) else table

    @model_validator(mode="after")
    def _tables_agree(self) -> TrainingConfig:
        noise, buffer = self.noise, self.buffer
        if noise.sigma_min >= noise.sigma_max:
            raise ValueError(
                f"noise.sigma_min: expected less than noise.sigma_max = {noise.sigma_max}, got {noise.sigma_min}"
            )
        if buffer.weighted and buffer.weighted < (least := max(8 * buffer.fresh, 128)):
            raise ValueError(f"buffer.weighted: expected 0 or at least {least}, got {buffer.weighted}")
        for trials in ("exchanges", "torsions"):
            if (n := getattr(buffer, trials)) and not buffer.refine_steps:
                raise ValueError(f"buffer.{trials}: expected 0 without refine_steps, got {n}")
        if buffer.fresh > buffer.size:
            raise ValueError(f"buffer.fresh: expected at most buffer.size = {buffer.size}, got {buffer.fresh}")
        if not buffer.fresh <= (buffer.walkers or buffer.size) <= buffer.size:
            raise ValueError(
                f"buffer.walkers: expected between buffer.fresh = {buffer.fresh} and buffer.size = {buffer.size}, "
                f"got {buffer.walkers}"
            )
        if buffer.train_on == "prior" and TARGETS[self.target.name].needs_samples:
            raise ValueError(
                f"buffer.train_on: expected 'buffer' with the target {self.target.name!r}, "
                "whose x_0 must be samples of the system, got 'prior'"
            )
        if self.ladder is not None:
            self._ladder_agrees(self.ladder)
        return self

    def _ladder_agrees(self, ladder: LadderConfig) -> None:
        if ladder.coldest >= ladder.hottest:
            raise ValueError(
                f"ladder.coldest: expected less than ladder.hottest = {ladder.hottest:g}, got {ladder.coldest:g}"
            )
        if not TARGETS[self.target.name].takes_temperatures:
            able = ", ".join(name for name, target in TARGETS.items() if target.takes_temperatures)
            raise ValueError(f"target.name: expected one of {able} with a ladder, got {self.target.name!r}")
        if self.buffer.train_on == "prior":
            raise ValueError("buffer.train_on: expected 'buffer' with a ladder, got 'prior'")

    @classmethod
    def parse(cls, table: Mapping[str, Any], source: str) -> TrainingConfig:
        """Validate a plain mapping.

        Raises
        ------
        ConfigError
            Names the source, the key, what was expected and what came.
        """
        return parse_table(cls, _chosen(table, source), source)


def _chosen(table: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The table with that of the network and that of the target made into the options of those that they name."""
    table = dict(table)
    for key, default, parse in (("network", "painn", parse_network), ("target", "posterior", parse_target)):
        if isinstance(table.get(key, {}), Mapping):
            try:
                table[key] = parse({"name": default, **table.get(key, {})}, source)
            except UsageError as error:  # no such network or target
                raise ConfigError(f"{source}: {error}") from None
    return table


def load_config(path: Path, built_in: bool = True) -> TrainingConfig:
    """Read a TOML file.

    Parameters
    ----------
    path : Path
    built_in : bool
        Whether the system that it names has to be.

    Raises
    ------
    ConfigError
        Missing file, malformed TOML, unknown key or bad value.
    """
    config = TrainingConfig.parse(read_toml(path), str(path))
    if built_in:
        try:
            get_system(config.system)
        except UsageError as error:
            raise ConfigError(f"{path}: {error}") from None
    return config
