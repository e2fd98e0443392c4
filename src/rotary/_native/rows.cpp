// The rotation y = x * (cos + i sin) of rows, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// Compiled with -ffp-contract=off: a fused multiply-add rounds once where the formula in plain torch rounds twice, and the bits of both
// are promised to be equal.

#include "rows.h"

#include "formats.h"
#include "walk.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif

namespace rotary {
namespace {

// Planes at a time: a vector of them; for half pairing in bfloat16 two vectors, which are stored as one.
template <class T, bool kInterleaved>
constexpr int kPlanesAtOnce = kVectorBytes / (std::is_same_v<T, BFloat16> && !kInterleaved ? 2 : static_cast<int>(sizeof(typename T::Number)));

template <class T>
struct Row {  // addresses: the halves a and b of its channels; for interleaved pairs a is all of them, and b is not read
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  const Stored *a, *b;
  Stored *out_a, *out_b;
  const Number *cos, *sin;
};

// N planes of a row, from plane j on, rotated in registers. The conjugate rotation is the rotation with a and b exchanged, which for halves
// of a row costs nothing. For interleaved pairs sin is multiplied by `sign`, which does not round.
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
// Where N does not divide the planes, the last vector overlaps the one before. 10 planes, N = 4: planes 0 1 2 3, 4 5 6 7, 6 7 8 9. Both
// write the same numbers to 6 and 7. The last is computed first, before anything is written, since out may be x.
template <class T, bool kInterleaved, int N>
INLINE void rotate_row(const Row<T>& row, Index planes, typename T::Number sign) {
  constexpr bool kHalves = N * sizeof(typename T::Number) > 16;  // whether N / 2 numbers fill a vector, the smallest of which has 16 bytes
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

// Rows begin .. end of a rectangle. kPlanes: the number of planes where the compiler knows it and so unrolls the row; else 0.
template <class T, bool kInterleaved, Index kPlanes>
INLINE void rotate_rows(const Rectangle& rectangle, Index begin, Index end, bool conjugate) {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  const Index planes = kPlanes ? kPlanes : rectangle.planes, tail = rectangle.tail;
  const Index first = conjugate && !kInterleaved ? planes : 0, second = planes - first;  // of the halves of a row
  const Number sign = conjugate ? -1 : 1;
  const Index tail_at = 2 * planes * static_cast<Index>(sizeof(Stored));
  walk<false>(rectangle, begin, end, tail_at, [=](const char* x, char* out, const char* cos, const char* sin, const char*) INLINED {
    const Stored* from = reinterpret_cast<const Stored*>(x);
    Stored* to = reinterpret_cast<Stored*>(out);
    const Number *c = reinterpret_cast<const Number*>(cos), *s = reinterpret_cast<const Number*>(sin);
    const Row<T> row{from + first, from + second, to + first, to + second, c, s};
    rotate_row<T, kInterleaved, kPlanesAtOnce<T, kInterleaved>>(row, planes, sign);
    if (tail) std::memcpy(out + tail_at, x + tail_at, static_cast<std::size_t>(tail));
  });
}

// For the numbers of planes that most models have the compiler unrolls the row, which saves 1 to 3 nanoseconds each.
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
