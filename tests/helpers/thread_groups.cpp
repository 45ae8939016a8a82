// The chains of cuda_chains.hpp on the CPU: each thread of a group is a coroutine that runs until all have to meet.
// Prints, for every case and output, how far it is from the kernels of one lane, relative to 1 + |value|.
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <vector>

#define __device__
#define __global__
#define __launch_bounds__(threads, blocks)
using std::min;

namespace {
struct Index {
  unsigned x;
} threadIdx, blockIdx, blockDim{64};

struct Thread {
  ucontext_t context;
  std::vector<char> stack = std::vector<char>(1 << 17);
  float shown = 0;
};
std::vector<Thread> group;
ucontext_t scheduler;
unsigned me = 0, running = 0;
std::function<void()> body;

void start() {
  body();
  --running;
}
// Every thread of the group comes here before one goes on: they take turns, in order.
void __syncwarp(unsigned) {
  swapcontext(&group[me].context, &scheduler);
}
float __shfl_xor_sync(unsigned mask, float v, int step) {
  group[me].shown = v;
  __syncwarp(mask);
  const float other = group[me ^ step].shown;
  __syncwarp(mask);
  return other;
}
float __fadd_rn(float a, float b) { return a + b; }
}  // namespace

#define IDEM_ISA groups
#include "cpu_kernels.hpp"
#include "philox.hpp"
#include "cuda_chains.hpp"

namespace {
template <class Kernel, class Args> void launch(Kernel kernel, const Args& a, float* work, int64_t chains) {
  const int size = idem::cuda::team_size(a.lj);
  body = [&] { kernel(a, work, size); };
  const int64_t in_block = blockDim.x / size;
  for (int64_t b = 0; b < (chains + in_block - 1) / in_block * in_block; ++b) {  // whole blocks
    group = std::vector<Thread>(size);
    running = size;
    for (auto& t : group) {
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.data();
      t.context.uc_stack.ss_size = t.stack.size();
      t.context.uc_link = &scheduler;
      makecontext(&t.context, start, 0);
    }
    while (running > 0)
      for (me = 0; me < (unsigned)size; ++me) {
        const int64_t thread = b * size + me;
        threadIdx.x = (unsigned)(thread % blockDim.x);
        blockIdx.x = (unsigned)(thread / blockDim.x);
        swapcontext(&scheduler, &group[me].context);
      }
  }
}

using Outputs = std::vector<std::vector<double>>;
// One lane and thread groups, each into outputs of its own.
template <class Run> void compare(const char* name, Run run) {
  Outputs want, got;
  run(false, want);
  run(true, got);
  std::printf("%s:", name);
  for (size_t k = 0; k < want.size(); ++k) {
    double worst = 0;
    for (size_t i = 0; i < want[k].size(); ++i) {
      const double apart = std::fabs(got[k][i] - want[k][i]) / (1 + std::fabs(want[k][i]));
      if (!(apart <= worst) && worst == worst) worst = apart;  // NaN stays
    }
    std::printf(" %.2e", worst);
  }
  std::printf("\n");
}

template <int D, bool kMixed> void test(int n) {
  const int64_t chains = 5, nd = n * D;
  std::mt19937 generator(n);
  std::normal_distribution<float> normal;
  std::vector<uint8_t> species(n);
  for (int i = 0; i < n; ++i) species[i] = i % 2;
  const idem::LennardJonesParams lj{n,   D, 1.0, {{2.0, 0.8}, {0.8, 0.5}}, {{1.0, 1.05}, {1.05, 0.9}},
                                    kMixed ? species.data() : nullptr};
  std::vector<float> lattice(chains * nd);
  const int side = (int)std::ceil(std::pow(n, 1.0 / D) - 1e-9);
  for (int64_t i = 0; i < chains * n; ++i)
    for (int d = 0, at = (int)(i % n); d < D; ++d, at /= side) lattice[i * D + d] = 1.1f * (at % side) + 0.03f * normal(generator);
  const auto& scalar = idem::scalar::kernels();
  char name[80];

  std::snprintf(name, sizeof name, "mala %d %d %d", n, D, kMixed);
  compare(name, [&](bool groups, Outputs& out) {
    std::vector<float> step(chains, 2e-4f), beta(chains, 0.9f), stiffness(chains, 5.0f), u(chains), acceptance(chains), work(chains * 9 * nd, NAN);
    std::vector<float> x(chains * nd), f(x), mean_x(x), mean_f(x);
    const idem::MalaArgs a{lj, chains, 4, 77, step.data(), beta.data(), lattice.data(), stiffness.data(), lattice.data(), x.data(), u.data(),
                           f.data(), mean_x.data(), mean_f.data(), acceptance.data()};
    if (groups) launch(idem::cuda::mala_kernel<D, kMixed>, a, work.data(), chains);
    else scalar.mala(a, 0, chains);
    for (const auto* o : {&x, &u, &f, &mean_x, &mean_f, &acceptance}) out.emplace_back(o->begin(), o->end());
  });
  for (const float* begin : {static_cast<const float*>(nullptr), static_cast<const float*>(lattice.data())}) {
    std::snprintf(name, sizeof name, "anneal%s %d %d %d", begin ? "-from" : "", n, D, kMixed);
    compare(name, [&](bool groups, Outputs& out) {
      const std::vector<double> beta{0, 0.3, 0.7, 1};
      const int64_t stages = 3;
      std::vector<float> step(stages, 1e-4f), x(chains * nd), u(chains), acceptance(chains * stages), increments(acceptance),
          work(chains * 8 * nd, NAN);
      std::vector<double> log_w(chains);
      const idem::AnnealArgs a{lj, chains, stages, 2, 3, 5, 900.0f, 100.0f, 1.0f, beta.data(), step.data(), begin, lattice.data(),
                               lattice.data(), x.data(), u.data(), log_w.data(), acceptance.data(), increments.data()};
      if (groups) launch(idem::cuda::anneal_kernel<D, kMixed>, a, work.data(), chains);
      else scalar.anneal(a, 0, chains);
      for (const auto* o : {&x, &u, &acceptance, &increments}) out.emplace_back(o->begin(), o->end());
      out.push_back(log_w);
    });
  }
  std::snprintf(name, sizeof name, "tempering %d %d %d", n, D, kMixed);
  compare(name, [&](bool groups, Outputs& out) {
    const int rungs = 3;
    const int64_t ladders = 3, rounds = 3;
    const std::vector<float> beta{1, 0.8f, 0.5f}, step{2e-4f, 2e-4f, 3e-4f};
    std::vector<float> x0;
    for (int64_t r = 0; r < ladders * rungs; ++r) x0.insert(x0.end(), &lattice[r % chains * nd], &lattice[r % chains * nd] + nd);
    std::vector<float> x(x0.size()), f(x0.size()), u(ladders * rungs), acceptance(u), swaps(ladders * (rungs - 1)), trips(ladders),
        trace(ladders * rounds * rungs), work(ladders * ((2 * rungs + 5) * nd + 4 * rungs * idem::cuda::team_size(lj)), NAN);
    const idem::TemperingArgs a{lj, ladders, rounds, 2, rungs, 9, beta.data(), step.data(), x0.data(), x.data(), u.data(), f.data(),
                                acceptance.data(), swaps.data(), trips.data(), trace.data()};
    if (groups) launch(idem::cuda::tempering_kernel<D, kMixed>, a, work.data(), ladders);
    else scalar.tempering(a, 0, ladders);
    for (const auto* o : {&x, &u, &f, &acceptance, &swaps, &trips, &trace}) out.emplace_back(o->begin(), o->end());
  });
}
}  // namespace

int main() {
  test<3, false>(13);
  test<3, true>(13);
  test<2, false>(7);
  test<2, true>(9);
  test<2, false>(2);
  test<3, false>(1);
  test<3, false>(33);
  test<3, false>(55);
  test<3, true>(100);
}
