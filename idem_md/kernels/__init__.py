"""Native kernels as torch ops.

The C++ and CUDA sources lie in ``src/``. On the CPU they are built once per instruction set and chosen at run time; on
CUDA wherever a CUDA compiler was found at installation. Each op has a plain torch reference elsewhere in the package,
and the tests compare the two.
"""

from .lennard_jones import count_flop, dem_target, lj_energy_forces, mala, noise, tempering
from .messages import message, pair_splines
from .native import check_device, instruction_sets, peak_flops

__all__ = ["check_device", "count_flop", "dem_target", "instruction_sets", "lj_energy_forces", "mala", "message", "noise",
           "pair_splines", "peak_flops", "tempering"]
