// What one instruction set offers. The module picks a table at run time.
#pragma once
#include <cstdint>

#include "lennard_jones.hpp"

namespace idem {

struct MalaArgs {
  LennardJonesParams lj;
  int64_t n_steps;
  uint64_t seed;
  const float* step;        // (C) Langevin step h in x' = x + h f + sqrt(2h) noise
  const float* beta;        // (C) inverse temperature relative to kT = 1
  const float* centre;      // (C,N,D) restraint centre, or null
  const float* stiffness;   // (C) restraint stiffness 1/sigma^2; read only with a centre
  const float* x0;          // (C,N,D)
  float* x;                 // (C,N,D) final positions
  float* u;                 // (C) final energy (without the restraint)
  float* f;                 // (C,N,D) final forces (without the restraint)
  float* mean_x;            // (C,N,D) average over the steps, or null
  float* mean_f;            // (C,N,D) likewise
  float* acceptance;        // (C)
};

struct TargetArgs {
  LennardJonesParams lj;
  int64_t n_samples;        // K
  uint64_t seed;
  const float* x;           // (B,N,D)
  const float* sigma;       // (B)
  float* s_tsi;             // (B,N,D)
  float* s_dsi;             // (B,N,D)
  float* alpha;             // (B)
  float* log_mean_exp;      // (B)
  float* ess;               // (B)
};

// Every function works on items [begin, end); items are independent, so the caller may cut the range
// anywhere that is a multiple of the lane width.
struct CpuKernels {
  const char* name;
  int width_f32, width_f64;
  void (*energy_forces_f32)(const LennardJonesParams&, const float*, float*, float*, int64_t, int64_t);
  void (*energy_forces_f64)(const LennardJonesParams&, const double*, double*, double*, int64_t, int64_t);
  void (*mala)(const MalaArgs&, int64_t, int64_t);
  void (*dem_target)(const TargetArgs&, int64_t, int64_t);
};

namespace baseline { const CpuKernels& kernels(); }
namespace avx2 { const CpuKernels& kernels(); }
namespace avx512 { const CpuKernels& kernels(); }

}  // namespace idem
