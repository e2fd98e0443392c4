// RMSNorm and rotation of rows, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// The order of addition is that of _fused/sums.py, by halves; the operations are those of _fused/eager.py, each rounded. Compiled with
// -ffp-contract=off, since the bits of both are promised to be equal.

#include "norm_loops.h"

#include "norm_group.h"
#include "norm_row.h"
#include "walk.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif

namespace rotary {
namespace {

template <class T>
INLINE const typename T::Stored* stored(const char* at) {
  return reinterpret_cast<const typename T::Stored*>(at);
}
template <class T>
INLINE typename T::Stored* stored(char* at) {
  return reinterpret_cast<typename T::Stored*>(at);
}
template <class T>
INLINE const typename T::Number* number(const char* at) {
  return reinterpret_cast<const typename T::Number*>(at);
}

template <class T>
INLINE Index bytes_of(const NormRow& norm) {
  return norm.channels * static_cast<Index>(sizeof(typename T::Stored));
}

template <class T, bool kInterleaved, Index kChannels>
bool forward_groups(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end) {
  using Group = NormedGroup<T, kInterleaved, kChannels, kForwardGroup>;
  if (!Group::serves(norm, rectangle.planes)) return false;
  Group group(norm, rectangle.planes);
  walk<false>(rectangle, begin, end, 0,
              [&](const char* x, char* out, const char* cos, const char* sin, const char*, Index x_ahead, Index) INLINED {
    group.row[group.rows++] = {stored<T>(x), nullptr, stored<T>(out), number<T>(cos), number<T>(sin), x_ahead, 0};
    if (group.rows == kForwardGroup) group.forward();
  });
  group.forward();
  return true;
}

template <class T, bool kInterleaved, Index kChannels>
bool backward_groups(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end, void* sum) {
  using Group = NormedGroup<T, kInterleaved, kChannels, kBackwardGroup>;
  using Number = typename T::Number;
  if (!Group::serves(norm, rectangle.planes)) return false;
  Group group(norm, rectangle.planes);
  Number g[kBackwardGroup * (kChannels ? kChannels : kMaxChannels)];
  typename Group::V total[Group::kMost];
  for (Index b = 0; b < group.channels / Group::N; ++b) total[b] = typename Group::V{};
  const auto added = sum ? total : nullptr;
  walk<true>(rectangle, begin, end, 0,
             [&](const char* x, char* out, const char* cos, const char* sin, const char* y, Index x_ahead, Index y_ahead) INLINED {
    group.row[group.rows++] = {stored<T>(x), stored<T>(y), stored<T>(out), number<T>(cos), number<T>(sin), x_ahead, y_ahead};
    if (group.rows == kBackwardGroup) group.backward(g, added);
  });
  group.backward(g, added);
  if (!sum) return true;
  std::memcpy(sum, total, static_cast<std::size_t>(group.channels) * sizeof(Number));
  if constexpr (kInterleaved) group.to_memory(reinterpret_cast<const Number*>(total), static_cast<Number*>(sum));
  return true;
}

// For the widths that most models have the compiler unrolls a row, which halves the time of heads of 64. These are the same loops once more,
// with the same bits, and take most of the time of compiling: so not for float64, in which no model runs; not for processors without AVX2,
// which are older than the models; and not with every check of a sanitizer, which takes minutes.
template <class T>
constexpr bool kUnrolled =
#if defined(ROTARY_SANITIZED) || (defined(__x86_64__) && !defined(__AVX2__))
    false;
#else
    sizeof(typename T::Number) == 4;
#endif

// A norm after the rotation, and rows that vectors do not divide, are computed row by row.
template <class T, bool kInterleaved>
void forward(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end) {
  if constexpr (kUnrolled<T>) {
    if (forward_groups<T, kInterleaved, 128>(rectangle, norm, begin, end)) return;
    if (forward_groups<T, kInterleaved, 64>(rectangle, norm, begin, end)) return;
    if (forward_groups<T, kInterleaved, 256>(rectangle, norm, begin, end)) return;
  }
  if (forward_groups<T, kInterleaved, 0>(rectangle, norm, begin, end)) return;
  const NormedRow<T, kInterleaved> row(norm, rectangle.planes);
  walk<false>(rectangle, begin, end, bytes_of<T>(norm), [&](const char* x, char* out, const char* cos, const char* sin, const char*) INLINED {
    row.forward(stored<T>(x), stored<T>(out), number<T>(cos), number<T>(sin));
  });
}

template <class T, bool kInterleaved>
void backward(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end, void* sum) {
  if constexpr (kUnrolled<T>)
    if (backward_groups<T, kInterleaved, 128>(rectangle, norm, begin, end, sum)) return;
  if (backward_groups<T, kInterleaved, 0>(rectangle, norm, begin, end, sum)) return;
  using Row = NormedRow<T, kInterleaved>;
  const Row row(norm, rectangle.planes);
  typename Row::V total[Row::kMost];
  for (Index b = 0; b < row.count; ++b) total[b] = typename Row::V{};
  walk<true>(rectangle, begin, end, bytes_of<T>(norm),
             [&](const char* x, char* out, const char* cos, const char* sin, const char* y) INLINED {
    row.backward(stored<T>(x), stored<T>(y), stored<T>(out), number<T>(cos), number<T>(sin), sum ? total : nullptr);
  });
  if (sum) std::memcpy(sum, total, static_cast<std::size_t>(row.channels) * sizeof(typename T::Number));
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
