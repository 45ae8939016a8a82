"""The first try of a user: ten xenon atoms, by a script and by commands, and a molecule of water by GFN2-xTB (tblite),
interrupted once in each stage.

    python benchmarks/first_try.py FOLDER [xenon-script] [xenon-commands] [water]

Prints for each way: seconds in all, the longest silence, effective samples, mean energy (kT), of water also that by
quadrature, and how many iterations of training were made twice.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

SCRIPT = """
from ase import units
from ase.calculators.lj import LennardJones
from ase.cluster import Icosahedron
import numpy as np
from idem_md.ase import BoltzmannSampler

def xenon():
    sigma = 4.10
    whole = Icosahedron("Xe", 3, latticeconstant=2 ** (1 / 6) * sigma * 2**0.5)
    near = np.argsort(np.linalg.norm(whole.positions - whole.positions[:13].mean(0), axis=1), kind="stable")
    atoms = whole[near[:10]]
    atoms.calc = LennardJones(epsilon=221.0 * units.kB, sigma=sigma, rc=1e4)
    return atoms

if __name__ == "__main__":
    dyn = BoltzmannSampler(xenon(), 60.0, cache="script")
    dyn.run(1000)
    dyn.ensemble.save("script.dcd")
"""
WATER = """
from ase.build import molecule
from tblite.ase import TBLite
from idem_md.ase import BoltzmannSampler

def water():
    atoms = molecule("H2O")
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    return atoms

if __name__ == "__main__":
    dyn = BoltzmannSampler(water(), 300.0, cache="water", minutes=10, max_energy_calls=60_000, nfe=50)
    dyn.run(1000)
    dyn.ensemble.save("water.dcd")
"""
TRAIN = ["train", "xe10", "--calculator", "./user.py:xenon", "--temperature", "60", "--out", "commands"]
SAMPLE = ["sample", "commands", "-n", "1000", "--out", "commands.dcd"]
# What a line says while a stage goes on, after so many of which it is interrupted.
STAGES = (("iteration ", 5), ("elastic network: ", 5), ("evaluations: ", 2))


class Watched:
    """A command that is started until it ends by itself, interrupted once in each stage."""

    def __init__(self, folder: Path):
        self.folder, self.left, self.silence, self.said = folder, list(STAGES), 0.0, list[str]()
        self.start = time.monotonic()

    def run(self, command: list[str], again: list[str]) -> float:
        """Seconds until it ended by itself."""
        start, seen = time.monotonic(), 0
        while True:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            assert process.stderr is not None
            heard, interrupted = time.monotonic(), False
            for line in process.stderr:
                now = time.monotonic()
                self.silence, heard = max(self.silence, now - heard), now
                self.said.append(f"{now - self.start:7.1f} {line.rstrip()}")
                if self.left and self.left[0][0] in line and not interrupted:
                    seen += 1
                    if seen >= self.left[0][1]:
                        process.send_signal(signal.SIGINT)
                        interrupted, seen = True, 0
                        del self.left[0]
            if process.wait() == 0 and not interrupted:
                return time.monotonic() - start
            command = again

    def iterations_twice(self) -> int:
        """Outer iterations of the training that were told of more than once."""
        told = [int(k) for line in self.said for k in re.findall(r"iteration (\d+)/", line)]
        return len(told) - len(set(told))


def report(name: str, seconds: float, watched: Watched) -> None:
    """One line."""
    import idem_md

    e = idem_md.load_ensemble(watched.folder / f"{name}.dcd")
    mean, error = e.mean_energy
    facts = {
        "way": name,
        "seconds": round(seconds),
        "longest_silence": round(watched.silence, 1),
        "effective_of_1000": round(e.ess),
        "mean_energy": round(mean, 2),
        "error": round(error, 2),
        "iterations_twice": watched.iterations_twice(),
        "stages_not_interrupted": [stage for stage, _ in watched.left],
    }
    print(json.dumps(facts), flush=True)
    (watched.folder / f"{name}.log").write_text("\n".join(watched.said))


def main(folder: str, *ways: str) -> None:
    """All ways, or some."""
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background, and by what is started there
    (home / "user.py").write_text(SCRIPT)
    tool = str(Path(sys.executable).parent / "idem-md")
    if not ways or "xenon-script" in ways:
        watched = Watched(home)
        script = [sys.executable, "user.py"]
        report("script", watched.run(script, script), watched)
    if not ways or "xenon-commands" in ways:
        watched = Watched(home)
        seconds = watched.run([tool, *TRAIN], [tool, *TRAIN, "--resume"]) + watched.run(
            [tool, *SAMPLE], [tool, *SAMPLE]
        )
        report("commands", seconds, watched)
    if not ways or "water" in ways:
        (home / "water.py").write_text(WATER)
        watched = Watched(home)
        script = [sys.executable, "water.py"]
        report("water", watched.run(script, script), watched)
        print(json.dumps({"water by quadrature": round(exact_water(home), 3)}), flush=True)


def exact_water(home: Path, points: int = 17) -> float:
    """Mean energy of water at 300 K in kT, the trap of 0.05 kT / Å^2 included, by quadrature over both bonds and the
    angle."""
    import numpy as np
    import torch

    sys.path.insert(0, str(home))
    from water import water

    from idem_md.energies import ASE

    energy = ASE(water(), temperature_K=300.0)
    bond, angle = np.linspace(0.80, 1.20, points), np.radians(np.linspace(70.0, 150.0, points))
    r1, r2, theta = (a.ravel() for a in np.meshgrid(bond, bond, angle, indexing="ij"))
    zero = np.zeros_like(r1)
    first, second = np.stack([r1, zero, zero], -1), np.stack([r2 * np.cos(theta), r2 * np.sin(theta), zero], -1)
    x = np.stack([np.zeros_like(first), first, second], 1)  # the order of ase.build.molecule: O, H, H
    u = energy(torch.from_numpy(x - x.mean(1, keepdims=True)))[0].numpy()
    weight = r1**2 * r2**2 * np.sin(theta) * np.exp(-(u - u.min()))
    return float((weight * u).sum() / weight.sum())


if __name__ == "__main__":
    main(*sys.argv[1:])
