// Numbers as they lie in memory and as they are computed with, N at a time: N of a format loaded as a vector to compute with, and stored,
// one after another or as the first and the second of pairs. The instruction set decides how many are worth while, and how half precision
// is converted; the bits are those of numbers.h. Internal linkage throughout, see there.

#ifndef ROTARY_VECTORS_H
#define ROTARY_VECTORS_H

#include <utility>

#include "numbers.h"

#if defined(__AVX2__)
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
};
template <int N>
using Pairs = PlacesOf<std::make_integer_sequence<int, N>>;

// ---------------------------------------------------------------- formats

// float and double: what is stored is what is computed with.
template <class T, int N>
struct Wide {
  using Stored = typename T::Stored;
  using Numbers = Vector<typename T::Number, N>;
  static INLINE Numbers load(const Stored* x) { return load_as<Numbers>(x); }
  static INLINE void store(Stored* out, Numbers y) { store_as(out, y); }
  static INLINE void load_pairs(const Stored* x, Numbers& a, Numbers& b) {
    const Numbers low = load(x), high = load(x + N);
    a = Pairs<N>::Even::of(low, high), b = Pairs<N>::Odd::of(low, high);
  }
  static INLINE void store_pairs(Stored* out, Numbers a, Numbers b) {
    store(out, Pairs<N>::Low::of(a, b)), store(out + N, Pairs<N>::High::of(a, b));
  }
};

template <class T, int N>
struct Format;
template <int N>
struct Format<Float32, N> : Wide<Float32, N> {};
template <int N>
struct Format<Float64, N> : Wide<Float64, N> {};

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
constexpr bool kFirstIsLow = false;  // of the two halves of a word
#else
constexpr bool kFirstIsLow = true;
#endif

template <int N>
struct Format<BFloat16, N> {
  using Numbers = Vector<float, N>;
  using Words = Vector<std::uint32_t, N>;
  using Halves = Vector<std::uint16_t, N>;
  static INLINE Numbers load(const std::uint16_t* x) { return bits<Numbers>(convert<Words>(load_as<Halves>(x)) << 16); }
  static INLINE void store(std::uint16_t* out, Numbers y) {
    store_as(out, convert<Halves>(BFloat16::rounded<Numbers, Words>(y) >> 16));
  }
  // A pair is one word, each half of which is a float32 without its last 16 bits.
  static INLINE void load_pairs(const std::uint16_t* x, Numbers& a, Numbers& b) {
    const Words pairs = load_as<Words>(x);
    const Numbers low = bits<Numbers>(pairs << 16), high = bits<Numbers>(pairs & 0xFFFF0000u);
    a = kFirstIsLow ? low : high, b = kFirstIsLow ? high : low;
  }
  static INLINE void store_pairs(std::uint16_t* out, Numbers a, Numbers b) {
    const Words first = BFloat16::rounded<Numbers, Words>(a), second = BFloat16::rounded<Numbers, Words>(b);
    store_as(out, kFirstIsLow ? first >> 16 | (second & 0xFFFF0000u) : second >> 16 | (first & 0xFFFF0000u));
  }
};

template <int N>
struct Format<Float16, N> {
  using Numbers = Vector<float, N>;
  using Words = Vector<std::uint32_t, N>;
  using Halves = Vector<std::uint16_t, N>;

#if defined(__F16C__) || defined(__ARM_NEON)
  // The processor's conversions, rounding to nearest. They see denormals of half precision even where it flushes its own: x86's
  // "DAZ" and "FTZ" and ARM's "FZ" and "FZ16" do not reach them (tests/_native/test_flushing.py).
  static INLINE Numbers widened(Halves halves) {
#if defined(__ARM_NEON)
    static_assert(N == 4, "one register");
    return bits<Numbers>(vcvt_f32_f16(bits<float16x4_t>(halves)));
#elif defined(__AVX512F__)
    if constexpr (N == 16) return bits<Numbers>(_mm512_cvtph_ps(bits<__m256i>(halves)));
#endif
#if defined(__F16C__)
    if constexpr (N == 8) return bits<Numbers>(_mm256_cvtph_ps(bits<__m128i>(halves)));
    if constexpr (N == 4) return bits<Numbers>(_mm_cvtph_ps(_mm_cvtsi64_si128(bits<long long>(halves))));
#endif
  }
  static INLINE Halves rounded(Numbers y) {
#if defined(__ARM_NEON)
    return bits<Halves>(vcvt_f16_f32(bits<float32x4_t>(y)));
#elif defined(__AVX512F__)
    if constexpr (N == 16) return bits<Halves>(_mm512_cvtps_ph(bits<__m512>(y), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
#if defined(__F16C__)
    if constexpr (N == 8) return bits<Halves>(_mm256_cvtps_ph(bits<__m256>(y), _MM_FROUND_TO_NEAREST_INT));
    if constexpr (N == 4) return bits<Halves>(_mm_cvtsi128_si64(_mm_cvtps_ph(bits<__m128>(y), _MM_FROUND_TO_NEAREST_INT)));
#endif
  }
#else
  static INLINE Numbers widened(Halves halves) { return Float16::widened<Numbers, Words, Vector<std::int32_t, N>>(convert<Words>(halves)); }
  static INLINE Halves rounded(Numbers y) { return convert<Halves>(Float16::rounded<Numbers, Words>(y)); }
#endif

  static INLINE Numbers load(const std::uint16_t* x) { return widened(load_as<Halves>(x)); }
  static INLINE void store(std::uint16_t* out, Numbers y) { store_as(out, rounded(y)); }
  static INLINE void load_pairs(const std::uint16_t* x, Numbers& a, Numbers& b) {
    const Numbers low = load(x), high = load(x + N);
    a = Pairs<N>::Even::of(low, high), b = Pairs<N>::Odd::of(low, high);
  }
  static INLINE void store_pairs(std::uint16_t* out, Numbers a, Numbers b) {
    store(out, Pairs<N>::Low::of(a, b)), store(out + N, Pairs<N>::High::of(a, b));
  }
};

}  // namespace
}  // namespace rotary

#endif
