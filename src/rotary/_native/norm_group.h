// RMSNorm and rotation of rows of whole vectors, in groups of rows, for norm_loops.cpp. Internal linkage, see numbers.h.
//
// The sum of a row, its root and its quotient depend on each other, and that latency is about as long as all other work on a row. Rows are
// independent, so a group computes the inverse roots of all its rows first, whose latencies overlap, then the rest of each row:
//
//     row by row    sum .... root .... quotient | rest | sum .... root .... quotient | rest
//     in groups     sum .... root .... quotient | rest | rest
//                    sum .... root .... quotient
//
// The rest reads its row again, from the nearest cache. In place that is safe, since the rows of a group are different memory.
//
// Vectors of interleaved pairs, N = 4: memory has a0 b0 a1 b1 | a2 b2 a3 b3, registers have a0 a1 a2 a3 | b0 b1 b2 b3. `factor`, the
// gradient behind it and its sum are stored in the order of registers ("ordered as factor"); x, y, out in that of memory.

#ifndef ROTARY_NORM_GROUP_H
#define ROTARY_NORM_GROUP_H

#include "norm_row.h"

namespace rotary {
namespace {

// Rows of a group. With data in the cache eight are as fast; from memory, where the reads and writes of a group come in one burst, these
// are the fastest.
constexpr Index kForwardGroup = 4, kBackwardGroup = 2;

// A group for a norm before the rotation, of rows whose channels and planes vectors divide. kChannels: the number of channels, all of them
// rotated, where the compiler knows it; else 0.
template <class T, bool kInterleaved, Index kChannels, Index kGroup>
struct NormedGroup {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  static constexpr int N = kLanes<Number>;
  static constexpr int kTurned = !kInterleaved && std::is_same_v<T, BFloat16> ? 2 * N : N;  // planes at a time, stored as one vector
  using V = Vector<Number, N>;
  static constexpr Index kMost = (kChannels ? kChannels : kMaxChannels) / N;

  struct Row {
    const Stored *x, *y;
    Stored* out;
    const Number *cos, *sin;
    Index x_ahead, y_ahead;  // bytes from x and y to the rows that are prefetched meanwhile
  };

  const NormRow norm;
  const Index channels, planes;
  const Number eps, inverse;
  Index rows = 0;
  Row row[kGroup];
  Number factor[kMaxChannels];

  static INLINE bool serves(const NormRow& norm, Index planes) {
    if (kChannels && (norm.channels != kChannels || planes != kChannels / 2)) return false;
    return !norm.after && norm.channels % N == 0 && norm.channels >= kNormLanes && planes % N == 0;
  }

  INLINE NormedGroup(const NormRow& of, Index planes_of_rectangle)
      : norm(of),
        channels(kChannels ? kChannels : of.channels),
        planes(kChannels ? kChannels / 2 : planes_of_rectangle),
        eps(static_cast<Number>(of.eps)),
        inverse(static_cast<Number>(1.0 / static_cast<double>(channels))) {
    const Number* from = static_cast<const Number*>(of.factor);
    std::memcpy(factor, from, static_cast<std::size_t>(channels) * sizeof(Number));
    if constexpr (kInterleaved) to_registers(from, factor);
  }

  INLINE Index bytes() const { return channels * static_cast<Index>(sizeof(Stored)); }

  // Interleaved pairs from the order of memory to that of registers, and back.
  INLINE void to_registers(const Number* from, Number* to) const {
    for (Index j = 0; j < planes; j += N) {
      const V low = load_as<V>(from + 2 * j), high = load_as<V>(from + 2 * j + N);
      store_as(to + 2 * j, Pairs<N>::Even::of(low, high)), store_as(to + 2 * j + N, Pairs<N>::Odd::of(low, high));
    }
  }
  INLINE void to_memory(const Number* from, Number* to) const {
    for (Index j = 0; j < planes; j += N) {
      const V a = load_as<V>(from + 2 * j), b = load_as<V>(from + 2 * j + N);
      store_as(to + 2 * j, Pairs<N>::Low::of(a, b)), store_as(to + 2 * j + N, Pairs<N>::High::of(a, b));
    }
  }

  template <class At>
  INLINE Number sum(const At& at) const {
    if constexpr (kChannels != 0) {
      return sum_by_halves<Number, N>(halved<kMost>(at));
    } else {
      V t[kMost];
      const Index count = channels / N, whole = power_of_two(count);
      for (Index b = 0; b < count; ++b) t[b] = at(b);
      for (Index b = count; b < whole; ++b) t[b] = V{};
      return sum_by_halves<Number, N>(halved(t, whole));
    }
  }

  INLINE Number rstd(const Stored* x) const {
    const Number squares = sum([&](Index b) INLINED {
      const V v = Format<T, N>::load(x + b * N);
      return v * v;
    });
    return Number{1} / root(squares * inverse + eps);
  }

  // Where the first channels of the vector of planes from j on are in `factor`, and where the second ones.
  INLINE Index first_at(Index j) const { return kInterleaved ? 2 * j : j; }
  INLINE Index second_at(Index j) const { return kInterleaved ? 2 * j + N : j + planes; }

  template <int M, class Numbers>
  INLINE void load(const Stored* x, Index j, Numbers& a, Numbers& b) const {
    if constexpr (kInterleaved)
      load_pairs<T, M>(x + 2 * j, a, b);
    else
      a = Format<T, M>::load(x + j), b = Format<T, M>::load(x + planes + j);
  }

  // x and the weight are in one format, so a NaN here ends with 16 zero bits, and rounding needs no table to ask for others: formats.h.
  template <bool kModel, int M, class Numbers>
  INLINE Numbers normed(Numbers v, Number r, Index at) const {
    const Numbers zero{};
    v = v * r;
    if constexpr (kModel) v = Format<T, M>::through(v, zero, zero);
    v = v * Loaded<Numbers>::from(factor + at);
    if constexpr (kModel) v = Format<T, M>::through(v, zero, zero);
    return v;
  }

  template <bool kModel, int M>
  INLINE void forward_planes(const Row& of, Index j, Number r) const {
    typename Format<T, M>::Numbers a, b;
    load<M>(of.x, j, a, b);
    a = normed<kModel, M>(a, r, first_at(j)), b = normed<kModel, M>(b, r, second_at(j));
    const auto c = Loaded<decltype(a)>::from(of.cos + j), s = Loaded<decltype(a)>::from(of.sin + j);
    const auto out_a = a * c - b * s, out_b = b * c + a * s;
    if constexpr (kInterleaved)
      store_pairs<T, M>(of.out + 2 * j, out_a, out_b, c, s);
    else
      Format<T, M>::store(of.out + j, out_a, c, s), Format<T, M>::store(of.out + planes + j, out_b, c, s);
  }

  template <bool kModel>
  INLINE void forward_row(const Row& of, Number r) const {
    Index j = 0;
    for (; j + kTurned <= planes; j += kTurned) forward_planes<kModel, kTurned>(of, j, r);
    if constexpr (kTurned != N)
      if (j < planes) forward_planes<kModel, N>(of, j, r);
    for (Index i = 2 * planes; i < channels; i += N)
      Format<T, N>::store(of.out + i, normed<kModel, N>(Format<T, N>::load(of.x + i), r, i), V{}, V{});
  }

  template <bool kModel>
  INLINE void forward_rows(const Number* r) const {
    for (Index i = 0; i < rows; ++i) {
      prefetch(reinterpret_cast<const char*>(row[i].x), row[i].x_ahead, bytes());
      forward_row<kModel>(row[i], r[i]);
    }
  }

  INLINE void forward() {
    Number r[kGroup];
    for (Index i = 0; i < rows; ++i) r[i] = rstd(row[i].x);
    norm.model ? forward_rows<true>(r) : forward_rows<false>(r);
    rows = 0;
  }

  // Write the gradient of the normalised row, g times factor, to `to`; add that of the factor to `total` if it is not null; both ordered
  // as factor. Returns the mean of g n, of which the gradient of x takes n times off.
  INLINE Number backward_row(const Row& of, Number r, Number* to, V* total) const {
    V t[kMost];
    const auto keep = [&](V g, V n, Index at) INLINED {
      if (total) total[at / N] += g * (norm.model ? V(Format<T, N>::through(n, V{}, V{})) : n);
      g = g * load_as<V>(factor + at);
      store_as(to + at, g);
      return g * n;
    };
    for (Index j = 0; j < planes; j += N) {
      V a, b, n_a, n_b;
      load<N>(of.y, j, a, b), load<N>(of.x, j, n_a, n_b);
      n_a *= r, n_b *= r;
      const V c = load_as<V>(of.cos + j), s = load_as<V>(of.sin + j);
      const V t_a = keep(a * c + b * s, n_a, first_at(j)), t_b = keep(b * c - a * s, n_b, second_at(j));
      t[first_at(j) / N] = kInterleaved ? Pairs<N>::Low::of(t_a, t_b) : t_a;
      t[second_at(j) / N] = kInterleaved ? Pairs<N>::High::of(t_a, t_b) : t_b;
    }
    for (Index i = 2 * planes; i < channels; i += N)
      t[i / N] = keep(Format<T, N>::load(of.y + i), Format<T, N>::load(of.x + i) * r, i);
    return sum([&](Index b) INLINED { return t[b]; }) * inverse;
  }

  // The gradient of M channels of x. A NaN of a table makes the mean NaN, so the store is given the mean in place of tables.
  template <int M>
  INLINE void backward_channels(const Row& of, Index i, Number r, const Number* g, Number mean) const {
    using Numbers = typename Format<T, M>::Numbers;
    const Numbers all = Loaded<Numbers>::all(mean);
    Format<T, M>::store(of.out + i, (Loaded<Numbers>::from(g + i) - Format<T, M>::load(of.x + i) * r * mean) * r, all, all);
  }

  INLINE void backward_rest(const Row& of, Number r, const Number* g, Number mean) const {
    Index i = 0;
    if constexpr (kInterleaved)
      for (; i < 2 * planes; i += 2 * N) {
        V a, b;
        load<N>(of.x, i / 2, a, b);
        const V all = Loaded<V>::all(mean);
        store_pairs<T, N>(of.out + i, (load_as<V>(g + i) - a * r * mean) * r, (load_as<V>(g + i + N) - b * r * mean) * r, all, all);
      }
    for (; i + kTurned <= channels; i += kTurned) backward_channels<kTurned>(of, i, r, g, mean);
    if constexpr (kTurned != N)
      if (i < channels) backward_channels<N>(of, i, r, g, mean);
  }

  INLINE void backward(Number* g, V* total) {
    Number r[kGroup], mean[kGroup];
    for (Index i = 0; i < rows; ++i) r[i] = rstd(row[i].x);
    for (Index i = 0; i < rows; ++i) {
      prefetch(reinterpret_cast<const char*>(row[i].x), row[i].x_ahead, bytes());
      mean[i] = backward_row(row[i], r[i], g + i * channels, total);
    }
    for (Index i = 0; i < rows; ++i) {
      prefetch(reinterpret_cast<const char*>(row[i].y), row[i].y_ahead, bytes());
      backward_rest(row[i], r[i], g + i * channels, mean[i]);
    }
    rows = 0;
  }
};

}  // namespace
}  // namespace rotary

#endif
