// RMSNorm and rotation of rows, forward and backward, one set of loops for each instruction set (norm_loops.cpp).

#ifndef ROTARY_NORM_LOOPS_H
#define ROTARY_NORM_LOOPS_H

#include "rows.h"

namespace rotary {

constexpr Index kMaxChannels = 1024;  // of a head that is normalised: a row is held on the stack
constexpr Index kChunkRows = 64;      // whose gradients of the weight are added one after the other; sums.py has the same number

constexpr Index kNormLanes = 16;      // channels at a time; sums.py fills a sum up to as many

struct NormRow {
  const void* factor;  // what each channel is multiplied by after the norm, in the type of the arithmetic, zeros up to a multiple of
                       // kNormLanes
  double eps;
  Index channels;
  bool model, after;  // rounded as models do; the rotation comes first
};

// Normalise and rotate rows begin .. end of a rectangle.
using NormRows = void (*)(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end);

// Of rows begin .. end, x with the gradient y of what came of it: the gradient of x into out, and, where it is not null, the sum over these
// rows of the gradient of the factor into `sum`, (channels) in the type of the arithmetic.
using NormGradients = void (*)(const Rectangle& rectangle, const NormRow& norm, Index begin, Index end, void* sum);

struct NormLoops {
  NormRows forward[4][2];  // by Dtype; half, interleaved
  NormGradients backward[4][2];
};

}  // namespace rotary

#endif
