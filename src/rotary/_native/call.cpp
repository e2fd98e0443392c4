// Rotation by ready tables in one crossing from Python, and rotated(), with which call_at.cpp ends too.

#include "call.h"

#include "exported.h"
#include "overlap.h"

namespace rotary {
namespace {

Index bytes_of(const Layout& x) {
  Index bytes = element_size(x.dtype);
  for (int d = 0; d < x.dims; ++d) bytes *= x.shape[d];
  return bytes;
}

// Whether a table fits x, which has `rows` positions along the axis: the checks of table_of in _inputs/shapes.py.
bool fits(const Table& table, const Layout& x, int axis, Index rows) {
  const Layout &cos = table.cos, &sin = table.sin;
  const Index work = x.dtype == kFloat64 ? kFloat64 : kFloat32;
  if (cos.dtype != work || sin.dtype != work || cos.dims != sin.dims || (cos.dims != 2 && cos.dims != 3)) return false;
  for (int d = 0; d < cos.dims; ++d)
    if (cos.shape[d] != sin.shape[d]) return false;
  if (2 * cos.shape[cos.dims - 1] > x.shape[x.dims - 1] || cos.shape[cos.dims - 2] != rows) return false;
  return cos.dims == 2 || cos.shape[0] == 1 || (axis != 0 && cos.shape[0] == x.shape[0]);
}

// rotate(q, k, cos, sin, key_cos | None, key_sin | None, seq_dim, interleaved, conjugate, in_place), and for one tensor alone
// rotate(x, cos, sin, seq_dim, interleaved, conjugate, in_place). Their number tells them apart: any object may come in the place of k.
PyObject* rotate_by_tables(PyObject*, PyObject* const* arguments, PySize count) {
  enum { kCos, kSin, kKeyCos, kKeySin };                            // behind the tensors
  enum { kSeqDim, kInterleaved, kConjugate, kInPlace, kHowCount };  // the last ones
  constexpr PySize kOfPair = 2 + 4 + kHowCount, kOfOne = 1 + 2 + kHowCount;
  if (count != kOfPair && count != kOfOne) return declined();
  const bool pair = count == kOfPair;
  PyObject *const *const tables = arguments + 1 + pair, *const *const how = arguments + count - kHowCount;
  for (int i = kInterleaved; i < kHowCount; ++i)
    if (!is_flag(how[i])) return declined();
  PyObject *const none = constants().none, *const yes = constants().yes;
  const bool key_table = pair && tables[kKeyCos] != none;
  if (pair && key_table != (tables[kKeySin] != none)) return declined();
  Call call;
  if (!read_tensors(call, arguments[0], pair ? arguments[1] : nullptr, how[kSeqDim])) return declined();
  const Layout &q = call.x[0], &k = call.x[pair];
  const Index rows = k.shape[call.axis];
  Table& table = call.table[0];
  if (!read(tables[kCos], table.cos) || !read(tables[kSin], table.sin)) return declined();
  if (!fits(table, k, call.axis, rows) || (pair && !fits(table, q, call.axis, rows))) return declined();
  if (key_table) {
    if (!read(tables[kKeyCos], call.table[1].cos) || !read(tables[kKeySin], call.table[1].sin)) return declined();
    if (!fits(call.table[1], k, call.axis, rows)) return declined();
  } else if (pair) {
    call.table[1] = table;
  }
  if (q.shape[call.axis] != rows) cut_to(table.cos, q.shape[call.axis]), cut_to(table.sin, q.shape[call.axis]);
  call.interleaved = how[kInterleaved] == yes;
  call.conjugate = how[kConjugate] == yes;
  call.in_place = how[kInPlace] == yes;
  return rotated(call);
}

PyMethodDef kRotate = {"rotate", rotate_by_tables, kPyFastCall,
                       "rotate(q, k, cos, sin, key_cos, key_sin, seq_dim, interleaved, conjugate, in_place) -> (q, k), or None\n"
                       "rotate(x, cos, sin, seq_dim, interleaved, conjugate, in_place) -> x, or None"};

}  // namespace

PyObject* declined() {
  Py_IncRef(constants().none);
  return constants().none;
}

bool read_tensors(Call& call, PyObject* q_object, PyObject* k_object, PyObject* seq_dim) {
  call.count = k_object ? 2 : 1;
  call.object[0] = q_object, call.object[1] = k_object;
  Layout& q = call.x[0];
  Index axis;
  if (!is_integer(seq_dim, axis) || !read(q_object, q) || q.dtype > kFloat16 || q.dims < 2 || !nothing_intercepts()) return false;
  if (axis < 0) axis += q.dims;
  if (axis < 0 || axis >= q.dims - 1) return false;
  call.axis = static_cast<int>(axis);
  if (call.count == 1) return true;
  Layout& k = call.x[1];
  return read(k_object, k) && q.dtype == k.dtype && q.dims == k.dims && (axis == 0 || q.dims <= 3 || q.shape[0] == k.shape[0]) &&
         q.shape[axis] <= k.shape[axis];
}

void cut_to(Layout& table, Index rows) {
  const int row = table.dims - 2;
  table.data += (table.shape[row] - rows) * table.strides[row] * element_size(table.dtype);
  table.shape[row] = rows;
}

Index bytes_moved(const Call& call) {
  Index bytes = 0;
  for (int i = 0; i < call.count; ++i) bytes += 2 * bytes_of(call.x[i]);
  return bytes;
}

bool writable(const Call& call) {
  for (int i = 0; i < call.count; ++i)
    if (overlaps_itself(call.x[i])) return false;
  return call.count == 1 || !overlap(call.x[0], call.x[1], element_size(call.x[0].dtype));
}

PyObject* rotated(const Call& call) {
  if (call.in_place && !writable(call)) return declined();
  Layout out[kMaxTensors];
  PyObject* results[kMaxTensors] = {nullptr, nullptr};
  const auto released = [&results](PyObject* answer) {  // drops the references to the results
    for (PyObject* result : results)
      if (result) Py_DecRef(result);
    return answer;
  };
  Rotation rotation;
  rotation.dtype = static_cast<Dtype>(call.x[0].dtype), rotation.seq_dim = call.axis, rotation.tensors = call.count;
  rotation.interleaved = call.interleaved, rotation.conjugate = call.conjugate;
  for (int i = 0; i < call.count; ++i) {
    const Layout &x = call.x[i], &cos = call.table[i].cos, &sin = call.table[i].sin;
    if (call.in_place) {
      results[i] = call.object[i];
      Py_IncRef(results[i]);
    } else if (!(results[i] = empty_like(call.object[i], out[i]))) {
      return released(declined());
    }
    const Layout& to = call.in_place ? x : out[i];
    rotation.tensor[i] = {x.data,  cos.data,  sin.data,   to.data,   x.dims,      cos.dims,
                          x.shape, x.strides, to.strides, cos.shape, cos.strides, sin.strides};
  }
  PyThreadState* python = bytes_moved(call) >= kReleaseLock ? PyEval_SaveThread() : nullptr;
  const Reason reason = rotate(rotation);
  if (python) PyEval_RestoreThread(python);
  if (reason < 0) return released(threads_failed());
  if (reason) return released(declined());
  if (call.in_place && !raise_versions(call.object, call.count)) return released(nullptr);
  if (call.count == 1) return results[0];
  return released(PyTuple_Pack(2, results[0], results[1]));
}

}  // namespace rotary

// The functions of call.cpp and call_at.cpp as Python objects; None where this torch's tensors cannot be read. torch: for keep_torch().
// The caller holds the interpreter's lock.
EXPORTED PyObject* rotary_functions(PyObject* torch) {
  using namespace rotary;
  bool reads = false;
  if (!keep_torch(torch, reads)) return nullptr;
  if (!reads) return declined();
  PyObject* each[] = {PyCFunction_NewEx(&kRotate, nullptr, nullptr), PyCFunction_NewEx(&kPlan, nullptr, nullptr),
                      PyCFunction_NewEx(&kRotateAt, nullptr, nullptr), PyCFunction_NewEx(&kTablesAt, nullptr, nullptr)};
  PyObject* functions = each[0] && each[1] && each[2] && each[3] ? PyTuple_Pack(4, each[0], each[1], each[2], each[3]) : nullptr;
  for (PyObject* function : each)
    if (function) Py_DecRef(function);
  return functions;
}
