// RMSNorm and rotation of one row of any shape, for norm_loops.cpp. Internal linkage, see numbers.h.

#ifndef ROTARY_NORM_ROW_H
#define ROTARY_NORM_ROW_H

#include "halves.h"
#include "norm_loops.h"
#include "walk.h"

namespace rotary {
namespace {

INLINE float root(float x) { return __builtin_sqrtf(x); }
INLINE double root(double x) { return __builtin_sqrt(x); }

template <class Number>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(Number));  // of a vector

INLINE Index power_of_two(Index least) {
  Index whole = 1;
  while (whole < least) whole *= 2;
  return whole;
}

// A row as vectors on the stack, the last one filled up with zeros.
template <class T, bool kInterleaved>
struct NormedRow {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  static constexpr int N = kLanes<Number>;
  using V = Vector<Number, N>;
  static constexpr Index kMost = kMaxChannels / N;

  const NormRow norm;
  const Number* const factor;
  const Index channels, planes;
  const Index full, count, whole;  // vectors: full ones; all; all up to a power of two, at least kNormLanes numbers
  const Number eps, inverse;

  INLINE NormedRow(const NormRow& of, Index planes_of_rectangle)
      : norm(of),
        factor(static_cast<const Number*>(of.factor)),
        channels(of.channels),
        planes(planes_of_rectangle),
        full(channels / N),
        count((channels + N - 1) / N),
        whole(power_of_two(larger(count, kNormLanes / N))),
        eps(static_cast<Number>(of.eps)),
        inverse(static_cast<Number>(1.0 / static_cast<double>(channels))) {}

  INLINE void load(const Stored* x, V* to) const {
    for (Index b = 0; b < full; ++b) to[b] = Format<T, N>::load(x + b * N);
    if (full == count) return;
    Number numbers[N] = {};
    for (Index i = full * N; i < channels; ++i) numbers[i - full * N] = T::load(x[i]);
    to[full] = load_as<V>(numbers);
  }

  // Each number stands in for the tables that Format asks for NaNs: a NaN of a table may have any last bits, and rounding could carry
  // them into a zero.
  INLINE void store(const V* from, Stored* out) const {
    for (Index b = 0; b < full; ++b) Format<T, N>::store(out + b * N, from[b], from[b], from[b]);
    for (Index i = full * N; i < channels; ++i) out[i] = T::store(from[full][i - full * N]);
  }

  INLINE void round(V* v) const {
    for (Index b = 0; b < count; ++b) v[b] = Format<T, N>::through(v[b], v[b], v[b]);
  }

  template <bool kConjugate>
  INLINE void turn(V* of, const Number* cos, const Number* sin) const {
    if (!kInterleaved && planes % N == 0) {
      const Index half = planes / N;
      for (Index b = 0; b < half; ++b) {
        const V x = of[b], y = of[half + b], c = load_as<V>(cos + b * N), s_at = load_as<V>(sin + b * N);
        const V s = kConjugate ? -s_at : s_at;
        of[b] = x * c + y * -s;
        of[half + b] = y * c + x * s;
      }
      return;
    }
    Number* const numbers = reinterpret_cast<Number*>(of);
    const Index count_of_planes = planes;
    INDEPENDENT
    for (Index j = 0; j < count_of_planes; ++j) {
      const Index first = kInterleaved ? 2 * j : j, second = kInterleaved ? 2 * j + 1 : j + count_of_planes;
      const Number a = numbers[first], b = numbers[second], c = cos[j], s = kConjugate ? -sin[j] : sin[j];
      numbers[first] = a * c + b * -s;
      numbers[second] = b * c + a * s;
    }
  }

  INLINE Number sum(V* t) const {
    for (Index b = count; b < whole; ++b) t[b] = V{};
    return sum_by_halves<Number, N>(halved(t, whole));
  }

  // 1 / sqrt(mean of v^2 + eps).
  INLINE Number rstd(const V* v) const {
    V t[kMost];
    for (Index b = 0; b < count; ++b) t[b] = v[b] * v[b];
    return Number{1} / root(sum(t) * inverse + eps);
  }

  INLINE V factor_at(Index b) const { return load_as<V>(factor + b * N); }

  INLINE void forward(const Stored* x, Stored* out, const Number* cos, const Number* sin) const {
    V v[kMost];
    load(x, v);
    if (norm.after) {
      turn<false>(v, cos, sin);
      if (norm.model) round(v);
    }
    const Number r = rstd(v);
    for (Index b = 0; b < count; ++b) v[b] = v[b] * r;
    if (norm.model) round(v);
    for (Index b = 0; b < count; ++b) v[b] = v[b] * factor_at(b);
    if (norm.model) round(v);
    if (!norm.after) turn<false>(v, cos, sin);
    store(v, out);
  }

  // total: the sum of the gradient of the factor over the rows so far, or null; this row is added.
  INLINE void backward(const Stored* x, const Stored* y, Stored* out, const Number* cos, const Number* sin, V* total) const {
    V v[kMost], g[kMost], t[kMost];
    load(x, v);
    load(y, g);
    if (norm.after) {
      turn<false>(v, cos, sin);
      if (norm.model) round(v);
    } else {
      turn<true>(g, cos, sin);
    }
    const Number r = rstd(v);
    for (Index b = 0; b < count; ++b) v[b] = v[b] * r;
    if (total)
      for (Index b = 0; b < count; ++b) total[b] += g[b] * (norm.model ? Format<T, N>::through(v[b], v[b], v[b]) : v[b]);
    for (Index b = 0; b < count; ++b) g[b] = g[b] * factor_at(b);
    for (Index b = 0; b < count; ++b) t[b] = g[b] * v[b];
    const Number mean = sum(t) * inverse;
    for (Index b = 0; b < count; ++b) g[b] = (g[b] - v[b] * mean) * r;
    if (norm.after) turn<true>(g, cos, sin);
    store(g, out);
  }
};

}  // namespace
}  // namespace rotary

#endif
