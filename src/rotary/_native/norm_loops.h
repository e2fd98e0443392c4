// RMSNorm and rotation of rows, forward and backward, one set of loops for each instruction set (norm_loops.cpp).

#ifndef ROTARY_NORM_LOOPS_H
#define ROTARY_NORM_LOOPS_H

#include "rows.h"

namespace rotary {

constexpr Index kMaxChannels = 1024;  // of a head that is normalised: its row is copied to the stack
constexpr Index kChunkRows = 64;      // rows whose gradients of the weight are added one after the other: ROWS of _fused/sums.py
constexpr Index kNormLanes = 16;      // a sum is filled up with zeros to so many numbers: LANES of _fused/sums.py

struct NormRow {
  const void* factor;  // (channels), weight + offset in the type of the arithmetic, then zeros up to a multiple of kNormLanes
  double eps;
  Index channels;
  bool model, after;  // round as models do; the norm follows the rotation
};

// Normalise and rotate rows begin .. end of a rectangle.
using NormRows = void (*)(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end);

// Write the gradient of x for rows begin .. end to out, where y is the gradient of the output. Write to `sum`, if it is not null, the sum
// over these rows of the gradient of the factor, (channels) in the type of the arithmetic.
using NormGradients = void (*)(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end, void* sum);

struct NormLoops {
  NormRows forward[4][2];  // by Dtype; half, interleaved
  NormGradients backward[4][2];
};

}  // namespace rotary

#endif
