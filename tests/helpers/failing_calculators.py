"""Calculators that go wrong, at the top of a module so that worker processes can import them."""

import os
from pathlib import Path

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

# A configuration is marked by its first atom's x being beyond this.
MARK = 50.0


class Springs(Calculator):
    """Harmonic about the centroid; goes wrong in a chosen way at marked configurations."""

    implemented_properties = ["energy", "forces"]
    at_mark = staticmethod(lambda: None)

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.atoms.positions[0, 0] > MARK:
            value = self.at_mark()
            if value is not None:
                self.results = {"energy": value, "forces": np.zeros((len(self.atoms), 3))}
                return
        x = self.atoms.positions - self.atoms.positions.mean(0)
        self.results = {"energy": 0.5 * float((x**2).sum()), "forces": -x}


class Raises(Springs):
    @staticmethod
    def at_mark():
        raise RuntimeError("SCF did not converge")


class GivesNan(Springs):
    @staticmethod
    def at_mark():
        return float("nan")


class Dies(Springs):
    """The whole process ends, as when it is killed for memory."""

    @staticmethod
    def at_mark():
        os._exit(9)


class DiesOnce(Springs):
    """The first process to come here ends; the file named by IDEM_TEST_DIED says that it has."""

    @staticmethod
    def at_mark():
        flag = Path(os.environ["IDEM_TEST_DIED"])
        if not flag.exists():
            flag.touch()
            os._exit(9)


def make_emt():
    return EMT()
