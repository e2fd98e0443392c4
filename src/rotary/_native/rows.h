// Rows of a tensor at regular steps, and the loops that rotate them, one set of loops for each instruction set (rows.cpp).

#ifndef ROTARY_ROWS_H
#define ROTARY_ROWS_H

#include "numbers.h"

namespace rotary {

constexpr int kMaxDims = 16;                     // of a tensor
constexpr int kMaxRectangleDims = kMaxDims + 1;  // every dimension but head_dim, where the sequence is two: blocks, and rows in one

struct Dim {  // steps in bytes
  Index size, x, out, cos, sin, y;
};

struct Rectangle {  // rows of one tensor at regular steps: their first addresses, and a size and steps for each dimension
  const char *x, *cos, *sin, *y;  // y: a second tensor that is read, where there is one (norm_loops.h)
  char* out;
  Index rows, planes, tail;  // tail: bytes past the planes, to be copied; 0 in place
  int dims;
  Dim dim[kMaxRectangleDims];  // outermost first
};

// Rotate rows begin .. end of a rectangle.
using Rows = void (*)(const Rectangle& rectangle, Index begin, Index end, bool conjugate);

struct RowLoops {
  Rows rows[4][2];  // by Dtype; half, interleaved
};

}  // namespace rotary

#endif
