// The formats of numbers in memory, and their conversion to the type of the arithmetic, one number at a time.
//
// Everything here has internal linkage, as in every header that a source compiled for several instruction sets includes: of an inline
// function with external linkage the linker keeps any one copy, and a copy made of AVX-512 would end a process on a processor without it.

#ifndef ROTARY_NUMBERS_H
#define ROTARY_NUMBERS_H

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__FAST_MATH__)
#error "-ffast-math changes bits: compile without it"
#endif

#define INLINE inline __attribute__((always_inline))

// Before a loop: no iteration depends on another. Alias analysis cannot see it, since out may be x, or is apart from it.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

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

// A static_cast, of each element where these are vectors.
template <class To, class From>
INLINE To convert(From from) {
  if constexpr (std::is_arithmetic_v<From>) {
    return static_cast<To>(from);
  } else {
#if defined(__clang__) || __GNUC__ >= 9
    return __builtin_convertvector(from, To);
#else
    To to;
    for (unsigned i = 0; i < sizeof to / sizeof to[0]; ++i) to[i] = static_cast<std::decay_t<decltype(to[i])>>(from[i]);
    return to;
#endif
  }
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

// The formulas of both half precisions serve a number and a vector of them: Real is float, Bits and Signed are the integers of its size.

struct BFloat16 {
  using Stored = std::uint16_t;
  using Number = float;
  // Rounded to nearest, ties to even, in the upper half of each word; the lower half is arbitrary. A carry out of the mantissa raises the
  // exponent, up to infinity. A NaN with set last bits would be carried into a zero: where one may come, `whole` has all bits 0 for it,
  // so that it is cut off instead, and all bits 1 for other numbers.
  template <class Bits>
  static INLINE Bits rounded(Bits number, Bits whole) {
    return number + (whole & 0x7FFFu) + (number >> 16 & (whole & 1u));
  }
  static INLINE float load(Stored stored) { return bits<float>(static_cast<std::uint32_t>(stored) << 16); }
  static INLINE Stored store(float number) { return static_cast<Stored>(rounded(bits<std::uint32_t>(number), number == number ? ~0u : 0u) >> 16); }
};

// In integers, because compilers before GCC 13 do not vectorise their own _Float16, and because these see the denormals of
// half precision whether or not the processor flushes its own.
struct Float16 {
  using Stored = std::uint16_t;
  using Number = float;
  template <class Real, class Bits, class Signed>
  static INLINE Real widened(Bits stored) {
    const Bits magnitude = stored & 0x7FFFu, sign = (stored & 0x8000u) << 16;
    const Bits top = magnitude >= 0x7C00u ? Bits{} + ((255u - 31u) << 23) : Bits{} + ((127u - 15u) << 23);  // infinity and NaN keep the last exponent
    const Bits normal = (magnitude << 13) + top;
    const Real counted = convert<Real>(convert<Signed>(magnitude)) * 0x1p-24f;  // denormals are counts of 2^-24
    return bits<Real>((magnitude < 0x0400u ? bits<Bits>(counted) : normal) | sign);
  }
  template <class Real, class Bits>
  static INLINE Bits rounded(Real number) {
    const Bits u = bits<Bits>(number), magnitude = u & 0x7FFFFFFFu;
    const Bits even = ((magnitude + 0xFFFu + (magnitude >> 13 & 1u)) >> 13) - ((127u - 15u) << 10);
    const Bits capped = even > 0x7C00u ? Bits{} + 0x7C00u : even;
    // Below 2^-14 the last place is 2^-24, which is the last place of 0.5 in float32: adding 0.5 rounds there.
    const Bits counted = bits<Bits>(bits<Real>(magnitude) + 0.5f) - 0x3F000000u;
    const Bits finite = magnitude < 0x38800000u ? counted : capped;
    return (magnitude > 0x7F800000u ? Bits{} + 0x7E00u : finite) | (u >> 16 & 0x8000u);
  }
  static INLINE float load(Stored stored) { return widened<float, std::uint32_t, std::int32_t>(stored); }
  static INLINE Stored store(float number) { return static_cast<Stored>(rounded<float, std::uint32_t>(number)); }
};

}  // namespace
}  // namespace rotary

#endif
