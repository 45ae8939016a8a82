// Lennard-Jones pair arithmetic, written once for every scalar type (float, double, vector lanes).
#pragma once

#if defined(__CUDACC__)
#define IDEM_INLINE __host__ __device__ __forceinline__
#else
#define IDEM_INLINE inline __attribute__((always_inline))
#endif

namespace idem {

// u = epsilon * sum_{i<j} [(r_m/r)^12 - 2 (r_m/r)^6] + trap/2 * sum_i |x_i - centroid|^2, in kT.
struct LennardJonesParams {
  int n_atoms;
  int n_dims;
  double epsilon;
  double r_min;
  double trap;
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

// Energy (returned) and forces f of one cluster per lane; x and f are [n_atoms][D] of lanes.
template <int D, class V, class S>
IDEM_INLINE V lj_energy_forces(const LennardJonesParams& p, const V* x, V* f) {
  const int n = p.n_atoms;
  const S inv_rm2 = (S)(1.0 / (p.r_min * p.r_min)), overlap = (S)kOverlap;
  V u = x[0] * (S)0, closest = u + (S)1, centroid[D];
  for (int d = 0; d < D; ++d) centroid[d] = x[d] * (S)0;
  for (int i = 0; i < n; ++i) {
    V xi[D], fi[D];
    for (int d = 0; d < D; ++d) {
      xi[d] = x[i * D + d];
      fi[d] = xi[d] * (S)0;
      centroid[d] += xi[d];
    }
    for (int j = 0; j < i; ++j) {
      V dx[D], s2 = xi[0] * (S)0;
      for (int d = 0; d < D; ++d) {
        dx[d] = xi[d] - x[j * D + d];
        s2 += dx[d] * dx[d];
      }
      s2 *= inv_rm2;
      closest = s2 < closest ? s2 : closest;
      V e, g;
      lj_pair<V, S>(s2, overlap, e, g);
      u += e;
      for (int d = 0; d < D; ++d) {
        fi[d] += g * dx[d];
        f[j * D + d] -= g * dx[d];
      }
    }
    for (int d = 0; d < D; ++d) f[i * D + d] = fi[d];
  }
  u *= (S)p.epsilon;
  const S scale = (S)(12.0 * p.epsilon) * inv_rm2, trap = (S)p.trap;
  V r2 = u * (S)0;
  for (int d = 0; d < D; ++d) centroid[d] *= (S)(1.0 / n);
  for (int i = 0; i < n; ++i)
    for (int d = 0; d < D; ++d) {
      const V dx = x[i * D + d] - centroid[d];
      r2 += dx * dx;
      f[i * D + d] = scale * f[i * D + d] - trap * dx;
    }
  u += (S)0.5 * trap * r2;
  const S infinity = (S)__builtin_inf();
  return closest < overlap ? closest * (S)0 + infinity : u;
}

}  // namespace idem
