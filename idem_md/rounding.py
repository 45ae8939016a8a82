"""Numbers with as many digits as their standard errors allow."""

from __future__ import annotations

import math

__all__ = ["with_error"]


def with_error(value: float, error: float | None) -> str:
    """A value and its standard error, of which two digits are kept: ``-42.891 ± 0.084``.

    An error that is not known (None, NaN) is called unknown; one of nothing but rounding is said to be 0.
    """
    known = error is not None and math.isfinite(error)
    if error is None or not known or error <= 1e-13 * abs(value):
        return f"{value:{'.0f' if abs(value) >= 1e5 else '.5g'}} ± {'0' if known else 'unknown'}"
    digits = max(1 - math.floor(math.log10(error)), 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"
