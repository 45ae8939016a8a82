// Chains on CUDA, a group of threads each. Included once, by cuda_kernels.cu; the tests include it with threads of their own.
#pragma once
#include "algorithms.hpp"

namespace idem {
namespace cuda {

using namespace idem::IDEM_ISA;

// Element i of this thread, `stride` apart, so that the threads of a warp read neighbouring addresses.
template <class T> struct Column {
  T* data;
  int64_t stride;
  __device__ T& operator[](int64_t i) const { return data[i * stride]; }
  __device__ Column operator+(int64_t k) const { return {data + k * stride, stride}; }
};

// Threads of a group: 8, 16 or 32, the first not below the number of atoms.
inline int team_size(const LennardJonesParams& p) {
  int size = 8;
  while (size < p.n_atoms && size < 32) size *= 2;
  return size;
}
// Measured on an H100: fewer registers spill, more leave processors idle.
constexpr int kChainThreads = 64, kChainBlocks = 10;

// A group of `size` neighbouring threads of one warp, a power of two: each has the atoms [lo, hi). What one of them
// writes of y and noise the others read, after sync(). Sums are the same to the last bit for all of them, since each
// step adds the same two numbers on either side, rounded before.
struct ThreadGroup {
  int size, lane, n, lo, hi;
  unsigned mask;
  int64_t item;  // which chain

  __device__ ThreadGroup(int n_atoms, int threads) : size(threads), lane((int)threadIdx.x % threads), n(n_atoms) {
    const int each = (n + size - 1) / size;
    lo = min(lane * each, n);
    hi = min(lo + each, n);
    mask = (size == 32 ? ~0u : (1u << size) - 1) << (threadIdx.x % 32 - lane);
    item = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) / size;
  }
  __device__ void sync() const { __syncwarp(mask); }
  __device__ float other(float v, int step) const { return __shfl_xor_sync(mask, v, step); }
  __device__ float sum(float v) const {
    for (int step = size / 2; step > 0; step /= 2) v = __fadd_rn(v, other(v, step));
    return v;
  }
  // The numbers that one thread would draw one after the other.
  __device__ void normals(Philox& rng, int nd, float* out) const {
    sync();
    for (int i = 2 * lane; i < nd; i += 2 * size) {
      float a, b;
      rng.normal_pair_at(rng.count + i, a, b);
      out[i] = a;
      if (i + 1 < nd) out[i + 1] = b;
    }
    rng.count += nd + nd % 2;
    sync();
  }
  // lj_energy_forces with every pair seen from both sides, so that nobody writes to another's forces.
  template <int D, bool kMixed, class V>
  __device__ float energy_forces(const LennardJonesParams& p, const float* x, float* f) const {
    sync();
    const float overlap = (float)kOverlap, trap = (float)p.trap;
    float centroid[D], u = 0.0f, closest = 1.0f, r2 = 0.0f;
    for (int d = 0; d < D; ++d) {
      centroid[d] = 0.0f;
      for (int i = lo; i < hi; ++i) centroid[d] += x[i * D + d];
      centroid[d] = sum(centroid[d]) * (1.0f / n);
    }
    for (int i = lo; i < hi; ++i) {
      const int a = kMixed ? p.species[i] : 0;
      float xi[D], fi[D], ui = 0.0f, inv_rm2[2], eps[2], scale[2];  // by the species of the other one
      for (int b = 0; b < (kMixed ? 2 : 1); ++b) {
        inv_rm2[b] = (float)(1.0 / (p.r_min[a][b] * p.r_min[a][b]));
        eps[b] = (float)p.epsilon[a][b];
        scale[b] = 12.0f * eps[b] * inv_rm2[b];
      }
      for (int d = 0; d < D; ++d) {
        xi[d] = x[i * D + d];
        fi[d] = 0.0f;
      }
      for (int k = 0; k + 1 < n; ++k) {
        const int j = k + (k >= i);  // everyone but i
        const bool b = kMixed && p.species[j];
        float dx[D], s2 = 0.0f, e, g;
        for (int d = 0; d < D; ++d) {
          dx[d] = xi[d] - x[j * D + d];
          s2 += dx[d] * dx[d];
        }
        s2 *= b ? inv_rm2[1] : inv_rm2[0];
        closest = s2 < closest ? s2 : closest;
        lj_pair<float, float>(s2, overlap, e, g);
        ui += kMixed ? e * (b ? eps[1] : eps[0]) : e;
        // In this order: g alone reaches 1e35, and dx is small where it does.
        for (int d = 0; d < D; ++d) fi[d] += kMixed ? g * dx[d] * (b ? scale[1] : scale[0]) : g * dx[d];
      }
      u += kMixed ? ui : ui * eps[0];
      for (int d = 0; d < D; ++d) {
        const float dx = xi[d] - centroid[d];
        r2 += dx * dx;
        f[i * D + d] = (kMixed ? 1.0f : scale[0]) * fi[d] - trap * dx;
      }
    }
    u = sum(0.5f * (u + trap * r2));
    for (int step = size / 2; step > 0; step /= 2) {
      const float there = other(closest, step);
      closest = there < closest ? there : closest;
    }
    return closest < overlap ? __builtin_inff() : u;
  }
};

template <int D, bool kMixed>
__global__ void __launch_bounds__(kChainThreads, kChainBlocks) mala_kernel(MalaArgs a, float* work, int size) {
  const ThreadGroup group(a.lj.n_atoms, size);
  const int64_t b = group.item;
  if (b >= a.n_chains) return;
  const int nd = a.lj.n_atoms * D, lo = group.lo * D, hi = group.hi * D;
  float *const x = work + b * 9 * nd, *mx = x + nd, *mf = mx + nd, *ft = mf + nd, *f = ft + nd;
  const Scratch4<float*> move{f + nd, f + 2 * nd, f + 3 * nd, f + 4 * nd};
  for (int i = lo; i < hi; ++i) {
    x[i] = a.x0[b * nd + i];
    mx[i] = mf[i] = 0.0f;
  }
  Restraint<float, float*> restraint{a.centre != nullptr, 0.0f, nullptr};
  if (restraint.on) {
    restraint.k = a.stiffness[b];
    restraint.centre = const_cast<float*>(a.centre) + b * nd;
  }
  Philox rng;
  rng.seed(a.seed, (uint64_t)b);
  float u = group.energy_forces<D, kMixed, float>(a.lj, x, f);
  const float accepted = hmc_steps<D, kMixed>(group, a.lj, rng, a.n_steps, 1, a.step[b], a.beta[b], restraint, x, f, ft, u, move,
                                              a.mean_x != nullptr, mx, mf);
  if (group.lane == 0) {
    a.u[b] = u;
    a.acceptance[b] = share(accepted, a.n_steps);
  }
  for (int i = lo; i < hi; ++i) {
    a.x[b * nd + i] = x[i];
    a.f[b * nd + i] = f[i];
    if (a.mean_x) {
      a.mean_x[b * nd + i] = share(mx[i], a.n_steps);
      a.mean_f[b * nd + i] = share(mf[i], a.n_steps);
    }
  }
}

template <int D, bool kMixed>
__global__ void __launch_bounds__(kChainThreads, kChainBlocks) tempering_kernel(TemperingArgs a, float* work, int size) {
  const ThreadGroup group(a.lj.n_atoms, size);
  const int64_t b = group.item;
  if (b >= a.n_ladders) return;
  // What is a number a rung every thread has for itself.
  using Rungs = Column<float>;
  const int nd = a.lj.n_atoms * D, rungs = a.n_rungs;
  const int64_t row = (int64_t)rungs * nd;
  float *const x = work + b * (2 * row + 5 * nd + 4 * rungs * size), *f = x + row, *ft = f + row;
  const Rungs u{ft + 5 * nd + group.lane, size}, seen = u + rungs, accepted = seen + rungs, swaps = accepted + rungs;
  const Scratch4<float*> move{ft + nd, ft + 2 * nd, ft + 3 * nd, ft + 4 * nd};
  for (int r = 0; r < rungs; ++r)
    for (int i = r * nd + group.lo * D; i < r * nd + group.hi * D; ++i) x[i] = a.x0[b * row + i];
  Philox rng;
  rng.seed(a.seed, (uint64_t)b);
  float trips = 0.0f;
  for (int r = 0; r < rungs; ++r) {
    seen[r] = accepted[r] = swaps[r] = 0.0f;
    u[r] = group.energy_forces<D, kMixed, float>(a.lj, x + r * nd, f + r * nd);
  }
  for (int64_t round = 0; round < a.n_rounds; ++round) {
    for (int r = 0; r < rungs; ++r) {
      float ur = u[r];
      accepted[r] += hmc_steps<D, kMixed>(group, a.lj, rng, a.n_steps, 1, a.step[r], a.beta[r],
                                          Restraint<float, float*>{false, 0.0f, nullptr}, x + r * nd, f + r * nd, ft, ur,
                                          move, false, ft, ft);
      u[r] = ur;
    }
    swap_rungs<D>(group, rng, a.beta, rungs, nd, round, x, f, u, seen, swaps, trips);
    if (group.lane == 0)
      for (int r = 0; r < rungs; ++r) a.trace[(b * a.n_rounds + round) * rungs + r] = u[r];
  }
  for (int r = 0; r < rungs; ++r) {
    for (int i = r * nd + group.lo * D; i < r * nd + group.hi * D; ++i) {
      a.x[b * row + i] = x[i];
      a.f[b * row + i] = f[i];
    }
    if (group.lane > 0) continue;
    a.u[b * rungs + r] = u[r];
    a.acceptance[b * rungs + r] = share((float)accepted[r], a.n_rounds * a.n_steps);
    if (r + 1 < rungs) a.swaps[b * (rungs - 1) + r] = share((float)swaps[r], swap_attempts(a.n_rounds, r));
  }
  if (group.lane == 0) a.round_trips[b] = trips;
}

template <int D, bool kMixed>
__global__ void __launch_bounds__(kChainThreads, kChainBlocks) anneal_kernel(AnnealArgs a, float* work, int size) {
  const ThreadGroup group(a.lj.n_atoms, size);
  const int64_t b = group.item;
  if (b >= a.n_chains) return;
  const int nd = a.lj.n_atoms * D, lo = group.lo * D, hi = group.hi * D;
  float *const x = work + b * 8 * nd, *ft = x + nd, *centre = ft + nd, *f = centre + nd;
  const Scratch4<float*> move{f + nd, f + 2 * nd, f + 3 * nd, f + 4 * nd};
  float *const mean = const_cast<float*>(a.mean) + b * nd, *x_t = const_cast<float*>(a.x_t) + b * nd;
  Philox rng;
  rng.seed(a.seed, (uint64_t)b);
  if (a.start) {
    for (int i = lo; i < hi; ++i) x[i] = a.start[b * nd + i];
  } else {
    mean_free_noise<D>(group, rng, x);
    const float spread = 1.0f / sqrtf(a.from);
    for (int i = lo; i < hi; ++i) x[i] = mean[i] + spread * x[i];
  }
  float u = group.energy_forces<D, kMixed, float>(a.lj, x, f);
  double log_w = 0.0;
  for (int64_t t = 0; t < a.n_stages; ++t) {
    const double rise = (a.beta[t + 1] - a.beta[t]) * (double)anneal_slope<D>(group, a.from, a.to, a.end, u, x, x_t, mean);
    log_w += rise;
    if (a.increments && group.lane == 0) a.increments[b * a.n_stages + t] = (float)rise;
    const float k = anneal_restraint<D, float>(group, a.beta[t + 1], a.from, a.to, x_t, mean, centre);
    const float accepted = hmc_steps<D, kMixed>(group, a.lj, rng, a.n_moves, a.n_leapfrogs, a.step[t],
                                                (float)(a.beta[t + 1] * a.end), Restraint<float, float*>{true, k, centre}, x,
                                                f, ft, u, move, false, ft, ft);
    if (a.acceptance && group.lane == 0) a.acceptance[b * a.n_stages + t] = share(accepted, a.n_moves);
  }
  if (group.lane == 0) {
    a.u[b] = u;
    a.log_w[b] = log_w;
  }
  for (int i = lo; i < hi; ++i) a.x[b * nd + i] = x[i];
}

}  // namespace cuda
}  // namespace idem
