// A rotation that has been read from Python and checked, shared by call.cpp and call_at.cpp.
//
// These calls raise no error for their arguments. A call that is not ordinary (_rotation/call.py lists what is) returns None and has
// written nothing; Python then computes it by its own road, or raises the error.

#ifndef ROTARY_CALL_H
#define ROTARY_CALL_H

#include "rotate.h"
#include "torch.h"

namespace rotary {

constexpr Index kReleaseLock = 64 * 1024;  // bytes read and written from which on the interpreter's lock is released during the work

struct Table {  // (seq, planes) or (1 or batch, seq, planes)
  Layout cos, sin;
};

struct Call {
  int count;  // of tensors: q and k, or one
  PyObject* object[kMaxTensors];
  Layout x[kMaxTensors];
  Table table[kMaxTensors];
  int axis;  // the sequence
  bool interleaved, conjugate, in_place;
};

// A new reference to None, the answer to a call that is not ordinary.
PyObject* declined();

// Read q, and k unless it is null, and check that they belong to one attention, like _inputs/shapes.py, which has the error messages.
// False where the tensors, or the context of the call, are not ordinary.
bool read_tensors(Call& call, PyObject* q, PyObject* k, PyObject* seq_dim);

// Take the last rows of a table: queries that follow cached keys.
void cut_to(Layout& table, Index rows);

// Bytes that the rotation of these tensors reads and writes.
Index bytes_moved(const Call& call);

// Whether the tensors may be written over: no two indices of them name one element.
bool writable(const Call& call);

// Rotate what has been checked. A new reference to the tensor or the tuple of two; None where the loops do not serve their memory; null
// where the threads failed.
PyObject* rotated(const Call& call);

// call_at.cpp's functions.
extern PyMethodDef kPlan, kRotateAt, kTablesAt;

}  // namespace rotary

#endif
