// The memory of a tensor: address, dtype, shape and strides.

#ifndef ROTARY_LAYOUT_H
#define ROTARY_LAYOUT_H

#include "rows.h"

namespace rotary {

constexpr Index kInt64 = kFloat16 + 1;  // the dtype of positions, after those of Dtype

struct Layout {
  char* data;
  Index dtype;  // of Dtype, or kInt64
  int dims;
  Index shape[kMaxDims], strides[kMaxDims];  // strides in elements
};

inline Index element_size(Index dtype) { return dtype == kFloat64 || dtype == kInt64 ? 8 : dtype == kFloat32 ? 4 : 2; }

}  // namespace rotary

#endif
