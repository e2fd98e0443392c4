// Sixteen numbers at a time, which the compiler spreads over registers where they do not fit into one. Internal linkage, see numbers.h.

#ifndef ROTARY_BLOCKS_H
#define ROTARY_BLOCKS_H

#include "norm_loops.h"

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace rotary {
namespace {

constexpr int kLanes = kNormLanes;

template <class Number>
struct LanesOf {
  typedef Number Type __attribute__((vector_size(kLanes * sizeof(Number))));
};
template <class Number>
using Lanes = typename LanesOf<Number>::Type;

template <class Number>
INLINE Lanes<Number> block_at(const Number* from) {
  Lanes<Number> block;
  std::memcpy(&block, from, sizeof block);
  return block;
}

#if defined(__clang__)
#define ROTARY_EXCHANGED(v, n)                                                                                                             \
  __builtin_shufflevector(v, v, 0 ^ n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n, 8 ^ n, 9 ^ n, 10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, 14 ^ n, \
                          15 ^ n)
#else
#define ROTARY_EXCHANGED(v, n)                                                                                                              \
  __builtin_shuffle(v, Places{0 ^ n, 1 ^ n, 2 ^ n, 3 ^ n, 4 ^ n, 5 ^ n, 6 ^ n, 7 ^ n, 8 ^ n, 9 ^ n, 10 ^ n, 11 ^ n, 12 ^ n, 13 ^ n, 14 ^ n,   \
                              15 ^ n})
#endif

// The second half onto the first until one is left. Both halves are added to each other, which leaves the sum everywhere.
INLINE float sum_by_halves(Lanes<float> v) {
  using Places = Lanes<std::int32_t>;
  (void)sizeof(Places);
  v += ROTARY_EXCHANGED(v, 8);
  v += ROTARY_EXCHANGED(v, 4);
  v += ROTARY_EXCHANGED(v, 2);
  v += ROTARY_EXCHANGED(v, 1);
  return v[0];
}
INLINE double sum_by_halves(Lanes<double> v) {
  using Places = Lanes<std::int64_t>;
  (void)sizeof(Places);
  v += ROTARY_EXCHANGED(v, 8);
  v += ROTARY_EXCHANGED(v, 4);
  v += ROTARY_EXCHANGED(v, 2);
  v += ROTARY_EXCHANGED(v, 1);
  return v[0];
}

// How a block of a format is loaded and stored: the bits are those of numbers.h.
template <class T>
struct Blocks {  // float and double: what is stored is what is computed with
  using Number = typename T::Number;
  static INLINE Lanes<Number> load(const Number* x) { return block_at(x); }
  static INLINE void store(Number* out, Lanes<Number> block) { std::memcpy(out, &block, sizeof block); }
};

template <>
struct Blocks<BFloat16> {
  using Words = Lanes<std::uint32_t>;
  using Halves = Lanes<std::uint16_t>;
  static INLINE Lanes<float> load(const std::uint16_t* x) {
    return bits<Lanes<float>>(__builtin_convertvector(block_at(x), Words) << 16);
  }
  static INLINE void store(std::uint16_t* out, Lanes<float> block) {
    const Words u = bits<Words>(block), even = u + 0x7FFFu + (u >> 16 & 1u);
    const Words nan = Words{} + 0x7FC00000u, rounded = block == block ? even : nan;
    const Halves halves = __builtin_convertvector(rounded >> 16, Halves);
    std::memcpy(out, &halves, sizeof halves);
  }
};

#if defined(__F16C__)
// The processor's conversions, rounding to nearest, which see denormals of half precision even where it flushes its own.
template <>
struct Blocks<Float16> {
  static INLINE Lanes<float> load(const std::uint16_t* x) {
#if defined(__AVX512F__)
    return bits<Lanes<float>>(_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x))));
#else
    const __m256 halves[2] = {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x))),
                              _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(x + 8)))};
    Lanes<float> block;
    std::memcpy(&block, halves, sizeof block);
    return block;
#endif
  }
  static INLINE void store(std::uint16_t* out, Lanes<float> block) {
#if defined(__AVX512F__)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtps_ph(bits<__m512>(block), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
    __m256 halves[2];
    std::memcpy(halves, &block, sizeof block);
    for (int i = 0; i < 2; ++i)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 8 * i), _mm256_cvtps_ph(halves[i], _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
  }
};
#else
template <>
struct Blocks<Float16> {
  static INLINE Lanes<float> load(const std::uint16_t* x) {
    float numbers[kLanes];
    for (int i = 0; i < kLanes; ++i) numbers[i] = Float16::load(x[i]);
    return block_at(numbers);
  }
  static INLINE void store(std::uint16_t* out, Lanes<float> block) {
    for (int i = 0; i < kLanes; ++i) out[i] = Float16::store(block[i]);
  }
};
#endif

}  // namespace
}  // namespace rotary

#endif
