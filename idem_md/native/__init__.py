"""Native code as torch ops.

The C++ and CUDA sources lie in ``src/``. On the CPU they are built once per instruction set and chosen at run time; on
CUDA wherever a CUDA compiler was found at installation. Each op has a plain torch reference elsewhere in the package,
and the tests compare the two. Ops return plain tuples of tensors, as torch asks of them; the packages above name the
parts.
"""

from .chains import lj_anneal, lj_mala, lj_tempering
from .energy_network import energy_network, takes_energy_network
from .lennard_jones import count_flop, lj_dem_scores, lj_energy_forces, noise
from .messages import SplineScale, message, pair_splines
from .module import check_device, instruction_sets, peak_flops

__all__ = [
    "SplineScale",
    "check_device",
    "count_flop",
    "energy_network",
    "instruction_sets",
    "lj_anneal",
    "lj_dem_scores",
    "lj_energy_forces",
    "lj_mala",
    "lj_tempering",
    "message",
    "noise",
    "pair_splines",
    "peak_flops",
    "takes_energy_network",
]
