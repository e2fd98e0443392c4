// cos and sin of fixed-point turns, compiled once for each instruction set (build.py), whose name is ROTARY_SET.
//
// _angles/polynomials.py is the definition: the same coefficients, the same operations in the same order, each rounded by itself. So the
// bits are those of plain torch operations and of the GPU kernel. Nothing here calls a mathematical library.

#include "tables.h"

#ifndef ROTARY_SET
#define ROTARY_SET baseline
#endif


namespace rotary {
namespace {

using Word = std::uint64_t;  // an angle in 2^-64 turn; it wraps, which drops whole turns

constexpr Index kChunk = 512;  // values of each array on the stack, which stay in the first-level cache from one loop to the next
constexpr double kRadiansPerUnit = 6.283185307179586476925286766559 * 0x1p-64;
constexpr double kExpLimit = 1100.0, kLog2E = 1.0 / 0.6931471805599453;
constexpr double kLn2High = 0x1.62e42fefa0000p-1, kLn2Low = 0x1.cf79abc9e3b3ap-40;
constexpr double kMagic = 0x1.8p52;  // adding it to a number and subtracting it again rounds the number to an integer

// turns as a double, rounded once. AVX2 has no conversion of 64 bits: both halves are placed in the mantissas of 2^52 and 2^84, these are
// subtracted again, which is exact, and the sum of the halves rounds.
INLINE double as_double(Word turns) {
#if defined(__AVX512DQ__) || !defined(__x86_64__)
  return static_cast<double>(static_cast<Index>(turns));
#else
  const double low = bits<double>((turns & 0xFFFFFFFFu) | 0x4330000000000000u);
  const double high = bits<double>((turns >> 32) ^ 0x4530000080000000u);
  return (high - bits<double>(Word{0x4530000080100000u})) + low;
#endif
}

// where_set if the mask has all bits 1, elsewhere if it has all bits 0; `sign`, the first bit, changes the sign.
INLINE double select(Word mask, double where_set, double elsewhere, Word sign) {
  return bits<double>(((bits<Word>(where_set) & mask) | (bits<Word>(elsewhere) & ~mask)) ^ sign);
}

// amplitude: one for all, or one for each.
template <class Number, bool kEach>
INLINE void cos_sin(const Word* __restrict turns, const double* __restrict amplitude, Number* __restrict cos, Number* __restrict sin,
                    Index count) {
  const double all = kEach ? 1.0 : *amplitude;
  INDEPENDENT
  for (Index i = 0; i < count; ++i) {
    const Word t = turns[i], quarter = (t + (Word{1} << 61)) >> 62;
    const double x = as_double(t - (quarter << 62)) * kRadiansPerUnit, z = x * x;
    double s = z * (1.0 / 355687428096000.0) + -1.0 / 1307674368000.0;
    s = z * s + 1.0 / 6227020800.0;
    s = z * s + -1.0 / 39916800.0;
    s = z * s + 1.0 / 362880.0;
    s = z * s + -1.0 / 5040.0;
    s = z * s + 1.0 / 120.0;
    s = z * s + -1.0 / 6.0;
    s = x + x * (z * s);
    double c = z * (1.0 / 20922789888000.0) + -1.0 / 87178291200.0;
    c = z * c + 1.0 / 479001600.0;
    c = z * c + -1.0 / 3628800.0;
    c = z * c + 1.0 / 40320.0;
    c = z * c + -1.0 / 720.0;
    c = z * c + 1.0 / 24.0;
    c = 1.0 - (z * 0.5 - z * (z * c));
    const Word swapped = Word{0} - (quarter & 1);
    const double factor = kEach ? amplitude[i] : all;
    cos[i] = static_cast<Number>(select(swapped, s, c, ((quarter + 1) & 2) << 62) * factor);
    sin[i] = static_cast<Number>(select(swapped, c, s, (quarter & 2) << 62) * factor);
  }
}

INLINE double power_of_two(Word power) { return bits<double>((power + 1023) << 52); }

INLINE double exp(double x) {
  // Choices by masks: of a choice between a constant and a number GCC 12 makes a branch with a copy of all that follows, which it cannot
  // vectorise.
  const Word sign = bits<Word>(x) & (Word{1} << 63), size = bits<Word>(x) ^ sign, limit = bits<Word>(kExpLimit);
  const Word beyond = Word{0} - ((limit - size) >> 63);
  x = bits<double>(((limit & beyond) | (size & ~beyond)) | sign);
  const double v = x * kLog2E + 0.5, nearest = (v + kMagic) - kMagic;
  const double k = nearest - bits<double>((Word{0} - (bits<Word>(v - nearest) >> 63)) & bits<Word>(1.0));  // floor
  const double rest = (x - k * kLn2High) - k * kLn2Low;
  double e = rest * (1.0 / 6227020800.0) + 1.0 / 479001600.0;
  e = e * rest + 1.0 / 39916800.0;
  e = e * rest + 1.0 / 3628800.0;
  e = e * rest + 1.0 / 362880.0;
  e = e * rest + 1.0 / 40320.0;
  e = e * rest + 1.0 / 5040.0;
  e = e * rest + 1.0 / 720.0;
  e = e * rest + 1.0 / 120.0;
  e = e * rest + 1.0 / 24.0;
  e = e * rest + 1.0 / 6.0;
  e = e * rest + 0.5;
  e = e * rest + 1.0;
  e = e * rest + 1.0;
  const Word power = bits<Word>(k + kMagic) - bits<Word>(kMagic);
  // 2^power in two factors: one alone leaves float64 where the result does not.
  const Word half = ((power + 2048) >> 1) - 1024;  // rounded down, also of negative ones
  return (e * power_of_two(half)) * power_of_two(power - half);
}

// Planes plane .. plane + planes of one row of a table: a chunk may begin and end within a row.
struct Span {
  const Index* positions;  // its coordinates; null where every coordinate is `position`
  Index position, plane, planes;
  const Index *high, *low;
  double amplitude;
};

template <Words kWords, bool kAxes>
INLINE void turn(const Tables& tables, const Span& row, Word* __restrict turns) {
  const Index* __restrict axes = kAxes ? tables.axes + row.plane : nullptr;
  const Index* __restrict high = row.high + row.plane;
  const Index* __restrict low = kWords == kOne ? nullptr : row.low + row.plane;
  const Index* __restrict positions = row.positions;
  INDEPENDENT
  for (Index j = 0; j < row.planes; ++j) {
    const Word p = static_cast<Word>(kAxes ? positions[axes[j]] : row.position), h = static_cast<Word>(high[j]);
    Word t = p * h;
    if (kWords != kOne) {
      const Word l = static_cast<Word>(low[j]);
      const Word tokens = ((p + (Word{1} << 63)) >> 31) - (Word{1} << 32);  // p >> 31 with its sign, which AVX2 cannot shift
      t += tokens * l + (((p & 0x7FFFFFFF) * l) >> 31);
      if (kWords == kBothWhereFar) {
        const Word near = p * (h + (l >> 30));
        t = p + (Word{1} << 31) <= Word{1} << 32 ? near : t;  // within 2^31 on either side
      }
    }
    turns[j] = t;
  }
}

INLINE void turn(const Tables& tables, const Span& row, Word* turns) {
  const bool axes = tables.axes && row.positions;
  switch (tables.words) {
    case kOne:
      return axes ? turn<kOne, true>(tables, row, turns) : turn<kOne, false>(tables, row, turns);
    case kBoth:
      return axes ? turn<kBoth, true>(tables, row, turns) : turn<kBoth, false>(tables, row, turns);
    case kBothWhereFar:
      return axes ? turn<kBothWhereFar, true>(tables, row, turns) : turn<kBothWhereFar, false>(tables, row, turns);
  }
}

INLINE void scale(const Tables& tables, const Span& row, double* __restrict amplitude) {
  if (!tables.decay) {
    for (Index j = 0; j < row.planes; ++j) amplitude[j] = row.amplitude;
    return;
  }
  const double* __restrict log_zeta = tables.decay + row.plane;
  const double power = static_cast<double>(row.position) / tables.decay[tables.planes];
  INDEPENDENT
  for (Index j = 0; j < row.planes; ++j) amplitude[j] = exp(power * log_zeta[j]) * row.amplitude;
}

template <class Number>
void fill(const Tables& tables, Index begin, Index end) {
  const bool each = tables.decay || tables.amplitudes > 1;
  Word turns[kChunk];
  double amplitude[kChunk] = {tables.amplitude ? *tables.amplitude : 1.0};
  Index plane = begin % tables.planes, token = begin / tables.planes;
  Index batch = token / tables.rows;
  token %= tables.rows;
  while (begin < end) {
    const Index count = smaller(kChunk, end - begin);
    for (Index n = 0; n < count;) {
      Span row;
      row.plane = plane, row.planes = smaller(tables.planes - plane, count - n);
      row.high = tables.high + batch * tables.planes;
      row.low = tables.low ? tables.low + batch * tables.planes : nullptr;
      row.positions = tables.positions ? tables.positions + (batch * tables.step + token) * tables.coordinates : nullptr;
      row.position = row.positions ? *row.positions : static_cast<Index>(static_cast<Word>(tables.first) + static_cast<Word>(token));
      turn(tables, row, turns + n);
      if (each) {
        row.amplitude = tables.amplitude ? tables.amplitude[tables.amplitudes > 1 ? batch : 0] : 1.0;
        scale(tables, row, amplitude + n);
      }
      n += row.planes, plane += row.planes;
      if (plane == tables.planes) {
        plane = 0;
        if (++token == tables.rows) token = 0, ++batch;
      }
    }
    Number *cos = static_cast<Number*>(tables.cos) + begin, *sin = static_cast<Number*>(tables.sin) + begin;
    if (each)
      cos_sin<Number, true>(turns, amplitude, cos, sin, count);
    else
      cos_sin<Number, false>(turns, amplitude, cos, sin, count);
    begin += count;
  }
}

}  // namespace

namespace ROTARY_SET {

extern const TableLoops tables;  // in a namespace a constant is private to its file without this line
const TableLoops tables{{fill<float>, fill<double>}};

}  // namespace ROTARY_SET
}  // namespace rotary
