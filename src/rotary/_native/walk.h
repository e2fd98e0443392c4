// Visits the rows of a rectangle, for every loop that is compiled for several instruction sets. Internal linkage, see numbers.h.

#ifndef ROTARY_WALK_H
#define ROTARY_WALK_H

#include "rows.h"


#define INLINED __attribute__((always_inline))  // of a lambda

namespace rotary {
namespace {

constexpr Index kAhead = 4 * 1024;  // bytes from the row that is read to the row that is prefetched, see docs/cpu.md

// Prefetch memory that is read soon; any address is allowed.
INLINE void prefetch(const char* x, Index distance, Index bytes) {
#if defined(__GNUC__)
  const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(x) + static_cast<std::uintptr_t>(distance);
  for (Index b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<const void*>(from + static_cast<std::uintptr_t>(b)));
#else
  (void)x, (void)distance, (void)bytes;
#endif
}

// Calls row(x, out, cos, sin, y) for rows begin .. end. kY: whether there is a y. bytes: of x, and of y, that are prefetched with each row.
// A row function of seven parameters gets the distances in bytes to the rows to prefetch, and prefetches itself: it computes rows in
// groups, and prefetching a group at once stalls the processor.
template <bool kY, class Row>
INLINE void walk(const Rectangle& rectangle, Index begin, Index end, Index bytes, Row row) {
  Index at[kMaxRectangleDims];
  const char *x = rectangle.x, *cos = rectangle.cos, *sin = rectangle.sin, *y = rectangle.y;
  char* out = rectangle.out;
  Index rest = begin;
  for (int l = rectangle.dims - 1; l >= 0; --l) {
    const Dim& dim = rectangle.dim[l];
    at[l] = rest % dim.size;
    rest /= dim.size;
    x += at[l] * dim.x, out += at[l] * dim.out, cos += at[l] * dim.cos, sin += at[l] * dim.sin;
    if (kY) y += at[l] * dim.y;
  }
  const int inner = rectangle.dims - 1;
  const Dim step = rectangle.dim[inner];
  const Index ahead = step.x ? larger(kAhead / step.x, 1) : 0;  // rows to the one that is prefetched
  const Index jump = inner ? rectangle.dim[inner - 1].x - step.size * step.x : 0;  // from the row after a run to the next run
  const Index y_jump = kY && inner ? rectangle.dim[inner - 1].y - step.size * step.y : 0;
  for (Index done = begin; done < end;) {
    const Index run = smaller(step.size - at[inner], end - done);
    for (Index i = 0; i < run; ++i) {
      const bool same_run = i + ahead < run;
      const Index x_ahead = ahead * step.x + (same_run ? 0 : jump), y_ahead = ahead * step.y + (same_run ? 0 : y_jump);
      if constexpr (std::is_invocable_v<Row, const char*, char*, const char*, const char*, const char*>) {
        prefetch(x, x_ahead, bytes);
        if (kY) prefetch(y, y_ahead, bytes);
        row(x, out, cos, sin, y);
      } else {
        row(x, out, cos, sin, y, x_ahead, y_ahead);
      }
      x += step.x, out += step.out, cos += step.cos, sin += step.sin;
      if (kY) y += step.y;
    }
    done += run;
    at[inner] += run;
    // An odometer: a dimension that has reached its size goes back to 0, and the next outer one steps by 1. Sizes 2 and 3:
    // (0, 0) (0, 1) (0, 2), then (0, 3) -> (1, 0).
    for (int l = inner; l >= 0 && at[l] == rectangle.dim[l].size; --l) {
      const Dim& dim = rectangle.dim[l];
      at[l] = 0;
      x -= dim.size * dim.x, out -= dim.size * dim.out, cos -= dim.size * dim.cos, sin -= dim.size * dim.sin;
      if (kY) y -= dim.size * dim.y;
      if (l == 0) break;
      const Dim& next = rectangle.dim[l - 1];
      ++at[l - 1];
      x += next.x, out += next.out, cos += next.cos, sin += next.sin;
      if (kY) y += next.y;
    }
  }
}

}  // namespace
}  // namespace rotary

#endif
