"""Potentials whose worker process ends, at the top of a module so that workers can import them."""

import os
from pathlib import Path

from idem_md.energies import Harmonic
from idem_md.errors import EnergyError

PARENT = "IDEM_TEST_PARENT"
FLAG = "IDEM_TEST_DIED"


class Crashing(Harmonic):
    """Harmonic; away from home it goes wrong in a chosen way."""

    def evaluate(self, x):
        if os.environ[PARENT] != str(os.getpid()):
            self.away()
        return super().evaluate(x)

    def away(self):
        os._exit(9)


class DiesOnce(Crashing):
    def away(self):
        flag = Path(os.environ[FLAG])
        if not flag.exists():
            flag.touch()
            os._exit(9)


class Raises(Crashing):
    def away(self):
        raise EnergyError("expected nothing better", 3)


def crashing():
    return Crashing(4, 2)


def dies_once():
    return DiesOnce(4, 2)


def raises():
    return Raises(4, 2)
