// Tensors as Python has them: read through DLPack's exchange table, after everything that DLPack does not say has been asked. No headers
// of torch: its functions are called as Python calls them, and _native/call.py hands them over.

#ifndef ROTARY_TORCH_H
#define ROTARY_TORCH_H

#include "cpython.h"
#include "layout.h"

namespace rotary {

// Keep what torch is asked by, a tuple that _native/call.py draws. False, with a Python exception set, where it is not that.
bool keep_torch(PyObject* torch);

// Whether an operation on a plain tensor does here what it does by itself: nothing traces, transforms, records forward or intercepts.
// False too where somebody chose a backend.
bool nothing_intercepts();

// Read a tensor. False, without an exception, where it is not a torch.Tensor itself in the memory of the CPU, of at most kMaxDims
// dimensions and a dtype of Layout, or where it has a negative bit, or would take a graph with it while `recording`.
bool read(PyObject* object, bool recording, Layout& layout);

// Whether autograd records what happens to tensors that require a gradient.
bool autograd_records();

// A new reference to torch.empty_like(like), and its layout; null, without an exception, where torch makes none that can be read.
PyObject* empty_like(PyObject* like, Layout& layout);

constexpr int kMaxWritten = 2;

// Raise the version counters of one or two tensors that were written through an address; inference tensors have none. False, with a Python
// exception set, where torch does not.
bool raise_versions(PyObject* const* tensors, int count);

// The objects of Python that a function here returns, compares with or raises by.
struct Constants {
  PyObject *none, *yes, *no, *integer, *threads_failed;
};
const Constants& constants();

bool is_flag(PyObject* object);                     // True or False itself
bool is_integer(PyObject* object, Index& value);    // an int itself that fits

}  // namespace rotary

#endif
