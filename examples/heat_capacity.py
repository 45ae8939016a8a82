"""The heat capacity of an argon cluster from one network, beside parallel tempering at each temperature.

python examples/heat_capacity.py [lj13_heat_capacity.png]

The network was trained at 59.9 K. One set of paths serves all temperatures: only the last step, annealing in native
code, is done anew for each. Two minutes on two cores.
"""

import sys
from operator import attrgetter

import idem_md
from idem_md.analysis import heat_capacity
from idem_md.baselines import ENGINES
from idem_md.report.figures import plot_heat_capacity

KELVIN = (48, 52, 56, 60, 65, 70, 75)  # beta from 1.25 to 0.8


def main(out="lj13_heat_capacity.png", n=1000, temperatures=KELVIN, steps=None):
    """Draw the curves; returns (weighted, tempering), each a list of ensembles."""
    sampler = idem_md.load_sampler("lj13")
    scan = sampler.scan(n, temperatures, seed=0)
    tempering = [ENGINES["pt"].run(sampler.system.at(t), 2 * n, steps, seed=1) for t in temperatures]
    print("T (K)  effective   mean energy (kT), tempering's       heat capacity (k_B), tempering's")
    for t, ours, theirs in zip(temperatures, scan, tempering):
        pairs = [f(e) for f in (attrgetter("mean_energy"), heat_capacity) for e in (ours, theirs)]
        numbers = [f"{value:7.2f} ± {error:.2f}" for value, error in pairs]
        print(f"{t:5g} {ours.ess:8.0f}   ", "   ".join(numbers))
    plot_heat_capacity({"weighted samples, network of 59.9 K": scan, "parallel tempering": tempering}, out)
    return scan, tempering


if __name__ == "__main__":
    main(*sys.argv[1:2])
