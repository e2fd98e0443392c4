// Where the numbers of a tensor lie.

#ifndef ROTARY_LAYOUT_H
#define ROTARY_LAYOUT_H

#include "rows.h"

namespace rotary {

constexpr Index kInt64 = kFloat16 + 1;  // what positions may be, beside the numbers of Dtype

struct Layout {
  char* data;
  Index dtype;  // of Dtype, or kInt64
  int dims;
  Index shape[kMaxDims], strides[kMaxDims];  // strides in elements
};

inline Index element_size(Index dtype) { return dtype == kFloat64 || dtype == kInt64 ? 8 : dtype == kFloat32 ? 4 : 2; }

}  // namespace rotary

#endif
