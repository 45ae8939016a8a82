"""What the commands that draw samples share: the sampler, what is kept on Ctrl-C, files, a picture and results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from ..progress import Work, working
from .console import print_json
from .outputs import Outputs, keeping
from .potential import OWN, OwnPotential, cores
from .results import print_scan, print_table, result, thermal

if TYPE_CHECKING:
    from ..ensemble import WeightedEnsemble
    from ..sampler import PlanOptions, Sampler

__all__ = [
    "NfeOption",
    "PlanOption",
    "at_temperature",
    "draw",
    "kelvins",
    "network_of",
    "note",
    "plan_options",
    "plot_by_temperature",
    "report",
    "sampler_of",
    "show",
]

NfeOption = Annotated[
    int | None,
    typer.Option("--nfe", help="Network evaluations; by default as tuned."),
]


PlanOption = Annotated[
    Path | None,
    typer.Option("--plan", metavar="FILE.toml", help="Keys of a plan, instead of the tuned ones."),
]


def plan_options(file: Path | None, **given: Any) -> PlanOptions:
    """Options for `Sampler.plan`: those of a file, and those of a command that are not None.

    Raises
    ------
    ConfigError
        The file cannot be read, or has keys that are none of theirs.
    UsageError
        One is given in both ways.
    """
    asked = {name: value for name, value in given.items() if value is not None}
    if file is None:
        return cast("PlanOptions", asked)
    with working():  # torch is loaded
        from ..errors import UsageError
        from ..sampler import read_plan_options
    options = read_plan_options(file)
    if both := sorted(asked.keys() & options.keys()):
        raise UsageError(f"{both[0]}: expected it in the file of --plan or as an option, got both")
    return cast("PlanOptions", {**options, **asked})


def note(text: str) -> None:
    """A line on stderr for what works but has a new name."""
    typer.echo(f"idem-md: note: {text}", err=True)


def sampler_of(source: str, potential: OwnPotential, workers: int | None = None, device: str = "cpu") -> Sampler:
    """The sampler of a network, for its own system or for a potential of one's own."""
    from ..sampler import Sampler, load_sampler

    sampler = load_sampler(source, device=device)
    # Processes that draw evaluate by themselves.
    own, cheap = potential.systems(sampler.checkpoint, cores() if workers else 1)
    return sampler if own is sampler.checkpoint.system else Sampler(sampler.checkpoint, own, device, cheap)


def network_of(e: WeightedEnsemble) -> str:
    """The network that samples were drawn with: its file if it is still there, or the name of a shipped one."""
    file = e.provenance.get("checkpoint_file")
    if file and Path(file).exists():
        return file
    return e.system.name.removesuffix(f"-{e.system.units.temperature_kelvin:g}K").removesuffix(OWN)


def kelvins(text: str) -> list[float]:
    """Temperatures with commas."""
    from ..errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"temperature: expected a number, or several with commas, got {text!r}") from None


def at_temperature(out: Path | None, kelvin: float) -> Path | None:
    """F-60K.dcd for F.dcd."""
    return None if out is None else out.with_name(f"{out.stem}-{kelvin:g}K{out.suffix}")


def draw(
    work: Work,
    sampler: Sampler,
    outputs: Outputs,
    how: Callable[[list[WeightedEnsemble]], list[WeightedEnsemble]],
    again: Callable[[int], str],
    before: WeightedEnsemble | None = None,
) -> list[WeightedEnsemble]:
    """Ensembles by calls of the sampler; Ctrl-C keeps what they have drawn.

    Parameters
    ----------
    how : callable (list) -> list of WeightedEnsemble
        Makes the calls; into the list it puts what it has between two of them.
    again : callable (int) -> str
        How to go on after an interruption with so many samples; ends before the name of a file.
    before : WeightedEnsemble, optional
        What there was, and is still there.
    """
    drawn: list[WeightedEnsemble] = []

    def keep() -> list[str]:
        return outputs.keep([e for e in sampler.so_far() or drawn if e is not before], again)

    with keeping(work, keep):
        return how(drawn)


def report(outputs: Outputs, ensembles: Sequence[WeightedEnsemble]) -> list[dict[str, Any]]:
    """Save and plot; what ``--json`` prints of each.

    Raises
    ------
    ResultError
        No sample of one has weight, and then nothing is written.
    """
    means = [e.mean_energy for e in ensembles]
    results = [result(e, mean, files) for e, mean, files in zip(ensembles, means, outputs.save(ensembles))]
    if outputs.plot is not None:
        with outputs.picture(outputs.plot) as target:
            plot_by_temperature(ensembles, target)
    return results


def plot_by_temperature(ensembles: Sequence[WeightedEnsemble], target: Path) -> None:
    """Write histograms as PNG, each ensemble named by its temperature."""
    from ..report import plot_histograms

    plot_histograms({f"{e.system.units.temperature_kelvin:g} K": e for e in ensembles}, target)


def show(ensembles: Sequence[WeightedEnsemble], results: Sequence[dict[str, Any]], scan: bool, as_json: bool) -> None:
    """Print results, of one ensemble or of a scan."""
    if scan:
        results = [r | thermal(e) for r, e in zip(results, ensembles)]
    if as_json:
        print_json({"temperatures": results} if scan else results[0])
    elif scan:
        print_scan(results)
    else:
        print_table(ensembles[0], results[0])
