// The rotation y = x * (cos + i sin) of rows, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// Compiled with -ffp-contract=off: a fused multiply-add rounds once where the formula in plain torch rounds twice, and the bits of both
// are promised to be equal.

#include "rows.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif

// Within a row, iteration j reads and writes only the two channels of plane j; out is x or apart from it. So no iteration
// depends on another, in place included, which no alias analysis can see.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace rotary {
namespace {

constexpr Index kAhead = 4 * 1024;  // bytes between what is read and what is fetched, see docs/cpu.md

template <class T, bool kInterleaved, bool kConjugate>
INLINE void rotate_row(const typename T::Stored* x, typename T::Stored* out, const typename T::Number* cos,
                       const typename T::Number* sin, Index planes) {
  using Number = typename T::Number;
  INDEPENDENT
  for (Index j = 0; j < planes; ++j) {
    const Index first = kInterleaved ? 2 * j : j;
    const Index second = kInterleaved ? 2 * j + 1 : j + planes;
    const Number a = T::load(x[first]), b = T::load(x[second]);
    const Number c = cos[j], s = kConjugate ? -sin[j] : sin[j];
    out[first] = T::store(a * c + b * -s);
    out[second] = T::store(b * c + a * s);
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
      rotate_row<T, kInterleaved, kConjugate>(reinterpret_cast<const Stored*>(x), reinterpret_cast<Stored*>(out),
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
