// CUDA drivers of the algorithms that the CPU runs too; see cuda_kernels.hpp.
#include "cuda_kernels.hpp"

#include <stdexcept>
#include <string>
#include <type_traits>

#define IDEM_ISA device
#include "philox.hpp"
#include "algorithms.hpp"

namespace idem {
namespace cuda {
namespace {

using namespace idem::device;

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

// Element i of this thread, `stride` apart, so that the threads of a warp read neighbouring addresses.
template <class T> struct Column {
  T* data;
  int64_t stride;
  __device__ T& operator[](int64_t i) const { return data[i * stride]; }
  __device__ Column operator+(int64_t k) const { return {data + k * stride, stride}; }
};
// The same in registers, where the size is known.
template <int n> struct Local {
  float v[n];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ const float& operator[](int i) const { return v[i]; }
};

constexpr int kThreads = 128, kTargetThreads = 128, kTargetBlocksPerProcessor = 4;
constexpr int64_t kTargetWork = int64_t(1) << 26;  // floats of scratch memory, 256 MiB

template <class T> __device__ void copy(T* to, const T* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] = from[i];
}

template <int D, bool kMixed, int N, class T>
__global__ void energy_forces_kernel(LennardJonesParams p, const T* x, T* u, T* f, int64_t count) {
  const int64_t b = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (b >= count) return;
  const int64_t nd = (int64_t)p.n_atoms * D;
  if constexpr (N > 0) {
    T xs[N * D], fs[N * D];
    IDEM_UNROLL
    for (int i = 0; i < N * D; ++i) xs[i] = x[b * nd + i];
    u[b] = lj_energy_forces<D, kMixed, N, T, T>(p, xs, fs);
    IDEM_UNROLL
    for (int i = 0; i < N * D; ++i) f[b * nd + i] = fs[i];
  } else {
    T* row = f + b * nd;
    const T* from = x + b * nd;
    u[b] = lj_energy_forces<D, kMixed, 0, T, T>(p, from, row);
  }
}

template <int D, bool kMixed> __global__ void mala_kernel(MalaArgs a, float* work) {
  const int64_t b = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (b >= a.n_chains) return;
  using P = Column<float>;
  const int nd = a.lj.n_atoms * D;
  const P x{work + b, a.n_chains}, mx = x + nd, mf = mx + nd, ft = mf + nd;
  P f = ft + nd;
  const Scratch4<P> move{f + nd, f + 2 * nd, f + 3 * nd, f + 4 * nd};
  for (int i = 0; i < nd; ++i) {
    x[i] = a.x0[b * nd + i];
    mx[i] = mf[i] = 0.0f;
  }
  const bool restrained = a.centre != nullptr;
  const Restraint<float, P> restraint{restrained, restrained ? a.stiffness[b] : 0.0f,
                                      P{const_cast<float*>(a.centre) + (restrained ? b * nd : 0), 1}};
  Philox rng;
  rng.seed(a.seed, (uint64_t)b);
  float u = lj_energy_forces<D, kMixed, 0, float, float>(a.lj, x, f);
  const float accepted = mala_steps<D, kMixed>(a.lj, rng, a.n_steps, a.step[b], a.beta[b], restraint, x, f, ft, u, move,
                                               a.mean_x != nullptr, mx, mf);
  a.u[b] = u;
  a.acceptance[b] = share(accepted, a.n_steps);
  for (int i = 0; i < nd; ++i) {
    a.x[b * nd + i] = x[i];
    a.f[b * nd + i] = f[i];
    if (a.mean_x) {
      a.mean_x[b * nd + i] = share(mx[i], a.n_steps);
      a.mean_f[b * nd + i] = share(mf[i], a.n_steps);
    }
  }
}

template <int D, bool kMixed> __global__ void tempering_kernel(TemperingArgs a, float* work) {
  const int64_t b = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (b >= a.n_ladders) return;
  using P = Column<float>;
  const int nd = a.lj.n_atoms * D, rungs = a.n_rungs;
  const int64_t row = (int64_t)rungs * nd;
  const P x{work + b, a.n_ladders}, f = x + row, ft = f + row, u = ft + 5 * nd, seen = u + rungs,
          accepted = seen + rungs, swaps = accepted + rungs;
  const Scratch4<P> move{ft + nd, ft + 2 * nd, ft + 3 * nd, ft + 4 * nd};
  for (int64_t i = 0; i < row; ++i) x[i] = a.x0[b * row + i];
  Philox rng;
  rng.seed(a.seed, (uint64_t)b);
  float trips = 0.0f;
  for (int r = 0; r < rungs; ++r) {
    seen[r] = accepted[r] = swaps[r] = 0.0f;
    P fr = f + r * nd;
    u[r] = lj_energy_forces<D, kMixed, 0, float, float>(a.lj, x + r * nd, fr);
  }
  for (int64_t round = 0; round < a.n_rounds; ++round) {
    for (int r = 0; r < rungs; ++r) {
      float ur = u[r];
      accepted[r] += mala_steps<D, kMixed>(a.lj, rng, a.n_steps, a.step[r], a.beta[r], Restraint<float, P>{false, 0.0f, x},
                                           x + r * nd, f + r * nd, ft, ur, move, false, ft, ft);
      u[r] = ur;
    }
    swap_rungs(rng, a.beta, rungs, nd, round, x, f, u, seen, swaps, trips);
    for (int r = 0; r < rungs; ++r) a.trace[(b * a.n_rounds + round) * rungs + r] = u[r];
  }
  for (int64_t i = 0; i < row; ++i) {
    a.x[b * row + i] = x[i];
    a.f[b * row + i] = f[i];
  }
  for (int r = 0; r < rungs; ++r) {
    a.u[b * rungs + r] = u[r];
    a.acceptance[b * rungs + r] = share((float)accepted[r], a.n_rounds * a.n_steps);
    if (r + 1 < rungs) a.swaps[b * (rungs - 1) + r] = share((float)swaps[r], swap_attempts(a.n_rounds, r));
  }
  a.round_trips[b] = trips;
}

template <int D, bool kMixed> __global__ void anneal_kernel(AnnealArgs a, float* work) {
  const int64_t b = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (b >= a.n_chains) return;
  using P = Column<float>;
  const int nd = a.lj.n_atoms * D;
  const P x{work + b, a.n_chains}, ft = x + nd, centre = ft + nd;
  P f = centre + nd;
  const Scratch4<P> move{f + nd, f + 2 * nd, f + 3 * nd, f + 4 * nd};
  const P mean{const_cast<float*>(a.mean) + b * nd, 1}, x_t{const_cast<float*>(a.x_t) + b * nd, 1};
  Philox rng;
  rng.seed(a.seed, (uint64_t)b);
  if (a.start) {
    for (int i = 0; i < nd; ++i) x[i] = a.start[b * nd + i];
  } else {
    P start = x;
    mean_free_noise<D, 0>(rng, a.lj.n_atoms, start);
    const float spread = 1.0f / sqrtf(a.from);
    for (int i = 0; i < nd; ++i) x[i] = mean[i] + spread * x[i];
  }
  float u = lj_energy_forces<D, kMixed, 0, float, float>(a.lj, x, f);
  double log_w = 0.0;
  for (int64_t t = 0; t < a.n_stages; ++t) {
    const float slope = anneal_slope<float>(nd, a.from, a.to, a.end, u, x, x_t, mean);
    log_w += (a.beta[t + 1] - a.beta[t]) * (double)slope;
    const Restraint<float, P> restraint{true, anneal_restraint<float>(nd, a.beta[t + 1], a.from, a.to, x_t, mean, centre), centre};
    const float accepted = mala_steps<D, kMixed>(a.lj, rng, a.n_moves, a.step[t], (float)(a.beta[t + 1] * a.end), restraint, x,
                                                 f, ft, u, move, false, ft, ft);
    if (a.acceptance) a.acceptance[b * a.n_stages + t] = share(accepted, a.n_moves);
  }
  a.u[b] = u;
  a.log_w[b] = log_w;
  for (int i = 0; i < nd; ++i) a.x[b * nd + i] = x[i];
}

// Sum (or maximum) of one number a thread over the block; every thread gets it.
template <bool kMax> __device__ double over_block(double v, double* shared) {
  for (int step = 16; step > 0; step /= 2) {
    const double other = __shfl_xor_sync(0xffffffffu, v, step);
    v = kMax ? fmax(v, other) : v + other;
  }
  __syncthreads();  // the last use of `shared` is over
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = v;
  __syncthreads();
  double total = shared[0];
  for (int w = 1; w < kTargetThreads / 32; ++w) total = kMax ? fmax(total, shared[w]) : total + shared[w];
  return total;
}

// One block an x_t, one thread a sample at a time. With N known, a sample lives in registers and the running sums in
// shared memory; otherwise all of it lives in `work`.
template <int D, bool kMixed, int N> __global__ void target_kernel(TargetArgs a, float* work) {
  extern __shared__ float columns[];
  __shared__ double scale[kTargetThreads], buffer[kTargetThreads / 32];
  using P = Column<float>;
  using Store = std::conditional_t<(N > 0), Local<(N > 0 ? N * D : 1)>, P>;
  const int nd = N > 0 ? N * D : a.lj.n_atoms * D, me = threadIdx.x;
  const int64_t stride = N > 0 ? kTargetThreads : (int64_t)gridDim.x * kTargetThreads;
  float* const base = N > 0 ? columns : work + (int64_t)blockIdx.x * kTargetThreads;
  const P sum_f{base + me, stride}, sum_e = sum_f + nd;
  Store y, f, eps;
  if constexpr (N == 0) {
    y = sum_e + nd;
    f = y + nd;
    eps = f + nd;
  }
  for (int64_t b = blockIdx.x; b < a.n_points; b += gridDim.x) {
    const float sigma = a.sigma[b];
    const float* x = a.x + b * nd;
    for (int i = 0; i < 2 * nd; ++i) sum_f[i] = 0.0f;  // sum_e follows sum_f
    TargetLane<float> t;
    t.clear();
    for (int64_t k = me; k < a.n_samples; k += kTargetThreads) {
      Philox rng;
      rng.seed(a.seed, (uint64_t)b * (uint64_t)a.n_samples + (uint64_t)k);
      mean_free_noise<D, N>(rng, a.lj.n_atoms, eps);
      IDEM_UNROLL
      for (int i = 0; i < nd; ++i) y[i] = x[i] + sigma * eps[i];
      const float u = lj_energy_forces<D, kMixed, N, float, float>(a.lj, y, f);
      add_sample(t, nd, u, false, f, eps, sum_f, sum_e);
    }
    TargetTotal total{};
    total.top = over_block<true>(t.top, buffer);
    const double s = t.top == -__builtin_inff() ? 0.0 : exp((double)t.top - total.top);
    total.z = over_block<false>(s * t.z, buffer);
    total.z2 = over_block<false>(s * s * t.z2, buffer);
    total.ff = over_block<false>(s > 0 ? s * t.ff : 0.0, buffer);
    total.ee = over_block<false>(s > 0 ? s * t.ee : 0.0, buffer);
    total.fe = over_block<false>(s > 0 ? s * t.fe : 0.0, buffer);
    scale[me] = s;
    __syncthreads();
    const double inv_z = total.z == 0 ? 0.0 : 1.0 / total.z;
    double tt = 0, dd = 0, td = 0;
    for (int i = me; i < nd; i += kTargetThreads) {
      double st = 0, sd = 0;
      for (int j = 0; j < kTargetThreads; ++j) {
        const int other = (j + me) % kTargetThreads;  // neighbouring threads, different banks
        st += scale[other] * base[i * stride + other];
        sd += scale[other] * base[(nd + i) * stride + other];
      }
      st *= inv_z;
      sd *= inv_z / sigma;
      a.s_tsi[b * nd + i] = (float)st;
      a.s_dsi[b * nd + i] = (float)sd;
      tt += st * st;
      dd += sd * sd;
      td += st * sd;
    }
    total.tt = over_block<false>(tt, buffer);
    total.dd = over_block<false>(dd, buffer);
    total.td = over_block<false>(td, buffer);
    if (me == 0) write_target(a, b, total);
    __syncthreads();  // nobody clears the sums before all have read them
  }
}

template <int D> __global__ void noise_kernel(NoiseArgs a) {
  const int64_t b = blockIdx.x * (int64_t)blockDim.x + threadIdx.x;
  if (b >= a.n_samples) return;
  Philox rng;
  rng.seed(a.seed, (uint64_t)b);
  float* row = a.eps + b * a.n_atoms * D;
  mean_free_noise<D, 0>(rng, a.n_atoms, row);
}

__global__ void fma_kernel(int64_t n, float a, float b, float* out) {
  float acc[8];
  for (int i = 0; i < 8; ++i) acc[i] = (float)(threadIdx.x + i);
  for (int64_t s = 0; s < n; s += 8) {
    IDEM_UNROLL
    for (int i = 0; i < 8; ++i) acc[i] = acc[i] * a + b;
  }
  float sum = 0;
  for (int i = 0; i < 8; ++i) sum += acc[i];
  if (sum == 12345.678f) *out = sum;  // never, but the compiler does not know
}

unsigned blocks(int64_t n) { return (unsigned)((n + kThreads - 1) / kThreads); }
cudaStream_t as_stream(uintptr_t s) { return reinterpret_cast<cudaStream_t>(s); }

int processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "device attributes");
  return count;
}
bool fixed(const LennardJonesParams& p) { return p.n_atoms == kFixedAtoms && p.n_dims == 3 && !p.species; }
int64_t target_blocks(const TargetArgs& a) {
  int64_t limit = (int64_t)kTargetBlocksPerProcessor * processors();
  if (!fixed(a.lj)) {
    const int64_t fit = kTargetWork / ((int64_t)kTargetThreads * 5 * a.lj.n_atoms * a.lj.n_dims);
    limit = fit < limit ? (fit > 1 ? fit : 1) : limit;
  }
  return a.n_points < limit ? a.n_points : limit;
}

// One instantiation for each number of dimensions and of species.
#define IDEM_LAUNCH(lj, KERNEL, count, stream, ...)                                                       \
  do {                                                                                                    \
    if ((count) == 0) return;                                                                             \
    const auto kernel = (lj).n_dims == 3 ? ((lj).species ? KERNEL<3, true> : KERNEL<3, false>)            \
                                         : ((lj).species ? KERNEL<2, true> : KERNEL<2, false>);           \
    kernel<<<blocks(count), kThreads, 0, as_stream(stream)>>>(__VA_ARGS__);                               \
    check(cudaGetLastError(), #KERNEL);                                                                   \
  } while (0)

template <class T>
void energies(const LennardJonesParams& p, const T* x, T* u, T* f, int64_t n, uintptr_t stream) {
  if (n == 0) return;
  const auto kernel = fixed(p) ? energy_forces_kernel<3, false, kFixedAtoms, T>
                    : p.n_dims == 3 ? (p.species ? energy_forces_kernel<3, true, 0, T> : energy_forces_kernel<3, false, 0, T>)
                                    : (p.species ? energy_forces_kernel<2, true, 0, T> : energy_forces_kernel<2, false, 0, T>);
  kernel<<<blocks(n), kThreads, 0, as_stream(stream)>>>(p, x, u, f, n);
  check(cudaGetLastError(), "energy_forces");
}

}  // namespace

int device_count(std::string& problem) {
  int n = 0;
  const cudaError_t status = cudaGetDeviceCount(&n);
  if (status == cudaSuccess) return n;
  cudaGetLastError();  // clear it: no device is an answer, not a failure
  problem = cudaGetErrorString(status);
  return 0;
}
OnDevice::OnDevice(int device) {
  check(cudaGetDevice(&before_), "current device");
  check(cudaSetDevice(device), "set device");
}
OnDevice::~OnDevice() { cudaSetDevice(before_); }

int64_t mala_work(const MalaArgs& a) { return a.n_chains * 9 * a.lj.n_atoms * a.lj.n_dims; }
int64_t tempering_work(const TemperingArgs& a) {
  return a.n_ladders * ((2 * (int64_t)a.n_rungs + 5) * a.lj.n_atoms * a.lj.n_dims + 4 * a.n_rungs);
}
int64_t anneal_work(const AnnealArgs& a) { return a.n_chains * 8 * a.lj.n_atoms * a.lj.n_dims; }
int64_t dem_scores_work(const TargetArgs& a) {
  return fixed(a.lj) ? 0 : target_blocks(a) * kTargetThreads * 5 * a.lj.n_atoms * a.lj.n_dims;
}

void energy_forces(const LennardJonesParams& p, const float* x, float* u, float* f, int64_t n, uintptr_t stream) {
  energies<float>(p, x, u, f, n, stream);
}
void energy_forces(const LennardJonesParams& p, const double* x, double* u, double* f, int64_t n, uintptr_t stream) {
  energies<double>(p, x, u, f, n, stream);
}
void mala(const MalaArgs& a, float* work, uintptr_t stream) {
  IDEM_LAUNCH(a.lj, mala_kernel, a.n_chains, stream, a, work);
}
void tempering(const TemperingArgs& a, float* work, uintptr_t stream) {
  IDEM_LAUNCH(a.lj, tempering_kernel, a.n_ladders, stream, a, work);
}
void anneal(const AnnealArgs& a, float* work, uintptr_t stream) {
  IDEM_LAUNCH(a.lj, anneal_kernel, a.n_chains, stream, a, work);
}
void dem_scores(const TargetArgs& a, float* work, uintptr_t stream) {
  if (a.n_points == 0) return;
  const bool small = fixed(a.lj);
  const auto kernel = small ? target_kernel<3, false, kFixedAtoms>
                    : a.lj.n_dims == 3 ? (a.lj.species ? target_kernel<3, true, 0> : target_kernel<3, false, 0>)
                                       : (a.lj.species ? target_kernel<2, true, 0> : target_kernel<2, false, 0>);
  const size_t shared = small ? 2 * kFixedAtoms * 3 * kTargetThreads * sizeof(float) : 0;
  kernel<<<(unsigned)target_blocks(a), kTargetThreads, shared, as_stream(stream)>>>(a, work);
  check(cudaGetLastError(), "dem_scores");
}
void noise(const NoiseArgs& a, uintptr_t stream) {
  if (a.n_samples == 0) return;
  const auto kernel = a.n_dims == 3 ? noise_kernel<3> : noise_kernel<2>;
  kernel<<<blocks(a.n_samples), kThreads, 0, as_stream(stream)>>>(a);
  check(cudaGetLastError(), "noise");
}

double peak_flops(int64_t n, uintptr_t stream) {
  const int grid = 32 * processors();
  cudaEvent_t start, stop;
  check(cudaEventCreate(&start), "event");
  check(cudaEventCreate(&stop), "event");
  for (int run = 0; run < 2; ++run) {  // the first warms up
    check(cudaEventRecord(start, as_stream(stream)), "event");
    fma_kernel<<<grid, kThreads, 0, as_stream(stream)>>>(n, 0.999f, 1e-3f, nullptr);
    check(cudaGetLastError(), "fma loop");
    check(cudaEventRecord(stop, as_stream(stream)), "event");
  }
  check(cudaEventSynchronize(stop), "fma loop");
  float ms = 0;
  check(cudaEventElapsedTime(&ms, start, stop), "event");
  cudaEventDestroy(start);
  cudaEventDestroy(stop);
  if (!(ms > 0)) throw std::runtime_error("CUDA: fma loop: no time has passed");
  return 2.0 * (double)n * grid * kThreads / (1e-3 * ms);
}

}  // namespace cuda
}  // namespace idem
