"""Training configuration: small typed tables, read from TOML; unknown keys are errors."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

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
    # Keys that belong to some values of ``name`` only: set beside another they would be silently ignored.
    only: ClassVar[dict[str, tuple[str, ...]]] = {}

    @model_validator(mode="after")
    def _nothing_ignored(self):
        for key, names in self.only.items():
            if self.name not in names and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} is not used by {self.name!r}, only by {', '.join(names)}; leave it out")
        return self


class NetworkConfig(_Table):
    """The network: ``painn`` (the default), ``egnn`` (the iDEM paper's) or, for a single point, ``mlp``.

    ``length`` is the natural length of the system in its own unit. ``output`` is what the network predicts; see
    `idem_md.diffusion.Denoiser`.
    """

    only = {"n_basis": ("painn",), "length": ("painn",), "cutoff": ("painn",)}

    name: Literal["painn", "egnn", "mlp"] = "painn"
    output: Literal["denoiser", "score"] = "denoiser"
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

    ``chains`` and ``chain_steps`` belong to ``posterior``; ``n_samples`` (K) and ``max_score_norm``, of an atom, to
    ``mixed`` and ``dem``.
    """

    only = {"chains": ("posterior",), "chain_steps": ("posterior",), "n_samples": ("mixed", "dem"), "max_score_norm": ("mixed", "dem")}

    name: Literal["posterior", "buffer", "mixed", "dem"] = "posterior"
    chains: int = Field(2, ge=1)
    chain_steps: int = Field(1280, ge=2)
    n_samples: int = Field(1000, ge=1)
    max_score_norm: float | None = Field(None, gt=0)


class BufferConfig(_Table):
    """Replay buffer: its size, samples added an outer iteration, and MALA steps a refinement (0: none).

    With ``train_on = "prior"`` the noised x_0 are drawn from N(0, sigma_max^2) instead, as pDEM does, and the buffer
    only serves to measure.
    """

    train_on: Literal["buffer", "prior"] = "buffer"
    size: int = Field(8192, ge=16)
    fresh: int = Field(256, ge=1)
    sampling_steps: int = Field(30, ge=2)
    relax_steps: int = Field(200, ge=0)
    warmup_steps: int = Field(2000, ge=0)
    refine_steps: int = Field(1000, ge=0)
    mala_step: float = Field(5e-4, gt=0)


class OptimizerConfig(_Table):
    """Optimiser, gradient clipping, exponential moving average, and a step size constant until the final decay.

    ``muon`` takes steps of orthogonal matrices (Jordan et al., 2024) with the step size ``matrix_rate`` for the matrices
    between hidden layers, and Adam's with ``learning_rate`` for all else. ``precision = "bf16"`` runs the dense layers in
    bfloat16; coordinates, distances, messages and weights stay in float32.
    """

    only = {"matrix_rate": ("muon",)}

    name: Literal["adam", "muon"] = "adam"
    precision: Literal["float32", "bf16"] = "float32"
    matrix_rate: float = Field(4e-3, gt=0)
    learning_rate: float = Field(1e-3, gt=0)
    batch: int = Field(128, ge=2)
    inner_steps: int = Field(100, ge=1)
    iterations: int = Field(110, ge=1)
    warmup: int = Field(200, ge=0)
    decay_fraction: float = Field(0.4, ge=0, lt=1)
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
            if first["type"] == "value_error":
                raise ConfigError(f"{source}: {key}: {first['ctx']['error']}") from None
            raise ConfigError(f"{source}: {key}: {first['msg']}, got {first['input']!r}") from None
        if config.noise.sigma_min >= config.noise.sigma_max:
            raise ConfigError(f"{source}: noise.sigma_min: expected less than noise.sigma_max = {config.noise.sigma_max}, "
                              f"got {config.noise.sigma_min}")
        if config.buffer.fresh > config.buffer.size:
            raise ConfigError(f"{source}: buffer.fresh: expected at most buffer.size = {config.buffer.size}, got {config.buffer.fresh}")
        if config.buffer.train_on == "prior" and config.target.name not in ("mixed", "dem"):
            raise ConfigError(f"{source}: buffer.train_on: expected 'buffer' with the target {config.target.name!r}, whose x_0 must be "
                              "samples of the system, got 'prior'")
        return config


def _paper(train_on: str) -> dict[str, dict]:
    """Settings of the iDEM paper and its code (github.com/jarridrb/DEM); README.md lists what differs.

    Lengths and scores of GMM-40 are in the mixture's own unit here, fifty times the paper's.
    """
    table = {}
    for name, k, clip, lo, hi, batch, channels, layers, rate, fresh in (
            ("gmm40", 500, 1.4, 5e-4, 50.0, 512, 128, 3, 5e-4, 1000), ("dw4", 1000, 20.0, 1e-5, 3.0, 512, 128, 3, 1e-3, 1000),
            ("lj13", 1000, 20.0, 0.01, 2.0, 512, 128, 5, 1e-3, 1000), ("lj55", 100, 20.0, 0.5, 4.0, 128, 128, 5, 1e-3, 128)):
        table[name] = {
            "network": {"name": "mlp" if name == "gmm40" else "egnn", "output": "denoiser" if name == "gmm40" else "score",
                        "channels": channels, "layers": layers},
            "noise": {"sigma_min": lo, "sigma_max": hi},
            "target": {"name": "dem", "n_samples": k, "max_score_norm": clip},
            "buffer": {"train_on": train_on, "size": 10_000, "fresh": fresh, "refine_steps": 0, "relax_steps": 0, "warmup_steps": 0,
                       "sampling_steps": 100},
            "optimizer": {"batch": batch, "learning_rate": rate, "warmup": 0, "decay_fraction": 0.0, "clip_norm": 0.5, "ema": 0.0},
        }
    return table


# Chosen by the score-error meter: at equal steps a bit more than half of Adam's error on LJ-13. A typical gradient has the norm
# 0.05; a rare outlier may not decide twenty steps through the momentum.
_FAST = {"name": "muon", "precision": "bf16", "learning_rate": 3e-3, "matrix_rate": 3e-3, "clip_norm": 0.1}

# Departures from the defaults above, by system. LJ-55 still has the optimiser that its checkpoint was made with.
PRESETS: dict[str, dict[str, dict]] = {
    "refined": {
        "*": {"optimizer": _FAST},
        "lj13": {"optimizer": {**_FAST, "iterations": 130}},
        "lj55": {"noise": {"sigma_max": 4.0},
                 "buffer": {"mala_step": 3e-4, "warmup_steps": 5000, "fresh": 128, "refine_steps": 500},
                 "optimizer": {"batch": 32, "inner_steps": 400, "iterations": 134}},
        # In two dimensions importance sampling sees every mode from everywhere, so no chains are needed.
        "gmm40": {"network": {"name": "mlp", "channels": 128}, "noise": {"sigma_min": 0.1, "sigma_max": 50.0},
                  "target": {"name": "mixed", "n_samples": 500},
                  "buffer": {"relax_steps": 0, "warmup_steps": 100, "refine_steps": 20, "mala_step": 0.5},
                  "optimizer": {**_FAST, "precision": "float32", "iterations": 34}},
        "dw4": {"network": {"length": 4.0}, "noise": {"sigma_min": 0.02, "sigma_max": 8.0},
                "target": {"name": "buffer"}, "buffer": {"size": 4096, "fresh": 64, "mala_step": 1e-2, "warmup_steps": 15_000, "refine_steps": 600},
                "optimizer": {**_FAST, "iterations": 55}},
    },
    # For energies that are dear: no energy calls for targets, which come from stored samples and forces; a small buffer,
    # refined little by little, and few fresh samples, as there are few steps to mend them with. Some 550,000 calls, six
    # tenths of them for the first buffer.
    "frugal": {
        "*": {"target": {"name": "buffer"},
              "buffer": {"size": 512, "fresh": 4, "relax_steps": 40, "warmup_steps": 600, "refine_steps": 6},
              "optimizer": {"iterations": 60}},
    },
    "idem": _paper("buffer"),
    "pdem": _paper("prior"),
}


def preset(system: str | System, name: str = "refined", seed: int = 0) -> TrainingConfig:
    """The shipped settings for a system: ``refined`` (default), ``frugal`` for expensive energies, ``idem`` and ``pdem``
    (the iDEM paper's, from a replay buffer or from prior samples).

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
