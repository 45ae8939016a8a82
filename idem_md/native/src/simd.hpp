// Vector lanes, elementary functions and random numbers for the CPU kernels.
//
// Every lane carries one independent sample. The width follows IDEM_VECTOR_BYTES, which the build sets
// per instruction set; the code itself uses only the vector extensions that GCC and Clang share, so the
// same source serves AVX-512, AVX2 and any baseline. All names live in a namespace per instruction set:
// the linker must never swap an AVX-512 function in for a baseline one. For the same reason no standard
// library templates appear here.
#pragma once
#include <cstdint>

#ifndef IDEM_VECTOR_BYTES
#define IDEM_VECTOR_BYTES 16
#endif
#ifndef IDEM_ISA
#define IDEM_ISA baseline
#endif

namespace idem {
namespace IDEM_ISA {

template <class T> struct Simd;

template <> struct Simd<float> {
  static constexpr int width = IDEM_VECTOR_BYTES / 4;
  typedef float V __attribute__((vector_size(IDEM_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(IDEM_VECTOR_BYTES)));
  typedef uint32_t U __attribute__((vector_size(IDEM_VECTOR_BYTES)));
};

template <> struct Simd<double> {
  static constexpr int width = IDEM_VECTOR_BYTES / 8;
  typedef double V __attribute__((vector_size(IDEM_VECTOR_BYTES)));
};

using F = Simd<float>::V;
using I = Simd<float>::I;
using U = Simd<float>::U;
constexpr int kWidth = Simd<float>::width;

// One lane of a vector, to read or to write.
template <class T> struct Element { using type = float; };
template <> struct Element<Simd<double>::V> { using type = double; };
template <class V> static inline typename Element<V>::type& lane(V& v, int l) {
  return reinterpret_cast<typename Element<V>::type*>(&v)[l];
}
template <class V> static inline const typename Element<V>::type& lane(const V& v, int l) {
  return reinterpret_cast<const typename Element<V>::type*>(&v)[l];
}
static inline F lane_index() {
  F r;
  for (int l = 0; l < kWidth; ++l) r[l] = (float)l;
  return r;
}

static inline F vsqrt(F a) {
  F r;
  for (int l = 0; l < kWidth; ++l) r[l] = __builtin_sqrtf(a[l]);
  return r;
}

// exp for arguments <= 0 (weights relative to a running maximum); below -87 the result is 0.
static inline F vexp(F x) {
  const I underflow = x < -87.0f;
  x = underflow ? F{} : x;
  const F n = __builtin_convertvector(__builtin_convertvector(x * 1.44269504088896341f - 0.5f, I), F);
  F r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  F p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const I bits = (__builtin_convertvector(n, I) + 127) << 23;
  const F y = p * (F)bits;
  return underflow ? F{} : y;
}

// log for finite normal positive arguments (Cephes polynomial).
static inline F vlog(F x) {
  I bits = (I)x;
  I e = ((bits >> 23) & 0xff) - 126;
  F m = (F)((bits & 0x007fffff) | 0x3f000000);  // [0.5, 1)
  const I small = m < 0.707106781186547524f;
  e = e + small;  // comparison is -1 where true
  m = (small ? m + m : m) - 1.0f;
  const F z = m * m;
  F p = 7.0376836292e-2f * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  F y = m * z * p;
  const F ef = __builtin_convertvector(e, F);
  y = y + ef * -2.12194440e-4f - 0.5f * z;
  return m + y + ef * 0.693359375f;
}

// splitmix-style avalanche of a 64-bit counter; used to seed, never in the inner loop.
static inline uint64_t mix64(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// xoshiro128++ (Blackman & Vigna), one generator a lane, seeded from (seed, stream): a sample's numbers
// depend on neither the number of threads nor the vector width.
struct Rng {
  using V = F;
  U s0, s1, s2, s3;

  void seed(uint64_t seed, uint64_t first_stream) {
    const uint64_t base = mix64(seed);
    for (int l = 0; l < kWidth; ++l) {
      const uint64_t a = mix64(base ^ mix64(first_stream + (uint64_t)l)), b = mix64(a);
      s0[l] = (uint32_t)a | 1u;  // never the all-zero state
      s1[l] = (uint32_t)(a >> 32);
      s2[l] = (uint32_t)b;
      s3[l] = (uint32_t)(b >> 32);
    }
  }
  static inline U rotl(U x, int k) { return (x << k) | (x >> (32 - k)); }
  inline U next() {
    const U out = rotl(s0 + s3, 7) + s0;
    const U t = s1 << 9;
    s2 ^= s0; s3 ^= s1; s1 ^= s2; s0 ^= s3;
    s2 ^= t;
    s3 = rotl(s3, 11);
    return out;
  }
  // Uniform in (0, 1]: 24 bits.
  static inline F to_uniform(U bits) {
    return (__builtin_convertvector((I)(bits >> 8), F) + 0.5f) * 5.9604644775390625e-8f;
  }
  inline F uniform() { return to_uniform(next()); }
  // Box-Muller. The angle's quadrant comes from the top bits, so one short polynomial serves both.
  inline void normal_pair(F& a, F& b) {
    const F r = vsqrt(-2.0f * vlog(uniform()));
    const U bits = next();
    const F t = (__builtin_convertvector((I)((bits << 2) >> 8), F) * 5.9604644775390625e-8f - 0.5f) * 1.57079632679489662f;
    const F z = t * t;
    F s = -1.9515295891e-4f * z + 8.3321608736e-3f;
    s = (s * z - 1.6666654611e-1f) * z * t + t;
    F c = 2.443315711809948e-5f * z - 1.388731625493765e-3f;
    c = (c * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    const U quadrant = bits >> 30;
    const I swap = (I)((quadrant & 1u) != 0u);
    const U flip_both = (quadrant >> 1) << 31;  // half a turn
    const F x = swap ? -s : c, y = swap ? c : s;
    a = r * (F)((U)x ^ flip_both);
    b = r * (F)((U)y ^ flip_both);
  }
};

}  // namespace IDEM_ISA
}  // namespace idem
