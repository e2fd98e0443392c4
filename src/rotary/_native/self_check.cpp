// Is this library what its source says: the number of its source, and its loops against one operation at a time.

#include <initializer_list>

#include "exported.h"
#include "instruction_sets.h"

#ifndef ROTARY_SOURCE
#define ROTARY_SOURCE 0
#endif

namespace rotary {
namespace {

// The loops as this processor runs them against one operation at a time. GCC 12 joins a * c - b * s, b * c + a * s into a fused
// multiply-add-subtract in spite of -ffp-contract=off (rotate_row is written so that it does not); the next compiler may find another way.
template <class T>
bool rounds_twice(Rows rows, bool interleaved, bool conjugate) {
  using Number = typename T::Number;
  constexpr int kMost = 64;
  for (const int planes : {1, 2, 3, 5, 32, 37, 64}) {
    typename T::Stored x[2 * kMost], out[2 * kMost];
    Number cos[kMost], sin[kMost];
    std::uint32_t noise = 1;
    const auto next = [&noise] {
      noise = noise * 1664525u + 1013904223u;
      return static_cast<Number>((noise * 0x1p-32 - 0.5) * 0.7390851332151607);  // every bit in use: short numbers have exact products
    };
    for (int i = 0; i < 2 * planes; ++i) x[i] = T::store(next());
    for (int j = 0; j < planes; ++j) cos[j] = next(), sin[j] = next();
    Rectangle rectangle{};
    rectangle.x = reinterpret_cast<const char*>(x), rectangle.out = reinterpret_cast<char*>(out);
    rectangle.cos = reinterpret_cast<const char*>(cos), rectangle.sin = reinterpret_cast<const char*>(sin);
    rectangle.rows = 1, rectangle.planes = planes, rectangle.dims = 1, rectangle.dim[0] = Dim{1, 0, 0, 0, 0};
    rows(rectangle, 0, 1, conjugate);
    for (int j = 0; j < planes; ++j) {
      const int first = interleaved ? 2 * j : j, second = interleaved ? 2 * j + 1 : j + planes;
      const Number a = T::load(x[first]), b = T::load(x[second]), s = conjugate ? -sin[j] : sin[j];
      const volatile Number ac = a * cos[j], bs = b * s, bc = b * cos[j], as = a * s;
      const volatile Number y_a = ac - bs, y_b = bc + as;
      if (out[first] != T::store(y_a) || out[second] != T::store(y_b)) return false;
    }
  }
  return true;
}

template <class T>
bool rounds_twice(const InstructionSet& set, Dtype dtype) {
  for (int i = 0; i < 4; ++i)
    if (!rounds_twice<T>(set.rows->rows[dtype][i & 1], i & 1, i >> 1)) return false;
  return true;
}

}  // namespace
}  // namespace rotary

// A number made from the text of the C++ files when the library was built, by which a stale library is known.
EXPORTED std::int64_t rotary_source() { return ROTARY_SOURCE; }

// Whether the loops of that instruction set, which this processor runs, keep to the arithmetic of the source.
EXPORTED std::int32_t rotary_rounds_twice(const char* name) {
  using namespace rotary;
  const InstructionSet* set = instruction_set(name);
  return set && rounds_twice<Float32>(*set, kFloat32) && rounds_twice<Float64>(*set, kFloat64) &&
         rounds_twice<BFloat16>(*set, kBFloat16) && rounds_twice<Float16>(*set, kFloat16);
}
