// Exact tables of cos and sin: checked, and made in torch's threads by the loops of the instruction set in use.

#include "tables.h"

#include "exported.h"
#include "instruction_sets.h"
#include "threads.h"

namespace rotary {
namespace {

constexpr Index kGrain = 16 * 1024;  // values of each table below which a second thread costs more than it helps

void fill_range(Index begin, Index end, void* context) {
  const Tables& tables = *static_cast<const Tables*>(context);
  instruction_set().tables->fill[tables.dtype](tables, begin, end);
}

bool multiplied(Index a, Index b, Index c, Index* product) {  // whether a b c numbers of 8 bytes can be counted in bytes
  Index bytes;
  return !__builtin_mul_overflow(a, b, product) && !__builtin_mul_overflow(*product, c, product) &&
         !__builtin_mul_overflow(*product, Index{8}, &bytes);
}

Reason served(const Tables& t, Index* values) {
  Index last, numbers;
  if ((t.dtype != kFloat32 && t.dtype != kFloat64) || t.words < kOne || t.words > kBothWhereFar) return kShapes;
  if (t.batch < 0 || t.rows < 0 || t.planes < 0 || t.coordinates < 1 || !multiplied(t.batch, t.rows, t.planes, values)) return kShapes;
  if (t.amplitudes != 1 && t.amplitudes != t.batch) return kShapes;
  if (*values == 0) return kDone;
  if (t.step != 0 && t.step < t.rows) return kShapes;
  if (!multiplied(t.batch, t.step, t.coordinates, &numbers) || !multiplied(t.rows, t.coordinates, 1, &last)) return kShapes;
  if (__builtin_add_overflow(numbers, last, &numbers)) return kShapes;
  if (t.decay && t.axes) return kShapes;
  if (t.axes)
    for (Index j = 0; j < t.planes; ++j)
      if (t.axes[j] < 0 || t.axes[j] >= t.coordinates) return kShapes;
  if (!t.high || (t.words != kOne && !t.low) || !t.cos || !t.sin) return kMemory;
  const auto at = [](const void* address) { return reinterpret_cast<std::uintptr_t>(address); };
  if ((at(t.positions) | at(t.axes) | at(t.high) | at(t.low) | at(t.amplitude) | at(t.decay)) % 8) return kAligned;
  if ((at(t.cos) | at(t.sin)) % (t.dtype == kFloat64 ? 8 : 4)) return kAligned;
  return kDone;
}

}  // namespace

Reason make_tables(const Tables& tables) {
  Index values = 0;
  if (const Reason reason = served(tables, &values)) return reason;
  if (values == 0) return kDone;
  return in_threads(values, kGrain, fill_range, const_cast<Tables*>(&tables)) ? kDone : kThreads;
}

}  // namespace rotary

// words, as _angles/native.py draws them: dtype, words, batch, rows, planes, step, coordinates, amplitudes, first; then addresses of
// positions, axes, high, low, amplitude, decay, cos, sin.
EXPORTED std::int32_t rotary_tables(const std::int64_t* words) {
  using namespace rotary;
  Tables tables;
  tables.dtype = static_cast<Dtype>(words[0]), tables.words = static_cast<Words>(words[1]);
  tables.batch = words[2], tables.rows = words[3], tables.planes = words[4], tables.step = words[5];
  tables.coordinates = words[6], tables.amplitudes = words[7], tables.first = words[8];
  tables.positions = reinterpret_cast<const Index*>(words[9]), tables.axes = reinterpret_cast<const Index*>(words[10]);
  tables.high = reinterpret_cast<const Index*>(words[11]), tables.low = reinterpret_cast<const Index*>(words[12]);
  tables.amplitude = reinterpret_cast<const double*>(words[13]), tables.decay = reinterpret_cast<const double*>(words[14]);
  tables.cos = reinterpret_cast<void*>(words[15]), tables.sin = reinterpret_cast<void*>(words[16]);
  return make_tables(tables);
}
