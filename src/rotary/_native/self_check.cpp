// Checks that this library is what its source says: a number made of the source, and the loops compared with single operations.

#include <initializer_list>

#include "exported.h"
#include "instruction_sets.h"
#include "norm_check.h"

#ifndef ROTARY_SOURCE
#define ROTARY_SOURCE 0
#endif

namespace rotary {
namespace {

// Whether the loops give the bits of single operations, each rounded, on this processor. GCC 12 joins a * c - b * s, b * c + a * s into a
// fused multiply-add-subtract in spite of -ffp-contract=off (rotate_row is written so that it does not); another compiler may do likewise.
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
    rectangle.rows = 1, rectangle.planes = planes, rectangle.dims = 1, rectangle.dim[0] = Dim{1, 0, 0, 0, 0, 0};
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

// ---------------------------------------------------------------- tables: the polynomials of table_loops.cpp, one operation at a time

double times(double a, double b) {
  const volatile double product = a * b;
  return product;
}

double plus(double a, double b) {
  const volatile double sum = a + b;
  return sum;
}

template <int kCount>
double horner(double z, const double (&coefficients)[kCount]) {
  double total = coefficients[0];
  for (int i = 1; i < kCount; ++i) total = plus(times(z, total), coefficients[i]);
  return total;
}

void cos_sin(std::uint64_t turns, double* cos, double* sin) {
  const std::uint64_t quarter = (turns + (std::uint64_t{1} << 61)) >> 62;
  const double x = times(static_cast<double>(static_cast<Index>(turns - (quarter << 62))), 6.283185307179586476925286766559 * 0x1p-64);
  const double z = times(x, x);
  const double s = horner(z, {1.0 / 355687428096000.0, -1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                              -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0});
  const double c = horner(z, {1.0 / 20922789888000.0, -1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0,
                              -1.0 / 720.0, 1.0 / 24.0});
  const double of_sin = plus(x, times(x, times(z, s)));
  const double of_cos = plus(1.0, -plus(times(z, 0.5), -times(z, times(z, c))));
  const double first = quarter & 1 ? of_sin : of_cos, second = quarter & 1 ? of_cos : of_sin;
  *cos = (quarter + 1) & 2 ? -first : first;
  *sin = quarter & 2 ? -second : second;
}

double exp(double x) {
  const double v = plus(times(x, 1.0 / 0.6931471805599453), 0.5);
  int k = static_cast<int>(v);
  if (k > v) --k;
  const double rest = plus(plus(x, -times(k, 0x1.62e42fefa0000p-1)), -times(k, 0x1.cf79abc9e3b3ap-40));
  const double e = horner(rest, {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0,
                                 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0});
  return times(e, k < 0 ? 1.0 / static_cast<double>(1 << -k) : static_cast<double>(1 << k));  // here |k| < 30
}

template <class Number>
bool rounds_each(FillTables fill, Dtype dtype, bool decay) {
  constexpr Index kRows = 3, kPlanes = 37;
  Index high[kPlanes];
  const Index positions[kRows] = {1, -77, 1000003};
  double powers[kPlanes + 1];
  std::uint64_t noise = 1;
  for (Index j = 0; j < kPlanes; ++j) {
    noise = noise * 6364136223846793005u + 1442695040888963407u;
    high[j] = static_cast<Index>(noise);
    powers[j] = -(static_cast<double>(noise >> 11) * 0x1p-53);
  }
  powers[kPlanes] = 123456.7;
  const double amplitude = 1.1386294361119891;
  Number cos[kRows * kPlanes], sin[kRows * kPlanes];
  Tables tables{dtype, kOne, 1, kRows, kPlanes, 0, 1, 1, 0, positions, nullptr, high, nullptr, &amplitude, decay ? powers : nullptr, cos, sin};
  fill(tables, 0, kRows * kPlanes);
  for (Index i = 0; i < kRows * kPlanes; ++i) {
    const Index p = positions[i / kPlanes], j = i % kPlanes;
    double c, s, factor = amplitude;
    cos_sin(static_cast<std::uint64_t>(p) * static_cast<std::uint64_t>(high[j]), &c, &s);
    if (decay) {
      const volatile double power = static_cast<double>(p) / powers[kPlanes];
      factor = times(exp(times(power, powers[j])), amplitude);
    }
    if (cos[i] != static_cast<Number>(times(c, factor)) || sin[i] != static_cast<Number>(times(s, factor))) return false;
  }
  return true;
}

bool rounds_each(const TableLoops& loops) {
  for (const bool decay : {false, true})
    if (!rounds_each<float>(loops.fill[kFloat32], kFloat32, decay) || !rounds_each<double>(loops.fill[kFloat64], kFloat64, decay)) return false;
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
         rounds_twice<BFloat16>(*set, kBFloat16) && rounds_twice<Float16>(*set, kFloat16) && rounds_each(*set->tables) &&
         norms_round_each(*set->norms);
}
