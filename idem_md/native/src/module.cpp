// Python bindings: picks an instruction set, spreads items over threads, checks nothing: the Python
// ops validate shapes, dtypes and ranges before they call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#if defined(__linux__)
#include <dlfcn.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu_kernels.hpp"
#define IDEM_ISA module
#include "philox.hpp"
#if defined(IDEM_HAVE_CUDA)
#include "cuda_kernels.hpp"
#endif

namespace nb = nanobind;
using namespace nb::literals;
using idem::CpuKernels;
using idem::LennardJonesParams;

namespace {

template <class T> using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T> using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
// Lennard-Jones kernels take addresses, of whichever device: the ops have checked shapes and dtypes, and hold the
// tensors.
using Address = uintptr_t;
template <class T> T* at(Address a) { return reinterpret_cast<T*>(a); }

// Where to run: on the CPU, or on a CUDA device and stream.
struct Place {
  int threads;
  std::string isa;
  int cuda_device;  // -1 for the CPU
  Address stream, work;
  bool on_cuda() const { return cuda_device >= 0; }
};

std::vector<const CpuKernels*> available() {
  std::vector<const CpuKernels*> found;
#if defined(IDEM_HAVE_X86_VARIANTS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512bw"))
    found.push_back(&idem::avx512::kernels());
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&idem::avx2::kernels());
#endif
  found.push_back(&idem::baseline::kernels());
  found.push_back(&idem::scalar::kernels());  // last: for tests and as a reference, never the fastest
  return found;
}

const CpuKernels& select(const std::string& name) {
  static const std::vector<const CpuKernels*> found = available();
  if (name.empty()) return *found.front();
  for (const CpuKernels* k : found)
    if (name == k->name) return *k;
  throw std::invalid_argument("instruction set '" + name + "' is not available on this processor");
}

// Torch's own threads, where it runs on GNU OpenMP: they spin for milliseconds after each of its operations, and threads
// of ours would wait for the cores they hold. Torch loads that library globally, so its entry point can be looked up;
// elsewhere this is null, and we start threads. As with torch's own operations, a process forked after its threads have
// started hangs in them: spawn instead.
using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
GompParallel torch_pool() {
#if defined(__linux__)
  return reinterpret_cast<GompParallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
#else
  return nullptr;
#endif
}

// Blocks of lanes are handed out one grain at a time; the answer does not depend on who takes which.
template <class Fn> void spread(int64_t n, int64_t grain, int threads, Fn&& fn) {
  const int64_t blocks = (n + grain - 1) / grain;
  threads = (int)std::min<int64_t>(std::max(threads, 1), blocks);
  std::atomic<int64_t> next{0};
  std::exception_ptr failure = nullptr;
  std::atomic_flag failed = ATOMIC_FLAG_INIT;
  auto work = [&] {
    try {
      for (int64_t b; (b = next++) < blocks;) fn(b * grain, std::min(n, (b + 1) * grain));
    } catch (...) {
      if (!failed.test_and_set()) failure = std::current_exception();
    }
  };
  nb::gil_scoped_release release;
  static const GompParallel gomp = torch_pool();
  if (threads > 1 && gomp) {
    gomp([](void* w) { (*static_cast<decltype(work)*>(w))(); }, &work, (unsigned)threads, 0);
  } else {
    std::vector<std::thread> pool;
    for (int t = 1; t < threads; ++t) pool.emplace_back(work);
    work();
    for (auto& t : pool) t.join();
  }
  if (failure) std::rethrow_exception(failure);
}

using Matrix = const std::vector<double>&;

// One value, or the four of a matrix by species.
LennardJonesParams lj_params(int n_atoms, int n_dims, Matrix epsilon, Matrix r_min, double trap, Address species) {
  LennardJonesParams p{n_atoms, n_dims, trap, {}, {}, at<const uint8_t>(species)};
  for (int i = 0; i < 4; ++i) {
    p.epsilon[i / 2][i % 2] = epsilon.at(species ? i : 0);
    p.r_min[i / 2][i % 2] = r_min.at(species ? i : 0);
  }
  return p;
}

void energy_forces(const LennardJonesParams& p, int64_t n, bool is_double, Address x, Address u, Address f, const Place& place) {
#if defined(IDEM_HAVE_CUDA)
  if (place.on_cuda()) {
    const idem::cuda::OnDevice guard(place.cuda_device);
    if (is_double)
      idem::cuda::energy_forces(p, at<const double>(x), at<double>(u), at<double>(f), n, place.stream);
    else
      idem::cuda::energy_forces(p, at<const float>(x), at<float>(u), at<float>(f), n, place.stream);
    return;
  }
#endif
  const CpuKernels& k = select(place.isa);
  spread(n, 4 * (is_double ? k.width_f64 : k.width_f32), place.threads, [&](int64_t b, int64_t e) {
    if (is_double)
      k.energy_forces_f64(p, at<const double>(x), at<double>(u), at<double>(f), b, e);
    else
      k.energy_forces_f32(p, at<const float>(x), at<float>(u), at<float>(f), b, e);
  });
}

// Each of these with cuda_device >= 0 and work = 0 only returns the floats of device memory it wants at `work`.
#if defined(IDEM_HAVE_CUDA)
#define IDEM_ON_CUDA(FN, a, place)                   \
  if ((place).on_cuda()) {                           \
    const idem::cuda::OnDevice guard((place).cuda_device); \
    if (!(place).work) return idem::cuda::FN##_work(a); \
    idem::cuda::FN(a, at<float>((place).work), (place).stream); \
    return 0;                                        \
  }
#else
#define IDEM_ON_CUDA(FN, a, place)
#endif

int64_t mala(const LennardJonesParams& lj, int64_t n_chains, int64_t n_steps, uint64_t seed, Address step, Address beta,
             Address centre, Address stiffness, Address x0, Address x, Address u, Address f, Address mean_x,
             Address mean_f, Address acceptance, const Place& place) {
  const idem::MalaArgs a{lj, n_chains, n_steps, seed, at<const float>(step), at<const float>(beta),
                         at<const float>(centre), at<const float>(stiffness), at<const float>(x0), at<float>(x),
                         at<float>(u), at<float>(f), at<float>(mean_x), at<float>(mean_f), at<float>(acceptance)};
  IDEM_ON_CUDA(mala, a, place)
  const CpuKernels& k = select(place.isa);
  spread(n_chains, k.width_f32, place.threads, [&](int64_t b, int64_t e) { k.mala(a, b, e); });
  return 0;
}

int64_t tempering(const LennardJonesParams& lj, int64_t n_ladders, int n_rungs, int64_t n_rounds, int64_t n_steps,
                  uint64_t seed, Address beta, Address step, Address x0, Address x, Address u, Address f,
                  Address acceptance, Address swaps, Address round_trips, Address trace, const Place& place) {
  const idem::TemperingArgs a{lj, n_ladders, n_rounds, n_steps, n_rungs, seed, at<const float>(beta),
                              at<const float>(step), at<const float>(x0), at<float>(x), at<float>(u), at<float>(f),
                              at<float>(acceptance), at<float>(swaps), at<float>(round_trips), at<float>(trace)};
  IDEM_ON_CUDA(tempering, a, place)
  const CpuKernels& k = select(place.isa);
  spread(n_ladders, k.width_f32, place.threads, [&](int64_t b, int64_t e) { k.tempering(a, b, e); });
  return 0;
}

int64_t anneal(const LennardJonesParams& lj, int64_t n_chains, int64_t n_stages, int64_t n_moves, int64_t n_leapfrogs,
               uint64_t seed, double from, double to, double end, Address beta, Address step, Address start, Address mean,
               Address x_t, Address x, Address u, Address log_w, Address acceptance, Address increments,
               const Place& place) {
  const idem::AnnealArgs a{lj, n_chains, n_stages, n_moves, n_leapfrogs, seed, (float)from, (float)to, (float)end,
                           at<const double>(beta), at<const float>(step), at<const float>(start), at<const float>(mean),
                           at<const float>(x_t), at<float>(x), at<float>(u), at<double>(log_w), at<float>(acceptance), at<float>(increments)};
  IDEM_ON_CUDA(anneal, a, place)
  const CpuKernels& k = select(place.isa);
  spread(n_chains, k.width_f32, place.threads, [&](int64_t b, int64_t e) { k.anneal(a, b, e); });
  return 0;
}

int64_t dem_scores(const LennardJonesParams& lj, int64_t n_points, int64_t n_samples, uint64_t seed, Address x,
                   Address sigma, Address s_tsi, Address s_dsi, Address alpha, Address log_mean_exp, Address ess,
                   const Place& place) {
  const idem::TargetArgs a{lj, n_points, n_samples, seed, at<const float>(x), at<const float>(sigma), at<float>(s_tsi),
                           at<float>(s_dsi), at<float>(alpha), at<float>(log_mean_exp), at<float>(ess)};
  IDEM_ON_CUDA(dem_scores, a, place)
  const CpuKernels& k = select(place.isa);
  spread(n_points, 1, place.threads, [&](int64_t b, int64_t e) { k.dem_scores(a, b, e); });
  return 0;
}

void noise(int n_atoms, int n_dims, int64_t n_samples, uint64_t seed, Address eps, const Place& place) {
  const idem::NoiseArgs a{n_atoms, n_dims, n_samples, seed, at<float>(eps)};
#if defined(IDEM_HAVE_CUDA)
  if (place.on_cuda()) {
    const idem::cuda::OnDevice guard(place.cuda_device);
    return idem::cuda::noise(a, place.stream);
  }
#endif
  const CpuKernels& k = select(place.isa);
  spread(n_samples, 64 * k.width_f32, place.threads, [&](int64_t b, int64_t e) { k.noise(a, b, e); });
}

// A double that counts what is done to it: the operations of the shared arithmetic, as executed.
struct Counted {
  double v;
  static inline thread_local int64_t n = 0;
  Counted(double v = 0) : v(v) {}
  Counted& operator+=(Counted o) { return *this = Counted(v + o.v).spent(); }
  Counted& operator-=(Counted o) { return *this = Counted(v - o.v).spent(); }
  Counted& operator*=(Counted o) { return *this = Counted(v * o.v).spent(); }
  friend Counted operator+(Counted a, Counted b) { return Counted(a.v + b.v).spent(); }
  friend Counted operator-(Counted a, Counted b) { return Counted(a.v - b.v).spent(); }
  friend Counted operator*(Counted a, Counted b) { return Counted(a.v * b.v).spent(); }
  friend Counted operator/(Counted a, Counted b) { return Counted(a.v / b.v).spent(); }
  friend bool operator<(Counted a, Counted b) { return a.v < b.v; }
  Counted spent() const {
    ++n;
    return *this;
  }
};

// Additions, subtractions, multiplications and divisions of one evaluation of energy and forces, comparisons not
// counted.
int64_t count_flop(const LennardJonesParams& p) {
  std::vector<Counted> x(p.n_atoms * p.n_dims), f(x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i].v = 1.3 * (double)(i + i * i % 7);
  Counted *xp = x.data(), *fp = f.data();
  Counted::n = 0;
  p.n_dims == 3 ? (p.species ? idem::lj_energy_forces<3, true, 0, Counted, double>(p, xp, fp)
                             : idem::lj_energy_forces<3, false, 0, Counted, double>(p, xp, fp))
                : (p.species ? idem::lj_energy_forces<2, true, 0, Counted, double>(p, xp, fp)
                             : idem::lj_energy_forces<2, false, 0, Counted, double>(p, xp, fp));
  return Counted::n;
}

// The generator of the CUDA kernels, for its published test vectors.
std::vector<uint32_t> philox4x32(uint32_t key0, uint32_t key1, std::vector<uint32_t> counter) {
  counter.resize(4);
  idem::module::philox4x32(key0, key1, counter.data());
  return counter;
}

// Floating-point operations a second of a loop of fused multiply-adds (two each) on every thread.
double peak_flops(int64_t n, const Place& place) {
#if defined(IDEM_HAVE_CUDA)
  if (place.on_cuda()) {
    const idem::cuda::OnDevice guard(place.cuda_device);
    return idem::cuda::peak_flops(n, place.stream);
  }
#endif
  const CpuKernels& k = select(place.isa);
  const auto start = std::chrono::steady_clock::now();
  spread(place.threads, 1, place.threads, [&](int64_t, int64_t) { k.fma_loop(n); });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return 2.0 * (double)n * k.width_f32 * place.threads / seconds;
}

void pair_splines(In<float> x, Out<int32_t> knot, Out<float> spline, Out<float> unit, int n_basis, float length,
                  float shift, float lo, float width, int threads) {
  const CpuKernels& k = select("");
  const idem::SplineArgs a{(int)x.shape(1), (int)x.shape(2), {n_basis, length, shift, lo, width},
                           x.data(), knot.data(), spline.data(), unit.data(), nullptr, nullptr, nullptr};
  spread((int64_t)x.shape(0), 16, threads, [&](int64_t b, int64_t e) { k.pair_splines(a, b, e); });
}

void pair_splines_backward(In<float> x, In<float> gspline, In<float> gunit, Out<float> gx, int n_basis, float length,
                           float shift, float lo, float width, int threads) {
  const CpuKernels& k = select("");
  const idem::SplineArgs a{(int)x.shape(1), (int)x.shape(2), {n_basis, length, shift, lo, width}, x.data(),
                           nullptr, nullptr, nullptr, gspline.data(), gunit.data(), gx.data()};
  spread((int64_t)x.shape(0), 16, threads, [&](int64_t b, int64_t e) { k.pair_splines_backward(a, b, e); });
}

idem::MessageArgs message_args(const In<int32_t>& knot, const In<float>& spline, const In<float>& unit,
                               const In<float>& a, const In<float>& v, const In<float>& filter,
                               const In<float>& factors) {
  if (v.shape(3) > idem::kMaxChannels) throw std::invalid_argument("channels: expected at most 512");
  return {(int)v.shape(1), (int)v.shape(2), (int)filter.shape(0), (int)v.shape(3), knot.data(), spline.data(),
          unit.data(), a.data(), v.data(), filter.data(), factors.size() > 0 ? factors.data() : nullptr,
          nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
}

void message_forward(In<int32_t> knot, In<float> spline, In<float> unit, In<float> a, In<float> v, In<float> filter,
                     In<float> factors, Out<float> ds, Out<float> dv, int threads) {
  const CpuKernels& k = select("");
  idem::MessageArgs m = message_args(knot, spline, unit, a, v, filter, factors);
  m.ds = ds.data();
  m.dv = dv.data();
  spread((int64_t)a.shape(0), 4, threads, [&](int64_t b, int64_t e) { k.message_forward(m, b, e); });
}

void message_backward(In<int32_t> knot, In<float> spline, In<float> unit, In<float> a, In<float> v, In<float> filter,
                      In<float> factors, In<float> gs, In<float> gv, Out<float> ga, Out<float> gvin, Out<float> gfilter,
                      Out<float> gfactors, Out<float> gspline, Out<float> gunit, int threads) {
  const CpuKernels& k = select("");
  idem::MessageArgs m = message_args(knot, spline, unit, a, v, filter, factors);
  m.gs = gs.data();
  m.gv = gv.data();
  m.ga = ga.data();
  m.gvin = gvin.data();
  if (gspline.size() > 0) m.gspline = gspline.data(), m.gunit = gunit.data();
  // One partial gradient a block of samples, added in the order of the blocks: the sum does not depend on the
  // number of threads.
  const int64_t n = (int64_t)a.shape(0), filters = (int64_t)filter.size(), size = filters + (int64_t)factors.size();
  const int64_t grain = std::max<int64_t>(16, (n + 31) / 32), blocks = (n + grain - 1) / grain;
  std::vector<float> partial(blocks * size);
  spread(n, grain, threads,
         [&](int64_t b, int64_t e) { k.message_backward(m, b, e, partial.data() + b / grain * size); });
  std::fill(gfilter.data(), gfilter.data() + filters, 0.0f);
  std::fill(gfactors.data(), gfactors.data() + (size - filters), 0.0f);
  for (int64_t b = 0; b < blocks; ++b) {
    const float* part = partial.data() + b * size;
    for (int64_t i = 0; i < filters; ++i) gfilter.data()[i] += part[i];
    for (int64_t i = filters; i < size; ++i) gfactors.data()[i - filters] += part[i];
  }
}

void energy_network(In<float> x, In<float> weights, Out<double> u, Out<float> gx, int channels, int n_layers, int n_basis,
                    float length, float shift, float lo, float width, int threads) {
  if (channels > idem::kMaxChannels || n_layers > 16) throw std::invalid_argument("channels: expected at most 512");
  const CpuKernels& k = select("");
  const idem::EnergyNetworkArgs a{(int)x.shape(1), channels, n_layers, {n_basis, length, shift, lo, width},
                                  weights.data(), x.data(), u.data(), gx.data()};
  const int64_t n = (int64_t)x.shape(0), floats = k.energy_network_floats(a), t = std::max(threads, 1);
  spread(n, std::max<int64_t>((n + t - 1) / t, 1), threads, [&](int64_t b, int64_t e) {
    std::vector<float> work(floats);
    k.energy_network(a, b, e, work.data());
  });
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native Lennard-Jones kernels; use idem_md.native, which validates what is passed in.";
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const CpuKernels* k : available()) names.emplace_back(k->name);
    return names;
  });
#if defined(IDEM_HAVE_CUDA)
  m.attr("built_with_cuda") = true;
  m.def("cuda_devices", [] {
    std::string problem;
    const int n = idem::cuda::device_count(problem);
    return std::make_pair(n, problem);
  });
#else
  m.attr("built_with_cuda") = false;
  m.def("cuda_devices", [] { return std::make_pair(0, std::string("built without CUDA")); });
#endif
  nb::class_<Place>(m, "Place")
      .def(nb::init<int, std::string, int, Address, Address>(), "threads"_a, "isa"_a, "cuda_device"_a, "stream"_a, "work"_a)
      .def_ro("cuda_device", &Place::cuda_device)
      .def_rw("work", &Place::work);
  nb::class_<LennardJonesParams>(m, "LennardJonesParams").def("__init__", [](LennardJonesParams* p, int n_atoms, int n_dims,
      Matrix epsilon, Matrix r_min, double trap, Address species) {
    new (p) LennardJonesParams(lj_params(n_atoms, n_dims, epsilon, r_min, trap, species));
  }, "n_atoms"_a, "n_dims"_a, "epsilon"_a, "r_min"_a, "trap"_a, "species"_a);
  m.def("energy_forces", &energy_forces);
  m.def("mala", &mala);
  m.def("tempering", &tempering);
  m.def("anneal", &anneal);
  m.def("dem_scores", &dem_scores);
  m.def("noise", &noise);
  m.def("peak_flops", &peak_flops);
  m.def("count_flop", &count_flop);
  m.def("philox4x32", &philox4x32);
  m.def("pair_splines", &pair_splines, "x"_a, "knot"_a, "spline"_a, "unit"_a, "n_basis"_a, "length"_a, "shift"_a,
        "lo"_a, "width"_a, "threads"_a);
  m.def("pair_splines_backward", &pair_splines_backward, "x"_a, "gspline"_a, "gunit"_a, "gx"_a, "n_basis"_a, "length"_a,
        "shift"_a, "lo"_a, "width"_a, "threads"_a);
  m.def("message_forward", &message_forward, "knot"_a, "spline"_a, "unit"_a, "a"_a, "v"_a, "filter"_a, "factors"_a,
        "ds"_a.noconvert(), "dv"_a.noconvert(), "threads"_a);
  m.def("message_backward", &message_backward, "knot"_a, "spline"_a, "unit"_a, "a"_a, "v"_a, "filter"_a, "factors"_a,
        "gs"_a, "gv"_a, "ga"_a.noconvert(), "gvin"_a.noconvert(), "gfilter"_a.noconvert(), "gfactors"_a.noconvert(),
        "gspline"_a.noconvert(), "gunit"_a.noconvert(), "threads"_a);
  m.def("energy_network", &energy_network, "x"_a, "weights"_a, "u"_a, "gx"_a, "channels"_a, "n_layers"_a, "n_basis"_a,
        "length"_a, "shift"_a, "lo"_a, "width"_a, "threads"_a);
}
