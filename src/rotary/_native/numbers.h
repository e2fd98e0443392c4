// Numbers as they lie in memory and as they are computed with, one at a time.
//
// Everything here has internal linkage, as in every header that a source compiled for several instruction sets includes: of an inline
// function with external linkage the linker keeps any one copy, and a copy made of AVX-512 would end a process on a processor without it.

#ifndef ROTARY_NUMBERS_H
#define ROTARY_NUMBERS_H

#include <cstdint>
#include <cstring>

#if defined(__FAST_MATH__)
#error "-ffast-math changes bits: compile without it"
#endif

#define INLINE inline __attribute__((always_inline))

namespace rotary {

using Index = std::int64_t;

enum Dtype : Index { kFloat32, kFloat64, kBFloat16, kFloat16 };  // as _rotation/native.py numbers them

namespace {

INLINE Index smaller(Index a, Index b) { return a < b ? a : b; }
INLINE Index larger(Index a, Index b) { return a < b ? b : a; }

template <class To, class From>
INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

struct Float32 {
  using Stored = float;
  using Number = float;
  static INLINE float load(float stored) { return stored; }
  static INLINE float store(float number) { return number; }
};

struct Float64 {
  using Stored = double;
  using Number = double;
  static INLINE double load(double stored) { return stored; }
  static INLINE double store(double number) { return number; }
};

struct BFloat16 {
  using Stored = std::uint16_t;
  using Number = float;
  static INLINE float load(Stored stored) { return bits<float>(static_cast<std::uint32_t>(stored) << 16); }
  static INLINE Stored store(float number) {
    const std::uint32_t u = bits<std::uint32_t>(number);
    const std::uint32_t even = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;  // nearest, ties to even; the carry makes infinity by itself
    return static_cast<Stored>(number == number ? even : 0x7FC0u);      // NaN stays NaN
  }
};

// In integers, because compilers before GCC 13 do not vectorise their own _Float16, and because these see the denormals of
// half precision whether or not the processor flushes its own.
struct Float16 {
  using Stored = std::uint16_t;
  using Number = float;
  static INLINE float load(Stored stored) {
    const std::uint32_t magnitude = stored & 0x7FFFu;
    const std::uint32_t sign = static_cast<std::uint32_t>(stored & 0x8000u) << 16;
    const std::uint32_t top = magnitude >= 0x7C00u ? (255u - 31u) << 23 : (127u - 15u) << 23;  // infinities and NaNs keep the last exponent
    const std::uint32_t normal = (magnitude << 13) + top;
    const float counted = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;  // denormals are counts of 2^-24
    return bits<float>((magnitude < 0x0400u ? bits<std::uint32_t>(counted) : normal) | sign);
  }
  static INLINE Stored store(float number) {
    const std::uint32_t u = bits<std::uint32_t>(number);
    const std::uint32_t magnitude = u & 0x7FFFFFFFu;
    const std::uint32_t even = ((magnitude + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13) - ((127u - 15u) << 10);
    const std::uint32_t capped = even > 0x7C00u ? 0x7C00u : even;
    // Below 2^-14 the last place is 2^-24, which is the last place of 0.5 in float32: adding 0.5 rounds there.
    const std::uint32_t counted = bits<std::uint32_t>(bits<float>(magnitude) + 0.5f) - bits<std::uint32_t>(0.5f);
    const std::uint32_t finite = magnitude < 0x38800000u ? counted : capped;
    return static_cast<Stored>((magnitude > 0x7F800000u ? 0x7E00u : finite) | ((u >> 16) & 0x8000u));
  }
};

}  // namespace
}  // namespace rotary

#endif
