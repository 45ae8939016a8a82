// Chains and score targets, written once for SIMD lanes (V = a vector of floats) and CUDA threads (V = float).
// Storage is anything indexed [i] and shifted by + k: a pointer to lanes, or a strided column.
//
// Who works on a chain is a group: `Solo`, one lane for all of it, or on CUDA several threads, each with the atoms
// [lo, hi) of its own. It draws noise, evaluates the energy, and sums what its members have; every member then has
// the same numbers and takes the same decisions.
#pragma once
#include <math.h>

#include "args.hpp"

namespace idem {
namespace IDEM_ISA {

// One lane, all N atoms; 0: as many as are given.
template <int N = 0> struct Solo {
  static constexpr int lo = 0;
  int n, hi;
  IDEM_INLINE explicit Solo(int n_atoms) : n(N ? N : n_atoms), hi(n) {}
  template <class V> IDEM_INLINE V sum(V v) const { return v; }
  template <class Rng, class P> IDEM_INLINE void normals(Rng& rng, int nd, P& out) const {
    typename Rng::V a, b;
    IDEM_UNROLL
    for (int i = 0; i + 1 < nd; i += 2) {
      rng.normal_pair(a, b);
      out[i] = a;
      out[i + 1] = b;
    }
    if (nd % 2) {
      rng.normal_pair(a, b);
      out[nd - 1] = a;
    }
  }
  template <int D, bool kMixed, class V, class P>
  IDEM_INLINE V energy_forces(const LennardJonesParams& lj, const P& x, P& f) const {
    return lj_energy_forces<D, kMixed, N, V, float>(lj, x, f);
  }
};

// Standard normal noise with the centre of mass removed: isotropic on the mean-free subspace.
template <int D, int N = 0, class Group, class Rng, class P>
IDEM_INLINE void mean_free_noise(const Group& group, Rng& rng, P& eps) {
  using V = typename Rng::V;
  const int n = N ? N : group.n, lo = N ? 0 : group.lo, hi = N ? N : group.hi;
  group.normals(rng, n * D, eps);
  for (int d = 0; d < D; ++d) {
    V mean = V{};
    IDEM_UNROLL
    for (int i = lo; i < hi; ++i) mean += eps[i * D + d];
    mean = group.sum(mean) * (1.0f / n);
    IDEM_UNROLL
    for (int i = lo; i < hi; ++i) eps[i * D + d] = eps[i * D + d] - mean;
  }
}

// A harmonic restraint k/2 |x - centre|^2, or none.
template <class V, class P> struct Restraint {
  bool on;
  V k;
  P centre;
};

// Total potential beta*u + restraint, from the bare energy u and force f; drift becomes the direction of the proposal:
// the total force with each atom's part cut to the length sqrt(2 D / h), where its move would exceed the noise, and
// the mean removed. Without the cut, chains stick where two atoms are close and the force is steep (MALTA: Roberts &
// Tweedie, Bernoulli 2, 341, 1996); the acceptance step makes any such drift exact.
template <int D, class Group, class V, class P>
IDEM_INLINE V set_drift(const Group& group, V beta, V cap, const Restraint<V, P>& r, P x, P f, V u, P drift) {
  const V zero = V{};
  V r2 = zero, mean[D];
  for (int d = 0; d < D; ++d) mean[d] = zero;
  for (int i = group.lo; i < group.hi; ++i) {
    V norm2 = zero;
    for (int d = 0; d < D; ++d) {
      V g = beta * f[i * D + d];
      if (r.on) {
        const V dx = x[i * D + d] - r.centre[i * D + d];
        r2 += dx * dx;
        g -= r.k * dx;
      }
      drift[i * D + d] = g;
      norm2 += g * g;
    }
    const V cut = norm2 > cap * cap ? cap / vsqrt(norm2) : zero + 1.0f;
    for (int d = 0; d < D; ++d) {
      drift[i * D + d] *= cut;
      mean[d] += drift[i * D + d];
    }
  }
  for (int d = 0; d < D; ++d) mean[d] = group.sum(mean[d]);
  for (int i = group.lo; i < group.hi; ++i)
    for (int d = 0; d < D; ++d) drift[i * D + d] -= mean[d] * (1.0f / group.n);
  return beta * u + (r.on ? 0.5f * r.k * group.sum(r2) : zero);
}

// Of `tries` attempts `hits` succeeded; without attempts there is no share.
template <class V> IDEM_INLINE V share(V hits, int64_t tries) {
  return tries > 0 ? hits * (1.0f / (float)tries) : hits * 0.0f + __builtin_nanf("");
}

// What one move writes to: proposal, its force and drift, noise and then the way it goes.
template <class P> struct Scratch4 {
  P y, g, gt, eps;
};

// n_steps of Hamiltonian Monte Carlo from (x, f, u), each of so many leapfrogs of the length sqrt(2h): one leapfrog is
// Metropolis-adjusted Langevin. Any field in the place of the force, as the drift is one, leaves a leapfrog reversible
// and volumes as they are, so that accepting by the energy is exact. Returns the number of moves taken. Sums of x and f
// over the steps go to mx, mf if asked.
template <int D, bool kMixed, class Group, class Rng, class V, class P>
IDEM_INLINE V hmc_steps(const Group& group, const LennardJonesParams& lj, Rng& rng, int64_t n_steps, int64_t leapfrogs,
                        V h, V beta, const Restraint<V, P>& r, P x, P f, P ft, V& u, const Scratch4<P>& s, bool sums,
                        P mx, P mf) {
  const int lo = group.lo * D, hi = group.hi * D;
  const V root = vsqrt(2.0f * h), inv4h = 0.25f / h, cap = vsqrt(2.0f * D / h);
  P y = s.y, g = s.g, gt = s.gt, eps = s.eps;
  V total = set_drift<D>(group, beta, cap, r, x, f, u, ft), accepted = V{};
  for (int64_t step = 0; step < n_steps; ++step) {
    mean_free_noise<D>(group, rng, eps);
    V forward = V{}, reverse = V{}, u_new, total_new;
    for (int i = lo; i < hi; ++i) {
      forward += eps[i] * eps[i];
      y[i] = x[i] + h * ft[i] + root * eps[i];
      eps[i] = y[i] - x[i];
    }
    for (int64_t k = 1;; ++k) {
      u_new = group.template energy_forces<D, kMixed, V>(lj, y, g);
      total_new = set_drift<D>(group, beta, cap, r, y, g, u_new, gt);
      if (k == leapfrogs) break;
      for (int i = lo; i < hi; ++i) {
        eps[i] += 2.0f * h * gt[i];
        y[i] += eps[i];
      }
    }
    for (int i = lo; i < hi; ++i) {
      const V back = eps[i] + h * gt[i];
      reverse += back * back;
    }
    const V log_ratio = total - total_new + 0.5f * group.sum(forward) - inv4h * group.sum(reverse);
    const auto take = vlog(rng.uniform()) < log_ratio;  // false for NaN and for an infinite new energy
    for (int i = lo; i < hi; ++i) {
      x[i] = take ? y[i] : x[i];
      f[i] = take ? g[i] : f[i];
      ft[i] = take ? gt[i] : ft[i];
    }
    u = take ? u_new : u;
    total = take ? total_new : total;
    accepted += take ? V{} + 1.0f : V{};
    if (sums)
      for (int i = lo; i < hi; ++i) {
        mx[i] += x[i];
        mf[i] += f[i];
      }
  }
  return accepted;
}

// What the logarithm of the annealed density grows by per unit of beta: -end u - to/2 |x - x_t|^2 + from/2 |x - mean|^2.
template <int D, class Group, class V, class P>
IDEM_INLINE V anneal_slope(const Group& group, float from, float to, float end, V u, P x, P x_t, P mean) {
  V near = V{}, far = V{};
  for (int i = group.lo * D; i < group.hi * D; ++i) {
    const V a = x[i] - x_t[i], b = x[i] - mean[i];
    near += a * a;
    far += b * b;
  }
  return 0.5f * (from * group.sum(far) - to * group.sum(near)) - end * u;
}

// The restraint that, with beta * end * u, makes up the annealed density at beta: a Gaussian between the two at the ends.
template <int D, class V, class Group, class P>
IDEM_INLINE V anneal_restraint(const Group& group, double beta, float from, float to, P x_t, P mean, P centre) {
  const double k = beta * to + (1 - beta) * from;
  const float share = (float)(beta * to / k);
  for (int i = group.lo * D; i < group.hi * D; ++i) centre[i] = mean[i] + share * (x_t[i] - mean[i]);
  return V{} + (float)k;
}

// How often swap_rungs tries rungs r and r+1 in that many rounds.
IDEM_INLINE int64_t swap_attempts(int64_t n_rounds, int64_t r) { return r % 2 ? n_rounds / 2 : (n_rounds + 1) / 2; }

// One round of swaps of neighbouring rungs r, r+1 with r of the round's parity (deterministic even-odd: Syed et al.,
// JRSS B 84, 321, 2022), accepted with min(1, exp[(beta_r - beta_{r+1}) (u_r - u_{r+1})]). `seen[r]` is 1 where the
// replica on rung r has been hottest since it was last coldest.
template <int D, class Group, class Rng, class V, class P, class Q>
IDEM_INLINE void swap_rungs(const Group& group, Rng& rng, const float* beta, int n_rungs, int nd, int64_t round, P x, P f,
                            Q u, Q seen, Q swaps, V& trips) {
  for (int r = (int)(round % 2); r + 1 < n_rungs; r += 2) {
    const V log_ratio = (beta[r] - beta[r + 1]) * (u[r] - u[r + 1]);
    const auto take = vlog(rng.uniform()) < log_ratio;  // two infinite energies give NaN: no swap
    P xa = x + r * nd, xb = xa + nd, fa = f + r * nd, fb = fa + nd;
    for (int i = group.lo * D; i < group.hi * D; ++i) {
      const V xi = xa[i], fi = fa[i];
      xa[i] = take ? xb[i] : xi;
      xb[i] = take ? xi : xb[i];
      fa[i] = take ? fb[i] : fi;
      fb[i] = take ? fi : fb[i];
    }
    const V ur = u[r], sr = seen[r];
    u[r] = take ? u[r + 1] : ur;
    u[r + 1] = take ? ur : u[r + 1];
    seen[r] = take ? seen[r + 1] : sr;
    seen[r + 1] = take ? sr : seen[r + 1];
    swaps[r] += take ? V{} + 1.0f : V{};
  }
  trips += seen[0];
  seen[0] = V{};
  seen[n_rungs - 1] = V{} + 1.0f;
}

// Self-normalised importance sampling of the score at one x_t, streamed: a lane keeps the running maximum of -u and
// everything relative to it, as flash attention does.
template <class V> struct TargetLane {
  V top, z, z2, ff, ee, fe;
  IDEM_INLINE void clear() {
    top = V{} - __builtin_inff();
    z = z2 = ff = ee = fe = V{};
  }
};

template <class V, class M, class X, class P>
IDEM_INLINE void add_sample(TargetLane<V>& t, int nd, V u, M dropped, const X& f, const X& eps, P sum_f, P sum_e) {
  const V minus_inf = V{} - __builtin_inff(), zero = V{};
  const auto dead = dropped | (u == -minus_inf);
  const V log_w = dead ? minus_inf : -u, top = log_w > t.top ? log_w : t.top;
  // This lane has seen no finite energy yet; a NaN is not one, and its weight has to stay NaN.
  const auto none = (top == minus_inf) & (log_w == log_w);
  const V keep = none ? zero : vexp(t.top - top), w = none | dead ? zero : vexp(log_w - top);
  V dot_ff = zero, dot_ee = zero, dot_fe = zero;
  IDEM_UNROLL
  for (int i = 0; i < nd; ++i) {
    const V fi = dead ? zero : f[i];
    sum_f[i] = sum_f[i] * keep + w * fi;
    sum_e[i] = sum_e[i] * keep + w * eps[i];
    dot_ff += fi * fi;
    dot_ee += eps[i] * eps[i];
    dot_fe += fi * eps[i];
  }
  t.z = t.z * keep + w;
  t.z2 = t.z2 * keep * keep + w * w;
  // The square of a huge force can overflow; once its weight is zero it must be gone, and 0 * inf is not.
  t.ff = (keep > 0.0f ? t.ff * keep : zero) + (w > 0.0f ? w * dot_ff : zero);
  t.ee = t.ee * keep + w * dot_ee;
  t.fe = (keep > 0.0f ? t.fe * keep : zero) + (w > 0.0f ? w * dot_fe : zero);
  t.top = top;
}

// Lanes put together: sums relative to the largest weight of all, and the squares of the two scores.
struct TargetTotal {
  double top, z, z2, ff, ee, fe, tt, dd, td;
};

IDEM_INLINE void write_target(const TargetArgs& a, int64_t b, const TargetTotal& t) {
  const bool empty = t.z == 0;  // every sample overlaps; a NaN is not empty
  const double inv_z = empty ? 0.0 : 1.0 / t.z, sigma = a.sigma[b];
  const double v_t = t.ff * inv_z - t.tt, v_d = t.ee * inv_z / (sigma * sigma) - t.dd, c = t.fe * inv_z / sigma - t.td;
  const double den = v_t + v_d - 2 * c;
  // One sample left, or an overflow: only S_D is bounded, so it is the one to trust.
  const double alpha = den > 0 && den <= 1e300 ? (v_d - c) / den : 0.0;
  a.alpha[b] = (float)(t.z != t.z ? t.z : alpha < 0 ? 0 : alpha > 1 ? 1 : alpha);
  a.log_mean_exp[b] = empty ? -__builtin_inff() : (float)(t.top + log(t.z / (double)a.n_samples));
  a.ess[b] = empty ? 0.0f : (float)(t.z * t.z / t.z2);
}

}  // namespace IDEM_ISA
}  // namespace idem
