"""CUDA: built wherever its compiler is, checked wherever a device is, and asked for in vain with a clear error."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from idem_md import load_sampler, native, train
from idem_md.chains import Schedule, quench, relax, run_annealing, run_mala, run_tempering
from idem_md.diffusion.kernels import batch_size
from idem_md.energies import DemScores, LennardJones
from idem_md.errors import UsageError
from idem_md.measurements import BENCHMARKS, run_benchmark
from idem_md.native.module import native as module
from idem_md.targets import dem_scores
from idem_md.testing import loose_lattice

# A device that is there must be usable: on such a machine these tests fail, and do not pass over it, if torch or the
# native module cannot reach it.
DEVICE_PRESENT = module.cuda_devices()[0] > 0 or Path("/dev/nvidia0").exists()
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
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


def determined(scores):
    """Scores, with alpha only where more than one draw has weight: elsewhere that quotient is rounding."""
    scores = DemScores(*scores)
    return scores._replace(alpha=scores.alpha[scores.ess > 1.01])


def test_cuda_is_built_where_there_is_a_compiler():
    """The installation compiles the CUDA sources for compute capability 8.0 and 9.0 and newer, or fails."""
    assert module.built_with_cuda or shutil.which("nvcc") is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: native.noise(4, 3, 3, 0, device="cuda"),
        lambda: native.check_device("device", "cuda"),
        lambda: native.peak_flops("cuda"),
        lambda: load_sampler("gmm40", device="cuda"),
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


@pytest.mark.slow
@pytest.mark.skipif(not COMPILER, reason="no C++ compiler")
def test_thread_groups_make_the_chains_of_one_lane(tmp_path):
    """The device's code, on the CPU by coroutines; a few steps, before rounding has had time to grow."""
    here = Path(__file__).parent
    sources, program = here.parent / "idem_md/native/src", tmp_path / "thread_groups"
    options = ["-std=c++17", "-O1", f"-I{sources}", "-DIDEM_VECTOR_BYTES=4"]
    scalar = ["-DIDEM_ISA=scalar", "-DIDEM_SCALAR", "-c", sources / "cpu_kernels.cpp", "-o", tmp_path / "scalar.o"]
    subprocess.run([COMPILER, *options, *scalar], check=True)
    subprocess.run(
        [COMPILER, *options, here / "helpers/thread_groups.cpp", tmp_path / "scalar.o", "-o", program], check=True
    )
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == 4 * 9
    for line in lines:
        apart = line.split(":")[1]
        assert all(float(a) < 1e-4 for a in apart.split()), line


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
    for k, (a, b) in enumerate(zip(determined(got), determined(want))):
        assert close(a.reshape(len(b), -1), b.reshape(len(b), -1), 2e-3), k


def mostly_close(a, b, tolerance, at_most):
    """Rows that agree; a chain whose acceptance was a matter of rounding goes its own way."""
    a, b = a.cpu().double().reshape(len(a), -1), b.double().reshape(len(b), -1)
    apart = ~((a - b).abs() <= tolerance * (1 + b.abs().amax(1, keepdim=True))).all(1)
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


@needs_a_device
@pytest.mark.parametrize("case", CASES, ids=str)
def test_chains_in_plain_torch_agree_with_the_cpu(case):
    """float64, the route of every other energy: the same random numbers on every device."""
    energy = make(*case)
    x = loose_lattice(energy, n=8)
    h, beta = torch.tensor(2e-4, dtype=torch.float64), torch.tensor([1.0, 0.8], dtype=torch.float64)
    schedule, sigma = Schedule(4, 2.0, 2, (1e-4, 2e-4)), torch.logspace(-2, 0, 8, dtype=torch.float64)
    routes = (
        lambda x: run_mala(energy, x, h, 4, 5),
        lambda x: run_tempering(energy, torch.stack([x, x], 1), h.expand(2), beta, 3, 2, 5),
        lambda x: run_annealing(energy, x, x, 1e-3, 0.1, schedule, 5, trace=True),
        lambda x: determined(dem_scores(energy, x, sigma.to(x.device), 33, 5)),
        lambda x: (relax(energy, x, 5), quench(energy, x[:1])),
    )
    for route in routes:
        got, want = route(x.cuda()), route(x)
        for k, (a, b) in enumerate((a, b) for a, b in zip(got, want) if len(b)):
            assert a.is_cuda and close(a.flatten()[None], b.flatten()[None], 1e-6), k


@pytest.fixture(scope="module", params=["gmm40", "dw4", "lj13", "lj55"])
def both(request):
    return load_sampler(request.param), load_sampler(request.param, device="cuda")


def alike(got, want, tolerance=5e-3, apart=0.05):
    """Nearly all of the same paths; small differences of the network grow where the path forks."""
    a, b = (e.positions.reshape(len(e.positions), -1) for e in (got, want))
    far = np.abs(a - b).max(1) > tolerance * (1 + np.abs(b).max(1))
    assert far.mean() <= apart, f"{far.sum()} of {len(far)}"
    spread = np.abs(got.log_weights - want.log_weights)[~far & np.isfinite(want.log_weights)]
    assert np.median(spread) < 0.05


@needs_a_device
@pytest.mark.parametrize("method", ["diffusion", "consistency"])
@pytest.mark.parametrize("last_step", ["plain", "nested"])
def test_paths_agree_with_the_cpu(both, method, last_step):
    """Few enough for one batch on either."""
    if method == "consistency" and not both[0].checkpoint.denoiser.has("flow_map"):
        method = "diffusion"
    n = batch_size(both[0].system.n_atoms, both[0].system.n_dims)
    options = dict(nfe=8, method=method, last_step=last_step, moves=0)
    cpu, gpu = (sampler.sample(n, **options) for sampler in both)
    assert gpu.provenance["device"] == "cuda"
    alike(gpu, cpu)


@needs_a_device
def test_weights_agree_with_the_cpu(both):
    """The plan that is best, native chains and all, on other random numbers: two estimates of log Z."""
    cpu, gpu = (sampler.sample(1000, seed=k) for k, sampler in enumerate(both))
    if min(cpu.ess, gpu.ess) > 30:
        error = np.hypot(cpu.log_z_err, gpu.log_z_err)
        assert abs(cpu.log_z - gpu.log_z) < 5 * error, (cpu.log_z, gpu.log_z, error)
    exact = both[0].forward(cpu.resample(seed=1), n=100), both[1].forward(cpu.resample(seed=1), n=100)
    a, b = (np.asarray(e.log_weights) for e in exact)
    assert abs(a.mean() - b.mean()) < 5 * np.hypot(a.std(), b.std()) / 10


@needs_a_device
def test_training_runs_on_the_device_and_goes_on_without_it(tiny, tmp_path):
    losses = []
    for device in ("cpu", "cuda"):
        checkpoint = train(tiny, tmp_path / device, device=device)
        losses.append(json.loads((tmp_path / device / "log.jsonl").read_text().splitlines()[-1])["loss"])
        assert checkpoint.provenance["device"] == device
        assert np.isfinite(load_sampler(tmp_path / device).sample(5, nfe=4, last_step="plain").positions).all()
    assert abs(np.log(losses[1] / losses[0])) < 0.5, losses
    begun = []
    folder = tmp_path / "moved"
    train(tiny, folder, device="cuda", stop=lambda: len(begun) > 1, on_iteration=lambda *_: begun.append(1))
    done = train(tiny, folder, device="cpu", resume=True)
    assert done.provenance["device"] == "cpu" and done.provenance["iterations"] == tiny.optimizer.iterations
