"""Numbers with as many digits as their standard errors allow."""

from __future__ import annotations

import math

__all__ = ["with_error"]


def with_error(value: float, error: float | None) -> str:
    """A value and its standard error, of which two digits are kept: ``-42.891 ± 0.084``.

    An error that is not known (None, NaN) is called unknown; one of nothing but rounding is said to be 0.
    """
    if error is None or not math.isfinite(error):
        return f"{value:.5g} ± unknown"
    if error <= 1e-9 * abs(value):
        return f"{value:.5g} ± 0"
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
