"""``idem-md check``"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..progress import working
from ..rounding import with_error
from .console import check_png, picture, print_json
from .drawing import network_of
from .potential import CalculatorOption, XmlOption, explaining_potentials, system_of_network

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble
    from ..sampler import Sampler

__all__ = ["check"]

# Ways in which samples have left the molecule that are listed.
MOST_DEPARTURES = 10


@explaining_potentials
def check(
    file: Annotated[Path, typer.Argument(help="A DCD written by idem-md sample.")],
    reference: Annotated[
        Path | None,
        typer.Option(help="DCD by another method, which misses no state."),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="Run folder or checkpoint, if it is not found.")] = None,
    n: Annotated[int, typer.Option("-n", help="Samples of the reference to use.")] = 400,
    seed: Annotated[int, typer.Option(help="Same seed, same machine: same figures.")] = 0,
    minima: Annotated[int, typer.Option(help="Quench so many samples and as much noise.")] = 0,
    calculator: CalculatorOption = None,
    xml: XmlOption = None,
    plot: Annotated[Path | None, typer.Option(help="F.png: a picture of the weights.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Can the weights be trusted? idem-md check lj13.dcd --reference md.dcd

    With --reference: are all its minima visited, what do the weights of paths up from its samples say, and what is log
    Z at most? With --minima N: have the samples the deepest minima that noise leads to? That takes some hundred energy
    calls for each of N samples and as many points of noise.
    """
    with working() as work:
        from ..analysis import coverage, departures
        from ..ensemble import load_ensemble
        from ..errors import UsageError
        from ..files import claimed
        from ..provenance import finite_or_none
        from ..report.comparison import check_same_potential
        from ..sampler import plan_of

        e = load_ensemble(file)
        if e.kind == "raw":
            raise UsageError(f"file: expected samples with weights, got raw ones in {file}")
        lower, error = e.log_z_lower
        facts: dict[str, Any] = {
            "n": len(e),
            "ess": e.ess,
            "ess_fraction": e.ess_fraction,
            "pareto_k": finite_or_none(e.pareto_k),
            "log_z": finite_or_none(e.log_z),
            "log_z_err": finite_or_none(e.log_z_err),
            "log_z_lower": finite_or_none(lower),
            "log_z_lower_err": finite_or_none(error),
            "advice": e.advice,
        }
        facts |= {f"twin_{key}": value for key, value in e.provenance.get("twin_error", {}).items()}
        if e.system.chemistry is not None:
            facts["departures"] = [one._asdict() | {"error": finite_or_none(one.error)} for one in departures(e)]
        if plot is not None:
            from ..report.figures import plot_weights

            check_png("plot", plot)
            work.held.enter_context(claimed("plot", [plot]))
            with picture("plot", plot) as target:
                plot_weights(e, target)
        if minima:
            from ..analysis import minima as quenched
            from ..checks import check_int

            found = quenched(e, check_int("minima", minima, 2), seed)
            rows = zip(found.energy.tolist(), found.share.tolist(), found.from_noise.tolist())
            facts |= {
                "minima": [{"energy": u, "share": ours, "from_noise": noise} for u, ours, noise in rows],
                "deeper_minima": found.deeper,
            }
        if reference is not None:
            work.phase("comparing with the reference")
            known = load_ensemble(reference)
            if known.system.name != e.system.name:
                raise UsageError(f"reference: expected samples of {e.system.name!r}, got some of {known.system.name!r}")
            made_by = _sampler_of(e, sampler, calculator, xml)
            # Read from files they know their energy only if it is a built-in one.
            e = replace(e, system=made_by.system)
            check_same_potential({"samples": e, "reference": known})
            known = replace(known, system=made_by.system)
            forward = made_by.forward(known, plan_of(e), seed, n)
            upper, error = forward.log_z_upper
            shares = coverage(e, known, n, seed=seed)
            basin, deviation = shares.worst
            facts |= {
                "forward_ess_fraction": forward.ess_fraction,
                "forward_log_z": finite_or_none(forward.log_z[0]),
                "forward_log_z_err": finite_or_none(forward.log_z[1]),
                "log_z_upper": finite_or_none(upper),
                "log_z_upper_err": finite_or_none(error),
                "missing_mass": shares.missing,
                "missing_by_chance": shares.missing_by_chance,
                "worst_basin": basin,
                "worst_basin_deviation": deviation,
                "basins": [
                    {"name": name, "reference": float(r), "share": float(s)}
                    for name, r, s in zip(shares.names, shares.reference, shares.share)
                ],
            }
    if as_json:
        print_json(facts)
    else:
        _print(e, facts)


def _sampler_of(e: WeightedEnsemble, source: str | None, calculator: str | None, xml: Path | None) -> Sampler:
    """What drew the samples, at their temperature."""
    from ..errors import UsageError
    from ..sampler import Sampler, load_sampler

    p, kelvin = e.provenance, e.system.units.temperature_kelvin
    if "plan" not in p:
        raise UsageError(f"file: expected samples of idem-md sample with their plan, got some by {p.get('method')!r}")
    checkpoint = load_sampler(source or network_of(e)).checkpoint
    if checkpoint.digest != p["checkpoint"]:
        raise UsageError(f"sampler: expected the checkpoint {p['checkpoint']} of the samples, got {checkpoint.digest}")
    system = system_of_network(checkpoint, calculator, xml)
    return Sampler(checkpoint, system if system.name == e.system.name else system.at(kelvin))


def _print(e: WeightedEnsemble, facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    def shown(key: str) -> str:
        value, error = facts[key], facts.get(f"{key}_err")
        return "unknown" if value is None else f"{value:.3f}" + ("" if error is None else f" ± {error:.3f}")

    grid = Table(show_header=False, title=f"{e.system.name}: {facts['n']} samples")
    grid.add_row("effective samples", f"{facts['ess']:.1f} ({100 * facts['ess_fraction']:.1f}%)")
    grid.add_row("Pareto k", shown("pareto_k") + " (up to 0.7 errors can be trusted)")
    grid.add_row("log Z", shown("log_z"))
    grid.add_row("log Z is at least", shown("log_z_lower"))
    left = facts.get("departures", [])
    for one in left[:MOST_DEPARTURES]:
        share = with_error(100 * one["share"], None if one["error"] is None else 100 * one["error"])
        grid.add_row(one["what"], f"{one['samples']} samples, {share} percent of the weight")
    if len(left) > MOST_DEPARTURES:
        grid.add_row("", f"and {len(left) - MOST_DEPARTURES} more, see --json")
    if facts.get("departures") == []:
        grid.add_row("chemistry", "that of the molecule in all samples: bonds, stereocentres, amides, double bonds")
    if "twin_spread" in facts:
        grid.add_row("u_twin - u", f"spread {facts['twin_spread']:.2f} kT, at most {facts['twin_largest']:.1f} kT")
        grid.add_row("effective by the twin alone", f"{100 * facts['twin_ess_fraction']:.1f}%")
    for row in facts.get("minima", []):
        name = f"minimum of {row['energy']:.3f} kT"
        grid.add_row(name, f"{100 * row['share']:.0f}% of the samples, {100 * row['from_noise']:.0f}% of noise")
    if "log_z_upper" in facts:
        grid.add_row("log Z is at most", shown("log_z_upper"))
        grid.add_row("log Z from the reference", shown("forward_log_z"))
        grid.add_row("effective, from the reference", f"{100 * facts['forward_ess_fraction']:.1f}%")
        chance = 100 * facts["missing_by_chance"]
        grid.add_row("mass in other minima", f"{100 * facts['missing_mass']:.1f}% (by chance alone {chance:.1f}%)")
        grid.add_row(
            "largest deviation", f"{facts['worst_basin']}: {facts['worst_basin_deviation']:+.1f} standard errors"
        )
    grid.add_row("verdict", _verdict(facts))
    Console().print(grid)


def _verdict(facts: dict[str, Any]) -> str:
    if facts["advice"]:
        return facts["advice"]
    if abs(facts.get("worst_basin_deviation", 0.0)) > 4:
        return "a minimum has another share than in the reference: one of the two is not in equilibrium"
    if facts.get("forward_ess_fraction", 1.0) < 0.5 * facts["ess_fraction"]:
        return "paths from the reference have far worse weights: the samples may miss some of it"
    if facts.get("deeper_minima"):
        return "noise leads to a deeper minimum than any of the samples: they may miss it, if it is not rare"
    return "nothing to object to" if "log_z_upper" in facts else "nothing to object to; a reference would tell more"
