"""CUDA: built wherever its compiler is, checked wherever a device is, and asked for in vain with a clear error."""

import shutil
from pathlib import Path

import pytest
import torch
from scipy import stats

from idem_md import native
from idem_md.benchmarks import BENCHMARKS, run_benchmark
from idem_md.chains import run_tempering
from idem_md.energies import LennardJones
from idem_md.errors import UsageError
from idem_md.native.module import native as module
from idem_md.testing import loose_lattice

# A device that is there must be usable: on such a machine these tests fail, and do not pass over it, if torch or the
# native module cannot reach it.
DEVICE_PRESENT = module.cuda_devices()[0] > 0 or Path("/dev/nvidia0").exists()
MIXED = dict(epsilon=[[1.7, 0.8], [0.8, 0.5]], r_min=[[1.2, 1.05], [1.05, 0.9]])
CASES = [(13, 3, False), (13, 3, True), (7, 2, False), (55, 3, False), (9, 2, True)]


def make(n_atoms, n_dims, mixed):
    return LennardJones(
        n_atoms, n_dims=n_dims, **(dict(MIXED, species=[i % 2 for i in range(n_atoms)]) if mixed else {})
    )


def close(a, b, tolerance):
    """Relative to the largest element of each row."""
    a, b = a.cpu().double().flatten(1), b.double().flatten(1)
    return bool(((a - b).abs() <= tolerance * (1 + b.abs().amax(1, keepdim=True))).all())


def test_cuda_is_built_where_there_is_a_compiler():
    """The installation compiles the CUDA sources for compute capability 8.0 and 9.0 and newer, or fails."""
    assert module.built_with_cuda or shutil.which("nvcc") is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: native.noise(4, 3, 3, 0, device="cuda"),
        lambda: native.check_device("device", "cuda"),
        lambda: native.peak_flops("cuda"),
    ],
)
def test_a_device_that_is_missing_is_an_error(call):
    if DEVICE_PRESENT:
        call()
    else:
        with pytest.raises(UsageError, match="device: expected .* got cuda"):
            call()


def test_a_device_that_does_not_exist_is_an_error():
    with pytest.raises(UsageError, match="device: expected .* got cuda:99"):
        native.check_device("device", "cuda:99")
    with pytest.raises(UsageError, match="device: expected cpu or cuda, got meta"):
        native.check_device("device", "meta")


@pytest.mark.parametrize(
    "key,counter,want",
    [
        ((0, 0), [0, 0, 0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ((0xFFFFFFFF, 0xFFFFFFFF), [0xFFFFFFFF] * 4, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            (0xA4093822, 0x299F31D0),
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_its_published_vectors(key, counter, want):
    assert module.philox4x32(*key, counter) == want


needs_a_device = pytest.mark.skipif(not DEVICE_PRESENT, reason="no CUDA device")


@needs_a_device
@pytest.mark.parametrize("case", CASES, ids=str)
def test_energy_and_target_agree_with_the_cpu(case):
    """The `scalar` instruction set draws what the device draws."""
    energy = make(*case)
    x = loose_lattice(energy, n=40).float()
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        got = native.lj_energy_forces(x.to("cuda", dtype), **energy._op)
        want = native.lj_energy_forces(x.to(dtype), **energy._op)
        assert close(got[0][:, None], want[0][:, None], tolerance) and close(got[1], want[1], 10 * tolerance)
    sigma = torch.logspace(-2, 0, 40)
    got = native.lj_dem_scores(x.cuda(), sigma.cuda(), 333, 5, **energy._op)
    want = native.lj_dem_scores(x, sigma, 333, 5, **energy._op, isa="scalar")
    for k, (a, b) in enumerate(zip(got, want)):
        assert close(a.reshape(40, -1), b.reshape(40, -1), 2e-3), k


def mostly_close(a, b, tolerance, at_most):
    """Rows that agree; a chain whose acceptance was a matter of rounding goes its own way."""
    a, b = a.cpu().double().reshape(len(a), -1), b.double().reshape(len(b), -1)
    apart = ((a - b).abs() > tolerance * (1 + b.abs().amax(1, keepdim=True))).any(1)
    return int(apart.sum()) <= at_most


@needs_a_device
@pytest.mark.parametrize("case", CASES, ids=str)
def test_chains_agree_with_the_cpu(case):
    """A few steps, before rounding has had time to grow."""
    energy = make(*case)
    x = loose_lattice(energy, n=40).float()
    h, beta = torch.tensor([2e-4]), torch.tensor([1.0])
    extra = dict(stiffness=torch.tensor([5.0]), averages=True)
    got = native.lj_mala(x.cuda(), h, beta, 4, 5, **energy._op, centre=x.cuda(), **extra)
    want = native.lj_mala(x, h, beta, 4, 5, **energy._op, centre=x, isa="scalar", **extra)
    assert all(mostly_close(a, b, 1e-3, 2) for a, b in zip(got, want))
    x = x.reshape(10, 4, *x.shape[1:])
    beta = torch.tensor([1.0, 0.8, 0.6, 0.5])
    got = native.lj_tempering(x.cuda(), h.expand(4), beta, 3, 2, 5, **energy._op)
    want = native.lj_tempering(x, h.expand(4), beta, 3, 2, 5, **energy._op, isa="scalar")
    assert all(mostly_close(a, b, 1e-3, 2) for a, b in zip(got, want))


@needs_a_device
def test_tempering_on_the_device_samples_a_gaussian():
    energy = LennardJones(5, epsilon=1e-12, r_min=1e-3, trap=4.0)
    x = torch.randn(1000, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    beta = torch.tensor([1.0, 0.5])
    _, u, *_ = run_tempering(energy, (x - x.mean(2, keepdim=True)).cuda(), 0.05 / beta, beta, 41, 3, 4)
    assert stats.kstest(u[:, 0].cpu().numpy(), stats.gamma(6).cdf).pvalue > 1e-4


@needs_a_device
@pytest.mark.parametrize("seed", [0, 2**40 + 3])
def test_noise_agrees_with_the_cpu(seed):
    assert close(native.noise(1000, 13, 3, seed, device="cuda"), native.noise(1000, 13, 3, seed, isa="scalar"), 1e-5)


@needs_a_device
@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmarks_run_on_the_device(name):
    row = run_benchmark(name, batch=8, samples=None if name == "energy" else 16, repeats=1, device="cuda")
    assert row["speedup"] > 0
