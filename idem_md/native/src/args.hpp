// What the kernels take: plain pointers, the same for the CPU and for CUDA.
#pragma once
#include "lennard_jones.hpp"

namespace idem {

// The one size that CUDA compiles apart, with everything in registers: a shipped benchmark.
constexpr int kFixedAtoms = 13;

struct MalaArgs {
  LennardJonesParams lj;
  int64_t n_chains, n_steps;
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

struct TemperingArgs {
  LennardJonesParams lj;
  int64_t n_ladders, n_rounds, n_steps;  // n_steps of MALA a replica, then one round of swaps
  int n_rungs;
  uint64_t seed;
  const float* beta;        // (R) inverse temperatures, coldest first
  const float* step;        // (R)
  const float* x0;          // (C,R,N,D)
  float* x;                 // (C,R,N,D) final positions, by rung
  float* u;                 // (C,R)
  float* f;                 // (C,R,N,D)
  float* acceptance;        // (C,R) of the MALA steps
  float* swaps;             // (C,R-1) accepted share of the attempted swaps of rungs r, r+1
  float* round_trips;       // (C) arrivals at the coldest rung of replicas that had been hottest
  float* trace;             // (C,rounds,R) energies after each round
};

// Annealed importance sampling from N(mean, 1/from) to exp(-end u(y)) N(y; x_t, 1/to), Gaussians not normalised; or the
// way back, with beta falling from 1 to 0.
struct AnnealArgs {
  LennardJonesParams lj;
  // After each of n_stages steps of beta n_moves of HMC, of n_leapfrogs each; one leapfrog is MALA.
  int64_t n_chains, n_stages, n_moves, n_leapfrogs;
  uint64_t seed;
  float from, to, end;      // precisions of the Gaussians at either end; inverse temperature of u at the end
  const double* beta;       // (T+1) from 0 to 1, or from 1 to 0
  const float* step;        // (T) h of the moves after each step of beta: leapfrogs of sqrt(2h)
  const float* start;       // (C,N,D), or null: chains start at draws from N(mean, 1/from)
  const float* mean;        // (C,N,D)
  const float* x_t;         // (C,N,D)
  float* x;                 // (C,N,D) end points
  float* u;                 // (C)
  double* log_w;            // (C)
  float* acceptance;        // (C,T) or null
  float* increments;        // (C,T) what log_w grows by, or null
};

struct TargetArgs {
  LennardJonesParams lj;
  int64_t n_points, n_samples;  // B, K
  uint64_t seed;
  const float* x;           // (B,N,D)
  const float* sigma;       // (B)
  float* s_tsi;             // (B,N,D)
  float* s_dsi;             // (B,N,D)
  float* alpha;             // (B)
  float* log_mean_exp;      // (B)
  float* ess;               // (B)
};

struct NoiseArgs {
  int n_atoms, n_dims;
  int64_t n_samples;
  uint64_t seed;
  float* eps;               // (S,N,D)
};

}  // namespace idem
