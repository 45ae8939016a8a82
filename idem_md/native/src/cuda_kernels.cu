// CUDA drivers of the algorithms that the CPU runs too; see cuda_kernels.hpp.
#include "cuda_kernels.hpp"

#include <stdexcept>
#include <string>
#include <type_traits>

#define IDEM_ISA device
#include "philox.hpp"
#include "algorithms.hpp"
#include "cuda_chains.hpp"

namespace idem {
namespace cuda {
namespace {

void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status));
}

// Storage in registers, where the size is known.
template <int n> struct Local {
  float v[n];
  __device__ float& operator[](int i) { return v[i]; }
  __device__ const float& operator[](int i) const { return v[i]; }
};

constexpr int kThreads = 128, kTargetThreads = 128, kTargetBlocksPerProcessor = 4;
constexpr int64_t kTargetWork = int64_t(1) << 26;  // floats of scratch memory, 256 MiB

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
      mean_free_noise<D, N>(Solo<N>(a.lj.n_atoms), rng, eps);
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
  mean_free_noise<D>(Solo<>(a.n_atoms), rng, row);
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

unsigned blocks(int64_t n, int threads = kThreads) { return (unsigned)((n + threads - 1) / threads); }
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

// One instantiation for each number of dimensions and of species, one group a chain.
#define IDEM_LAUNCH(KERNEL, count)                                                                        \
  do {                                                                                                    \
    if ((count) == 0) return;                                                                             \
    const auto kernel = a.lj.n_dims == 3 ? (a.lj.species ? KERNEL<3, true> : KERNEL<3, false>)            \
                                         : (a.lj.species ? KERNEL<2, true> : KERNEL<2, false>);           \
    const int size = team_size(a.lj);                                                                     \
    kernel<<<blocks((count) * size, kChainThreads), kChainThreads, 0, as_stream(stream)>>>(a, work, size); \
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
  return a.n_ladders * ((2 * (int64_t)a.n_rungs + 5) * a.lj.n_atoms * a.lj.n_dims + 4 * a.n_rungs * team_size(a.lj));
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
  IDEM_LAUNCH(mala_kernel, a.n_chains);
}
void tempering(const TemperingArgs& a, float* work, uintptr_t stream) {
  IDEM_LAUNCH(tempering_kernel, a.n_ladders);
}
void anneal(const AnnealArgs& a, float* work, uintptr_t stream) {
  IDEM_LAUNCH(anneal_kernel, a.n_chains);
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
