// Python bindings: picks an instruction set, spreads items over threads, checks nothing: the Python
// ops validate shapes, dtypes and ranges before they call.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "cpu_kernels.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using idem::CpuKernels;
using idem::LennardJonesParams;

namespace {

template <class T> using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T> using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

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
  return found;
}

const CpuKernels& select(const std::string& name) {
  static const std::vector<const CpuKernels*> found = available();
  if (name.empty()) return *found.front();
  for (const CpuKernels* k : found)
    if (name == k->name) return *k;
  throw std::invalid_argument("instruction set '" + name + "' is not available on this processor");
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
  std::vector<std::thread> pool;
  for (int t = 1; t < threads; ++t) pool.emplace_back(work);
  work();
  for (auto& t : pool) t.join();
  if (failure) std::rethrow_exception(failure);
}

template <class T>
void energy_forces(In<T> x, Out<T> u, Out<T> f, double epsilon, double r_min, double trap, int threads,
                   const std::string& isa) {
  const CpuKernels& k = select(isa);
  const LennardJonesParams p{(int)x.shape(1), (int)x.shape(2), epsilon, r_min, trap};
  const int64_t grain = 4 * (sizeof(T) == 4 ? k.width_f32 : k.width_f64);
  const T* xp = x.data();
  T *up = u.data(), *fp = f.data();
  spread((int64_t)x.shape(0), grain, threads, [&](int64_t b, int64_t e) {
    if constexpr (sizeof(T) == 4)
      k.energy_forces_f32(p, xp, up, fp, b, e);
    else
      k.energy_forces_f64(p, xp, up, fp, b, e);
  });
}

template <class T> T* data_or_null(std::optional<nb::ndarray<T, nb::c_contig, nb::device::cpu>>& a) {
  return a ? a->data() : nullptr;
}

void mala(In<float> x0, In<float> step, In<float> beta, std::optional<In<float>> centre,
          std::optional<In<float>> stiffness, Out<float> x, Out<float> u, Out<float> f, Out<float> acceptance,
          std::optional<Out<float>> mean_x, std::optional<Out<float>> mean_f, int64_t n_steps, uint64_t seed,
          double epsilon, double r_min, double trap, int threads, const std::string& isa) {
  const CpuKernels& k = select(isa);
  const idem::MalaArgs a{{(int)x0.shape(1), (int)x0.shape(2), epsilon, r_min, trap},
                         n_steps, seed, step.data(), beta.data(),
                         data_or_null(centre), data_or_null(stiffness), x0.data(), x.data(), u.data(), f.data(),
                         data_or_null(mean_x), data_or_null(mean_f), acceptance.data()};
  spread((int64_t)x0.shape(0), k.width_f32, threads, [&](int64_t b, int64_t e) { k.mala(a, b, e); });
}

void dem_target(In<float> x, In<float> sigma, Out<float> s_tsi, Out<float> s_dsi, Out<float> alpha,
                Out<float> log_mean_exp, Out<float> ess, int64_t n_samples, uint64_t seed, double epsilon, double r_min,
                double trap, int threads, const std::string& isa) {
  const CpuKernels& k = select(isa);
  const idem::TargetArgs a{{(int)x.shape(1), (int)x.shape(2), epsilon, r_min, trap},
                           n_samples, seed, x.data(), sigma.data(), s_tsi.data(), s_dsi.data(), alpha.data(),
                           log_mean_exp.data(), ess.data()};
  spread((int64_t)x.shape(0), 1, threads, [&](int64_t b, int64_t e) { k.dem_target(a, b, e); });
}

void pair_splines(In<float> x, Out<int32_t> knot, Out<float> spline, Out<float> unit, int n_basis, float length,
                  float shift, float lo, float width, int threads) {
  const CpuKernels& k = select("");
  const idem::SplineArgs a{(int)x.shape(1), (int)x.shape(2), n_basis, length, shift, lo, width,
                           x.data(), knot.data(), spline.data(), unit.data()};
  spread((int64_t)x.shape(0), 16, threads, [&](int64_t b, int64_t e) { k.pair_splines(a, b, e); });
}

idem::MessageArgs message_args(const In<int32_t>& knot, const In<float>& spline, const In<float>& unit,
                               const In<float>& a, const In<float>& v, const In<float>& filter) {
  if (v.shape(3) > idem::kMaxChannels) throw std::invalid_argument("channels: expected at most 512");
  return {(int)v.shape(1), (int)v.shape(2), (int)filter.shape(0), (int)v.shape(3), knot.data(), spline.data(),
          unit.data(), a.data(), v.data(), filter.data(), nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};
}

void message_forward(In<int32_t> knot, In<float> spline, In<float> unit, In<float> a, In<float> v, In<float> filter,
                     Out<float> ds, Out<float> dv, int threads) {
  const CpuKernels& k = select("");
  idem::MessageArgs m = message_args(knot, spline, unit, a, v, filter);
  m.ds = ds.data();
  m.dv = dv.data();
  spread((int64_t)a.shape(0), 4, threads, [&](int64_t b, int64_t e) { k.message_forward(m, b, e); });
}

void message_backward(In<int32_t> knot, In<float> spline, In<float> unit, In<float> a, In<float> v, In<float> filter,
                      In<float> gs, In<float> gv, Out<float> ga, Out<float> gvin, Out<float> gfilter, int threads) {
  const CpuKernels& k = select("");
  idem::MessageArgs m = message_args(knot, spline, unit, a, v, filter);
  m.gs = gs.data();
  m.gv = gv.data();
  m.ga = ga.data();
  m.gvin = gvin.data();
  // One partial gradient a block of samples, added in the order of the blocks: the sum does not depend on the
  // number of threads.
  const int64_t n = (int64_t)a.shape(0), size = (int64_t)filter.shape(0) * (int64_t)filter.shape(1);
  const int64_t grain = std::max<int64_t>(16, (n + 31) / 32), blocks = (n + grain - 1) / grain;
  std::vector<float> partial(blocks * size);
  spread(n, grain, threads,
         [&](int64_t b, int64_t e) { k.message_backward(m, b, e, partial.data() + b / grain * size); });
  float* total = gfilter.data();
  std::fill(total, total + size, 0.0f);
  for (int64_t b = 0; b < blocks; ++b)
    for (int64_t i = 0; i < size; ++i) total[i] += partial[b * size + i];
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Native Lennard-Jones kernels; use idem_md.kernels, which validates what is passed in.";
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const CpuKernels* k : available()) names.emplace_back(k->name);
    return names;
  });
  m.def("lj_energy_forces_f32", &energy_forces<float>, "x"_a, "u"_a, "f"_a, "epsilon"_a, "r_min"_a, "trap"_a,
        "threads"_a, "isa"_a);
  m.def("lj_energy_forces_f64", &energy_forces<double>, "x"_a, "u"_a, "f"_a, "epsilon"_a, "r_min"_a, "trap"_a,
        "threads"_a, "isa"_a);
  m.def("lj_mala", &mala, "x0"_a, "step"_a, "beta"_a, "centre"_a.none(), "stiffness"_a.none(), "x"_a, "u"_a, "f"_a,
        "acceptance"_a, "mean_x"_a.none(), "mean_f"_a.none(), "n_steps"_a, "seed"_a, "epsilon"_a, "r_min"_a, "trap"_a,
        "threads"_a, "isa"_a);
  m.def("lj_dem_target", &dem_target, "x"_a, "sigma"_a, "s_tsi"_a, "s_dsi"_a, "alpha"_a, "log_mean_exp"_a, "ess"_a,
        "n_samples"_a, "seed"_a, "epsilon"_a, "r_min"_a, "trap"_a, "threads"_a, "isa"_a);
  m.def("pair_splines", &pair_splines, "x"_a, "knot"_a, "spline"_a, "unit"_a, "n_basis"_a, "length"_a, "shift"_a,
        "lo"_a, "width"_a, "threads"_a);
  m.def("message_forward", &message_forward, "knot"_a, "spline"_a, "unit"_a, "a"_a, "v"_a, "filter"_a, "ds"_a, "dv"_a,
        "threads"_a);
  m.def("message_backward", &message_backward, "knot"_a, "spline"_a, "unit"_a, "a"_a, "v"_a, "filter"_a, "gs"_a,
        "gv"_a, "ga"_a, "gvin"_a, "gfilter"_a, "threads"_a);
}
