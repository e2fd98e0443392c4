// What a module computes from positions, as numbers: kept here for its life, so that a call hands over one object.

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

// An object of Python that holds the plan which these bytes are; null where they are none.
PyObject* plan_of(PyObject* bytes);

// The plan that an object holds; null, without an exception, where it holds none.
const Plan* held_plan(PyObject* object);

// Which positions a call has, and what is known of them.
struct Positions {
  const Index* positions;  // contiguous, (rows,) or (rows, coordinates); null: first, first + 1, ...
  Index first, rows;
  bool spread;             // (rows, coordinates)
  Index low, high;         // the smallest and the largest; of no meaning where rows is 0
};

// Whether the plan gives tables at these positions without a length, for tensors of that dtype: within the window, and within what xPos
// can scale.
bool reaches(const Plan& plan, const Positions& positions, Dtype dtype);

// Make the tables (rows, planes) float32 or float64 of queries (0) or keys (1).
Reason make_tables(const Plan& plan, const Positions& positions, Dtype dtype, int role, void* cos, void* sin);

}  // namespace rotary

#endif
