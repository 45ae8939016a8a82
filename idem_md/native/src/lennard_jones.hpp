// Lennard-Jones pair arithmetic, written once for every scalar type (float, double, vector lanes) and every device.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define IDEM_INLINE __host__ __device__ __forceinline__
#define IDEM_UNROLL _Pragma("unroll")
#else
#define IDEM_INLINE inline __attribute__((always_inline))
#define IDEM_UNROLL
#endif

namespace idem {

// u = sum_{i<j} epsilon_ij [(r_ij/r)^12 - 2 (r_ij/r)^6] + trap/2 * sum_i |x_i - centroid|^2, in kT.
struct LennardJonesParams {
  int n_atoms;
  int n_dims;
  double trap;
  double epsilon[2][2];   // by species; only [0][0] is read when `species` is null
  double r_min[2][2];
  const uint8_t* species; // (n_atoms) of 0 or 1, or null for one species
};

// Below this (r/r_m)^2 the energy is +inf; the force is that of the threshold distance, so it stays
// finite in float32 (s^-14 = 1e35).
constexpr double kOverlap = 1e-5;

// With s2 = (r/r_m)^2: energy = s^-12 - 2 s^-6 and g with force_on_i = 12 epsilon / r_m^2 * g * (x_i - x_j).
// A NaN distance stays NaN: it must not pass for an overlap.
template <class V, class S>
IDEM_INLINE void lj_pair(V s2, S overlap, V& energy, V& g) {
  const V clamped = s2 < overlap ? s2 * (S)0 + overlap : s2;
  const V inv = (S)1 / clamped;
  const V inv6 = inv * inv * inv;
  energy = inv6 * (inv6 - (S)2);
  g = inv6 * (inv6 - (S)1) * inv;
}

// Energy (returned) and forces f of one cluster per lane; x and f are indexed [atom * D + d], by pointer or by any
// class with operator[]. kMixed: two species. N: the number of atoms where it is known at compile time, else 0.
template <int D, bool kMixed, int N, class V, class S, class X, class Y>
IDEM_INLINE V lj_energy_forces(const LennardJonesParams& p, const X& x, Y& f) {
  const int n = N ? N : p.n_atoms;
  const S overlap = (S)kOverlap;
  const V zero = x[0] * (S)0;
  S inv_rm2[2][2], eps[2][2], scale[2][2];
  for (int a = 0; a < (kMixed ? 2 : 1); ++a)
    for (int b = 0; b < (kMixed ? 2 : 1); ++b) {
      inv_rm2[a][b] = (S)(1.0 / (p.r_min[a][b] * p.r_min[a][b]));
      eps[a][b] = (S)p.epsilon[a][b];
      scale[a][b] = (S)12 * eps[a][b] * inv_rm2[a][b];
    }
  V u = zero, closest = zero + (S)1, centroid[D];
  for (int d = 0; d < D; ++d) centroid[d] = zero;
  IDEM_UNROLL
  for (int i = 0; i < n; ++i) {
    V xi[D], fi[D], ui = zero;  // summed a row at a time: a running float32 sum of 500,000 pairs would lose digits
    for (int d = 0; d < D; ++d) {
      xi[d] = x[i * D + d];
      fi[d] = zero;
      centroid[d] += xi[d];
    }
    const int a = kMixed ? p.species[i] : 0;
    IDEM_UNROLL
    for (int j = 0; j < i; ++j) {
      const int b = kMixed ? p.species[j] : 0;
      V dx[D], s2 = zero;
      for (int d = 0; d < D; ++d) {
        dx[d] = xi[d] - x[j * D + d];
        s2 += dx[d] * dx[d];
      }
      s2 *= inv_rm2[a][b];
      closest = s2 < closest ? s2 : closest;
      V e, g;
      lj_pair<V, S>(s2, overlap, e, g);
      if (kMixed) e *= eps[a][b];
      ui += e;
      for (int d = 0; d < D; ++d) {
        // In this order: g alone reaches 1e35, and dx is small where it does.
        const V push = kMixed ? g * dx[d] * scale[a][b] : g * dx[d];
        fi[d] += push;
        f[j * D + d] = f[j * D + d] - push;
      }
    }
    u += ui;
    for (int d = 0; d < D; ++d) f[i * D + d] = fi[d];
  }
  const S factor = kMixed ? (S)1 : scale[0][0], trap = (S)p.trap;
  if (!kMixed) u *= eps[0][0];
  V r2 = zero;
  for (int d = 0; d < D; ++d) centroid[d] *= (S)(1.0 / n);
  IDEM_UNROLL
  for (int i = 0; i < n; ++i)
    for (int d = 0; d < D; ++d) {
      const V dx = x[i * D + d] - centroid[d];
      r2 += dx * dx;
      f[i * D + d] = factor * f[i * D + d] - trap * dx;
    }
  u += (S)0.5 * trap * r2;
  const S infinity = (S)__builtin_inf();
  return closest < overlap ? zero + infinity : u;
}

}  // namespace idem
