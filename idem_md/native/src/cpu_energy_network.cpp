// Energies of the PaiNN-like network of nets/painn.py with a readout, in three dimensions, and their gradients with
// respect to positions: forward and backward of a few configurations at a time, so that all between stays in the cache.
#include "splines.hpp"

#define IDEM_RESTRICT __restrict__

namespace idem {
namespace IDEM_ISA {

void pair_splines(const SplineArgs&, int64_t, int64_t);
void pair_splines_backward(const SplineArgs&, int64_t, int64_t);
void message_forward(const MessageArgs&, int64_t, int64_t);
void message_backward(const MessageArgs&, int64_t, int64_t, float*);

namespace {

// Atoms that are worked on at a time, if that is more than one configuration: enough rows for the products.
constexpr int kAtoms = 64;
constexpr int D = 3;

typedef float Loose __attribute__((vector_size(IDEM_VECTOR_BYTES), aligned(4), may_alias));
inline F load(const float* p) { return (F) * (const Loose*)p; }
inline void store(float* p, F v) { *(Loose*)p = (Loose)v; }

// R rows and V vectors of columns of out = a b + bias, or out += a b.
template <int R, int V, bool Add>
inline void block(const float* IDEM_RESTRICT a, int lda, const float* IDEM_RESTRICT b, int n, const float* bias,
                  float* IDEM_RESTRICT out, int ldo, int k) {
  F sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v)
      sum[r][v] = Add ? load(out + r * ldo + v * kWidth) : bias ? load(bias + v * kWidth) : F{};
  for (int i = 0; i < k; ++i) {
    F column[V];
    for (int v = 0; v < V; ++v) column[v] = load(b + (int64_t)i * n + v * kWidth);
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < V; ++v) sum[r][v] += a[r * lda + i] * column[v];
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(out + r * ldo + v * kWidth, sum[r][v]);
}

template <int V, bool Add>
inline void columns(const float* a, int lda, const float* b, int n, const float* bias, float* out, int ldo, int m, int k) {
  constexpr int R = IDEM_VECTOR_BYTES == 64 ? 8 : 4;  // as many sums as there are registers for
  int r = 0;
  for (; r + R <= m; r += R) block<R, V, Add>(a + r * lda, lda, b, n, bias, out + r * ldo, ldo, k);
  for (; r < m; ++r) block<1, V, Add>(a + r * lda, lda, b, n, bias, out + r * ldo, ldo, k);
}

// out (m,n) = a (m,k) b (k,n) + bias, or out += a b; n is a multiple of 16. lda and ldo are the lengths of rows.
template <bool Add = false>
void product(const float* a, int lda, const float* b, const float* bias, float* out, int ldo, int m, int k, int n) {
  int c = 0;
  for (; c + 2 * kWidth <= n; c += 2 * kWidth)
    columns<2, Add>(a, lda, b + c, n, bias ? bias + c : nullptr, out + c, ldo, m, k);
  if (c < n) columns<1, Add>(a, lda, b + c, n, bias ? bias + c : nullptr, out + c, ldo, m, k);
}

// y = x sigmoid(x) in the place of x, and its slope.
void silu(float* x, float* slope, int n) {
  for (int i = 0; i < n; i += kWidth) {
    const F v = load(x + i), e = vexp(v < 0.0f ? v : -v), s = (v < 0.0f ? e : F{} + 1.0f) / (e + 1.0f);
    store(x + i, v * s);
    store(slope + i, s * (v * (1.0f - s) + 1.0f));
  }
}

void scale(float* x, const float* by, int n) {
  for (int i = 0; i < n; i += kWidth) store(x + i, load(x + i) * load(by + i));
}

struct Layer {
  // From the Python side, as torch has them: (out, in), for the way back.
  const float *node1, *node1_bias, *node2, *node2_bias, *filter, *mix, *gate1, *gate1_bias, *gate2, *gate2_bias;
  // Transposed, for the way forth.
  float *node1_t, *node2_t, *mix_t, *gate1_t, *gate2_t;
  // What the way back needs of the way forth: T atoms, C channels.
  float *a, *v;                        // (T,3C), (T,D,C)
  float *mixed, *both, *dot, *gate;    // (T,D,2C), (T,2C), (T,C), (T,3C)
  float *slope1, *slope2;              // (T,C)
};

constexpr int kMaxLayers = 16;

// Weights and room for work, laid out one after the other; with null pointers it only counts.
struct Room {
  int n, C, L, K, T, G;
  const float *start, *scalar_in, *vector_in;  // (N,C), (K,C), (C)
  const float *out1, *out1_bias, *out2;        // (C,C), (C), (C)
  float *out1_t, *s, *hidden, *dv, *slope3;    // (C,C), (T,C), (T,C), (T,D,C), (T,C)
  float *gs, *gv, *ga, *gvin, *gmixed, *gboth, *ggate;
  float *unit, *spline, *gunit, *gspline, *gunit1, *gspline1, *y, *root, *gradient;
  int32_t *knot, *root_knot;
  Layer layer[kMaxLayers];
  int64_t floats = 0, numbers = 0;

  Room(const EnergyNetworkArgs& e, float* work)
      : n(e.n_atoms), C(e.channels), L(e.n_layers), K(e.scale.n_basis), G(n < kAtoms ? kAtoms / n : 1) {
    T = G * n;
    const int pairs = n * (n - 1) / 2;
    auto given = [&](int64_t size) {
      const float* p = e.weights + numbers;
      numbers += size;
      return p;
    };
    auto take = [&](int64_t size) {
      float* p = work + floats;
      floats += (size + 15) / 16 * 16;
      return p;
    };
    start = given(n * C), scalar_in = given(K * C), vector_in = given(C);
    for (int l = 0; l < L; ++l) {
      Layer& y = layer[l];
      y.node1 = given(C * C), y.node1_bias = given(C), y.node2 = given(3 * C * C), y.node2_bias = given(3 * C);
      y.filter = given(3 * K * C), y.mix = given(2 * C * C);
      y.gate1 = given(2 * C * C), y.gate1_bias = given(C), y.gate2 = given(3 * C * C), y.gate2_bias = given(3 * C);
      y.node1_t = take(C * C), y.node2_t = take(3 * C * C), y.mix_t = take(2 * C * C);
      y.gate1_t = take(2 * C * C), y.gate2_t = take(3 * C * C);
      y.a = take(T * 3 * C), y.v = take(T * D * C), y.mixed = take(T * D * 2 * C), y.both = take(T * 2 * C);
      y.dot = take(T * C), y.gate = take(T * 3 * C), y.slope1 = take(T * C), y.slope2 = take(T * C);
    }
    out1 = given(C * C), out1_bias = given(C), out2 = given(C);
    out1_t = take(C * C), s = take(T * C), hidden = take(T * C), dv = take(T * D * C), slope3 = take(T * C);
    gs = take(T * C), gv = take(T * D * C), ga = take(T * 3 * C), gvin = take(T * D * C);
    gmixed = take(T * D * 2 * C), gboth = take(T * 2 * C), ggate = take(T * 3 * C);
    unit = take(G * pairs * D), spline = take(G * pairs * 4), gunit = take(G * pairs * D), gspline = take(G * pairs * 4);
    gunit1 = take(G * pairs * D), gspline1 = take(G * pairs * 4);
    y = take(T * D), root = take(T * 4), gradient = take(T * D);
    knot = (int32_t*)take(G * pairs), root_knot = (int32_t*)take(T);
  }
};

void transpose(const float* in, float* out, int rows, int columns) {
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < columns; ++c) out[c * rows + r] = in[r * columns + c];
}

MessageArgs message_of(const Room& w, const Layer& y) {
  return {w.n,     D,       w.K,     w.C,     w.knot,  w.spline, w.unit,  y.a,     y.v,    y.filter,
          nullptr, nullptr, nullptr, nullptr, nullptr, nullptr,  nullptr, nullptr, nullptr};
}

// Scalars s and vectors y.v of the atoms in, s and `next` out; of the last layer the vectors are not needed.
void forward(Room& w, Layer& y, int g, float* next) {
  const int C = w.C, T = g * w.n;
  product(w.s, C, y.node1_t, y.node1_bias, w.hidden, C, T, C, C);
  silu(w.hidden, y.slope1, T * C);
  product(w.hidden, C, y.node2_t, y.node2_bias, y.a, 3 * C, T, C, 3 * C);
  MessageArgs m = message_of(w, y);
  m.ds = w.hidden, m.dv = w.dv;
  message_forward(m, 0, g);
  for (int i = 0; i < T * D * C; i += kWidth) store(w.dv + i, load(w.dv + i) + load(y.v + i));
  product(w.dv, C, y.mix_t, nullptr, y.mixed, 2 * C, T * D, C, 2 * C);
  for (int t = 0; t < T; ++t)
    for (int c = 0; c < C; c += kWidth) {
      F square = F{} + 1e-8f, dot{};
      for (int d = 0; d < D; ++d) {
        const float* mixed = y.mixed + (t * D + d) * 2 * C + c;
        const F left = load(mixed), right = load(mixed + C);
        square += right * right;
        dot += left * right;
      }
      store(y.both + t * 2 * C + c, load(w.s + t * C + c) + load(w.hidden + t * C + c));
      store(y.both + t * 2 * C + C + c, vsqrt(square));
      store(y.dot + t * C + c, dot);
    }
  product(y.both, 2 * C, y.gate1_t, y.gate1_bias, w.hidden, C, T, 2 * C, C);
  silu(w.hidden, y.slope2, T * C);
  product(w.hidden, C, y.gate2_t, y.gate2_bias, y.gate, 3 * C, T, C, 3 * C);
  for (int t = 0; t < T; ++t)
    for (int c = 0; c < C; c += kWidth) {
      const float* gate = y.gate + t * 3 * C + c;
      store(w.s + t * C + c, load(y.both + t * 2 * C + c) + load(gate) + load(gate + 2 * C) * load(y.dot + t * C + c));
      for (int d = 0; next && d < D; ++d) {
        const int64_t k = (t * D + d) * C + c;
        store(next + k, load(w.dv + k) + load(gate + C) * load(y.mixed + (t * D + d) * 2 * C + c));
      }
    }
}

// Gradients gs and gv of what `forward` gave, in place those of what it was given; gv is not read of the last layer.
void backward(Room& w, Layer& y, int g, bool last) {
  const int C = w.C, T = g * w.n;
  for (int t = 0; t < T; ++t)
    for (int c = 0; c < C; c += kWidth) {
      const float* gate = y.gate + t * 3 * C + c;
      const F gs = load(w.gs + t * C + c), by_dot = gs * load(gate + 2 * C);
      F by_gate{};
      for (int d = 0; d < D; ++d) {
        const int64_t k = t * D + d;
        const F left = load(y.mixed + k * 2 * C + c), right = load(y.mixed + k * 2 * C + C + c);
        const F gv = last ? F{} : load(w.gv + k * C + c);
        by_gate += gv * left;
        store(w.gmixed + k * 2 * C + c, gv * load(gate + C) + by_dot * right);
        store(w.gmixed + k * 2 * C + C + c, by_dot * left);
      }
      float* ggate = w.ggate + t * 3 * C + c;
      store(ggate, gs);
      store(ggate + C, by_gate);
      store(ggate + 2 * C, gs * load(y.dot + t * C + c));
    }
  product(w.ggate, 3 * C, y.gate2, nullptr, w.hidden, C, T, 3 * C, C);
  scale(w.hidden, y.slope2, T * C);
  product(w.hidden, C, y.gate1, nullptr, w.gboth, 2 * C, T, C, 2 * C);
  for (int t = 0; t < T; ++t)
    for (int c = 0; c < C; c += kWidth) {
      store(w.gs + t * C + c, load(w.gs + t * C + c) + load(w.gboth + t * 2 * C + c));
      const F by_norm = load(w.gboth + t * 2 * C + C + c) / load(y.both + t * 2 * C + C + c);
      for (int d = 0; d < D; ++d) {
        const int64_t k = (t * D + d) * 2 * C + C + c;
        store(w.gmixed + k, load(w.gmixed + k) + by_norm * load(y.mixed + k));
      }
    }
  if (last)
    product(w.gmixed, 2 * C, y.mix, nullptr, w.gv, C, T * D, 2 * C, C);
  else
    product<true>(w.gmixed, 2 * C, y.mix, nullptr, w.gv, C, T * D, 2 * C, C);
  MessageArgs m = message_of(w, y);
  m.gs = w.gs, m.gv = w.gv, m.ga = w.ga, m.gvin = w.gvin, m.gspline = w.gspline1, m.gunit = w.gunit1;
  message_backward(m, 0, g, nullptr);
  const int pairs = g * w.n * (w.n - 1) / 2;
  for (int k = 0; k < pairs * 4; ++k) w.gspline[k] = last ? w.gspline1[k] : w.gspline[k] + w.gspline1[k];
  for (int k = 0; k < pairs * D; ++k) w.gunit[k] = last ? w.gunit1[k] : w.gunit[k] + w.gunit1[k];
  for (int i = 0; i < T * D * C; i += kWidth) store(w.gv + i, load(w.gv + i) + load(w.gvin + i));
  product(w.ga, 3 * C, y.node2, nullptr, w.hidden, C, T, 3 * C, C);
  scale(w.hidden, y.slope1, T * C);
  product<true>(w.hidden, C, y.node1, nullptr, w.gs, C, T, C, C);
}

// Positions about their centroid, and what the first layer knows: scalars by the distance from it, vectors along it.
void begin(Room& w, const EnergyNetworkArgs& e, const float* x, int g) {
  const int C = w.C, n = w.n;
  for (int b = 0; b < g; ++b)
    for (int d = 0; d < D; ++d) {
      double mean = 0;
      for (int i = 0; i < n; ++i) mean += x[(b * n + i) * D + d];
      for (int i = 0; i < n; ++i) w.y[(b * n + i) * D + d] = (float)(x[(b * n + i) * D + d] - mean / n);
    }
  const SplineArgs pairs{n, D, e.scale, w.y, w.knot, w.spline, w.unit, nullptr, nullptr, nullptr};
  pair_splines(pairs, 0, g);
  for (int t = 0; t < g * n; ++t) {
    const float* y = w.y + t * D;
    float* root = w.root + 4 * t;
    w.root_knot[t] = spline_weights(e.scale, regular_distance(y[0] * y[0] + y[1] * y[1] + y[2] * y[2]), root);
    const float* rows = w.scalar_in + w.root_knot[t] * C;
    for (int c = 0; c < C; c += kWidth) {
      store(w.s + t * C + c, load(w.start + t % n * C + c) + root[0] * load(rows + c) + root[1] * load(rows + C + c) +
                                 root[2] * load(rows + 2 * C + c) + root[3] * load(rows + 3 * C + c));
      for (int d = 0; d < D; ++d) store(w.layer[0].v + (t * D + d) * C + c, y[d] * load(w.vector_in + c));
    }
  }
}

float total(F v) {
  float sum = 0;
  for (int l = 0; l < kWidth; ++l) sum += lane(v, l);
  return sum;
}

// Gradients with respect to positions, from those of pairs and of what the first layer knew.
void end(Room& w, const EnergyNetworkArgs& e, float* gx, int g) {
  const int C = w.C, n = w.n;
  const SplineArgs pairs{n, D, e.scale, w.y, nullptr, nullptr, nullptr, w.gspline, w.gunit, w.gradient};
  pair_splines_backward(pairs, 0, g);
  for (int t = 0; t < g * n; ++t) {
    const float *y = w.y + t * D, *rows = w.scalar_in + w.root_knot[t] * C;
    F by_root[4] = {}, by_y[D] = {};
    for (int c = 0; c < C; c += kWidth) {
      const F gs = load(w.gs + t * C + c);
      for (int k = 0; k < 4; ++k) by_root[k] += gs * load(rows + k * C + c);
      for (int d = 0; d < D; ++d) by_y[d] += load(w.gv + (t * D + d) * C + c) * load(w.vector_in + c);
    }
    const float r = regular_distance(y[0] * y[0] + y[1] * y[1] + y[2] * y[2]);
    float root[4];
    for (int k = 0; k < 4; ++k) root[k] = total(by_root[k]);
    const float slope = spline_slope(e.scale, r, root) / r;
    for (int d = 0; d < D; ++d) w.gradient[t * D + d] += total(by_y[d]) + slope * y[d];
  }
  for (int b = 0; b < g; ++b)
    for (int d = 0; d < D; ++d) {
      double mean = 0;
      for (int i = 0; i < n; ++i) mean += w.gradient[(b * n + i) * D + d];
      for (int i = 0; i < n; ++i)
        gx[(b * n + i) * D + d] = (float)(w.gradient[(b * n + i) * D + d] - mean / n);
    }
}

}  // namespace

int64_t energy_network_floats(const EnergyNetworkArgs& e) { return Room(e, nullptr).floats; }

void energy_network(const EnergyNetworkArgs& e, int64_t first, int64_t past, float* work) {
  Room w(e, work);
  const int C = w.C, n = w.n;
  for (int l = 0; l < w.L; ++l) {
    Layer& y = w.layer[l];
    transpose(y.node1, y.node1_t, C, C), transpose(y.node2, y.node2_t, 3 * C, C), transpose(y.mix, y.mix_t, 2 * C, C);
    transpose(y.gate1, y.gate1_t, C, 2 * C), transpose(y.gate2, y.gate2_t, 3 * C, C);
  }
  transpose(w.out1, w.out1_t, C, C);
  for (int64_t b = first; b < past; b += w.G) {
    const int g = (int)(past - b < w.G ? past - b : w.G), T = g * n;
    begin(w, e, e.x + b * n * D, g);
    for (int l = 0; l < w.L; ++l) forward(w, w.layer[l], g, l + 1 < w.L ? w.layer[l + 1].v : nullptr);
    product(w.s, C, w.out1_t, w.out1_bias, w.hidden, C, T, C, C);
    silu(w.hidden, w.slope3, T * C);
    for (int t = 0; t < T; ++t) {
      if (t % n == 0) e.u[b + t / n] = 0;
      F sum{};
      for (int c = 0; c < C; c += kWidth) {
        sum += load(w.hidden + t * C + c) * load(w.out2 + c);
        store(w.hidden + t * C + c, load(w.slope3 + t * C + c) * load(w.out2 + c));
      }
      e.u[b + t / n] += total(sum);  // sums of numbers that nearly cancel: in double
    }
    product(w.hidden, C, w.out1, nullptr, w.gs, C, T, C, C);
    for (int l = w.L - 1; l >= 0; --l) backward(w, w.layer[l], g, l + 1 == w.L);
    end(w, e, e.gx + b * n * D, g);
  }
}

}  // namespace IDEM_ISA
}  // namespace idem
