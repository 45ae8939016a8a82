"""``idem-md baseline``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..progress import working
from .console import OVERWRITE, print_json
from .outputs import claim_outputs, keeping
from .potential import (
    CalculatorOption,
    LabelsOption,
    XmlOption,
    cores,
    explaining_potentials,
    own_system,
    system_of_network,
)
from .results import print_table, result

__all__ = ["baseline"]

# What chains say of themselves: keys of provenances, in words.
CHAIN_FACTS = {
    "steps": "steps a chain",
    "chains": "chains",
    "timestep_fs": "time step (fs)",
    "discarded": "share left out at the start",
    "inefficiency": "steps for an independent sample",
    "kinetic_temperature": "kinetic temperature (T)",
    "acceptance": "acceptance",
    "round_trips": "round trips a ladder",
    "draw_inefficiency": "draws of a ladder for an independent sample",
}


@explaining_potentials
def baseline(
    system: Annotated[str, typer.Argument(help="A built-in system, a run folder, or a name for your own potential.")],
    engine: Annotated[str, typer.Option(help="openmm, ase, mala, pt or exact.")] = "mala",
    n: Annotated[int, typer.Option("-n", help="Number of samples.")] = 2000,
    steps: Annotated[int | None, typer.Option(help="Steps a chain; by default 20,000 or more.")] = None,
    minutes: Annotated[float | None, typer.Option(help="As many steps as that takes, instead.")] = None,
    energy_calls: Annotated[int | None, typer.Option(help="As many steps as these allow, instead.")] = None,
    temperature: Annotated[float | None, typer.Option(help="In kelvin; by default the system's.")] = None,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    labels: LabelsOption = None,
    timestep: Annotated[float | None, typer.Option(help="In fs; by default from forces on the atoms.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of all random numbers.")] = 0,
    out: Annotated[Path, typer.Option(help="F.dcd; F.pdb and F.npz are written beside it.")] = Path("md.dcd"),
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    discard: Annotated[
        float | None,
        typer.Option(
            hidden=True, help="Share of each chain of openmm or ase to leave out, instead of what its energies say."
        ),
    ] = None,
    inefficiency: Annotated[
        float | None,
        typer.Option(
            hidden=True, help="Steps of openmm or ase that an independent sample takes, instead of what frames say."
        ),
    ] = None,
) -> None:
    """What you would run otherwise: idem-md baseline lj13 --engine openmm -n 2000 --out md.dcd

    Engines: openmm and ase run Langevin dynamics, one chain on each core; mala runs an independent chain for each
    sample; pt is parallel tempering, with samples from the coldest rungs; exact is a formula (gmm40). Frames of chains
    are correlated, and count for as many samples as they are worth; --discard SHARE and --inefficiency STEPS say how
    many that is instead of their energies. --steps are those of a chain, by default 20,000, of openmm and ase 100,000;
    --minutes or --energy-calls set them instead.
    """
    with working() as work:
        from ..baselines import ENGINES
        from ..errors import UsageError
        from ..sampler import load_sampler
        from ..systems import SYSTEMS, get_system

        chosen = ENGINES.find(engine)
        options = {"timestep_fs": timestep, "discard": discard, "inefficiency": inefficiency}
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        if chosen.takes_workers:
            given["workers"] = cores()
        chosen = chosen.configured(**given)
        outputs = claim_outputs(work, [out], overwrite)
        runs = any((Path(system) / name).exists() for name in ("model.safetensors", "state.safetensors"))
        if system in SYSTEMS or not runs:
            target = own_system(system, calculator, xml, temperature, labels=labels) or get_system(system)
        else:  # a run, whose network knows temperature, labels and trap
            if labels is not None:
                raise UsageError(f"labels: expected none for a run, whose network has its own, got {labels!r}")
            target = system_of_network(load_sampler(system).checkpoint, calculator, xml)
        if temperature not in (None, target.units.temperature_kelvin):
            target = target.at(temperature)
        seconds = None if minutes is None else 60 * minutes
        with keeping(work, lambda: outputs.keep(chosen.so_far())):
            ensemble = chosen.run(target, n, steps, seed, seconds, energy_calls)
        mean = ensemble.mean_energy
        found = result(ensemble, mean, outputs.save([ensemble])[0])
    facts = {key: value for key, value in ensemble.provenance.items() if key in CHAIN_FACTS}
    if as_json:
        print_json(found | facts)
    else:
        print_table(ensemble, found, {CHAIN_FACTS[key]: value for key, value in facts.items()})
