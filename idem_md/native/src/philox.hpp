// Philox4x32-10, a counter-based generator (Salmon, Moraes, Dror & Shaw, SC 2011), and the elementary functions for
// one float: what a CUDA thread uses, and the `scalar` instruction set on the CPU, by which the tests run that code.
#pragma once
#include <cmath>
#include <cstdint>

#include "lennard_jones.hpp"

namespace idem {
namespace IDEM_ISA {

IDEM_INLINE float vsqrt(float a) { return sqrtf(a); }
IDEM_INLINE float vexp(float a) { return expf(a); }
IDEM_INLINE float vlog(float a) { return logf(a); }

IDEM_INLINE void philox4x32(uint32_t key0, uint32_t key1, uint32_t c[4]) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
    const uint32_t hi0 = (uint32_t)(p0 >> 32), hi1 = (uint32_t)(p1 >> 32);
    c[0] = hi1 ^ c[1] ^ key0;
    c[1] = (uint32_t)p1;
    c[2] = hi0 ^ c[3] ^ key1;
    c[3] = (uint32_t)p0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// The stream of one sample: its numbers depend on (seed, sample) only, and can be had in any order.
struct Philox {
  using V = float;
  uint32_t key0, key1, stream0, stream1, out[4];
  uint64_t block, count;  // `out` is of block - 1; numbers so far

  IDEM_INLINE void seed(uint64_t seed, uint64_t stream) {
    key0 = (uint32_t)seed;
    key1 = (uint32_t)(seed >> 32);
    stream0 = (uint32_t)stream;
    stream1 = (uint32_t)(stream >> 32);
    block = count = 0;
  }
  // Number i of the stream: four to a block, the last one first.
  IDEM_INLINE uint32_t at(uint64_t i) {
    if (block != i / 4 + 1) {
      block = i / 4 + 1;
      out[0] = (uint32_t)(i / 4);
      out[1] = (uint32_t)(i / 4 >> 32);
      out[2] = stream0;
      out[3] = stream1;
      philox4x32(key0, key1, out);
    }
    const int k = (int)(i % 4);
    return k == 0 ? out[3] : k == 1 ? out[2] : k == 2 ? out[1] : out[0];
  }
  // Uniform in (0, 1]: 24 bits.
  IDEM_INLINE float uniform_at(uint64_t i) { return ((float)(at(i) >> 8) + 0.5f) * 5.9604644775390625e-8f; }
  IDEM_INLINE void normal_pair_at(uint64_t i, float& a, float& b) {
    const float r = sqrtf(-2.0f * logf(uniform_at(i))), turn = 2.0f * uniform_at(i + 1);
#if defined(__CUDA_ARCH__)
    float s, c;
    sincospif(turn, &s, &c);
#else
    const float s = sinf(3.14159265358979f * turn), c = cosf(3.14159265358979f * turn);
#endif
    a = r * c;
    b = r * s;
  }
  IDEM_INLINE float uniform() { return uniform_at(count++); }
  IDEM_INLINE void normal_pair(float& a, float& b) {
    normal_pair_at(count, a, b);
    count += 2;
  }
};

#if !defined(__CUDACC__)
// One lane, for the driver in cpu_kernels.cpp.
using F = float;
using Rng = Philox;
template <class T> struct Simd {
  using V = T;
  static constexpr int width = 1;
};
constexpr int kWidth = 1;
template <class T> static inline T& lane(T& v, int) { return v; }
static inline F lane_index() { return 0.0f; }
#endif

}  // namespace IDEM_ISA
}  // namespace idem
