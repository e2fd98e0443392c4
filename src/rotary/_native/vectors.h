// Vectors of N numbers, of the size that the instruction set decides: loading and storing bytes, and pairs apart and together. Internal
// linkage throughout, see numbers.h.

#ifndef ROTARY_VECTORS_H
#define ROTARY_VECTORS_H

#include <utility>

#include "numbers.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace rotary {
namespace {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// N elements; the compiler spreads them over registers where they do not fit into one.
template <class Element, int N>
struct VectorOf {
  typedef Element Type __attribute__((vector_size(N * sizeof(Element))));
};
template <class Element, int N>
using Vector = typename VectorOf<Element, N>::Type;

template <class V>
INLINE V load_as(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
INLINE void store_as(void* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// ---------------------------------------------------------------- pairs: a0 b0 a1 b1 ... <-> a0 a1 ..., b0 b1 ...

template <int... I>
struct Places {
  template <class V>
  static INLINE V of(V x, V y) {  // element I of x followed by y, for each I
#if defined(__clang__)
    return __builtin_shufflevector(x, y, I...);
#else
    typedef std::conditional_t<sizeof x[0] == 8, std::int64_t, std::conditional_t<sizeof x[0] == 4, std::int32_t, std::int16_t>> Place;
    return __builtin_shuffle(x, y, Vector<Place, sizeof...(I)>{I...});
#endif
  }
};

template <class Numbers>
struct PlacesOf;
template <int... I>
struct PlacesOf<std::integer_sequence<int, I...>> {
  static constexpr int N = sizeof...(I);
  using Even = Places<(2 * I)...>;
  using Odd = Places<(2 * I + 1)...>;
  using Low = Places<(I / 2 + I % 2 * N)...>;
  using High = Places<(N / 2 + I / 2 + I % 2 * N)...>;
  using Halves = Places<(I / 2 + I % 2 * (N / 2))...>;  // of one vector: its first half with its second
};
template <int N>
using Pairs = PlacesOf<std::make_integer_sequence<int, N>>;

// Twice as many numbers, in two vectors.
template <class V>
struct Two {
  V low, high;
  friend INLINE Two operator*(Two x, Two y) { return {x.low * y.low, x.high * y.high}; }
  template <class Number>
  friend INLINE Two operator*(Two x, Number y) {
    return {x.low * y, x.high * y};
  }
  friend INLINE Two operator+(Two x, Two y) { return {x.low + y.low, x.high + y.high}; }
  friend INLINE Two operator-(Two x, Two y) { return {x.low - y.low, x.high - y.high}; }
};

template <class Numbers>
struct Loaded {
  static INLINE Numbers from(const void* x) { return load_as<Numbers>(x); }
  template <class Number>
  static INLINE Numbers all(Number number) {
    return Numbers{} + number;
  }
};
template <class V>
struct Loaded<Two<V>> {  // not by one memcpy, which GCC does through the stack
  static INLINE Two<V> from(const void* x) { return {load_as<V>(x), load_as<V>(static_cast<const char*>(x) + sizeof(V))}; }
  template <class Number>
  static INLINE Two<V> all(Number number) {
    return {V{} + number, V{} + number};
  }
};

}  // namespace
}  // namespace rotary

#endif
