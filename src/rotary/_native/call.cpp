// A whole call in one crossing from Python: tensors are read, checked, made and rotated here.
//
// Nothing is refused here. A call with anything out of the ordinary returns None before anything is written, and Python, whose way it
// then goes, says what is wrong with it or does what is asked (_rotation/call.py says what is ordinary).

#include "exported.h"
#include "overlap.h"
#include "rotate.h"
#include "torch.h"

namespace rotary {
namespace {

constexpr Index kAlone = 64 * 1024;  // bytes read and written from which on other threads of Python may run meanwhile

struct Table {
  Layout cos, sin;
};

PyObject* declined() {
  Py_IncRef(constants().none);
  return constants().none;
}

Index bytes_of(const Layout& x) {
  Index bytes = element_size(x.dtype);
  for (int d = 0; d < x.dims; ++d) bytes *= x.shape[d];
  return bytes;
}

// Whether a table goes with x, `rows` long at `axis`: what _inputs/shapes.py checks, which has the words.
bool fits(const Table& table, const Layout& x, int axis, Index rows) {
  const Layout &cos = table.cos, &sin = table.sin;
  const Index work = x.dtype == kFloat64 ? kFloat64 : kFloat32;
  if (cos.dtype != work || sin.dtype != work || cos.dims != sin.dims || (cos.dims != 2 && cos.dims != 3)) return false;
  for (int d = 0; d < cos.dims; ++d)
    if (cos.shape[d] != sin.shape[d]) return false;
  if (2 * cos.shape[cos.dims - 1] > x.shape[x.dims - 1] || cos.shape[cos.dims - 2] != rows) return false;
  return cos.dims == 2 || cos.shape[0] == 1 || (axis != 0 && cos.shape[0] == x.shape[0]);
}

// Whether q and k belong to one attention: check_pair of _inputs/shapes.py.
bool paired(const Layout& q, const Layout& k, int axis) {
  return q.dtype == k.dtype && q.dims == k.dims && (axis == 0 || q.dims <= 3 || q.shape[0] == k.shape[0]) &&
         q.shape[axis] <= k.shape[axis];
}

// The last rows of a table: queries that follow cached keys.
void cut_to(Layout& table, Index rows) {
  const int row = table.dims - 2;
  table.data += (table.shape[row] - rows) * table.strides[row] * element_size(table.dtype);
  table.shape[row] = rows;
}

struct Rotated {  // what a call rotates: q and k, or one tensor; read and found to be plain
  int count = 0;
  PyObject* object[kMaxTensors];
  Layout x[kMaxTensors];
  const Table* table[kMaxTensors];
  int axis = 0;
  bool interleaved = false, conjugate = false, in_place = false;
};

// Rotate what has been checked. A new reference to the tensor or the tuple of two; None where the loops do not serve their memory.
PyObject* rotated(const Rotated& call) {
  Layout out[kMaxTensors];
  PyObject* made[kMaxTensors] = {nullptr, nullptr};
  const auto released = [&made](PyObject* answer) {
    for (PyObject* one : made)
      if (one) Py_DecRef(one);
    return answer;
  };
  if (call.in_place) {
    for (int i = 0; i < call.count; ++i)
      if (overlaps_itself(call.x[i])) return declined();
    if (call.count == 2 && overlap(call.x[0], call.x[1], element_size(call.x[0].dtype))) return declined();
  }
  Rotation rotation;
  rotation.dtype = static_cast<Dtype>(call.x[0].dtype);
  rotation.interleaved = call.interleaved, rotation.conjugate = call.conjugate;
  rotation.seq_dim = call.axis, rotation.tensors = call.count;
  Index bytes = 0;
  for (int i = 0; i < call.count; ++i) {
    const Layout &x = call.x[i], &cos = call.table[i]->cos, &sin = call.table[i]->sin;
    if (call.in_place) {
      made[i] = call.object[i];
      Py_IncRef(made[i]);
    } else if (!(made[i] = empty_like(call.object[i], out[i]))) {
      return released(declined());
    }
    const Layout& to = call.in_place ? x : out[i];
    rotation.tensor[i] = {x.data, cos.data, sin.data, to.data,   x.dims,    cos.dims,
                          x.shape, x.strides, to.strides, cos.shape, cos.strides, sin.strides};
    bytes += 2 * bytes_of(x);
  }
  PyThreadState* python = bytes >= kAlone ? PyEval_SaveThread() : nullptr;
  const Reason reason = rotate(rotation);
  if (python) PyEval_RestoreThread(python);
  if (reason < 0) return released(PyObject_CallFunctionObjArgs(constants().threads_failed, nullptr));  // which raises
  if (reason) return released(declined());
  if (call.in_place && !raise_versions(call.object, call.count)) return released(nullptr);
  if (call.count == 1) return made[0];
  return released(PyTuple_Pack(2, made[0], made[1]));
}

// rotate(q, k | None, cos, sin, key_cos | None, key_sin | None, seq_dim, interleaved, conjugate, in_place)
PyObject* rotate_by_tables(PyObject*, PyObject* const* given, PySize count) {
  enum { kQ, kK, kCos, kSin, kKeyCos, kKeySin, kSeqDim, kInterleaved, kConjugate, kInPlace, kCount };
  PyObject* const none = constants().none;
  if (count != kCount) return declined();
  for (int i = kInterleaved; i < kCount; ++i)
    if (!is_flag(given[i])) return declined();
  const bool pair = given[kK] != none, own = given[kKeyCos] != none;
  Index axis;
  if (own != (given[kKeySin] != none) || !is_integer(given[kSeqDim], axis) || !nothing_intercepts()) return declined();
  const bool recording = autograd_records();

  Rotated call;
  Table table[kMaxTensors];
  Layout &q = call.x[0], &k = call.x[pair];
  if (!read(given[kQ], recording, q) || (pair && !read(given[kK], recording, k))) return declined();
  if (!read(given[kCos], recording, table[0].cos) || !read(given[kSin], recording, table[0].sin)) return declined();
  if (own && (!read(given[kKeyCos], recording, table[1].cos) || !read(given[kKeySin], recording, table[1].sin))) return declined();

  if (axis < 0) axis += q.dims;
  if (q.dtype > kFloat16 || q.dims < 2 || axis < 0 || axis >= q.dims - 1) return declined();
  call.axis = static_cast<int>(axis);
  if (pair && !paired(q, k, call.axis)) return declined();
  const Index rows = k.shape[axis];
  if (!fits(table[0], k, call.axis, rows) || (pair && !fits(table[0], q, call.axis, rows))) return declined();
  if (own && !fits(table[1], k, call.axis, rows)) return declined();
  if (pair && !own) table[1] = table[0];
  if (pair && q.shape[axis] != rows) cut_to(table[0].cos, q.shape[axis]), cut_to(table[0].sin, q.shape[axis]);

  call.count = 1 + pair;
  call.object[0] = given[kQ], call.object[1] = given[kK];
  call.table[0] = &table[0], call.table[1] = &table[1];
  call.interleaved = given[kInterleaved] == constants().yes, call.conjugate = given[kConjugate] == constants().yes;
  call.in_place = given[kInPlace] == constants().yes;
  return rotated(call);
}

PyMethodDef kRotateByTables = {"rotate", rotate_by_tables, kPyFastCall,
                               "rotate(q, k, cos, sin, key_cos, key_sin, seq_dim, interleaved, conjugate, in_place) -> tensors or None"};

}  // namespace
}  // namespace rotary

// The functions of this file as objects of Python, a tuple, once torch's answers are kept. Called with the interpreter's lock held.
EXPORTED PyObject* rotary_functions(PyObject* torch) {
  using namespace rotary;
  if (!keep_torch(torch)) return nullptr;
  PyObject* function = PyCFunction_NewEx(&kRotateByTables, nullptr, nullptr);
  PyObject* functions = function ? PyTuple_Pack(1, function) : nullptr;
  if (function) Py_DecRef(function);
  return functions;
}
