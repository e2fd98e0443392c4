// What the calls of call.cpp and call_at.cpp share: a rotation that has been read and checked.
//
// Nothing is refused there. A call with anything out of the ordinary returns None before anything is written, and Python, whose way it
// then goes, says what is wrong with it or does what is asked (_rotation/call.py says what is ordinary).

#ifndef ROTARY_CALL_H
#define ROTARY_CALL_H

#include "rotate.h"
#include "torch.h"

namespace rotary {

constexpr Index kAlone = 64 * 1024;  // bytes read and written from which on other threads of Python may run meanwhile

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

// A new reference to None.
PyObject* declined();

// Read q, and k unless it is null, and see whether they belong to one attention: what _inputs/shapes.py checks of them, which has the
// words. False where they are not ordinary, or where something around the call is not.
bool read_tensors(Call& call, PyObject* q, PyObject* k, PyObject* seq_dim);

// Take the last rows of a table: queries that follow cached keys.
void cut_to(Layout& table, Index rows);

// Bytes that the rotation of these tensors reads and writes.
Index bytes_moved(const Call& call);

// Whether writing over the tensors is right: no two indices of them name one element.
bool writable(const Call& call);

// Rotate what has been checked. A new reference to the tensor or the tuple of two; None where the loops do not serve their memory; null
// where the threads failed.
PyObject* rotated(const Call& call);

// call_at.cpp's functions.
extern PyMethodDef kPlan, kRotateAt, kTablesAt;

}  // namespace rotary

#endif
