"""The heat capacity of an argon cluster from one network, beside parallel tempering.

    python examples/heat_capacity.py [picture.png]            # the shipped network, trained at 59.9 K
    python examples/heat_capacity.py picture.png RUN          # a network for a range of temperatures, by
                                                              # idem-md train lj13 --temperatures 20,70 --out RUN

The shipped network shares its paths among temperatures near its own: only the last step, annealing in native code, is
done anew for each. A network for a range has paths for each temperature. A few minutes.
"""

import sys
from operator import attrgetter

import numpy as np
import torch

import idem_md
from idem_md.analysis import heat_capacity
from idem_md.chains import ChainState, Tempering, equilibrate, first_step, noise_start
from idem_md.report.figures import plot_heat_capacity
from idem_md.seeds import draw_seed

KELVIN = (48, 52, 56, 60, 65, 70, 75)  # beta from 1.25 to 0.8


def tempered(system, temperatures, ladders, steps, seed=1):
    """Ensembles at each temperature: the ends of independent ladders of replicas that exchange places."""
    energy, generator = system.energy(), torch.Generator().manual_seed(seed)
    shape = ladders, len(temperatures)
    start = noise_start(energy, system.sigma_data, ladders * len(temperatures), 200, generator)
    state, step = equilibrate(energy, start, first_step(system.sigma_data), 40, 50, lambda: draw_seed(generator))
    state = ChainState(*(a.reshape(*shape, *a.shape[1:]) for a in (state.x, state.u, state.f)))
    betas = torch.tensor([system.units.temperature_kelvin / kelvin for kelvin in temperatures])
    state, _ = Tempering(step / betas, betas, 10).step(energy, state, steps // 10, draw_seed(generator))
    ensembles = []
    for k, kelvin in enumerate(temperatures):
        here, x = system.at(kelvin), state.x[:, k].double()
        ensembles.append(idem_md.WeightedEnsemble(x, here.energy()(x)[0], np.zeros(ladders), here))
    return ensembles


def main(out="lj13_heat_capacity.png", run="lj13", temperatures=None, n=1000, ladders=2000, steps=40_000):
    """Draw the curves; returns (weighted, tempering), each a list of ensembles."""
    sampler = idem_md.load_sampler(run)
    if temperatures is None:
        temperatures = np.geomspace(*sampler.temperatures_K, 10).tolist() if sampler.temperatures_K else KELVIN
    scan = sampler.scan(n, temperatures, seed=0)
    tempering = tempered(sampler.system, temperatures, ladders, steps)
    print("T (K)  effective   mean energy (kT), tempering's       heat capacity (k_B), tempering's")
    for t, ours, theirs in zip(temperatures, scan, tempering):
        pairs = [f(e) for f in (attrgetter("mean_energy"), heat_capacity) for e in (ours, theirs)]
        numbers = [f"{value:7.2f} ± {error:.2f}" for value, error in pairs]
        print(f"{t:5.1f} {ours.ess:8.0f}   ", "   ".join(numbers))
    trained = "59.9 K" if sampler.temperatures_K is None else "{:g} to {:g} K".format(*sampler.temperatures_K)
    plot_heat_capacity({f"weighted samples, network of {trained}": scan, "parallel tempering": tempering}, out)
    return scan, tempering


if __name__ == "__main__":
    main(*sys.argv[1:3])
