// The rotation y = x * (cos + i sin) of rows, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// Compiled with -ffp-contract=off: a fused multiply-add rounds once where the formula in plain torch rounds twice, and the bits of both
// are promised to be equal.

#include "rows.h"
#include "walk.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif

namespace rotary {
namespace {

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

// kPlanes: the number of planes where it is known to the compiler, which then unrolls the row; 0 where it is not.
template <class T, bool kInterleaved, bool kConjugate, Index kPlanes>
INLINE void rotate_rows(const Rectangle& rectangle, Index begin, Index end) {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  const Index planes = kPlanes ? kPlanes : rectangle.planes, tail = rectangle.tail;
  const Index tail_at = 2 * planes * static_cast<Index>(sizeof(Stored));
  walk<false>(rectangle, begin, end, tail_at, [=](const char* x, char* out, const char* cos, const char* sin, const char*) INLINED {
    rotate_row<T, kInterleaved, kConjugate>(reinterpret_cast<const Stored*>(x), reinterpret_cast<Stored*>(out),
                                            reinterpret_cast<const Number*>(cos), reinterpret_cast<const Number*>(sin), planes);
    if (tail) std::memcpy(out + tail_at, x + tail_at, static_cast<std::size_t>(tail));
  });
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
