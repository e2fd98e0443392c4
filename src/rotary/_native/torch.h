// Reads torch's tensors, through DLPack's exchange table and, for what DLPack does not tell (gradients, negative bits), by calls of torch's
// Python functions. No headers of torch: _native/functions.py passes those functions once.

#ifndef ROTARY_TORCH_H
#define ROTARY_TORCH_H

#include "cpython.h"
#include "layout.h"

namespace rotary {

// Keep the functions and constants of torch: the tuple that _native/functions.py makes. False, with a Python exception set, for another
// tuple. reads: whether this torch's exchange table has a version known here.
bool keep_torch(PyObject* torch, bool& reads);

// Whether an operation on plain tensors is only computed: nothing traces, transforms, intercepts or differentiates it forward, and no
// backend was chosen.
bool nothing_intercepts();

// Read a tensor. False, without an exception, unless it is of class torch.Tensor, in the memory of the CPU, of at most kMaxDims dimensions
// and a dtype of Layout, without a negative bit, and requires no gradient while gradients are recorded.
bool read(PyObject* object, Layout& layout);

// A new reference to torch.empty_like(like), and its layout; null, without an exception, where that cannot be read.
PyObject* empty_like(PyObject* like, Layout& layout);

// A new reference to torch.empty(shape, dtype=, device="cpu"), float32 or float64, and its layout; null as above.
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

bool is_flag(PyObject* object);                   // True or False
bool is_integer(PyObject* object, Index& value);  // of class int, and fits

}  // namespace rotary

#endif
