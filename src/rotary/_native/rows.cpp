// The rotation y = x * (cos + i sin) of rows, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// Compiled with -ffp-contract=off: a fused multiply-add rounds once where the formula in plain torch rounds twice, and the bits of both
// are promised to be equal.

#include "rows.h"

#include "vectors.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif

namespace rotary {
namespace {

constexpr Index kAhead = 4 * 1024;  // bytes between what is read and what is fetched, see docs/cpu.md

// Planes at a time: a vector of them, or two, which are stored as one, for halves of rows in bfloat16.
template <class T, bool kInterleaved>
constexpr int kLanes = kVectorBytes / (std::is_same_v<T, BFloat16> && !kInterleaved ? 2 : static_cast<int>(sizeof(typename T::Number)));

template <class T>
struct Row {  // where its channels are: the halves a and b; of interleaved pairs the first one alone
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  const Stored *a, *b;
  Stored *out_a, *out_b;
  const Number *cos, *sin;
};

// N planes of a row, from plane j on. The conjugate rotation is the rotation with a and b in each other's places: for halves of a row
// that costs nothing. For interleaved pairs sin changes its sign, which rounds nothing either.
template <class T, bool kInterleaved, int N>
struct Turned {
  using Numbers = typename Format<T, N>::Numbers;
  Numbers a, b, c, s;

  INLINE Turned(const Row<T>& row, Index j, typename T::Number sign) {
    Numbers x_a, x_b;
    c = Loaded<Numbers>::from(row.cos + j), s = Loaded<Numbers>::from(row.sin + j);
    if constexpr (kInterleaved)
      load_pairs<T, N>(row.a + 2 * j, x_a, x_b), s *= sign;
    else
      x_a = Format<T, N>::load(row.a + j), x_b = Format<T, N>::load(row.b + j);
    a = x_a * c - x_b * s;
    b = x_b * c + x_a * s;
  }

  INLINE void store(const Row<T>& row, Index j) const {
    if constexpr (kInterleaved)
      store_pairs<T, N>(row.out_a + 2 * j, a, b, c, s);
    else
      Format<T, N>::store(row.out_a + j, a, c, s), Format<T, N>::store(row.out_b + j, b, c, s);
  }
};

template <class T, bool kInterleaved, int N, int kEnd>
INLINE void rotate_planes(const Row<T>& row, Index planes, typename T::Number sign) {
  const Index last = planes - kEnd;
  const Turned<T, kInterleaved, kEnd> end(row, last, sign);
  for (Index j = 0; j < last; j += N) Turned<T, kInterleaved, N>(row, j, sign).store(row, j);
  end.store(row, last);
}

// One row, the channels of one head at one position, N planes at a time.
//
// The last of them overlap those before where N does not divide the planes: both write the same numbers. They are read first, before
// anything is written, since out may be x.
template <class T, bool kInterleaved, int N>
INLINE void rotate_row(const Row<T>& row, Index planes, typename T::Number sign) {
  constexpr bool kHalves = N * sizeof(typename T::Number) > 16;  // whether N / 2 fill a vector of any size
  if (planes >= N) {
    if (kHalves && planes % N && planes % N <= N / 2)
      rotate_planes<T, kInterleaved, N, kHalves ? N / 2 : N>(row, planes, sign);
    else
      rotate_planes<T, kInterleaved, N, N>(row, planes, sign);
  } else if constexpr (kHalves) {
    rotate_row<T, kInterleaved, N / 2>(row, planes, sign);
  } else {
    for (Index j = 0; j < planes; ++j) {
      const Index at = kInterleaved ? 2 * j : j;
      const typename T::Number a = T::load(row.a[at]), b = T::load(kInterleaved ? row.a[at + 1] : row.b[at]);
      const typename T::Number c = row.cos[j], s = kInterleaved ? row.sin[j] * sign : row.sin[j];
      row.out_a[at] = T::store(a * c + b * -s);  // not a * c - b * s: with b * c + a * s GCC 12 makes one fused operation of them
      (kInterleaved ? row.out_a[at + 1] : row.out_b[at]) = T::store(b * c + a * s);
    }
  }
}

// Prefetch memory that is read soon; any address is allowed.
INLINE void prefetch(const char* x, Index distance, Index bytes) {
#if defined(__GNUC__)
  const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(x) + static_cast<std::uintptr_t>(distance);
  for (Index b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<const void*>(from + static_cast<std::uintptr_t>(b)));
#else
  (void)x, (void)distance, (void)bytes;
#endif
}

// kPlanes: the number of planes where it is known to the compiler, which then unrolls the row; 0 where it is not.
template <class T, bool kInterleaved, Index kPlanes>
INLINE void rotate_rows(const Rectangle& rectangle, Index begin, Index end, bool conjugate) {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  Index at[kMaxRectangleDims];
  const char *x = rectangle.x, *cos = rectangle.cos, *sin = rectangle.sin;
  char* out = rectangle.out;
  Index rest = begin;
  for (int l = rectangle.dims - 1; l >= 0; --l) {
    const Dim& dim = rectangle.dim[l];
    at[l] = rest % dim.size;
    rest /= dim.size;
    x += at[l] * dim.x, out += at[l] * dim.out, cos += at[l] * dim.cos, sin += at[l] * dim.sin;
  }
  const int inner = rectangle.dims - 1;
  const Dim step = rectangle.dim[inner];
  const Index planes = kPlanes ? kPlanes : rectangle.planes, tail = rectangle.tail;
  const Index first = conjugate && !kInterleaved ? planes : 0, second = planes - first;  // of the halves of a row
  const Number sign = conjugate ? -1 : 1;
  const Index tail_at = 2 * planes * static_cast<Index>(sizeof(Stored));
  const Index ahead = step.x ? larger(kAhead / step.x, 1) : 0;  // rows
  const Index jump = inner ? rectangle.dim[inner - 1].x - step.size * step.x : 0;  // from the row after a run to the next run
  for (Index row = begin; row < end;) {
    const Index run = smaller(step.size - at[inner], end - row);
    for (Index i = 0; i < run; ++i) {
      prefetch(x, ahead * step.x + (i + ahead < run ? 0 : jump), tail_at);
      const Stored* from = reinterpret_cast<const Stored*>(x);
      Stored* to = reinterpret_cast<Stored*>(out);
      rotate_row<T, kInterleaved, kLanes<T, kInterleaved>>({from + first, from + second, to + first, to + second,
                                                            reinterpret_cast<const Number*>(cos), reinterpret_cast<const Number*>(sin)},
                                                           planes, sign);
      if (tail) std::memcpy(out + tail_at, x + tail_at, static_cast<std::size_t>(tail));
      x += step.x, out += step.out, cos += step.cos, sin += step.sin;
    }
    row += run;
    at[inner] += run;
    // An odometer: a dimension that has reached its size goes back to 0, and the next outer one steps by 1.
    for (int l = inner; l >= 0 && at[l] == rectangle.dim[l].size; --l) {
      const Dim& dim = rectangle.dim[l];
      at[l] = 0;
      x -= dim.size * dim.x, out -= dim.size * dim.out, cos -= dim.size * dim.cos, sin -= dim.size * dim.sin;
      if (l == 0) break;
      const Dim& next = rectangle.dim[l - 1];
      ++at[l - 1];
      x += next.x, out += next.out, cos += next.cos, sin += next.sin;
    }
  }
}

// The numbers of planes that most models have are known to the compiler, which unrolls their rows: 1 to 3 nanoseconds a row less.
template <class T, bool kInterleaved>
void rotate_rows(const Rectangle& rectangle, Index begin, Index end, bool conjugate) {
  switch (rectangle.planes) {
    case 40:
      return rotate_rows<T, kInterleaved, 40>(rectangle, begin, end, conjugate);
#ifndef ROTARY_SANITIZED  // the same loops once more each, which take minutes to compile with every check
    case 16:
      return rotate_rows<T, kInterleaved, 16>(rectangle, begin, end, conjugate);
    case 32:
      return rotate_rows<T, kInterleaved, 32>(rectangle, begin, end, conjugate);
    case 48:
      return rotate_rows<T, kInterleaved, 48>(rectangle, begin, end, conjugate);
    case 64:
      return rotate_rows<T, kInterleaved, 64>(rectangle, begin, end, conjugate);
#endif
    default:
      return rotate_rows<T, kInterleaved, 0>(rectangle, begin, end, conjugate);
  }
}

}  // namespace

namespace ROTARY_SET {

extern const RowLoops rows;  // in a namespace a constant is private to its file without this line
const RowLoops rows{{{rotate_rows<Float32, false>, rotate_rows<Float32, true>},
                     {rotate_rows<Float64, false>, rotate_rows<Float64, true>},
                     {rotate_rows<BFloat16, false>, rotate_rows<BFloat16, true>},
                     {rotate_rows<Float16, false>, rotate_rows<Float16, true>}}};

}  // namespace ROTARY_SET
}  // namespace rotary
