// Exact tables of cos and sin: their arguments, and the loops that make them, for each instruction set (table_loops.cpp).

#ifndef ROTARY_TABLES_H
#define ROTARY_TABLES_H

#include "numbers.h"
#include "rotate.h"

namespace rotary {

// Turns per token: in one word; in two; in two where |position| > 2^31, elsewhere in one rounded from the two (_angles/work.py).
enum Words : Index { kOne = 1, kBoth, kBothWhereFar };

struct Tables {  // (batch, rows, planes), contiguous
  Dtype dtype;   // of cos and sin: kFloat32 or kFloat64
  Words words;
  Index batch, rows, planes;
  Index step;         // positions from one row of the batch to the next: 0, or at least rows
  Index coordinates;  // numbers in one position
  Index amplitudes;   // 1, or batch
  Index first;        // position of row 0 where there are no positions, from which the others count on
  const Index* positions;   // ((batch - 1) step + rows, coordinates), or null
  const Index* axes;        // (planes,): the coordinate that each plane reads; null: the first
  const Index* high;        // (batch, planes)
  const Index* low;         // the same, of fewer than 2^31; null where words is kOne
  const double* amplitude;  // (amplitudes,); null: 1
  const double* decay;      // (planes + 1,): log zeta of xPos and its scale_base; null: no xPos, and never together with axes
  void *cos, *sin;
};

// Make values begin .. end of both tables, counted through all rows.
using FillTables = void (*)(const Tables& tables, Index begin, Index end);

struct TableLoops {
  FillTables fill[2];  // by Dtype
};

// Make both tables. 0 done, negative where threads failed, else why not: a count, size or axis that does not fit (kShapes), memory that is
// missing or not aligned. Arguments may be any numbers; addresses are checked for null and alignment alone.
Reason make_tables(const Tables& tables);

}  // namespace rotary

#endif
