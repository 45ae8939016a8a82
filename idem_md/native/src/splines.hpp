// Cubic B-splines in the logarithm of a distance: t = (log(r / length + shift) - lo) / width.
#pragma once
#include <cmath>

#include "cpu_kernels.hpp"
#include "simd.hpp"

namespace idem {
namespace IDEM_ISA {

static inline float regular_distance(float r2) { return std::sqrt(r2 + 1e-12f); }

// The first of the four basis functions that are not zero at r, and their values w[4].
static inline int spline_weights(const SplineScale& s, float r, float* w) {
  const float last = (float)(s.n_basis - 4);
  float t = (std::log(r / s.length + s.shift) - s.lo) / s.width;
  // A NaN must not become an index; it travels on in the direction instead.
  t = t > 0.0f ? (t < last + 0.999999f ? t : last + 0.999999f) : 0.0f;
  int k = (int)t;
  if (k > s.n_basis - 4) k = s.n_basis - 4;
  const float q = t - (float)k, o = 1.0f - q;
  w[0] = o * o * o / 6.0f;
  w[1] = (3.0f * q * q * q - 6.0f * q * q + 4.0f) / 6.0f;
  w[2] = (3.0f * o * o * o - 6.0f * o * o + 4.0f) / 6.0f;
  w[3] = q * q * q / 6.0f;
  return k;
}

// How what has the gradient g[4] in those values changes with r; not at all where t is held within the basis.
static inline float spline_slope(const SplineScale& s, float r, const float* g) {
  const float inner = r / s.length + s.shift, t = (std::log(inner) - s.lo) / s.width, last = (float)(s.n_basis - 4);
  if (!(t > 0.0f && t < last + 0.999999f)) return 0.0f;
  const int k = (int)t < s.n_basis - 4 ? (int)t : s.n_basis - 4;
  const float q = t - (float)k, o = 1.0f - q;
  const float slope =
      0.5f * (-o * o * g[0] + (3.0f * q * q - 4.0f * q) * g[1] + (4.0f * o - 3.0f * o * o) * g[2] + q * q * g[3]);
  return slope / (inner * s.length * s.width);
}

}  // namespace IDEM_ISA
}  // namespace idem
