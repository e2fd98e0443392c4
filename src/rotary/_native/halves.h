// Sums by halves, in the order of ../_fused/sums.py: the second half is added to the first until one is left. Internal linkage, see
// numbers.h.

#ifndef ROTARY_HALVES_H
#define ROTARY_HALVES_H

#include "formats.h"

namespace rotary {
namespace {

template <int kDistance, class V, int... I>
INLINE V exchanged(V v, std::integer_sequence<int, I...>) {
  return Places<(I ^ kDistance)...>::of(v, v);
}

// The sum of the numbers of one vector. Each half is added to the other, which leaves the sum in every place.
template <class Number, int N>
INLINE Number sum_by_halves(Vector<Number, N> v) {
  constexpr std::make_integer_sequence<int, N> all{};
  if constexpr (N >= 16) v += exchanged<8>(v, all);
  if constexpr (N >= 8) v += exchanged<4>(v, all);
  if constexpr (N >= 4) v += exchanged<2>(v, all);
  v += exchanged<1>(v, all);
  return v[0];
}

// The sum of `whole` vectors, a power of two, number by number. Overwrites them.
template <class V>
INLINE V halved(V* t, Index whole) {
  for (Index count = whole / 2; count > 0; count /= 2)
    for (Index b = 0; b < count; ++b) t[b] += t[b + count];
  return t[0];
}

// The sum of kWhole vectors at(0), at(1), ..., where the compiler knows their number: they stay in registers.
template <Index kWhole, Index kLeft = 1, Index kAt = 0, class At>
INLINE auto halved(const At& at) {
  if constexpr (kLeft == kWhole)
    return at(kAt);
  else
    return halved<kWhole, 2 * kLeft, kAt>(at) + halved<kWhole, 2 * kLeft, kAt + kLeft>(at);
}

}  // namespace
}  // namespace rotary

#endif
