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

// Planes at a time: a vector of them, or, where two vectors of numbers are stored as one, two.
template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(typename T::Number));
template <>
constexpr int kLanes<BFloat16> = kVectorBytes / 2;

// Channels of N planes of a row, from plane j on.
template <class T, bool kInterleaved, bool kConjugate, int N>
struct Turned {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  using Numbers = typename Format<T, N>::Numbers;
  Numbers a, b, c, s;

  INLINE Turned(const Stored* x, const Number* cos, const Number* sin, Index j, Index planes) {
    Numbers x_a, x_b;
    if (kInterleaved)
      Format<T, N>::load_pairs(x + 2 * j, x_a, x_b);
    else
      x_a = Format<T, N>::load(x + j), x_b = Format<T, N>::load(x + planes + j);
    c = Loaded<Numbers>::from(cos + j), s = Loaded<Numbers>::from(sin + j);
    a = kConjugate ? x_a * c + x_b * s : x_a * c - x_b * s;
    b = kConjugate ? x_b * c - x_a * s : x_b * c + x_a * s;
  }

  INLINE void store(Stored* out, Index j, Index planes) const {
    if (kInterleaved)
      Format<T, N>::store_pairs(out + 2 * j, a, b, c, s);
    else
      Format<T, N>::store(out + j, a, c, s), Format<T, N>::store(out + planes + j, b, c, s);
  }
};

template <class T, bool kInterleaved, bool kConjugate, int N, int kEnd>
INLINE void rotate_planes(const typename T::Stored* x, typename T::Stored* out, const typename T::Number* cos,
                          const typename T::Number* sin, Index planes) {
  const Index last = planes - kEnd;
  const Turned<T, kInterleaved, kConjugate, kEnd> end(x, cos, sin, last, planes);
  for (Index j = 0; j < last; j += N) Turned<T, kInterleaved, kConjugate, N>(x, cos, sin, j, planes).store(out, j, planes);
  end.store(out, last, planes);
}

// One row: the channels of one head at one position, N planes at a time.
//
// The last of them overlap those before where N does not divide the planes: both write the same numbers. They are read first, before
// anything is written, since out may be x.
template <class T, bool kInterleaved, bool kConjugate, int N>
INLINE void rotate_row(const typename T::Stored* x, typename T::Stored* out, const typename T::Number* cos, const typename T::Number* sin,
                       Index planes) {
  constexpr bool kHalves = N * sizeof(typename T::Number) > 16;  // whether N / 2 is worth a vector
  if (planes >= N) {
    if (kHalves && planes % N && planes % N <= N / 2)
      rotate_planes<T, kInterleaved, kConjugate, N, kHalves ? N / 2 : N>(x, out, cos, sin, planes);
    else
      rotate_planes<T, kInterleaved, kConjugate, N, N>(x, out, cos, sin, planes);
  } else if constexpr (kHalves) {
    rotate_row<T, kInterleaved, kConjugate, N / 2>(x, out, cos, sin, planes);
  } else {
    for (Index j = 0; j < planes; ++j) {
      const Index first = kInterleaved ? 2 * j : j, second = kInterleaved ? 2 * j + 1 : j + planes;
      const typename T::Number a = T::load(x[first]), b = T::load(x[second]), c = cos[j], s = kConjugate ? -sin[j] : sin[j];
      out[first] = T::store(a * c + b * -s);
      out[second] = T::store(b * c + a * s);
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
template <class T, bool kInterleaved, bool kConjugate, Index kPlanes>
INLINE void rotate_rows(const Rectangle& rectangle, Index begin, Index end) {
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
  const Index tail_at = 2 * planes * static_cast<Index>(sizeof(Stored));
  const Index ahead = step.x ? larger(kAhead / step.x, 1) : 0;  // rows
  const Index jump = inner ? rectangle.dim[inner - 1].x - step.size * step.x : 0;  // from the row after a run to the next run
  for (Index row = begin; row < end;) {
    const Index run = smaller(step.size - at[inner], end - row);
    for (Index i = 0; i < run; ++i) {
      prefetch(x, ahead * step.x + (i + ahead < run ? 0 : jump), tail_at);
      rotate_row<T, kInterleaved, kConjugate, kLanes<T>>(reinterpret_cast<const Stored*>(x), reinterpret_cast<Stored*>(out),
                                                         reinterpret_cast<const Number*>(cos), reinterpret_cast<const Number*>(sin), planes);
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

template <class T, bool kInterleaved, bool kConjugate>
INLINE void rotate_rows(const Rectangle& rectangle, Index begin, Index end) {
  switch (rectangle.planes) {
    case 32:
      return rotate_rows<T, kInterleaved, kConjugate, 32>(rectangle, begin, end);
    case 64:
      return rotate_rows<T, kInterleaved, kConjugate, 64>(rectangle, begin, end);
    default:
      return rotate_rows<T, kInterleaved, kConjugate, 0>(rectangle, begin, end);
  }
}


template <class T, bool kInterleaved>
void rotate_rows(const Rectangle& rectangle, Index begin, Index end, bool conjugate) {
  if (conjugate)
    rotate_rows<T, kInterleaved, true>(rectangle, begin, end);
  else
    rotate_rows<T, kInterleaved, false>(rectangle, begin, end);
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
