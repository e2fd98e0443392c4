// The formats of numbers.h, N numbers at a time: loaded as a vector to compute with, and stored, one after another or as the first and the
// second of pairs. The instruction set decides how half precision is converted; the bits are those of numbers.h. Internal linkage
// throughout, see there.

#ifndef ROTARY_FORMATS_H
#define ROTARY_FORMATS_H

#include "vectors.h"

namespace rotary {
namespace {

// How N numbers of a format are loaded, stored, and rounded to it as if stored and loaded again (through). store and through take the
// numbers y and the tables cos and sin that they were made with: bfloat16 looks for NaNs in those.
template <class T, int N>
struct Format;

// float and double: what is stored is what is computed with.
template <class T, int N>
struct Wide {
  using Stored = typename T::Stored;
  using Numbers = Vector<typename T::Number, N>;
  static INLINE Numbers load(const Stored* x) { return load_as<Numbers>(x); }
  static INLINE void store(Stored* out, Numbers y, Numbers, Numbers) { store_as(out, y); }
  static INLINE Numbers through(Numbers y, Numbers, Numbers) { return y; }
};
template <int N>
struct Format<Float32, N> : Wide<Float32, N> {};
template <int N>
struct Format<Float64, N> : Wide<Float64, N> {};

template <int N>
struct Format<Float16, N> {
  using Numbers = Vector<float, N>;
  using Halves = Vector<std::uint16_t, N>;
#if defined(__F16C__) || (defined(__aarch64__) && defined(__ARM_NEON))
  // The processor's conversions, rounding to nearest. They see denormals of half precision even where it flushes its own: x86's
  // "DAZ" and "FTZ" and ARM's "FZ" and "FZ16" do not reach them (tests/_native/test_instruction_sets.py).
  static INLINE Numbers widened(Halves halves) {
#if defined(__ARM_NEON)
    static_assert(N == 4, "one register");
    return bits<Numbers>(vcvt_f32_f16(bits<float16x4_t>(halves)));
#else
    if constexpr (N == 4) return bits<Numbers>(_mm_cvtph_ps(_mm_cvtsi64_si128(bits<long long>(halves))));
    if constexpr (N == 8) return bits<Numbers>(_mm256_cvtph_ps(bits<__m128i>(halves)));
#if defined(__AVX512F__)
    if constexpr (N == 16) return bits<Numbers>(_mm512_cvtph_ps(bits<__m256i>(halves)));
#endif
#endif
  }
  static INLINE Halves rounded(Numbers y) {
#if defined(__ARM_NEON)
    return bits<Halves>(vcvt_f16_f32(bits<float32x4_t>(y)));
#else
    if constexpr (N == 4) return bits<Halves>(_mm_cvtsi128_si64(_mm_cvtps_ph(bits<__m128>(y), _MM_FROUND_TO_NEAREST_INT)));
    if constexpr (N == 8) return bits<Halves>(_mm256_cvtps_ph(bits<__m256>(y), _MM_FROUND_TO_NEAREST_INT));
#if defined(__AVX512F__)
    if constexpr (N == 16) return bits<Halves>(_mm512_cvtps_ph(bits<__m512>(y), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#endif
#endif
  }
#else
  using Words = Vector<std::uint32_t, N>;
  static INLINE Numbers widened(Halves halves) {
    return Float16::widened<Numbers, Words, Vector<std::int32_t, N>>(convert<Words>(halves));
  }
  static INLINE Halves rounded(Numbers y) { return convert<Halves>(Float16::rounded<Numbers, Words>(y)); }
#endif
  static INLINE Numbers load(const std::uint16_t* x) { return widened(load_as<Halves>(x)); }
  static INLINE void store(std::uint16_t* out, Numbers y, Numbers, Numbers) { store_as(out, rounded(y)); }
  static INLINE Numbers through(Numbers y, Numbers, Numbers) { return widened(rounded(y)); }
  // Rounded before they are interleaved, so that half as many bytes change places.
  static INLINE void store_pairs(std::uint16_t* out, Numbers a, Numbers b, Numbers, Numbers) {
    const Halves first = rounded(a), second = rounded(b);
#if defined(__AVX512F__)
    if constexpr (N == 16) {
      const auto wide = [](Halves halves) { return bits<Vector<std::uint16_t, 32>>(_mm512_castsi256_si512(bits<__m256i>(halves))); };
      return store_as(out, Pairs<32>::Low::of(wide(first), wide(second)));
    }
#endif
    store_as(out, Pairs<N>::Low::of(first, second)), store_as(out + N, Pairs<N>::High::of(first, second));
  }
};

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
constexpr bool kFirstIsLow = false;  // of the two halves of a word
#else
constexpr bool kFirstIsLow = true;
#endif

// N halves as words. For convert() GCC 12 emits two instructions where one does.
template <int N>
INLINE Vector<std::uint32_t, N> words(Vector<std::uint16_t, N> halves) {
#if defined(__AVX2__)
  if constexpr (N == 8) return bits<Vector<std::uint32_t, N>>(_mm256_cvtepu16_epi32(bits<__m128i>(halves)));
#endif
#if defined(__AVX512F__)
  if constexpr (N == 16) return bits<Vector<std::uint32_t, N>>(_mm512_cvtepu16_epi32(bits<__m256i>(halves)));
#endif
  return convert<Vector<std::uint32_t, N>>(halves);
}

// The upper halves of 2 N words, in order.
template <int N>
INLINE Vector<std::uint16_t, 2 * N> upper_halves(Vector<std::uint32_t, N> low, Vector<std::uint32_t, N> high) {
#if defined(__SSE2__) && !defined(__AVX2__)
  if constexpr (N == 4)  // no unsigned pack before SSE4.1; sign-extended halves never saturate
    return bits<Vector<std::uint16_t, 8>>(_mm_packs_epi32(_mm_srai_epi32(bits<__m128i>(low), 16), _mm_srai_epi32(bits<__m128i>(high), 16)));
#endif
  using Halves = Vector<std::uint16_t, 2 * N>;
  if (kFirstIsLow) return Pairs<2 * N>::Odd::of(bits<Halves>(low), bits<Halves>(high));
  return Pairs<2 * N>::Even::of(bits<Halves>(low), bits<Halves>(high));
}

template <int N>
struct Format<BFloat16, N> {
  static constexpr bool kTwo = 4 * N > kVectorBytes;
  static constexpr int M = kTwo ? N / 2 : N;  // numbers in a vector
  using Reals = Vector<float, M>;
  using Words = Vector<std::uint32_t, M>;
  using Numbers = std::conditional_t<kTwo, Two<Reals>, Reals>;

  static INLINE Reals widened(const std::uint16_t* x) { return bits<Reals>(words<M>(load_as<Vector<std::uint16_t, M>>(x)) << 16); }

  // A NaN made by an operation, or loaded from this format, ends with 16 zero bits and is rounded to a NaN. A NaN of a table may end with
  // any bits, so tables are compared with themselves.
  static INLINE Words rounded(Reals y, Reals cos, Reals sin) {
    const auto whole = (cos == cos) & (sin == sin);
#if defined(__AVX512F__)  // one masked addition
    const Words u = bits<Words>(y);
    return whole ? u + (u >> 16 & 1u) + 0x7FFFu : u;
#else
    return BFloat16::rounded(bits<Words>(y), bits<Words>(whole));
#endif
  }

  static INLINE Numbers load(const std::uint16_t* x) {
    if constexpr (kTwo)
      return {widened(x), widened(x + M)};
    else
      return widened(x);
  }
  static INLINE void store(std::uint16_t* out, Numbers y, Numbers cos, Numbers sin) {
    if constexpr (kTwo) {
#if defined(__AVX512BF16__)
      if constexpr (M == 16)
        if (!denormal(y.low, y.high)) return store_as(out, converted(y.low, y.high));
#endif
      store_as(out, upper_halves<M>(rounded(y.low, cos.low, sin.low), rounded(y.high, cos.high, sin.high)));
    } else {
      store_as(out, convert<Vector<std::uint16_t, M>>(rounded(y, cos, sin) >> 16));
    }
  }

  static INLINE Reals through_one(Reals y, Reals cos, Reals sin) { return bits<Reals>(rounded(y, cos, sin) & 0xFFFF0000u); }
  static INLINE Numbers through(Numbers y, Numbers cos, Numbers sin) {
    if constexpr (kTwo)
      return {through_one(y.low, cos.low, sin.low), through_one(y.high, cos.high, sin.high)};
    else
      return through_one(y, cos, sin);
  }

  // A pair is one word, each half of which is a float32 without its last 16 bits.
  static INLINE void load_pairs(const std::uint16_t* x, Reals& a, Reals& b) {
    const Words pairs = load_as<Words>(x);
    const Reals low = bits<Reals>(pairs << 16), high = bits<Reals>(pairs & 0xFFFF0000u);
    a = kFirstIsLow ? low : high, b = kFirstIsLow ? high : low;
  }
  static INLINE void store_pairs(std::uint16_t* out, Reals a, Reals b, Reals cos, Reals sin) {
#if defined(__AVX512BF16__)
    if constexpr (M == 16)
      if (!denormal(a, b)) {
        const auto both = bits<Vector<std::uint16_t, 32>>(converted(a, b));
        return store_as(out, Pairs<32>::Halves::of(both, both));
      }
#endif
    const Words low = rounded(kFirstIsLow ? a : b, cos, sin), high = rounded(kFirstIsLow ? b : a, cos, sin);
    store_as(out, low >> 16 | (high & 0xFFFF0000u));
  }

#if defined(__AVX512BF16__)
  // The processor's conversion takes denormal numbers for zeros, so it is used only where there are none.
  static INLINE bool denormal(Reals x, Reals y) {
    return _mm512_fpclass_ps_mask(bits<__m512>(x), 0x20) | _mm512_fpclass_ps_mask(bits<__m512>(y), 0x20);
  }
  static INLINE __m512i converted(Reals low, Reals high) {
    return bits<__m512i>(_mm512_cvtne2ps_pbh(bits<__m512>(high), bits<__m512>(low)));
  }
#endif
};

// N pairs: the first of each, the second of each.
template <class T, int N>
INLINE void load_pairs(const typename T::Stored* x, typename Format<T, N>::Numbers& a, typename Format<T, N>::Numbers& b) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    Format<T, N>::load_pairs(x, a, b);
  } else {
    const auto low = Format<T, N>::load(x), high = Format<T, N>::load(x + N);
    a = Pairs<N>::Even::of(low, high), b = Pairs<N>::Odd::of(low, high);
  }
}

template <class T, int N, class Numbers>
INLINE void store_pairs(typename T::Stored* out, Numbers a, Numbers b, Numbers cos, Numbers sin) {
  if constexpr (sizeof(*out) == 2) {
    Format<T, N>::store_pairs(out, a, b, cos, sin);
  } else {
    Format<T, N>::store(out, Pairs<N>::Low::of(a, b), cos, sin);
    Format<T, N>::store(out + N, Pairs<N>::High::of(a, b), cos, sin);
  }
}

}  // namespace
}  // namespace rotary

#endif
