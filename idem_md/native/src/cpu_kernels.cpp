// CPU kernels; compiled once per instruction set (see CMakeLists.txt).
#include "cpu_kernels.hpp"

#include <new>

#if defined(IDEM_SCALAR)
#include "philox.hpp"
#else
#include "simd.hpp"
#endif
#include "algorithms.hpp"

namespace idem {
namespace IDEM_ISA {
namespace {

// Scratch of lanes, aligned for the widest vector.
template <class V> struct Scratch {
  V* data;
  explicit Scratch(int64_t n) : data(static_cast<V*>(::operator new(sizeof(V) * n, std::align_val_t(64)))) {}
  ~Scratch() { ::operator delete(data, std::align_val_t(64)); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
};

// Items past the end repeat the last one: they cost nothing extra and their result is dropped.
template <class T, class V> void gather(const T* src, int64_t stride, int64_t first, int64_t end, V* dst) {
  constexpr int width = Simd<T>::width;
  for (int l = 0; l < width; ++l) {
    const T* row = src + (first + l < end ? first + l : end - 1) * stride;
    for (int64_t i = 0; i < stride; ++i) lane(dst[i], l) = row[i];
  }
}
template <class T, class V> void scatter(const V* src, int64_t stride, int64_t first, int64_t end, T* dst) {
  constexpr int width = Simd<T>::width;
  for (int l = 0; l < width && first + l < end; ++l)
    for (int64_t i = 0; i < stride; ++i) dst[(first + l) * stride + i] = lane(src[i], l);
}

template <int D, bool kMixed, int N, class T>
void energy_forces(const LennardJonesParams& p, const T* x, T* u, T* f, int64_t begin, int64_t end) {
  using V = typename Simd<T>::V;
  const int64_t nd = (int64_t)p.n_atoms * D;
  Scratch<V> scratch(2 * nd);
  V *xv = scratch.data, *fv = xv + nd;
  for (int64_t b = begin; b < end; b += Simd<T>::width) {
    gather<T, V>(x, nd, b, end, xv);
    const V uv = lj_energy_forces<D, kMixed, N, V, T>(p, xv, fv);
    scatter<T, V>(&uv, 1, b, end, u);
    scatter<T, V>(fv, nd, b, end, f);
  }
}

// Metropolis-adjusted Langevin on beta*u (+ restraint), one chain a lane.
template <int D, bool kMixed> void mala(const MalaArgs& a, int64_t begin, int64_t end) {
  const int64_t nd = (int64_t)a.lj.n_atoms * D;
  Scratch<F> scratch(10 * nd);
  const Solo<> solo(a.lj.n_atoms);
  F *x = scratch.data, *f = x + nd, *ft = f + nd, *mx = ft + nd, *mf = mx + nd, *centre = mf + nd;
  const Scratch4<F*> move{centre + nd, centre + 2 * nd, centre + 3 * nd, centre + 4 * nd};
  for (int64_t b = begin; b < end; b += kWidth) {
    F h, beta, u;
    Restraint<F, F*> restraint{a.centre != nullptr, F{}, centre};
    gather<float, F>(a.step, 1, b, end, &h);
    gather<float, F>(a.beta, 1, b, end, &beta);
    gather<float, F>(a.x0, nd, b, end, x);
    if (restraint.on) {
      gather<float, F>(a.stiffness, 1, b, end, &restraint.k);
      gather<float, F>(a.centre, nd, b, end, centre);
    }
    Rng rng;
    rng.seed(a.seed, (uint64_t)b);
    for (int64_t i = 0; i < nd; ++i) mx[i] = mf[i] = F{};
    u = lj_energy_forces<D, kMixed, 0, F, float>(a.lj, x, f);
    F accepted = hmc_steps<D, kMixed>(solo, a.lj, rng, a.n_steps, 1, h, beta, restraint, x, f, ft, u, move,
                                      a.mean_x != nullptr, mx, mf);
    accepted = share(accepted, a.n_steps);
    scatter<float, F>(x, nd, b, end, a.x);
    scatter<float, F>(f, nd, b, end, a.f);
    scatter<float, F>(&u, 1, b, end, a.u);
    scatter<float, F>(&accepted, 1, b, end, a.acceptance);
    if (a.mean_x) {
      for (int64_t i = 0; i < nd; ++i) {
        mx[i] = share(mx[i], a.n_steps);
        mf[i] = share(mf[i], a.n_steps);
      }
      scatter<float, F>(mx, nd, b, end, a.mean_x);
      scatter<float, F>(mf, nd, b, end, a.mean_f);
    }
  }
}

// Replica exchange, one ladder a lane.
template <int D, bool kMixed> void tempering(const TemperingArgs& a, int64_t begin, int64_t end) {
  const int64_t nd = (int64_t)a.lj.n_atoms * D, rungs = a.n_rungs;
  Scratch<F> scratch(2 * rungs * nd + 5 * nd + 4 * rungs);
  const Solo<> solo(a.lj.n_atoms);
  F *x = scratch.data, *f = x + rungs * nd, *ft = f + rungs * nd, *u = ft + 5 * nd, *seen = u + rungs,
    *accepted = seen + rungs, *swaps = accepted + rungs;
  const Scratch4<F*> move{ft + nd, ft + 2 * nd, ft + 3 * nd, ft + 4 * nd};
  for (int64_t b = begin; b < end; b += kWidth) {
    gather<float, F>(a.x0, rungs * nd, b, end, x);
    Rng rng;
    rng.seed(a.seed, (uint64_t)b);
    F trips = F{};
    for (int r = 0; r < rungs; ++r) {
      seen[r] = accepted[r] = swaps[r] = F{};
      F* fr = f + r * nd;
      u[r] = lj_energy_forces<D, kMixed, 0, F, float>(a.lj, x + r * nd, fr);
    }
    for (int64_t round = 0; round < a.n_rounds; ++round) {
      for (int r = 0; r < rungs; ++r)
        accepted[r] += hmc_steps<D, kMixed>(solo, a.lj, rng, a.n_steps, 1, F{} + a.step[r], F{} + a.beta[r],
                                            Restraint<F, F*>{}, x + r * nd, f + r * nd, ft, u[r], move, false, ft, ft);
      swap_rungs<D>(solo, rng, a.beta, (int)rungs, (int)nd, round, x, f, u, seen, swaps, trips);
      for (int l = 0; l < kWidth && b + l < end; ++l)
        for (int r = 0; r < rungs; ++r) a.trace[((b + l) * a.n_rounds + round) * rungs + r] = lane(u[r], l);
    }
    for (int r = 0; r < rungs; ++r) {
      accepted[r] = share(accepted[r], a.n_rounds * a.n_steps);
      swaps[r] = share(swaps[r], swap_attempts(a.n_rounds, r));
    }
    scatter<float, F>(x, rungs * nd, b, end, a.x);
    scatter<float, F>(f, rungs * nd, b, end, a.f);
    scatter<float, F>(u, rungs, b, end, a.u);
    scatter<float, F>(accepted, rungs, b, end, a.acceptance);
    scatter<float, F>(swaps, rungs - 1, b, end, a.swaps);
    scatter<float, F>(&trips, 1, b, end, a.round_trips);
  }
}

// Annealed importance sampling, one chain a lane; weights are summed in double.
template <int D, bool kMixed> void anneal(const AnnealArgs& a, int64_t begin, int64_t end) {
  const int64_t nd = (int64_t)a.lj.n_atoms * D;
  Scratch<F> scratch(10 * nd);
  const Solo<> solo(a.lj.n_atoms);
  F *x = scratch.data, *f = x + nd, *ft = f + nd, *x_t = ft + nd, *mean = x_t + nd, *centre = mean + nd;
  const Scratch4<F*> move{centre + nd, centre + 2 * nd, centre + 3 * nd, centre + 4 * nd};
  const F spread = F{} + 1.0f / __builtin_sqrtf(a.from);
  for (int64_t b = begin; b < end; b += kWidth) {
    gather<float, F>(a.mean, nd, b, end, mean);
    gather<float, F>(a.x_t, nd, b, end, x_t);
    Rng rng;
    rng.seed(a.seed, (uint64_t)b);
    if (a.start) {
      gather<float, F>(a.start, nd, b, end, x);
    } else {
      mean_free_noise<D>(solo, rng, x);
      for (int64_t i = 0; i < nd; ++i) x[i] = mean[i] + spread * x[i];
    }
    F u = lj_energy_forces<D, kMixed, 0, F, float>(a.lj, x, f);
    double log_w[kWidth] = {};
    for (int64_t t = 0; t < a.n_stages; ++t) {
      const F slope = anneal_slope<D>(solo, a.from, a.to, a.end, u, x, x_t, mean);
      const double rise = a.beta[t + 1] - a.beta[t];
      for (int l = 0; l < kWidth; ++l) {
        log_w[l] += rise * (double)lane(slope, l);
        if (a.increments && b + l < end) a.increments[(b + l) * a.n_stages + t] = (float)(rise * (double)lane(slope, l));
      }
      const F k = anneal_restraint<D, F>(solo, a.beta[t + 1], a.from, a.to, x_t, mean, centre);
      F accepted = hmc_steps<D, kMixed>(solo, a.lj, rng, a.n_moves, a.n_leapfrogs, F{} + a.step[t],
                                        F{} + (float)(a.beta[t + 1] * a.end), Restraint<F, F*>{true, k, centre}, x, f, ft, u,
                                        move, false, x, x);
      if (!a.acceptance) continue;
      accepted = share(accepted, a.n_moves);
      for (int l = 0; l < kWidth && b + l < end; ++l) a.acceptance[(b + l) * a.n_stages + t] = lane(accepted, l);
    }
    scatter<float, F>(x, nd, b, end, a.x);
    scatter<float, F>(&u, 1, b, end, a.u);
    for (int l = 0; l < kWidth && b + l < end; ++l) a.log_w[b + l] = log_w[l];
  }
}

template <int D, bool kMixed, int N = 0> void dem_scores(const TargetArgs& a, int64_t begin, int64_t end) {
  const int n = N ? N : a.lj.n_atoms, nd = n * D;
  Scratch<F> scratch(6 * (int64_t)nd);
  F *x = scratch.data, *y = x + nd, *f = y + nd, *eps = f + nd, *sum_f = eps + nd, *sum_e = sum_f + nd;
  for (int64_t b = begin; b < end; ++b) {
    const float sigma = a.sigma[b];
    for (int i = 0; i < nd; ++i) {
      x[i] = F{} + a.x[b * nd + i];
      sum_f[i] = sum_e[i] = F{};
    }
    TargetLane<F> t;
    t.clear();
    for (int64_t k = 0; k < a.n_samples; k += kWidth) {
      Rng rng;
      rng.seed(a.seed, (uint64_t)b * (uint64_t)a.n_samples + (uint64_t)k);
      mean_free_noise<D, N>(Solo<N>(n), rng, eps);
      for (int i = 0; i < nd; ++i) y[i] = x[i] + sigma * eps[i];
      const F u = lj_energy_forces<D, kMixed, N, F, float>(a.lj, y, f);
      const auto past_the_end = lane_index() >= F{} + (float)(a.n_samples - k < kWidth ? a.n_samples - k : kWidth);
      add_sample(t, nd, u, past_the_end, f, eps, sum_f, sum_e);
    }
    TargetTotal total{};
    float top = -__builtin_inff();
    for (int l = 0; l < kWidth; ++l) top = lane(t.top, l) > top ? lane(t.top, l) : top;
    double scale[kWidth];
    for (int l = 0; l < kWidth; ++l) {
      const bool none = lane(t.top, l) == -__builtin_inff();
      scale[l] = none ? 0.0 : __builtin_exp((double)lane(t.top, l) - top);
      total.z += scale[l] * lane(t.z, l);
      total.z2 += scale[l] * scale[l] * lane(t.z2, l);
      if (scale[l] > 0) {
        total.ff += scale[l] * lane(t.ff, l);
        total.ee += scale[l] * lane(t.ee, l);
        total.fe += scale[l] * lane(t.fe, l);
      }
    }
    total.top = top;
    const double inv_z = total.z == 0 ? 0.0 : 1.0 / total.z;
    for (int i = 0; i < nd; ++i) {
      double st = 0, sd = 0;
      for (int l = 0; l < kWidth; ++l) {
        st += scale[l] * lane(sum_f[i], l);
        sd += scale[l] * lane(sum_e[i], l);
      }
      st *= inv_z;
      sd *= inv_z / sigma;
      a.s_tsi[b * nd + i] = (float)st;
      a.s_dsi[b * nd + i] = (float)sd;
      total.tt += st * st;
      total.dd += sd * sd;
      total.td += st * sd;
    }
    write_target(a, b, total);
  }
}

template <int D> void noise_of(const NoiseArgs& a, int64_t begin, int64_t end) {
  const int64_t nd = (int64_t)a.n_atoms * D;
  Scratch<F> eps(nd);
  for (int64_t b = begin; b < end; b += kWidth) {
    Rng rng;
    rng.seed(a.seed, (uint64_t)b);
    mean_free_noise<D>(Solo<>(a.n_atoms), rng, eps.data);
    scatter<float, F>(eps.data, nd, b, end, a.eps);
  }
}
void noise(const NoiseArgs& a, int64_t begin, int64_t end) {
  a.n_dims == 3 ? noise_of<3>(a, begin, end) : noise_of<2>(a, begin, end);
}

double fma_loop(int64_t n) {
  F acc[10];
  for (int i = 0; i < 10; ++i) acc[i] = F{} + (float)i;
  F a = F{} + 0.999f, b = F{} + 1e-3f;
  asm volatile("" : "+m"(a), "+m"(b));  // or the compiler would fold the loop
  for (int64_t s = 0; s < n; s += 10)
    for (int i = 0; i < 10; ++i) acc[i] = acc[i] * a + b;
  double sum = 0;
  for (int i = 0; i < 10; ++i) sum += lane(acc[i], 0);
  return sum;
}

// One instantiation for each number of dimensions and of species.
#define IDEM_DISPATCH(lj, FN, ...)                                                          \
  ((lj).n_dims == 3 ? ((lj).species ? FN<3, true>(__VA_ARGS__) : FN<3, false>(__VA_ARGS__)) \
                    : ((lj).species ? FN<2, true>(__VA_ARGS__) : FN<2, false>(__VA_ARGS__)))

// The size that CUDA compiles apart, so that the tests run that instantiation too.
bool is_fixed(const LennardJonesParams& p) {
#if defined(IDEM_SCALAR)
  return p.n_atoms == kFixedAtoms && p.n_dims == 3 && !p.species;
#else
  (void)p;
  return false;
#endif
}

template <class T>
void energy_forces_any(const LennardJonesParams& p, const T* x, T* u, T* f, int64_t begin, int64_t end) {
  if (is_fixed(p)) return energy_forces<3, false, kFixedAtoms, T>(p, x, u, f, begin, end);
  p.n_dims == 3 ? (p.species ? energy_forces<3, true, 0, T>(p, x, u, f, begin, end) : energy_forces<3, false, 0, T>(p, x, u, f, begin, end))
                : (p.species ? energy_forces<2, true, 0, T>(p, x, u, f, begin, end) : energy_forces<2, false, 0, T>(p, x, u, f, begin, end));
}
void mala_any(const MalaArgs& a, int64_t begin, int64_t end) { IDEM_DISPATCH(a.lj, mala, a, begin, end); }
void tempering_any(const TemperingArgs& a, int64_t begin, int64_t end) { IDEM_DISPATCH(a.lj, tempering, a, begin, end); }
void anneal_any(const AnnealArgs& a, int64_t begin, int64_t end) { IDEM_DISPATCH(a.lj, anneal, a, begin, end); }
void dem_scores_any(const TargetArgs& a, int64_t begin, int64_t end) {
  if (is_fixed(a.lj)) return dem_scores<3, false, kFixedAtoms>(a, begin, end);
  IDEM_DISPATCH(a.lj, dem_scores, a, begin, end);
}

#define IDEM_STRING_(x) #x
#define IDEM_STRING(x) IDEM_STRING_(x)

}  // namespace

#if !defined(IDEM_SCALAR)
void pair_splines(const SplineArgs&, int64_t, int64_t);
void pair_splines_backward(const SplineArgs&, int64_t, int64_t);
void message_forward(const MessageArgs&, int64_t, int64_t);
void message_backward(const MessageArgs&, int64_t, int64_t, float*);
int64_t energy_network_floats(const EnergyNetworkArgs&);
void energy_network(const EnergyNetworkArgs&, int64_t, int64_t, float*);
#endif

const CpuKernels& kernels() {
  static const CpuKernels table{IDEM_STRING(IDEM_ISA), Simd<float>::width, Simd<double>::width,
                                energy_forces_any<float>, energy_forces_any<double>, mala_any, tempering_any, anneal_any, dem_scores_any,
                                noise, fma_loop,
#if defined(IDEM_SCALAR)
                                nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
#else
                                pair_splines, pair_splines_backward, message_forward, message_backward,
                                energy_network_floats, energy_network};
#endif
  return table;
}

}  // namespace IDEM_ISA
}  // namespace idem
