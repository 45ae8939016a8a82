"""The network: three routes, one function; its symmetries; its preconditioning."""

import pytest
import torch

from idem_md import UsageError, native
from idem_md.diffusion import Denoiser
from idem_md.nets import EGNN, MLP, EnergyNetwork, PaiNN, build_energy_network
from idem_md.systems import get_system

# Kinds of the atoms of a molecule, and an order that leaves them as they are.
KINDS, SAME_KINDS = (0, 1, 1, 1, 2, 2, 3), (0, 3, 1, 2, 5, 4, 6)
OF_MOLECULES = {"kinds": KINDS, "pair_factors": True, "normalised": True, "refinements": 2}


@pytest.fixture(params=[(13, 3, 64, {}), (5, 2, 16, {}), (7, 3, 32, OF_MOLECULES)], ids=["13x3", "5x2", "molecule"])
def case(request):
    n, d, channels, options = request.param
    torch.manual_seed(0)
    net = PaiNN(channels=channels, layers=3, n_basis=20, sigma_data=0.7, **options)
    for layer in net.film:  # as after some training: conditioning that does something
        torch.nn.init.normal_(layer.weight, std=0.1)
    for refinement in net.refinements.values():
        torch.nn.init.normal_(refinement.vector_out.weight, std=0.1)
    for message in net.messages if options else ():
        torch.nn.init.uniform_(message.factors.weight, 0.5, 1.5)
    return net, torch.randn(4, n, d) * 0.7, torch.linspace(-4, 1, 4)


def value_and_gradients(net, x, log_sigma, **route):
    net.zero_grad()
    out = net(x, log_sigma, **route)
    (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
    return out.detach(), {k: p.grad.clone() for k, p in net.named_parameters()}


def test_fused_kernel_matches_plain_torch(case):
    net, x, log_sigma = case
    fast, fast_grads = value_and_gradients(net, x, log_sigma, native=True)
    plain, plain_grads = value_and_gradients(net, x, log_sigma, native=False)
    assert (fast - plain).abs().max() < 1e-5 * plain.abs().max()
    for key, g in plain_grads.items():
        assert (fast_grads[key] - g).abs().max() <= 2e-4 * g.abs().max() + 1e-9, key


def test_fused_kernel_has_the_gradient_of_positions(case):
    net, x, log_sigma = case
    found = []
    for native_route in (True, False):
        here = x.clone().requires_grad_()
        _, scalars, vectors = net.with_features(here, log_sigma, native_route)
        found.append(torch.autograd.grad((scalars**2).sum() + vectors.sum(), here)[0])
    assert (found[0] - found[1]).abs().max() < 2e-5 * found[1].abs().max()


@pytest.mark.parametrize(
    ("channels", "layers", "kinds"), [(32, 2, ()), (48, 1, (0, 1, 1)), (16, 3, (0,) * 30 + (1,) * 36)]
)
def test_native_energies_match_plain_torch(channels, layers, kinds):
    torch.manual_seed(0)
    net = PaiNN(channels, layers, 20, length=1.1, sigma_data=0.7, kinds=kinds)
    for layer in net.film:
        torch.nn.init.normal_(layer.weight, std=0.1)
    n = len(kinds) or 13
    for message in net.messages:  # sums over so many neighbours stay numbers of an ordinary size
        message.filter.data.mul_(3 / n)
    network = EnergyNetwork(net, {})
    network.scale.fill_(2.5)
    x = (torch.randn(9, n, 3) * n ** (1 / 3) + 3).requires_grad_()  # no whole number of groups
    u = network(x, native=False)
    (gradient,) = torch.autograd.grad(u.sum(), x)
    found, forces = network.with_forces(x)
    assert (found - u).abs().max() < 1e-6 * u.abs().max() and not found.requires_grad
    assert (forces + gradient).abs().max() < 1e-5 * gradient.abs().max()
    broken = x.detach().clone()
    broken[4, 0, 0] = torch.nan
    again, _ = network.with_forces(broken)
    assert torch.isnan(again[4]) and torch.equal(again[:2], found[:2])
    assert network.with_forces(x[:0])[0].shape == (0,)
    assert native.takes_energy_network(512, 16) and not native.takes_energy_network(528, 2)
    for wrong in ((24, 2), (32, 17), (0, 1)):
        assert not native.takes_energy_network(*wrong)


def test_energies_of_networks_that_are_not_native():
    """Factors of pairs are not forgotten, and refinements are refused, in a twin's energies."""
    torch.manual_seed(0)
    net = PaiNN(32, 2, 20, sigma_data=0.7, kinds=KINDS, pair_factors=True)
    for message in net.messages:
        torch.nn.init.uniform_(message.factors.weight, 0.5, 1.5)
    network, x = EnergyNetwork(net, {}), torch.randn(4, len(KINDS), 3, requires_grad=True)
    u = network(x, native=False)
    (gradient,) = torch.autograd.grad(u.sum(), x)
    found, forces = network.with_forces(x)
    assert (found - u).abs().max() < 1e-6 * u.abs().max()
    assert (forces + gradient).abs().max() < 1e-5 * gradient.abs().max()
    assert not net.has_native_energy(x) and PaiNN(32, 2, 20, kinds=KINDS).has_native_energy(x)
    assert not PaiNN(32, 2, 20, kinds=KINDS, normalised=True).has_native_energy(x)
    with pytest.raises(UsageError, match="refinements = 0"):
        build_energy_network({"name": "painn", "refinements": 1}, get_system("lj13"))


def test_options_that_do_not_suit():
    with pytest.raises(UsageError, match="refinements: expected fewer than layers = 2, got 2"):
        PaiNN(16, 2, 12, refinements=2)
    with pytest.raises(UsageError, match="pair_factors: expected false"):
        PaiNN(16, 2, 12, kinds=(0, 0, 0), pair_factors=True)


def test_refinements_are_finite_whatever_they_are_given():
    """Atoms in one place, the highest noise, and vectors without a bound."""
    torch.manual_seed(0)
    net = PaiNN(16, 4, 12, sigma_data=0.7, refinements=3)
    for refinement in net.refinements.values():
        torch.nn.init.normal_(refinement.vector_out.weight, std=1e4)
    x = torch.randn(3, 5, 3)
    x[:, 1] = x[:, 0]
    out = net(x, torch.tensor([-4.6, 0.0, 3.0]))
    out.square().mean().backward()
    assert torch.isfinite(out).all() and all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize("normalised", [True, False])
def test_large_scalars_do_not_grow_without_limit(normalised):
    """Gates of updates thirty times as large as at first: without normalisation the eighth layer overflows."""
    torch.manual_seed(0)
    net = PaiNN(16, 8, 12, normalised=normalised, refinements=2)
    for update in net.updates:
        update.gate[-1].weight.data.mul_(30.0)
    out = net(torch.randn(3, 5, 3), torch.zeros(3))
    assert bool(torch.isfinite(out).all()) == normalised


def test_edge_list_matches_plain_torch(case):
    net, x, log_sigma = case
    plain = net(x, log_sigma, native=False)
    net.cutoff = 1e5  # every pair, envelope one
    assert (net(x, log_sigma) - plain).abs().max() < 1e-5 * plain.abs().max()


def test_cutoff_is_smooth():
    torch.manual_seed(1)
    net = PaiNN(channels=16, layers=2, n_basis=12, cutoff=1.5)
    x = torch.zeros(2, 3, 3)
    x[:, 1, 0], x[:, 2, 1] = 1.0, torch.tensor([1.49999, 1.50001])
    a = net(x, torch.zeros(2))
    assert (a[0] - a[1]).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["painn", "egnn"])
def test_equivariance(case, kind):
    net, x, log_sigma = case
    if kind == "egnn":
        net = EGNN(channels=16, layers=3)
        for layer in net.layers:  # made to move atoms, which at first it hardly does
            torch.nn.init.normal_(layer.coordinate[2].weight, std=0.3)
    d = x.shape[2]
    q, _ = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(3)))
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(4))
    order = order if x.shape[1] != len(KINDS) or kind == "egnn" else torch.tensor(SAME_KINDS)
    out = net(x, log_sigma)
    scale = out.abs().max()
    assert (net(x @ q.T, log_sigma) - out @ q.T).abs().max() < 1e-4 * scale
    assert (net(x[:, order], log_sigma) - out[:, order]).abs().max() < 1e-4 * scale
    assert (net(x + 3.0, log_sigma) - out).abs().max() < 1e-3 * scale
    assert out.mean(1).abs().max() < 1e-6 * scale


def test_positions_differentiable(case):
    net, x, log_sigma = case
    x.requires_grad_()
    net(x, log_sigma).square().sum().backward()
    assert torch.isfinite(x.grad).all() and x.grad.abs().max() > 0


def test_gradients_do_not_depend_on_threads(case):
    net, x, log_sigma = case
    x, log_sigma = x.repeat(20, 1, 1), log_sigma.repeat(20)
    geometry = net.radial.pairs(x)
    c, k = net.messages[0].filter.shape[1], net.messages[0].filter
    a = torch.randn(*x.shape[:2], c)
    v = torch.randn(*x.shape, c // 3)
    gs, gv = torch.randn(*x.shape[:2], c // 3), torch.randn_like(v)
    threads = torch.get_num_threads()
    factors = k[:0] if net.messages[0].factors is None else net.messages[0].factors(net.pair_classes)
    many = native.messages._message_backward(*geometry, a, v, k, factors, gs, gv)
    try:
        torch.set_num_threads(1)
        one = native.messages._message_backward(*geometry, a, v, k, factors, gs, gv)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(p, q) for p, q in zip(many, one))


def test_splines_sum_to_one_and_match():
    torch.manual_seed(0)
    radial = PaiNN(n_basis=20).radial
    r = torch.linspace(0.0, 30.0, 500)
    assert torch.allclose(radial(r).sum(-1), torch.ones(500), atol=1e-5)
    x = torch.randn(2, 6, 3)
    knot, spline, unit = radial.pairs(x)
    i, j = torch.tril_indices(6, 6, offset=-1)
    dx = x[:, i] - x[:, j]
    dense = torch.zeros(2, 15, 20).scatter_(2, knot.long()[..., None] + torch.arange(4), spline)
    assert torch.allclose(dense, radial(dx.norm(dim=-1)), atol=1e-5)
    assert torch.allclose(unit, dx / dx.norm(dim=-1, keepdim=True), atol=1e-6)


def test_preconditioning_limits():
    """c_skip^2 Var(x) + c_out^2 = sigma_data^2, the input dominating at low noise and the network at high."""
    net = torch.nn.Module()
    denoiser = Denoiser(net, 0.7)
    sigma = torch.logspace(-3, 3, 20, dtype=torch.float64)
    skip, out = denoiser.c_skip(sigma), denoiser.c_out(sigma)
    assert torch.allclose(skip**2 * (sigma**2 + 0.49) + out**2, torch.full_like(sigma, 0.49))
    assert skip[0] > 0.999 and skip[-1] < 1e-6


def test_nan_goes_in_and_comes_out(case):
    """A failed path must stay failed, neither crash nor turn into numbers, and leave its neighbours alone."""
    net, x, log_sigma = case
    good = net(x, log_sigma)
    x = x.clone()
    x[1, 2, 0] = torch.nan
    out = net(x, log_sigma)
    assert torch.isnan(out[1]).all()
    assert torch.equal(out[[0, 2, 3]], good[[0, 2, 3]])


def test_fused_kernel_refuses_what_it_cannot_do(case):
    net, x, log_sigma = case
    net.cutoff = 2.0
    with pytest.raises(UsageError, match="native"):
        net(x, log_sigma, native=True)


def test_egnn_layer_is_its_formula():
    """One layer against the sums written out, atom by atom."""
    torch.manual_seed(2)
    net = EGNN(channels=8, layers=1)
    x, log_sigma = torch.randn(2, 4, 3), torch.tensor([-1.0, 0.5])
    layer = net.layers[0]
    out = net(x, log_sigma)
    for b in range(2):
        h = net.embedding(log_sigma[b].reshape(1, 1))
        move = torch.zeros(4, 3)
        for i in range(4):
            for j in set(range(4)) - {i}:
                dx = x[b, i] - x[b, j]
                r2 = (dx**2).sum().reshape(1, 1)
                m = layer.edge(torch.cat([h, h, r2, r2], -1))
                m = m * layer.attention(m)
                move[i] += 15.0 * layer.coordinate(m)[0] * dx / (torch.sqrt(r2[0] + 1e-8) + 1)
        assert torch.allclose(out[b], move - move.mean(0), atol=1e-5)


def test_perceptron_keeps_the_place_of_a_point():
    """No symmetry: a shifted point has another field; far away it stays finite."""
    torch.manual_seed(3)
    net = MLP(channels=16, layers=2, n_dims=2, sigma_data=20.0)
    x, log_sigma = 20 * torch.randn(5, 1, 2), torch.linspace(-2, 4, 5)
    out = net(x, log_sigma)
    assert out.shape == x.shape
    assert (net(x + 3.0, log_sigma) - out).abs().max() > 1e-3
    assert torch.isfinite(net(1e6 * x, log_sigma)).all()
