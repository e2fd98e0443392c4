// RMSNorm and rotation of rows of whole vectors, some rows at a time, for norm_loops.cpp. Internal linkage, see numbers.h.
//
// The sum of a row, its root and its quotient wait for each other, about as long as everything else takes. Those of several rows wait at
// the same time: first the inverse roots of all rows of a group, then, row by row, the rest, which reads its row again from the nearest
// cache. In place that is safe, since the rows of a group are different memory.

#ifndef ROTARY_NORM_GROUP_H
#define ROTARY_NORM_GROUP_H

#include "norm_row.h"

namespace rotary {
namespace {

// Rows. From the cache eight are no slower; from memory, where whatever a group reads and writes comes at once, these are the fastest.
constexpr Index kForwardGroup = 4, kBackwardGroup = 2;

// The norm comes first, and vectors divide channels and planes. kChannels: how many, all of which are rotated, where the compiler knows
// it; else 0.
template <class T, bool kInterleaved, Index kChannels, Index kGroup>
struct NormedGroup {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  static constexpr int N = kLanes<Number>;
  static constexpr int kTurned = !kInterleaved && std::is_same_v<T, BFloat16> ? 2 * N : N;  // planes at a time: stored as one vector
  using V = Vector<Number, N>;
  static constexpr Index kMost = (kChannels ? kChannels : kMaxChannels) / N;

  struct Row {
    const Stored *x, *y;
    Stored* out;
    const Number *cos, *sin;
    Index x_ahead, y_ahead;  // bytes between what is read and what is fetched meanwhile
  };

  const NormRow norm;
  const Index channels, planes;
  const Number eps, inverse;
  Index rows = 0;
  Row row[kGroup];
  Number factor[kMaxChannels];  // of interleaved pairs, a vector of the first ones, then one of the second ones

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
    if constexpr (kInterleaved) in_pairs(from, factor);
  }

  INLINE Index bytes() const { return channels * static_cast<Index>(sizeof(Stored)); }

  // The planes of a row, from first and second channels one after the other to a vector of each, and back.
  INLINE void in_pairs(const Number* from, Number* to) const {
    for (Index j = 0; j < planes; j += N) {
      const V low = load_as<V>(from + 2 * j), high = load_as<V>(from + 2 * j + N);
      store_as(to + 2 * j, Pairs<N>::Even::of(low, high)), store_as(to + 2 * j + N, Pairs<N>::Odd::of(low, high));
    }
  }
  INLINE void in_order(const Number* from, Number* to) const {
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

  // M planes from plane j on: the first and the second channel of each; where those lie.
  INLINE Index first_at(Index j) const { return kInterleaved ? 2 * j : j; }
  INLINE Index second_at(Index j) const { return kInterleaved ? 2 * j + N : j + planes; }

  template <int M, class Numbers>
  INLINE void load(const Stored* x, Index j, Numbers& a, Numbers& b) const {
    if constexpr (kInterleaved)
      load_pairs<T, M>(x + 2 * j, a, b);
    else
      a = Format<T, M>::load(x + j), b = Format<T, M>::load(x + planes + j);
  }

  // What is rounded here comes of x and of a weight in one format: of a NaN in it nothing is carried, see vectors.h.
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

  // The gradient g behind the factor into `to`, and that of the factor onto `total` where it is not null: both in the order of `factor`.
  // Returns the mean of g n.
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

  // The gradient of M channels of x. A NaN of a table is one of the mean too, which says so to the store.
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
