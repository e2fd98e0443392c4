// RMSNorm and rotation of rows, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// The order of addition is that of _fused/sums.py, by halves, and every operation is that of _fused/eager.py, rounded by itself: compiled
// with -ffp-contract=off, since the bits of both are promised to be equal.

#include "norm_loops.h"

#include "walk.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif

namespace rotary {
namespace {

// The first half of n += the second, n a power of two, until one is left.
template <Index kCount, class Number>
INLINE Number sum_by_halves(Number* t) {
  if constexpr (kCount == 1) {
    return t[0];
  } else {
    INDEPENDENT
    for (Index i = 0; i < kCount / 2; ++i) t[i] += t[i + kCount / 2];
    return sum_by_halves<kCount / 2>(t);
  }
}

template <class Number>
INLINE Number sum_by_halves(Number* t, Index count) {
  for (; count > 16; count /= 2) {
    INDEPENDENT
    for (Index i = 0; i < count / 2; ++i) t[i] += t[i + count / 2];
  }
  switch (count) {
    case 16:
      return sum_by_halves<16>(t);
    case 8:
      return sum_by_halves<8>(t);
    case 4:
      return sum_by_halves<4>(t);
    case 2:
      return sum_by_halves<2>(t);
    default:
      return t[0];
  }
}

INLINE float root(float x) { return __builtin_sqrtf(x); }
INLINE double root(double x) { return __builtin_sqrt(x); }

// One row at a time. kChannels: their number where it is known to the compiler, 0 where it is not.
template <class T, bool kInterleaved, Index kChannels>
struct Row {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  static constexpr Index kRoom = kChannels ? kChannels : kMaxChannels;

  const NormRow& norm;
  const Number* factor;
  Index channels, planes, whole;  // whole: channels, up to a power of two
  Number eps, inverse;
  alignas(64) Number v[kRoom], g[kRoom], t[kRoom];

  INLINE Row(const NormRow& of, Index planes_of_rectangle)
      : norm(of), factor(static_cast<const Number*>(of.factor)), channels(kChannels ? kChannels : of.channels), planes(planes_of_rectangle) {
    eps = static_cast<Number>(norm.eps), inverse = static_cast<Number>(1.0 / static_cast<double>(channels));
    whole = 1;
    while (whole < channels) whole *= 2;
  }

  INLINE Index count() const { return kChannels ? kChannels : channels; }

  INLINE void load(const Stored* x, Number* to) const {
    INDEPENDENT
    for (Index i = 0; i < count(); ++i) to[i] = T::load(x[i]);
  }

  INLINE void store(const Number* from, Stored* out) const {
    INDEPENDENT
    for (Index i = 0; i < count(); ++i) out[i] = T::store(from[i]);
  }

  INLINE void round(Number* of) const {
    INDEPENDENT
    for (Index i = 0; i < count(); ++i) of[i] = T::load(T::store(of[i]));
  }

  template <bool kConjugate>
  INLINE void turn(Number* of, const Number* cos, const Number* sin) const {
    INDEPENDENT
    for (Index j = 0; j < planes; ++j) {
      const Index first = kInterleaved ? 2 * j : j, second = kInterleaved ? 2 * j + 1 : j + planes;
      const Number a = of[first], b = of[second], c = cos[j], s = kConjugate ? -sin[j] : sin[j];
      of[first] = a * c + b * -s;
      of[second] = b * c + a * s;
    }
  }

  // 1 / sqrt of the mean of v^2, and eps.
  INLINE Number rstd() {
    INDEPENDENT
    for (Index i = 0; i < count(); ++i) t[i] = v[i] * v[i];
    return Number{1} / root(sum() * inverse + eps);
  }

  // Of t.
  INLINE Number sum() {
    if constexpr (kChannels != 0) {
      return sum_by_halves<kChannels>(t);
    } else {
      for (Index i = channels; i < whole; ++i) t[i] = 0;
      return sum_by_halves(t, whole);
    }
  }

  INLINE void forward(const Stored* x, Stored* out, const Number* cos, const Number* sin) {
    load(x, v);
    if (norm.after) {
      turn<false>(v, cos, sin);
      if (norm.model) round(v);
    }
    const Number r = rstd();
    if (norm.model) {
      for (Index i = 0; i < count(); ++i) v[i] = T::load(T::store(v[i] * r));
      if (factor)
        for (Index i = 0; i < count(); ++i) v[i] = T::load(T::store(v[i] * factor[i]));
    } else if (factor) {
      for (Index i = 0; i < count(); ++i) v[i] = v[i] * r * factor[i];
    } else {
      for (Index i = 0; i < count(); ++i) v[i] = v[i] * r;
    }
    if (!norm.after) turn<false>(v, cos, sin);
    store(v, out);
  }

  // total: the sum over rows so far of the gradient of the factor, or null.
  INLINE void backward(const Stored* x, const Stored* y, Stored* out, const Number* cos, const Number* sin, Number* total) {
    load(x, v);
    load(y, g);
    if (norm.after) {
      turn<false>(v, cos, sin);
      if (norm.model) round(v);
    } else {
      turn<true>(g, cos, sin);
    }
    const Number r = rstd();
    for (Index i = 0; i < count(); ++i) v[i] = v[i] * r;
    if (total && norm.model)
      for (Index i = 0; i < count(); ++i) total[i] += g[i] * T::load(T::store(v[i]));
    else if (total)
      for (Index i = 0; i < count(); ++i) total[i] += g[i] * v[i];
    if (factor)
      for (Index i = 0; i < count(); ++i) g[i] = g[i] * factor[i];
    for (Index i = 0; i < count(); ++i) t[i] = g[i] * v[i];
    const Number mean = sum() * inverse;
    for (Index i = 0; i < count(); ++i) g[i] = (g[i] - v[i] * mean) * r;
    if (norm.after) turn<true>(g, cos, sin);
    store(g, out);
  }
};

template <class T, bool kInterleaved, Index kChannels>
INLINE void forward_rows(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end) {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  Row<T, kInterleaved, kChannels> row(norm, rectangle.planes);
  walk<false>(rectangle, begin, end, row.channels * static_cast<Index>(sizeof(Stored)),
              [&](const char* x, char* out, const char* cos, const char* sin, const char*) INLINED {
                row.forward(reinterpret_cast<const Stored*>(x), reinterpret_cast<Stored*>(out), reinterpret_cast<const Number*>(cos),
                            reinterpret_cast<const Number*>(sin));
              });
}

template <class T, bool kInterleaved, Index kChannels>
INLINE void backward_rows(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end, void* sum) {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  Row<T, kInterleaved, kChannels> row(norm, rectangle.planes);
  alignas(64) Number total[kChannels ? kChannels : kMaxChannels];
  for (Index i = 0; i < row.channels; ++i) total[i] = 0;
  walk<true>(rectangle, begin, end, row.channels * static_cast<Index>(sizeof(Stored)),
             [&](const char* x, char* out, const char* cos, const char* sin, const char* y) INLINED {
               row.backward(reinterpret_cast<const Stored*>(x), reinterpret_cast<const Stored*>(y), reinterpret_cast<Stored*>(out),
                            reinterpret_cast<const Number*>(cos), reinterpret_cast<const Number*>(sin), sum ? total : nullptr);
             });
  if (sum) std::memcpy(sum, total, static_cast<std::size_t>(row.channels) * sizeof(Number));
}

template <class T, bool kInterleaved>
void forward(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end) {
  if (norm.channels == 128)
    forward_rows<T, kInterleaved, 128>(rectangle, norm, begin, end);
  else
    forward_rows<T, kInterleaved, 0>(rectangle, norm, begin, end);
}

template <class T, bool kInterleaved>
void backward(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end, void* sum) {
  if (norm.channels == 128)
    backward_rows<T, kInterleaved, 128>(rectangle, norm, begin, end, sum);
  else
    backward_rows<T, kInterleaved, 0>(rectangle, norm, begin, end, sum);
}

}  // namespace

namespace ROTARY_SET {

extern const NormLoops norms;
const NormLoops norms{{{forward<Float32, false>, forward<Float32, true>},
                       {forward<Float64, false>, forward<Float64, true>},
                       {forward<BFloat16, false>, forward<BFloat16, true>},
                       {forward<Float16, false>, forward<Float16, true>}},
                      {{backward<Float32, false>, backward<Float32, true>},
                       {backward<Float64, false>, backward<Float64, true>},
                       {backward<BFloat16, false>, backward<BFloat16, true>},
                       {backward<Float16, false>, backward<Float16, true>}}};

}  // namespace ROTARY_SET
}  // namespace rotary
