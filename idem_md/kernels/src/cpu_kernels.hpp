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

// Cubic-spline coordinates of all pairs i > j, in the order (1,0), (2,0), (2,1), ...
struct SplineArgs {
  int n_atoms, n_dims, n_basis;
  float length, shift, lo, width;
  const float* x;           // (B,N,D)
  int32_t* knot;            // (B,P) first of the four basis functions that are not zero
  float* spline;            // (B,P,4) their values
  float* unit;              // (B,P,D) (x_i - x_j) / r
};

// ds_i = sum_j a_j W, dv_i = sum_j a'_j W' rhat_ij + v_j a''_j W'', with filters W (K,3C) in the spline basis.
constexpr int kMaxChannels = 512;
struct MessageArgs {
  int n_atoms, n_dims, n_basis, channels;
  const int32_t* knot;
  const float *spline, *unit;
  const float *a, *v;       // (B,N,3C), (B,N,D,C)
  const float* filter;      // (K,3C)
  float *ds, *dv;           // forward: (B,N,C), (B,N,D,C)
  const float *gs, *gv;     // backward: gradients of ds, dv
  float *ga, *gvin;         // backward: gradients of a, v
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
  void (*pair_splines)(const SplineArgs&, int64_t, int64_t);
  void (*message_forward)(const MessageArgs&, int64_t, int64_t);
  void (*message_backward)(const MessageArgs&, int64_t, int64_t, float* gfilter);  // writes gfilter (K,3C)
};

namespace baseline { const CpuKernels& kernels(); }
namespace avx2 { const CpuKernels& kernels(); }
namespace avx512 { const CpuKernels& kernels(); }

}  // namespace idem
