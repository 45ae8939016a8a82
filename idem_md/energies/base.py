"""The energy contract: ``energy(x) -> (u, f)``, forces included, calls counted."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from ..checks import BudgetExhausted, EnergyError, UsageError, all_finite, check_int, check_positions
from ..geometry import centred, standard_normal

__all__ = ["Energy", "dem_scores_reference"]

# Of the importance-sampled target in plain torch: enough for vectorisation, little enough for the caches.
CONFIGURATIONS_AT_ONCE = 16_384


class Energy(ABC):
    """A reduced potential u = U/kT of N particles in D dimensions.

    Subclasses implement `evaluate`; callers call the object. Forces are part of the contract, so that native
    kernels, OpenMM and ASE are equals and no automatic differentiation ever runs through an energy.

    Attributes
    ----------
    n_atoms, n_dims : int
    calls : int
        Configurations evaluated so far, by whatever route. A reported cost.
    max_calls : int or None
        Budget; an evaluation that would exceed it raises `BudgetExhausted` instead.
    """

    def __init__(self, n_atoms: int, n_dims: int):
        self.n_atoms = n_atoms
        self.n_dims = n_dims
        self.calls = 0
        self.max_calls: int | None = None

    @property
    def parameters(self) -> dict:
        """What defines the energy, as JSON, for provenances."""
        return {}

    def count(self, n: int) -> None:
        """Book ``n`` evaluations, before they are made; raises `BudgetExhausted` if the budget does not allow them."""
        if self.max_calls is not None and self.calls + n > self.max_calls:
            raise BudgetExhausted(f"energy calls: {self.calls} made, {n} more would exceed the budget of {self.max_calls}")
        self.calls += n

    @abstractmethod
    def evaluate(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Energies (B,) and forces (B, N, D) of checked positions, in their dtype."""

    def __call__(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Evaluate a batch.

        Parameters
        ----------
        x : torch.Tensor, shape (B, N, D), float32 or float64
            Positions in reduced length; never modified.

        Returns
        -------
        u : torch.Tensor, shape (B,)
            Reduced energies; +inf is allowed (overlap).
        f : torch.Tensor, shape (B, N, D)
            -grad u, always finite.

        Raises
        ------
        UsageError
            Wrong shape or dtype.
        EnergyError
            NaN or infinite positions, NaN or -inf energies, forces that are not finite.
        BudgetExhausted
            See ``max_calls``.
        """
        check_positions("x", x, self.n_atoms, self.n_dims)
        self.count(x.shape[0])
        u, f = self.evaluate(x)
        if not (all_finite(u) and all_finite(f)) and bool(
            (bad := ~torch.isfinite(f).flatten(1).all(1) | torch.isnan(u) | (u == -torch.inf)).any()
        ):
            b = int(bad.nonzero()[0])
            raise EnergyError(
                f"{type(self).__name__}: expected a number and finite forces, configuration {b} gave "
                f"u = {float(u[b])}, max |f| = {float(f[b].abs().max())}", b)
        return u, f

    def _check_chains(self, x, n_steps: int, centre=None) -> None:
        check_positions("x", x, self.n_atoms, self.n_dims)
        check_int("n_steps", n_steps, 0)
        if centre is not None:
            check_positions("centre", centre, self.n_atoms, self.n_dims)

    def _check_ladders(self, x, n_rounds: int, n_steps: int) -> None:
        if not isinstance(x, torch.Tensor) or x.dim() != 4 or x.shape[1] < 2:
            raise UsageError(f"x: expected shape (ladders, at least two rungs, {self.n_atoms}, {self.n_dims}), got "
                             f"{tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__}")
        check_int("n_rounds", n_rounds, 0)
        self._check_chains(x.flatten(0, 1), n_steps)

    def mala(self, x, step, n_steps: int, seed: int, beta=None, centre=None, stiffness=None, averages=False):
        """Metropolis-adjusted Langevin chains on beta*u(x) + stiffness/2 |x - centre|^2.

        Proposal x' = x + h g + sqrt(2h) noise in the mean-free subspace, with g the total force, each atom's part
        cut to the length sqrt(2 D / h) and the mean removed: an atom's drift never exceeds its noise, or chains
        would stick where forces are steep (MALTA; Roberts & Tweedie, Bernoulli 2, 341, 1996). This is the plain torch loop
        over `__call__`, for any energy; energies with native kernels override it. Counts one energy call a chain and step, and one more a chain for the start.

        Parameters
        ----------
        x : torch.Tensor, shape (C, N, D)
            Starting positions, mean-free.
        step, beta, stiffness : torch.Tensor broadcastable to (C,)
            Langevin step h, inverse temperature relative to kT = 1 (default 1), restraint stiffness.
        n_steps, seed : int
        centre : torch.Tensor, shape (C, N, D), optional
            Centre of the restraint; given together with ``stiffness``.
        averages : bool
            Also average positions and bare forces over the steps of each chain.

        Returns
        -------
        x, u, f, acceptance, mean_x, mean_f : torch.Tensor
            Final positions, energies and forces (without the restraint), acceptance (C,), averages (C, N, D) or
            (0, N, D) without ``averages``.
        """
        self._check_chains(x, n_steps, centre)
        if (centre is None) != (stiffness is None):
            raise UsageError("centre, stiffness: expected both or neither")
        generator = torch.Generator().manual_seed(seed)
        column = lambda a: torch.as_tensor(a, dtype=x.dtype, device=x.device).expand(x.shape[0])  # noqa: E731
        h, beta = column(step), column(1.0 if beta is None else beta)
        k = column(0.0 if stiffness is None else stiffness)
        centre = torch.zeros_like(x) if centre is None else centre
        h3, beta3, k3 = (a[:, None, None] for a in (h, beta, k))
        cap = torch.sqrt(2 * self.n_dims / h3)

        def total(x):
            u, f = self(x)
            g = beta3 * f - k3 * (x - centre)
            g = g * (cap / g.norm(dim=-1, keepdim=True).clamp(min=1e-30)).clamp(max=1.0)
            return u, f, beta * u + 0.5 * k * ((x - centre) ** 2).sum((1, 2)), centred(g)

        u, f, big_u, force = total(x)
        accepted = torch.zeros_like(u)
        mean_x, mean_f = torch.zeros_like(x), torch.zeros_like(x)
        for _ in range(n_steps):
            eps = standard_normal(x.shape, generator, x.dtype).to(x.device)
            y = x + h3 * force + torch.sqrt(2 * h3) * eps
            u_y, f_y, big_u_y, force_y = total(y)
            reverse = ((x - y - h3 * force_y) ** 2).sum((1, 2)) / (4 * h)
            log_ratio = big_u - big_u_y + 0.5 * (eps**2).sum((1, 2)) - reverse
            take = torch.log(torch.rand(len(x), generator=generator, dtype=x.dtype)).to(x.device) < log_ratio
            x, f, force = (torch.where(take[:, None, None], a, b) for a, b in ((y, x), (f_y, f), (force_y, force)))
            u, big_u = torch.where(take, u_y, u), torch.where(take, big_u_y, big_u)
            accepted += take
            mean_x += x
            mean_f += f
        scale = 1 / n_steps if n_steps else torch.nan
        empty = x.new_empty(0, *x.shape[1:])
        return x, u, f, accepted * scale, *((mean_x * scale, mean_f * scale) if averages else (empty, empty.clone()))

    def parallel_tempering(self, x, step, beta, n_rounds: int, n_steps: int, seed: int):
        """Replica exchange: each round ``n_steps`` of `mala` a replica, then swaps of neighbouring rungs.

        Even and odd pairs take turns (Syed et al., JRSS B 84, 321, 2022); rungs r and r+1 swap with probability
        min(1, exp[(beta_r - beta_{r+1}) (u_r - u_{r+1})]). The plain torch loop, for any energy. Counts an energy call
        a replica and MALA step, and one more a replica and round.

        Parameters
        ----------
        x : torch.Tensor, shape (C, R, N, D)
            Starting positions of C ladders of R >= 2 rungs, mean-free.
        step, beta : torch.Tensor, shape (R,)
            Langevin step and inverse temperature (relative to kT = 1) of each rung, the coldest first.
        n_rounds, n_steps, seed : int

        Returns
        -------
        x, u, f, acceptance, swaps, round_trips, trace : torch.Tensor
            Final state by rung, shapes (C, R, ...); MALA acceptance (C, R); accepted share of the attempted swaps of
            r and r+1, (C, R-1), NaN without attempts; arrivals at the coldest rung of replicas that had been hottest, (C,); energies by rung
            after each round, (C, n_rounds, R).
        """
        self._check_ladders(x, n_rounds, n_steps)
        c, r = x.shape[:2]
        step, beta = (torch.as_tensor(a, dtype=x.dtype) for a in (step, beta))
        for name, a in (("step", step), ("beta", beta)):
            if a.shape not in ((), (1,), (r,)):
                raise UsageError(f"{name}: expected one number or {r}, got shape {tuple(a.shape)}")
        step, beta = step.expand(r), beta.expand(r)
        if not bool((beta[:-1] > beta[1:]).all()):
            raise UsageError("beta: expected two or more inverse temperatures, falling from the coldest rung to the hottest")
        generator = torch.Generator().manual_seed(seed)
        acceptance, seen = x.new_zeros(c, r), torch.zeros(c, r, dtype=torch.bool)
        swaps, trips, trace = x.new_zeros(c, r - 1), x.new_zeros(c), x.new_empty(c, n_rounds, r)
        u = f = None
        for k in range(n_rounds):
            state = self.mala(x.flatten(0, 1), step.repeat(c), n_steps, int(torch.randint(2**62, (), generator=generator)),
                              beta=beta.repeat(c))
            x, u, f = state[0].reshape(x.shape), state[1].reshape(c, r), state[2].reshape(x.shape)
            acceptance += state[3].reshape(c, r)
            for i in range(k % 2, r - 1, 2):
                log_ratio = (beta[i] - beta[i + 1]) * (u[:, i] - u[:, i + 1])
                take = torch.log(torch.rand(c, generator=generator, dtype=x.dtype)) < log_ratio
                order = torch.arange(r).repeat(c, 1)
                order[take, i], order[take, i + 1] = i + 1, i
                rows = torch.arange(c)[:, None]
                x, u, f, seen = (a[rows, order] for a in (x, u, f, seen))
                swaps[:, i] += take
            trips += seen[:, 0]
            seen[:, 0], seen[:, -1] = False, True
            trace[:, k] = u
        if u is None:
            u, f = self(x.flatten(0, 1))
            u, f = u.reshape(c, r), f.reshape(x.shape)
        attempts = torch.tensor([(n_rounds + 1 - i % 2) // 2 for i in range(r - 1)], dtype=x.dtype)
        return x, u, f, acceptance / n_rounds if n_rounds else acceptance * torch.nan, swaps / attempts, trips, trace

    def dem_scores(self, x, sigma, n_samples: int, seed: int):
        """Importance-sampled scores at noised positions; see `dem_scores_reference`. Streams over the batch."""
        generator = torch.Generator().manual_seed(seed)
        size = max(CONFIGURATIONS_AT_ONCE // n_samples, 1)
        parts = []
        for x_b, sigma_b in zip(x.split(size), sigma.split(size)):
            eps = standard_normal((len(x_b) * n_samples, *x.shape[1:]), generator, x.dtype)
            parts.append(dem_scores_reference(self, x_b, sigma_b, eps.reshape(len(x_b), n_samples, *x.shape[1:])))
        return tuple(torch.cat(column) for column in zip(*parts))


def dem_scores_reference(energy, x: torch.Tensor, sigma: torch.Tensor, eps: torch.Tensor):
    """The streamed target in plain torch, for given noise: any energy, O(B K N D) memory.

    Parameters
    ----------
    energy : callable, (B, N, D) -> (u, f)
    x : torch.Tensor, shape (B, N, D)
    sigma : torch.Tensor, shape (B,)
    eps : torch.Tensor, shape (B, K, N, D)
        Standard normal noise, mean-free.

    Returns
    -------
    s_tsi, s_dsi, alpha, log_mean_exp, ess
        As `kernels.dem_target`.
    """
    b, k, n, d = eps.shape
    if x.shape != (b, n, d):
        raise UsageError(f"eps: expected shape (B, K, {n}, {d}) for x of shape {tuple(x.shape)}, got {tuple(eps.shape)}")
    s = sigma.reshape(-1, 1, 1, 1)
    u, f = energy((x[:, None] + s * eps).reshape(b * k, n, d))
    u, f = u.reshape(b, k), f.reshape(b, k, n, d)
    empty = torch.isinf(u).all(1)
    w = torch.softmax(-u.masked_fill(empty[:, None], 0.0), dim=1) * ~empty[:, None]
    f = f.masked_fill((w == 0)[..., None, None], 0.0)
    g = eps / s
    mean = lambda a: (w[..., None, None] * a).sum(1)  # noqa: E731
    s_tsi, s_dsi = mean(f), mean(g)
    dot = lambda a, c: (w * (a * c).sum((2, 3))).sum(1)  # noqa: E731
    v_t = dot(f, f) - (s_tsi**2).sum((1, 2))
    v_d = dot(g, g) - (s_dsi**2).sum((1, 2))
    c = dot(f, g) - (s_tsi * s_dsi).sum((1, 2))
    den = v_t + v_d - 2 * c
    alpha = torch.where(torch.isfinite(den) & (den > 0), (v_d - c) / den, 0.0).clamp(0, 1)
    log_mean_exp = torch.logsumexp(-u, 1) - torch.log(torch.tensor(float(k), dtype=u.dtype))
    ess = torch.where(empty, 0.0, 1 / (w**2).sum(1).clamp(min=1e-300))
    return s_tsi, s_dsi, alpha, log_mean_exp, ess
