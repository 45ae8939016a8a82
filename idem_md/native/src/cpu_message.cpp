// Equivariant message passing over all pairs of small clusters, forward and backward, fused: the filters are
// cubic splines of the log distance, evaluated for each pair in registers and never stored.
#include "splines.hpp"

#define IDEM_RESTRICT __restrict__

namespace idem {
namespace IDEM_ISA {
namespace {

// C as a compile-time constant lets the compiler keep the channel loops in vector registers.
template <int C> struct Channels {
  static constexpr int get(int) { return C; }
};
template <> struct Channels<0> {
  static constexpr int get(int c) { return c; }
};

// The three filters of one pair: w[3C] = sum_m b[m] A[k0 + m].
inline void spline_filter(const float* IDEM_RESTRICT rows, const float* IDEM_RESTRICT b, int width, float* IDEM_RESTRICT w) {
  const float b0 = b[0], b1 = b[1], b2 = b[2], b3 = b[3];
#pragma omp simd
  for (int c = 0; c < width; ++c)
    w[c] = b0 * rows[c] + b1 * rows[width + c] + b2 * rows[2 * width + c] + b3 * rows[3 * width + c];
}

// out = a b; out may be a.
inline void times(const float* a, const float* IDEM_RESTRICT b, int width, float* out) {
#pragma omp simd
  for (int c = 0; c < width; ++c) out[c] = a[c] * b[c];
}

template <int D, int CC> void forward(const MessageArgs& m, int64_t begin, int64_t end) {
  const int C = Channels<CC>::get(m.channels), n = m.n_atoms, pairs = n * (n - 1) / 2;
  alignas(64) float w[3 * kMaxChannels];
  for (int64_t b = begin; b < end; ++b) {
    const float *a = m.a + b * n * 3 * C, *v = m.v + b * n * D * C, *spline = m.spline + b * pairs * 4;
    const float* unit = m.unit + b * pairs * D;
    const int32_t* knot = m.knot + b * pairs;
    float *ds = m.ds + b * n * C, *dv = m.dv + b * n * D * C;
    for (int k = 0; k < n * C; ++k) ds[k] = 0;
    for (int k = 0; k < n * D * C; ++k) dv[k] = 0;
    for (int i = 1, p = 0; i < n; ++i)
      for (int j = 0; j < i; ++j, ++p) {
        spline_filter(m.filter + (int64_t)knot[p] * 3 * C, spline + 4 * p, 3 * C, w);
        if (m.factors) times(w, m.factors + (int64_t)p * 3 * C, 3 * C, w);
        const float *IDEM_RESTRICT ai = a + i * 3 * C, *IDEM_RESTRICT aj = a + j * 3 * C;
        const float *IDEM_RESTRICT vi = v + i * D * C, *IDEM_RESTRICT vj = v + j * D * C;
        float *IDEM_RESTRICT si = ds + i * C, *IDEM_RESTRICT sj = ds + j * C;
        float *IDEM_RESTRICT oi = dv + i * D * C, *IDEM_RESTRICT oj = dv + j * D * C;
        float e[D];
        for (int d = 0; d < D; ++d) e[d] = unit[p * D + d];
#pragma omp simd
        for (int c = 0; c < C; ++c) {
          si[c] += w[c] * aj[c];
          sj[c] += w[c] * ai[c];
          const float uij = w[C + c] * aj[C + c], uji = w[C + c] * ai[C + c];
          const float qij = w[2 * C + c] * aj[2 * C + c], qji = w[2 * C + c] * ai[2 * C + c];
          for (int d = 0; d < D; ++d) {
            oi[d * C + c] += uij * e[d] + qij * vj[d * C + c];
            oj[d * C + c] += qji * vi[d * C + c] - uji * e[d];
          }
        }
      }
  }
}

// Gradients with respect to the spline weights b and the direction e of one pair, from that of its filters.
template <int D, int CC>
inline void geometry_backward(const MessageArgs& m, int64_t pair, int C, const float* IDEM_RESTRICT rows,
                              const float* IDEM_RESTRICT gw, const float* IDEM_RESTRICT wu, const float* IDEM_RESTRICT ui,
                              const float* IDEM_RESTRICT uj, const float* IDEM_RESTRICT gvi,
                              const float* IDEM_RESTRICT gvj) {
  const int width = 3 * C;
  float b0 = 0, b1 = 0, b2 = 0, b3 = 0;
#pragma omp simd reduction(+ : b0, b1, b2, b3)
  for (int c = 0; c < width; ++c) {
    b0 += gw[c] * rows[c];
    b1 += gw[c] * rows[width + c];
    b2 += gw[c] * rows[2 * width + c];
    b3 += gw[c] * rows[3 * width + c];
  }
  float* out = m.gspline + 4 * pair;
  out[0] = b0, out[1] = b1, out[2] = b2, out[3] = b3;
  for (int d = 0; d < D; ++d) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int c = 0; c < C; ++c) sum += wu[c] * (uj[c] * gvi[d * C + c] - ui[c] * gvj[d * C + c]);
    m.gunit[pair * D + d] = sum;
  }
}

template <int D, int CC> void backward(const MessageArgs& m, int64_t begin, int64_t end, float* IDEM_RESTRICT gradients) {
  const int C = Channels<CC>::get(m.channels), n = m.n_atoms, pairs = n * (n - 1) / 2;
  alignas(64) float plain[3 * kMaxChannels], w[3 * kMaxChannels], gw[3 * kMaxChannels];
  const int width = 3 * C;
  const int64_t filters = (int64_t)m.n_basis * width, rest = m.factors ? (int64_t)pairs * width : 0;
  for (int64_t k = 0; gradients && k < filters + rest; ++k) gradients[k] = 0;
  for (int64_t b = begin; b < end; ++b) {
    const float *a = m.a + b * n * 3 * C, *v = m.v + b * n * D * C, *spline = m.spline + b * pairs * 4;
    const float *unit = m.unit + b * pairs * D, *gs = m.gs + b * n * C, *gv = m.gv + b * n * D * C;
    const int32_t* knot = m.knot + b * pairs;
    float *ga = m.ga + b * n * 3 * C, *gvin = m.gvin + b * n * D * C;
    for (int k = 0; k < n * 3 * C; ++k) ga[k] = 0;
    for (int k = 0; k < n * D * C; ++k) gvin[k] = 0;
    for (int i = 1, p = 0; i < n; ++i)
      for (int j = 0; j < i; ++j, ++p) {
        const float* factor = m.factors ? m.factors + (int64_t)p * width : nullptr;
        spline_filter(m.filter + (int64_t)knot[p] * width, spline + 4 * p, width, factor ? plain : w);
        if (factor) times(plain, factor, width, w);
        const float *IDEM_RESTRICT ai = a + i * 3 * C, *IDEM_RESTRICT aj = a + j * 3 * C;
        const float *IDEM_RESTRICT vi = v + i * D * C, *IDEM_RESTRICT vj = v + j * D * C;
        const float *IDEM_RESTRICT gsi = gs + i * C, *IDEM_RESTRICT gsj = gs + j * C;
        const float *IDEM_RESTRICT gvi = gv + i * D * C, *IDEM_RESTRICT gvj = gv + j * D * C;
        float *IDEM_RESTRICT gai = ga + i * 3 * C, *IDEM_RESTRICT gaj = ga + j * 3 * C;
        float *IDEM_RESTRICT hi = gvin + i * D * C, *IDEM_RESTRICT hj = gvin + j * D * C;
        float e[D];
        for (int d = 0; d < D; ++d) e[d] = unit[p * D + d];
#pragma omp simd
        for (int c = 0; c < C; ++c) {
          const float ws = w[c], wu = w[C + c], wv = w[2 * C + c];
          float ui = 0, uj = 0, qi = 0, qj = 0;
          const float wvi = wv * aj[2 * C + c], wvj = wv * ai[2 * C + c];
          for (int d = 0; d < D; ++d) {
            const float gi = gvi[d * C + c], gj = gvj[d * C + c];
            ui += gi * e[d];
            uj -= gj * e[d];
            qi += gi * vj[d * C + c];
            qj += gj * vi[d * C + c];
            hj[d * C + c] += wvi * gi;
            hi[d * C + c] += wvj * gj;
          }
          gw[c] = aj[c] * gsi[c] + ai[c] * gsj[c];
          gw[C + c] = aj[C + c] * ui + ai[C + c] * uj;
          gw[2 * C + c] = aj[2 * C + c] * qi + ai[2 * C + c] * qj;
          gaj[c] += ws * gsi[c];
          gai[c] += ws * gsj[c];
          gaj[C + c] += wu * ui;
          gai[C + c] += wu * uj;
          gaj[2 * C + c] += wv * qi;
          gai[2 * C + c] += wv * qj;
        }
        if (factor && gradients) {
          float* IDEM_RESTRICT out = gradients + filters + (int64_t)p * width;
#pragma omp simd
          for (int c = 0; c < width; ++c) out[c] += gw[c] * plain[c];
        }
        if (factor) times(gw, factor, width, gw);
        if (gradients) {
          float* IDEM_RESTRICT rows = gradients + (int64_t)knot[p] * 3 * C;
          const float b0 = spline[4 * p], b1 = spline[4 * p + 1], b2 = spline[4 * p + 2], b3 = spline[4 * p + 3];
#pragma omp simd
          for (int c = 0; c < 3 * C; ++c) {
            rows[c] += b0 * gw[c];
            rows[3 * C + c] += b1 * gw[c];
            rows[6 * C + c] += b2 * gw[c];
            rows[9 * C + c] += b3 * gw[c];
          }
        }
        if (m.gspline)
          geometry_backward<D, CC>(m, b * pairs + p, C, m.filter + (int64_t)knot[p] * 3 * C, gw, w + C, ai + C, aj + C,
                                   gvi, gvj);
      }
  }
}

// The direction from x_j to x_i, and the distance.
inline float direction(const float* xi, const float* xj, int n_dims, float* e) {
  float r2 = 0;
  for (int d = 0; d < n_dims; ++d) {
    e[d] = xi[d] - xj[d];
    r2 += e[d] * e[d];
  }
  const float r = regular_distance(r2);
  for (int d = 0; d < n_dims; ++d) e[d] /= r;
  return r;
}

}  // namespace

void pair_splines(const SplineArgs& s, int64_t begin, int64_t end) {
  const int n = s.n_atoms, D = s.n_dims, pairs = n * (n - 1) / 2;
  for (int64_t b = begin; b < end; ++b)
    for (int i = 1, p = 0; i < n; ++i)
      for (int j = 0; j < i; ++j, ++p) {
        const int64_t pair = b * pairs + p;
        const float r = direction(s.x + (b * n + i) * D, s.x + (b * n + j) * D, D, s.unit + pair * D);
        s.knot[pair] = spline_weights(s.scale, r, s.spline + 4 * pair);
      }
}

// Gradients with respect to positions, from those with respect to what `pair_splines` made of them.
void pair_splines_backward(const SplineArgs& s, int64_t begin, int64_t end) {
  const int n = s.n_atoms, D = s.n_dims, pairs = n * (n - 1) / 2;
  for (int64_t b = begin; b < end; ++b) {
    float* gx = s.gx + b * n * D;
    for (int k = 0; k < n * D; ++k) gx[k] = 0;
    for (int i = 1, p = 0; i < n; ++i)
      for (int j = 0; j < i; ++j, ++p) {
        const float *g = s.gspline + (b * pairs + p) * 4, *ge = s.gunit + (b * pairs + p) * D;
        float e[3], along = 0;
        const float r = direction(s.x + (b * n + i) * D, s.x + (b * n + j) * D, D, e);
        for (int d = 0; d < D; ++d) along += ge[d] * e[d];
        const float slope = spline_slope(s.scale, r, g);
        for (int d = 0; d < D; ++d) {
          const float pull = (ge[d] - along * e[d]) / r + slope * e[d];
          gx[i * D + d] += pull;
          gx[j * D + d] -= pull;
        }
      }
  }
}

void message_forward(const MessageArgs& m, int64_t begin, int64_t end) {
  if (m.n_dims == 3)
    m.channels == 64   ? forward<3, 64>(m, begin, end)
    : m.channels == 32 ? forward<3, 32>(m, begin, end)
                       : forward<3, 0>(m, begin, end);
  else
    m.channels == 64 ? forward<2, 64>(m, begin, end) : forward<2, 0>(m, begin, end);
}

void message_backward(const MessageArgs& m, int64_t begin, int64_t end, float* gradients) {
  if (m.n_dims == 3)
    m.channels == 64   ? backward<3, 64>(m, begin, end, gradients)
    : m.channels == 32 ? backward<3, 32>(m, begin, end, gradients)
                       : backward<3, 0>(m, begin, end, gradients);
  else
    m.channels == 64 ? backward<2, 64>(m, begin, end, gradients) : backward<2, 0>(m, begin, end, gradients);
}

}  // namespace IDEM_ISA
}  // namespace idem
