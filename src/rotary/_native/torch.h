// Tensors as Python has them: read through DLPack's exchange table, after everything that DLPack does not say has been asked. No headers
// of torch: its functions are called as Python calls them, and _native/call.py hands them over.

#ifndef ROTARY_TORCH_H
#define ROTARY_TORCH_H

#include "cpython.h"
#include "layout.h"

namespace rotary {

// Keep what torch is asked by: a tuple that _native/functions.py draws. False, with a Python exception set, where it is not that.
// reads: whether this torch's table is of a version that is known here.
bool keep_torch(PyObject* torch, bool& reads);

// Whether an operation on plain tensors is no more than that here: nothing traces, transforms, intercepts or differentiates forward, and
// no backend was chosen.
bool nothing_intercepts();

// Read a tensor. False, without an exception, where it is not a torch.Tensor itself in the memory of the CPU, of at most kMaxDims
// dimensions and a dtype of Layout, where it has a negative bit, or where it requires a gradient and gradients are recorded.
bool read(PyObject* object, Layout& layout);

// A new reference to torch.empty_like(like), and its layout; null, without an exception, where torch makes none that can be read.
PyObject* empty_like(PyObject* like, Layout& layout);

// The same of torch.empty(shape, dtype=, device="cpu"); float32 or float64.
PyObject* empty(const Index* shape, int dims, Dtype dtype, Layout& layout);

constexpr int kMaxWritten = 2;

// Raise the version counters of one or two tensors that were written through an address; inference tensors have none. False, with a
// Python exception set, where torch does not.
bool raise_versions(PyObject* const* tensors, int count);

// Raises that torch's thread pool reported an error, and returns null.
PyObject* threads_failed();

struct Constants {  // of Python, to return or to compare with; float32 and float64 are torch's
  PyObject *none, *yes, *no, *integer, *query, *key, *float32, *float64;
};
const Constants& constants();

bool is_flag(PyObject* object);                   // True or False itself
bool is_integer(PyObject* object, Index& value);  // an int itself that fits

}  // namespace rotary

#endif
