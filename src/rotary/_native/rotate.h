// The rotation of one or two tensors in one call.

#ifndef ROTARY_ROTATE_H
#define ROTARY_ROTATE_H

#include "numbers.h"

namespace rotary {

constexpr int kMaxTensors = 2;  // q and k

// The status of a call: 0 done, negative if threads failed, else why these tensors are not served; _rotation/native.py has the messages.
enum Reason : std::int32_t { kThreads = -1, kDone, kChannels, kTables, kDims, kAligned, kMemory, kShapes, kWide, kSlots };

struct Tensor {  // x and out of one shape, and their tables; strides in elements
  const char *x, *cos, *sin;
  char* out;
  int dims, table_dims;
  const Index *shape, *x_strides, *out_strides, *table_shape, *cos_strides, *sin_strides;
};

struct Rotation {
  Dtype dtype;
  bool interleaved, conjugate;
  Index seq_dim;
  int tensors;
  Tensor tensor[kMaxTensors];
};

// Rotate, in torch's threads if there is work for them. Arguments may be any numbers: where they do not fit, a reason is returned before
// anything is written.
Reason rotate(const Rotation& rotation);

}  // namespace rotary

#endif
