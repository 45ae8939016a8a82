// What one instruction set offers. The module picks a table at run time.
#pragma once
#include "args.hpp"

namespace idem {

// K splines of the distance, see splines.hpp.
struct SplineScale {
  int n_basis;
  float length, shift, lo, width;
};

// Cubic-spline coordinates of all pairs i > j, in the order (1,0), (2,0), (2,1), ...
struct SplineArgs {
  int n_atoms, n_dims;
  SplineScale scale;
  const float* x;           // (B,N,D)
  int32_t* knot;            // (B,P) first of the four basis functions that are not zero
  float* spline;            // (B,P,4) their values
  float* unit;              // (B,P,D) (x_i - x_j) / r
  const float *gspline, *gunit;  // backward: gradients of spline, unit
  float* gx;                // backward: gradient of x
};

// ds_i = sum_j a_j W, dv_i = sum_j a'_j W' rhat_ij + v_j a''_j W'', with filters W (K,3C) in the spline basis.
constexpr int kMaxChannels = 512;
struct MessageArgs {
  int n_atoms, n_dims, n_basis, channels;
  const int32_t* knot;
  const float *spline, *unit;
  const float *a, *v;       // (B,N,3C), (B,N,D,C)
  const float* filter;      // (K,3C)
  const float* factors;     // (P,3C) of the filters of each pair, or null
  float *ds, *dv;           // forward: (B,N,C), (B,N,D,C)
  const float *gs, *gv;     // backward: gradients of ds, dv
  float *ga, *gvin;         // backward: gradients of a, v
  float *gspline, *gunit;   // backward: gradients of spline, unit, or both null
};

// Energies of an equivariant network in three dimensions, see cpu_energy_network.cpp, and their gradients.
struct EnergyNetworkArgs {
  int n_atoms, channels, n_layers;
  SplineScale scale;
  const float* weights;     // in the order of `LayerWeights` and `NetworkWeights`
  const float* x;           // (B,N,3)
  double* u;                // (B)
  float* gx;                // (B,N,3)
};

// Every function works on items [begin, end); items are independent, so the caller may cut the range
// anywhere that is a multiple of the lane width.
struct CpuKernels {
  const char* name;
  int width_f32, width_f64;
  void (*energy_forces_f32)(const LennardJonesParams&, const float*, float*, float*, int64_t, int64_t);
  void (*energy_forces_f64)(const LennardJonesParams&, const double*, double*, double*, int64_t, int64_t);
  void (*mala)(const MalaArgs&, int64_t, int64_t);
  void (*tempering)(const TemperingArgs&, int64_t, int64_t);
  void (*anneal)(const AnnealArgs&, int64_t, int64_t);
  void (*dem_scores)(const TargetArgs&, int64_t, int64_t);
  void (*noise)(const NoiseArgs&, int64_t, int64_t);
  double (*fma_loop)(int64_t);              // runs that many fused multiply-adds a lane on 10 registers; returns their sum
  void (*pair_splines)(const SplineArgs&, int64_t, int64_t);
  void (*pair_splines_backward)(const SplineArgs&, int64_t, int64_t);
  void (*message_forward)(const MessageArgs&, int64_t, int64_t);
  // Writes the gradients of filter (K,3C), then of factors (P,3C) if there are any; nothing where there is no room.
  void (*message_backward)(const MessageArgs&, int64_t, int64_t, float* gradients);
  int64_t (*energy_network_floats)(const EnergyNetworkArgs&);  // that a thread needs to work in
  void (*energy_network)(const EnergyNetworkArgs&, int64_t, int64_t, float* work);
};

namespace scalar { const CpuKernels& kernels(); }
namespace baseline { const CpuKernels& kernels(); }
namespace avx2 { const CpuKernels& kernels(); }
namespace avx512 { const CpuKernels& kernels(); }

}  // namespace idem
