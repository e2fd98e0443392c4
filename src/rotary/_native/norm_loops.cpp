// RMSNorm and rotation of rows, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// The order of addition is that of _fused/sums.py, by halves, and every operation is that of _fused/eager.py, rounded by itself: compiled
// with -ffp-contract=off, since the bits of both are promised to be equal.

#include "norm_loops.h"

#include "blocks.h"
#include "walk.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif

namespace rotary {
namespace {

INLINE float root(float x) { return __builtin_sqrtf(x); }
INLINE double root(double x) { return __builtin_sqrt(x); }

// One row at a time, in blocks of 16 channels, the last one filled up with zeros. kChannels: how many where that is known to the compiler,
// 0 where it is not.
template <class T, bool kInterleaved, Index kChannels>
struct Row {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  using Block = Lanes<Number>;
  static constexpr Index kBlocks = (kChannels ? kChannels : kMaxChannels) / kLanes;

  const NormRow norm;
  const Number* const factor;
  const Index channels, planes, blocks, whole;  // whole: blocks, up to a power of two
  const Number eps, inverse;

  static INLINE Index power_of_two(Index least) {
    Index whole = 1;
    while (whole < least) whole *= 2;
    return whole;
  }

  INLINE Row(const NormRow& of, Index planes_of_rectangle)
      : norm(of),
        factor(static_cast<const Number*>(of.factor)),
        channels(kChannels ? kChannels : of.channels),
        planes(planes_of_rectangle),
        blocks(kChannels ? kBlocks : (of.channels + kLanes - 1) / kLanes),
        whole(kChannels ? kBlocks : power_of_two(blocks)),
        eps(static_cast<Number>(of.eps)),
        inverse(static_cast<Number>(1.0 / static_cast<double>(channels))) {}

  INLINE Index count() const { return kChannels ? kBlocks : blocks; }

  INLINE void load(const Stored* x, Block* to) const {
    const Index full = kChannels ? kBlocks : channels / kLanes, rest = kChannels ? 0 : channels % kLanes;
    for (Index b = 0; b < full; ++b) to[b] = Blocks<T>::load(x + b * kLanes);
    if (rest) {
      Number numbers[kLanes] = {};
      for (Index i = 0; i < rest; ++i) numbers[i] = T::load(x[full * kLanes + i]);
      to[full] = block_at(numbers);
    }
  }

  INLINE void store(const Block* from, Stored* out) const {
    const Index full = kChannels ? kBlocks : channels / kLanes, rest = kChannels ? 0 : channels % kLanes;
    for (Index b = 0; b < full; ++b) Blocks<T>::store(out + b * kLanes, from[b]);
    for (Index i = 0; i < rest; ++i) out[full * kLanes + i] = T::store(from[full][i]);
  }

  static INLINE Block rounded(Block block) {
    Stored stored[kLanes];
    Blocks<T>::store(stored, block);
    return Blocks<T>::load(stored);
  }

  template <bool kConjugate>
  INLINE void turn(Block* of, const Number* cos, const Number* sin) const {
    if (!kInterleaved && planes % kLanes == 0) {
      const Index half = kChannels && planes == kChannels / 2 ? kChannels / 2 / kLanes : planes / kLanes;
      for (Index b = 0; b < half; ++b) {
        const Block x = of[b], y = of[half + b], c = block_at(cos + b * kLanes), s_at = block_at(sin + b * kLanes);
        const Block s = kConjugate ? -s_at : s_at;
        of[b] = x * c + y * -s;
        of[half + b] = y * c + x * s;
      }
      return;
    }
    Number* const numbers = reinterpret_cast<Number*>(of);
    const Index count = planes;
    INDEPENDENT
    for (Index j = 0; j < count; ++j) {
      const Index first = kInterleaved ? 2 * j : j, second = kInterleaved ? 2 * j + 1 : j + count;
      const Number a = numbers[first], b = numbers[second], c = cos[j], s = kConjugate ? -sin[j] : sin[j];
      numbers[first] = a * c + b * -s;
      numbers[second] = b * c + a * s;
    }
  }

  // By halves: the second half of the blocks onto the first until one is left, then the same within it.
  INLINE Number sum(Block* t) const {
    if constexpr (kChannels == 0)
      for (Index b = blocks; b < whole; ++b) t[b] = Block{};
    if constexpr (kChannels == 128) {
      for (int b = 0; b < 4; ++b) t[b] += t[b + 4];
      t[0] += t[2], t[1] += t[3];
      t[0] += t[1];
    } else {
      for (Index count = whole / 2; count > 0; count /= 2)
        for (Index b = 0; b < count; ++b) t[b] += t[b + count];
    }
    return sum_by_halves(t[0]);
  }

  // 1 / sqrt of the mean of v^2, and eps.
  INLINE Number rstd(const Block* v) const {
    Block t[kBlocks];
    for (Index b = 0; b < count(); ++b) t[b] = v[b] * v[b];
    return Number{1} / root(sum(t) * inverse + eps);
  }

  INLINE Block factor_at(Index b) const { return block_at(factor + b * kLanes); }

  INLINE void forward(const Stored* x, Stored* out, const Number* cos, const Number* sin) const {
    Block v[kBlocks];
    load(x, v);
    if (norm.after) {
      turn<false>(v, cos, sin);
      if (norm.model)
        for (Index b = 0; b < count(); ++b) v[b] = rounded(v[b]);
    }
    const Number r = rstd(v);
    if (norm.model) {
      for (Index b = 0; b < count(); ++b) v[b] = rounded(v[b] * r);
      if (factor)
        for (Index b = 0; b < count(); ++b) v[b] = rounded(v[b] * factor_at(b));
    } else if (factor) {
      for (Index b = 0; b < count(); ++b) v[b] = v[b] * r * factor_at(b);
    } else {
      for (Index b = 0; b < count(); ++b) v[b] = v[b] * r;
    }
    if (!norm.after) turn<false>(v, cos, sin);
    store(v, out);
  }

  // total: the sum over rows so far of the gradient of the factor, or null.
  INLINE void backward(const Stored* x, const Stored* y, Stored* out, const Number* cos, const Number* sin, Block* total) const {
    Block v[kBlocks], g[kBlocks], t[kBlocks];
    load(x, v);
    load(y, g);
    if (norm.after) {
      turn<false>(v, cos, sin);
      if (norm.model)
        for (Index b = 0; b < count(); ++b) v[b] = rounded(v[b]);
    } else {
      turn<true>(g, cos, sin);
    }
    const Number r = rstd(v);
    for (Index b = 0; b < count(); ++b) v[b] = v[b] * r;
    if (total && norm.model)
      for (Index b = 0; b < count(); ++b) total[b] += g[b] * rounded(v[b]);
    else if (total)
      for (Index b = 0; b < count(); ++b) total[b] += g[b] * v[b];
    if (factor)
      for (Index b = 0; b < count(); ++b) g[b] = g[b] * factor_at(b);
    for (Index b = 0; b < count(); ++b) t[b] = g[b] * v[b];
    const Number mean = sum(t) * inverse;
    for (Index b = 0; b < count(); ++b) g[b] = (g[b] - v[b] * mean) * r;
    if (norm.after) turn<true>(g, cos, sin);
    store(g, out);
  }
};

template <class T, bool kInterleaved, Index kChannels>
INLINE void forward_rows(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end) {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  const Row<T, kInterleaved, kChannels> row(norm, rectangle.planes);
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
  using RowOf = Row<T, kInterleaved, kChannels>;
  const RowOf row(norm, rectangle.planes);
  typename RowOf::Block total[RowOf::kBlocks];
  for (Index b = 0; b < row.count(); ++b) total[b] = typename RowOf::Block{};
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
