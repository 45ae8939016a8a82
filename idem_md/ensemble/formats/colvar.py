"""PLUMED's COLVAR: the field ``logweights`` is what LOGWEIGHTS= of HISTOGRAM and AVERAGE takes."""

from __future__ import annotations

from pathlib import Path

from .base import Contents, register_format

__all__ = ["write_colvar"]


@register_format(".colvar")
def write_colvar(path: Path, contents: Contents) -> None:
    """``time`` is the number of the sample; failed ones, of weight zero, are left out: there is no -inf.

    ``logweights`` are added to log probabilities: heavier samples have larger ones, the opposite sign of a bias that
    disfavours them. ``energy`` is U/kT.
    """
    lines = [
        "#! FIELDS time energy logweights",
        "#! SET logweights_sign larger_is_heavier",
        "#! SET logweights_unit natural_logarithm",
        f"#! SET logweights_mean_of_exp {'Z' if contents.record['kind'] == 'importance' else 'arbitrary'}",
        "#! SET energy_unit kT",
    ]
    for k in contents.alive.nonzero()[0]:
        lines.append(f" {k} {float(contents.energies[k])!r} {float(contents.log_weights[k])!r}")  # all digits
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
