// The numbers that a module computes tables from, kept as long as the module lives, so that each call passes one object.

#ifndef ROTARY_PLAN_H
#define ROTARY_PLAN_H

#include "cpython.h"
#include "tables.h"

namespace rotary {

struct Plan {
  Index planes;
  Index coordinates;       // of a position; 0 without axes
  Index window;            // positions from here on need a length; -1: none do
  Index furthest[4];       // by Dtype: the largest |position| that xPos scales within it; -1 without xPos
  double amplitude;
  const Index *one_word, *high, *low;
  const Index* axes;       // null without
  const double* decay[2];  // of queries and of keys; null without xPos
  Index numbers[1];        // all of the above as _angles/plan.py packs it
};

// A Python object with the plan that these bytes encode; null where they encode none.
PyObject* plan_of(PyObject* bytes);

// The plan in a Python object; null, without an exception, where there is none.
const Plan* plan_in(PyObject* object);

// The positions of a call, and their range.
struct Positions {
  const Index* positions;  // contiguous, (rows,) or (rows, coordinates); null: first, first + 1, ...
  Index first, rows;
  bool by_coordinate;      // (rows, coordinates)
  Index low, high;         // the smallest and the largest; without meaning where rows is 0
};

// Whether the plan gives tables at these positions without a length, for tensors of that dtype: within the window, and within what xPos
// can scale.
bool reaches(const Plan& plan, const Positions& positions, Dtype dtype);

// Make the tables (rows, planes) float32 or float64 of queries (0) or keys (1).
Reason make_tables(const Plan& plan, const Positions& positions, Dtype dtype, int role, void* cos, void* sin);

}  // namespace rotary

#endif
