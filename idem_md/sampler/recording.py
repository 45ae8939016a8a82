"""Energy calls of samples by a twin, on disk as they are made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..callers import warn_caller
from ..diffusion import TwinPaths
from ..errors import FileFormatError, UsageError, WeightWarning
from ..files import claimed
from ..twin import Recorded
from .chunks import Drawing

__all__ = ["recorded"]


def _calls_file(folder: Path, parameters: dict[str, Any], seed: int, shard: tuple[int, int]) -> Path:
    """One for each potential, temperature, seed and shard. What a potential gives for one geometry may differ in its
    last digits from process to process, and where it runs is of no account."""
    named = {key: value for key, value in parameters.items() if key not in ("known", "platform")}
    key = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]
    of_shard = f"-{shard[0]}-{shard[1]}" if shard[1] > 1 else ""
    return folder / f"sample_calls-{key}-{seed}{of_shard}.bin"


@contextmanager
def recorded(drawing: Drawing, model: str, executor: object, shard: tuple[int, int]) -> Iterator[Drawing]:
    """The drawing with the calls of an expensive potential kept beside the ``model`` that has a twin of it: the same
    samples are drawn again, after a kill, without one of these calls. As it is where there is no twin or no file, or an
    ``executor``, whose processes would all write there."""
    with ExitStack() as stack:
        if not isinstance(drawing.paths, TwinPaths) or not model or executor is not None:
            yield drawing
            return
        energy = drawing.systems[0].energy()
        file = _calls_file(Path(model).parent, energy.parameters, drawing.seed, shard)
        try:
            stack.enter_context(claimed("seed", [file]))
            record = Recorded(energy, file)
        except (UsageError, FileFormatError) as error:
            warn_caller(f"energy calls of these samples are not kept: {error}", WeightWarning)
            yield drawing
            return
        yield replace(drawing, paths=replace(drawing.paths, record=record))
        if record.failed:
            warn_caller(
                f"{record.failed} energy calls failed, and the samples have no weight; the first one: {record.cause}",
                WeightWarning,
            )
