// CPU kernels; compiled once per instruction set (see CMakeLists.txt).
#include "cpu_kernels.hpp"

#include <new>

#include "simd.hpp"

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
    for (int64_t i = 0; i < stride; ++i) dst[i][l] = row[i];
  }
}
template <class T, class V> void scatter(const V* src, int64_t stride, int64_t first, int64_t end, T* dst) {
  constexpr int width = Simd<T>::width;
  for (int l = 0; l < width && first + l < end; ++l)
    for (int64_t i = 0; i < stride; ++i) dst[(first + l) * stride + i] = src[i][l];
}

template <int D, class T>
void energy_forces(const LennardJonesParams& p, const T* x, T* u, T* f, int64_t begin, int64_t end) {
  using V = typename Simd<T>::V;
  const int64_t nd = (int64_t)p.n_atoms * D;
  Scratch<V> scratch(2 * nd);
  V *xv = scratch.data, *fv = xv + nd;
  for (int64_t b = begin; b < end; b += Simd<T>::width) {
    gather<T, V>(x, nd, b, end, xv);
    const V uv = lj_energy_forces<D, V, T>(p, xv, fv);
    scatter<T, V>(&uv, 1, b, end, u);
    scatter<T, V>(fv, nd, b, end, f);
  }
}

// Standard normal noise with the centre of mass removed: isotropic on the mean-free subspace.
template <int D> inline void mean_free_noise(Rng& rng, int n, F* eps) {
  const int nd = n * D;
  F unused;
  for (int i = 0; i + 1 < nd; i += 2) rng.normal_pair(eps[i], eps[i + 1]);
  if (nd % 2) rng.normal_pair(eps[nd - 1], unused);
  for (int d = 0; d < D; ++d) {
    F mean = F{};
    for (int i = 0; i < n; ++i) mean += eps[i * D + d];
    mean *= 1.0f / n;
    for (int i = 0; i < n; ++i) eps[i * D + d] -= mean;
  }
}

// Total potential beta*u + k/2 |x - centre|^2; f becomes the bare force, drift the direction of the proposal: the
// total force with each atom's part cut to the length sqrt(2 D / h), where its move would exceed the noise, and the
// mean removed. Without the cut, chains stick where two atoms are close and the force is steep (MALTA: Roberts &
// Tweedie, Bernoulli 2, 341, 1996); the acceptance step makes any such drift exact.
template <int D>
inline F tempered(const LennardJonesParams& p, F beta, F k, F cap, const F* centre, const F* x, F* f, F* drift, F& u) {
  const int n = p.n_atoms;
  u = lj_energy_forces<D, F, float>(p, x, f);
  F total = beta * u, r2 = F{}, mean[D];
  for (int d = 0; d < D; ++d) mean[d] = F{};
  for (int i = 0; i < n; ++i) {
    F norm2 = F{};
    for (int d = 0; d < D; ++d) {
      F g = beta * f[i * D + d];
      if (centre) {
        const F dx = x[i * D + d] - centre[i * D + d];
        r2 += dx * dx;
        g -= k * dx;
      }
      drift[i * D + d] = g;
      norm2 += g * g;
    }
    const F cut = norm2 > cap * cap ? cap / vsqrt(norm2) : F{} + 1.0f;
    for (int d = 0; d < D; ++d) {
      drift[i * D + d] *= cut;
      mean[d] += drift[i * D + d];
    }
  }
  for (int i = 0; i < n; ++i)
    for (int d = 0; d < D; ++d) drift[i * D + d] -= mean[d] * (1.0f / n);
  return total + 0.5f * k * r2;
}

// Metropolis-adjusted Langevin on beta*u (+ restraint), one chain a lane, the whole loop in here.
template <int D> void mala(const MalaArgs& a, int64_t begin, int64_t end) {
  const int n = a.lj.n_atoms, nd = n * D;
  Scratch<F> scratch(9 * (int64_t)nd);
  F *x = scratch.data, *f = x + nd, *ft = f + nd, *y = ft + nd, *g = y + nd, *gt = g + nd, *eps = gt + nd,
    *mx = eps + nd, *mf = mx + nd;
  Scratch<F> centre_scratch(a.centre ? nd : 1);
  F* centre = a.centre ? centre_scratch.data : nullptr;
  for (int64_t b = begin; b < end; b += kWidth) {
    F h, beta, k = F{}, u;
    gather<float, F>(a.step, 1, b, end, &h);
    gather<float, F>(a.beta, 1, b, end, &beta);
    gather<float, F>(a.x0, nd, b, end, x);
    if (centre) {
      gather<float, F>(a.stiffness, 1, b, end, &k);
      gather<float, F>(a.centre, nd, b, end, centre);
    }
    Rng rng;
    rng.seed(a.seed, (uint64_t)b);
    const F root = vsqrt(2.0f * h), inv4h = 0.25f / h, cap = vsqrt(2.0f * D / h);
    F total = tempered<D>(a.lj, beta, k, cap, centre, x, f, ft, u), accepted = F{};
    for (int i = 0; i < nd; ++i) mx[i] = mf[i] = F{};
    for (int64_t s = 0; s < a.n_steps; ++s) {
      mean_free_noise<D>(rng, n, eps);
      F forward = F{}, reverse = F{}, u_new;
      for (int i = 0; i < nd; ++i) {
        forward += eps[i] * eps[i];
        y[i] = x[i] + h * ft[i] + root * eps[i];
      }
      const F total_new = tempered<D>(a.lj, beta, k, cap, centre, y, g, gt, u_new);
      for (int i = 0; i < nd; ++i) {
        const F back = x[i] - y[i] - h * gt[i];
        reverse += back * back;
      }
      const F log_ratio = total - total_new + 0.5f * forward - inv4h * reverse;
      const I take = vlog(rng.uniform()) < log_ratio;  // false for NaN and for an infinite new energy
      for (int i = 0; i < nd; ++i) {
        x[i] = take ? y[i] : x[i];
        f[i] = take ? g[i] : f[i];
        ft[i] = take ? gt[i] : ft[i];
      }
      u = take ? u_new : u;
      total = take ? total_new : total;
      accepted += take ? F{} + 1.0f : F{};
      if (a.mean_x)
        for (int i = 0; i < nd; ++i) {
          mx[i] += x[i];
          mf[i] += f[i];
        }
    }
    const float inv_steps = 1.0f / (float)(a.n_steps > 0 ? a.n_steps : 1);
    accepted *= inv_steps;
    scatter<float, F>(x, nd, b, end, a.x);
    scatter<float, F>(f, nd, b, end, a.f);
    scatter<float, F>(&u, 1, b, end, a.u);
    scatter<float, F>(&accepted, 1, b, end, a.acceptance);
    if (a.mean_x) {
      for (int i = 0; i < nd; ++i) {
        mx[i] *= inv_steps;
        mf[i] *= inv_steps;
      }
      scatter<float, F>(mx, nd, b, end, a.mean_x);
      scatter<float, F>(mf, nd, b, end, a.mean_f);
    }
  }
}

// Self-normalised importance sampling of the score at x_t, streamed over the K samples: each lane keeps a
// running maximum of -u and everything relative to it, as flash attention does; lanes merge at the end.
template <int D> void dem_target(const TargetArgs& a, int64_t begin, int64_t end) {
  const int n = a.lj.n_atoms, nd = n * D;
  Scratch<F> scratch(6 * (int64_t)nd);
  F *x = scratch.data, *y = x + nd, *f = y + nd, *eps = f + nd, *sum_f = eps + nd, *sum_e = sum_f + nd;
  const float minus_inf = -__builtin_inff();
  I lane;
  for (int l = 0; l < kWidth; ++l) lane[l] = l;
  for (int64_t b = begin; b < end; ++b) {
    const float sigma = a.sigma[b];
    for (int i = 0; i < nd; ++i) {
      x[i] = F{} + a.x[b * nd + i];
      sum_f[i] = sum_e[i] = F{};
    }
    F top = F{} + minus_inf, z = F{}, z2 = F{}, ff = F{}, ee = F{}, fe = F{};
    for (int64_t k = 0; k < a.n_samples; k += kWidth) {
      Rng rng;
      rng.seed(a.seed, (uint64_t)b * (uint64_t)a.n_samples + (uint64_t)k);
      mean_free_noise<D>(rng, n, eps);
      for (int i = 0; i < nd; ++i) y[i] = x[i] + sigma * eps[i];
      const F u = lj_energy_forces<D, F, float>(a.lj, y, f);
      const I dead = (lane >= (int)(a.n_samples - k < kWidth ? a.n_samples - k : kWidth)) | (u == -minus_inf);
      const F log_w = dead ? F{} + minus_inf : -u;
      const F new_top = vmax(log_w, top);
      const I none = new_top == minus_inf;  // this lane has seen no finite energy yet
      const F keep = none ? F{} : vexp(top - new_top), w = none | dead ? F{} : vexp(log_w - new_top);
      F dot_ff = F{}, dot_ee = F{}, dot_fe = F{};
      for (int i = 0; i < nd; ++i) {
        const F fi = dead ? F{} : f[i];
        sum_f[i] = sum_f[i] * keep + w * fi;
        sum_e[i] = sum_e[i] * keep + w * eps[i];
        dot_ff += fi * fi;
        dot_ee += eps[i] * eps[i];
        dot_fe += fi * eps[i];
      }
      z = z * keep + w;
      z2 = z2 * keep * keep + w * w;
      // The square of a huge force can overflow; once its weight is zero it must be gone, and 0 * inf is not.
      ff = (keep > 0.0f ? ff * keep : F{}) + (w > 0.0f ? w * dot_ff : F{});
      ee = ee * keep + w * dot_ee;
      fe = (keep > 0.0f ? fe * keep : F{}) + (w > 0.0f ? w * dot_fe : F{});
      top = new_top;
    }
    float m = minus_inf;
    for (int l = 0; l < kWidth; ++l) m = top[l] > m ? top[l] : m;
    const bool empty = m == minus_inf;
    double Z = 0, Z2 = 0, FF = 0, EE = 0, FE = 0, scale[kWidth];
    for (int l = 0; l < kWidth; ++l) {
      scale[l] = empty || top[l] == minus_inf ? 0.0 : __builtin_exp((double)top[l] - m);
      Z += scale[l] * z[l];
      Z2 += scale[l] * scale[l] * z2[l];
      if (scale[l] > 0) {
        FF += scale[l] * ff[l];
        EE += scale[l] * ee[l];
        FE += scale[l] * fe[l];
      }
    }
    const double inv_z = empty ? 0.0 : 1.0 / Z;
    double tt = 0, dd = 0, td = 0;
    for (int i = 0; i < nd; ++i) {
      double st = 0, sd = 0;
      for (int l = 0; l < kWidth; ++l) {
        st += scale[l] * sum_f[i][l];
        sd += scale[l] * sum_e[i][l];
      }
      st *= inv_z;
      sd *= inv_z / sigma;
      a.s_tsi[b * nd + i] = (float)st;
      a.s_dsi[b * nd + i] = (float)sd;
      tt += st * st;
      dd += sd * sd;
      td += st * sd;
    }
    const double v_t = FF * inv_z - tt, v_d = EE * inv_z / ((double)sigma * sigma) - dd, c = FE * inv_z / sigma - td;
    const double den = v_t + v_d - 2 * c;
    // One sample left, or an overflow: only S_D is bounded, so it is the one to trust.
    const double alpha = den > 0 && den <= 1e300 ? (v_d - c) / den : 0.0;
    a.alpha[b] = (float)(alpha < 0 ? 0 : alpha > 1 ? 1 : alpha);
    a.log_mean_exp[b] = empty ? minus_inf : (float)(m + __builtin_log(Z / (double)a.n_samples));
    a.ess[b] = empty ? 0.0f : (float)(Z * Z / Z2);
  }
}

template <class T>
void energy_forces_any(const LennardJonesParams& p, const T* x, T* u, T* f, int64_t begin, int64_t end) {
  p.n_dims == 3 ? energy_forces<3, T>(p, x, u, f, begin, end) : energy_forces<2, T>(p, x, u, f, begin, end);
}
void mala_any(const MalaArgs& a, int64_t begin, int64_t end) {
  a.lj.n_dims == 3 ? mala<3>(a, begin, end) : mala<2>(a, begin, end);
}
void dem_target_any(const TargetArgs& a, int64_t begin, int64_t end) {
  a.lj.n_dims == 3 ? dem_target<3>(a, begin, end) : dem_target<2>(a, begin, end);
}

#define IDEM_STRING_(x) #x
#define IDEM_STRING(x) IDEM_STRING_(x)

}  // namespace

void pair_splines(const SplineArgs&, int64_t, int64_t);
void message_forward(const MessageArgs&, int64_t, int64_t);
void message_backward(const MessageArgs&, int64_t, int64_t, float*);

const CpuKernels& kernels() {
  static const CpuKernels table{IDEM_STRING(IDEM_ISA), Simd<float>::width, Simd<double>::width,
                                energy_forces_any<float>, energy_forces_any<double>, mala_any, dem_target_any,
                                pair_splines, message_forward, message_backward};
  return table;
}

}  // namespace IDEM_ISA
}  // namespace idem
