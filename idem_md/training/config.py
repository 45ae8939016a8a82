"""Training configuration: small typed tables, read from TOML; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..checks import ConfigError, UsageError, check_choice
from ..systems import System, get_system

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

__all__ = ["BufferConfig", "NetworkConfig", "NoiseConfig", "OptimizerConfig", "PRESETS", "TargetConfig",
           "TrainingConfig", "load_config", "preset"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class NetworkConfig(_Table):
    """Size of the equivariant network; ``length`` is the natural length of the system in its own unit."""

    channels: int = Field(64, ge=8, le=512)
    layers: int = Field(4, ge=1)
    n_basis: int = Field(48, ge=4)
    length: float = Field(1.0, gt=0)
    cutoff: float | None = Field(None, gt=0)


class NoiseConfig(_Table):
    """Noise levels of training, in reduced length; sampling uses the same range."""

    sigma_min: float = Field(0.01, gt=0)
    sigma_max: float = Field(3.0, gt=0)


class TargetConfig(_Table):
    """Training target (see `idem_md.targets`).

    ``chains`` and ``chain_steps`` belong to ``posterior``; ``n_samples`` (K) and ``max_score_norm`` to ``mixed`` and
    ``dem``.
    """

    name: Literal["posterior", "buffer", "mixed", "dem"] = "posterior"
    chains: int = Field(2, ge=1)
    chain_steps: int = Field(1280, ge=2)
    n_samples: int = Field(1000, ge=1)
    max_score_norm: float | None = Field(None, gt=0)


class BufferConfig(_Table):
    """Replay buffer: its size, samples added an outer iteration, and MALA steps a refinement (0: none)."""

    size: int = Field(8192, ge=16)
    fresh: int = Field(256, ge=1)
    sampling_steps: int = Field(30, ge=2)
    relax_steps: int = Field(200, ge=0)
    warmup_steps: int = Field(2000, ge=0)
    refine_steps: int = Field(1000, ge=0)
    mala_step: float = Field(5e-4, gt=0)


class OptimizerConfig(_Table):
    """Adam, gradient clipping, exponential moving average, and a step size constant until the final decay."""

    learning_rate: float = Field(1e-3, gt=0)
    batch: int = Field(128, ge=2)
    inner_steps: int = Field(100, ge=1)
    iterations: int = Field(110, ge=1)
    warmup: int = Field(200, ge=0)
    decay_fraction: float = Field(0.4, gt=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)


class TrainingConfig(_Table):
    """Everything that decides a training run, with its seed."""

    system: str
    seed: int = Field(0, ge=0, lt=2**31)
    network: NetworkConfig = NetworkConfig()
    noise: NoiseConfig = NoiseConfig()
    target: TargetConfig = TargetConfig()
    buffer: BufferConfig = BufferConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @classmethod
    def parse(cls, table: dict, source: str) -> TrainingConfig:
        """Validate a plain dict.

        Raises
        ------
        ConfigError
            Names the source, the key, what was expected and what came.
        """
        try:
            config = cls.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                raise ConfigError(f"{source}: unknown key '{key}'") from None
            raise ConfigError(f"{source}: {key}: {first['msg']}, got {first['input']!r}") from None
        if config.noise.sigma_min >= config.noise.sigma_max:
            raise ConfigError(f"{source}: noise.sigma_min: expected less than noise.sigma_max = {config.noise.sigma_max}, "
                              f"got {config.noise.sigma_min}")
        if config.buffer.fresh > config.buffer.size:
            raise ConfigError(f"{source}: buffer.fresh: expected at most buffer.size = {config.buffer.size}, got {config.buffer.fresh}")
        return config


# Departures from the defaults above, by system; `idem` holds the settings of the iDEM paper where they fit.
PRESETS: dict[str, dict[str, dict]] = {
    "refined": {
        "*": {},
        "lj55": {"noise": {"sigma_max": 4.0}, "buffer": {"mala_step": 3e-4, "warmup_steps": 5000}, "optimizer": {"batch": 64}},
        "dw4": {"network": {"length": 4.0}, "noise": {"sigma_min": 0.02, "sigma_max": 8.0},
                "target": {"name": "buffer"}, "buffer": {"mala_step": 1e-2, "warmup_steps": 500, "refine_steps": 20}},
    },
    # For energies that are dear: no energy calls for targets, which come from stored samples and forces; a small buffer,
    # refined little by little, and few fresh samples, as there are few steps to mend them with. Some 550,000 calls, six
    # tenths of them for the first buffer.
    "frugal": {
        "*": {"target": {"name": "buffer"},
              "buffer": {"size": 512, "fresh": 4, "relax_steps": 40, "warmup_steps": 600, "refine_steps": 6},
              "optimizer": {"iterations": 60}},
    },
    "idem": {
        name: {
            "target": {"name": "dem", "n_samples": k, "max_score_norm": clip},
            "noise": {"sigma_min": lo, "sigma_max": hi},
            "network": {"length": length},
            "buffer": {"refine_steps": 0, "relax_steps": 0, "warmup_steps": 0, "sampling_steps": 100},
        }
        for name, k, clip, lo, hi, length in (
            ("lj13", 1000, 20.0, 0.01, 2.0, 1.0), ("lj55", 100, 20.0, 0.5, 4.0, 1.0), ("dw4", 1000, 20.0, 1e-2, 3.0, 4.0))
    },
}


def preset(system: str | System, name: str = "refined", seed: int = 0) -> TrainingConfig:
    """The shipped settings for a system: ``refined`` (default), ``frugal`` for expensive energies, or ``idem`` (the
    paper's target and clipping).

    Parameters
    ----------
    system : str or System
        A name, or any system whose unit of length is near the distance of nearest neighbours.

    Raises
    ------
    UsageError
        Unknown system or preset, or a preset that has no settings for it.
    """
    system = get_system(system)
    check_choice("preset", name, PRESETS)
    table = PRESETS[name].get(system.name, PRESETS[name].get("*"))
    if table is not None and system.name not in PRESETS[name]:
        # Lengths and noise levels are the system's, whatever the preset.
        own = PRESETS["refined"].get(system.name, {})
        table = {key: {**own.get(key, {}), **table.get(key, {})} for key in {**own, **table}}
    if table is None:
        raise UsageError(f"preset: expected another than {name!r} for {system.name!r}; it has settings for {', '.join(PRESETS[name])}")
    return TrainingConfig.parse({"system": system.name, "seed": seed, **table}, f"preset {name}")


def load_config(path: Path) -> TrainingConfig:
    """Read a TOML file.

    Raises
    ------
    ConfigError
        Missing file, malformed TOML, unknown key or bad value.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML ({error})") from None
    config = TrainingConfig.parse(table, str(path))
    try:
        get_system(config.system)
    except UsageError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config
