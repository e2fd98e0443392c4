// Tables at positions, and rotation by them, in one crossing from Python: RotaryEmbedding.rotate and cos_sin.
//
//     rotate_at    offset or positions  -> Positions -> tables in Scratch     -> rotated() of call.cpp
//     tables_at    positions, or a count -> Positions -> tables in new tensors
//
// Every check mirrors one of _inputs/ or _angles/cos_sin.py, which have the error messages: where it fails the call is declined.

#include <cstdlib>

#include "call.h"
#include "plan.h"

namespace rotary {
namespace {

constexpr Index kLast = INT64_MAX;

class Scratch {  // memory of one call: 4 KB on the stack, from malloc if more is asked for
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(more_); }
  char* take(Index bytes) {  // to be called once; null where memory is exhausted
    const std::size_t size = static_cast<std::size_t>(bytes);
    return size <= sizeof near_ ? near_ : (more_ = static_cast<char*>(std::malloc(size)));
  }

 private:
  alignas(64) char near_[4096];
  char* more_ = nullptr;
};

Layout dense(char* data, Dtype dtype, Index batch, Index rows, Index planes) {  // batch 0: two dimensions
  Layout layout{data, dtype, batch ? 3 : 2, {}, {}};
  Index* shape = layout.shape;
  Index* strides = layout.strides;
  if (batch) *shape++ = batch, *strides++ = rows * planes;
  shape[0] = rows, shape[1] = planes, strides[0] = planes, strides[1] = 1;
  return layout;
}

bool contiguous(const Layout& x) {
  Index step = 1;
  for (int d = x.dims - 1; d >= 0; --d) {
    if (x.shape[d] != 1 && x.strides[d] != step) return false;
    step *= x.shape[d];
  }
  return true;
}

// The numbers of a tensor one after the other: in place if it is contiguous, else copied to `to`.
const Index* as_list(const Layout& x, Index count, Scratch& to) {
  const Index* data = reinterpret_cast<const Index*>(x.data);
  if (count == 0 || contiguous(x)) return data;
  Index* ordered = reinterpret_cast<Index*>(to.take(count * 8));
  if (!ordered) return nullptr;
  Index at[kMaxDims] = {}, place = 0;
  for (Index i = 0; i < count; ++i) {
    ordered[i] = data[place];
    for (int d = x.dims - 1; d >= 0; --d) {
      place += x.strides[d];
      if (++at[d] < x.shape[d]) break;
      place -= at[d] * x.strides[d];
      at[d] = 0;
    }
  }
  return ordered;
}

// Positions first, first + 1, ..., so many rows; false where they leave int64.
bool count_from(Index first, Index rows, Positions& positions) {
  if (rows > 0 && first > kLast - (rows - 1)) return false;
  positions = {nullptr, first, rows, false, first, first + (rows > 0 ? rows - 1 : 0)};
  return true;
}

// Positions in a tensor (...) int64, or (..., coordinates) where the plan has axes.
bool listed(const Plan& plan, const Layout& x, Scratch& scratch, Positions& positions) {
  const bool by_coordinate = plan.coordinates > 0;
  if (x.dtype != kInt64 || (by_coordinate && (x.dims < 2 || x.shape[x.dims - 1] != plan.coordinates))) return false;
  Index count = 1;
  for (int d = 0; d < x.dims; ++d) count *= x.shape[d];
  const Index* list = as_list(x, count, scratch);
  if (!list && count) return false;
  Index low = count ? list[0] : 0, high = low;
  for (Index i = 1; i < count; ++i) low = smaller(low, list[i]), high = larger(high, list[i]);
  positions = {list, 0, by_coordinate ? count / plan.coordinates : count, by_coordinate, low, high};
  return true;
}

// Whether tables with so many batch entries fit the batch of q and k.
bool batch_of(const Call& call, Index rows) {
  return call.axis != 0 && rows == call.x[0].shape[0] && rows == call.x[call.count - 1].shape[0];
}

// Positions of the keys from offset= and positions=, and the batch of their tables, 0 for tables without a batch: positions_of in
// _inputs/where.py.
bool positions_of(const Plan& plan, const Call& call, PyObject* offset, PyObject* explicit_positions, Scratch& scratch, Positions& positions,
                  Index& batch) {
  const Layout& keys = call.x[call.count - 1];
  const Index rows = keys.shape[call.axis];
  Index first;
  Layout tensor;  // of positions, or of offsets
  batch = 0;
  if (explicit_positions != constants().none) {
    if (!is_integer(offset, first) || first != 0 || !read(explicit_positions, tensor)) return false;
    const int dims = tensor.dims - (plan.coordinates > 0);
    if (dims < 1 || dims > 2 || tensor.shape[dims - 1] != rows) return false;
    if (dims == 2 && tensor.shape[0] != 1) batch = tensor.shape[0];
    return (dims == 1 || tensor.shape[0] == 1 || batch_of(call, batch)) && listed(plan, tensor, scratch, positions);
  }
  if (is_integer(offset, first)) return count_from(first, rows, positions);
  if (!read(offset, tensor) || tensor.dtype != kInt64 || tensor.dims > 1) return false;
  const Index* starts = reinterpret_cast<const Index*>(tensor.data);
  if (tensor.dims == 0) return count_from(*starts, rows, positions);
  if (tensor.shape[0] == 1)
    return (call.axis == 0 || keys.dims <= 2 || keys.shape[0] == 1) && count_from(*starts, rows, positions);
  batch = tensor.shape[0];
  if (batch == 0 || !batch_of(call, batch)) return false;
  Index* list = reinterpret_cast<Index*>(scratch.take(batch * rows * 8));
  if (!list) return false;
  Index low = kLast, high = -kLast - 1;
  for (Index b = 0; b < batch; ++b) {
    const Index start = starts[b * tensor.strides[0]];
    if (rows == 0 || start > kLast - (rows - 1)) return false;
    low = smaller(low, start), high = larger(high, start + (rows - 1));
    for (Index i = 0; i < rows; ++i) list[b * rows + i] = start + i;
  }
  positions = {list, 0, batch * rows, false, low, high};
  return true;
}

// Whether no table depends on the length of the context: it is None, or a number that no scheme of the plan reads.
bool without_length(const Plan& plan, PyObject* length) {
  Index tokens;
  return length == constants().none || (plan.window < 0 && is_integer(length, tokens) && tokens >= 0);
}

// The role of one tensor: 0 for queries, 1 for keys; -1 where the call is not ordinary.
int role_of(const Plan& plan, PyObject* role) {
  if (role == constants().query) return 0;
  if (role == constants().key) return 1;
  return role == constants().none && !plan.decay[0] ? 0 : -1;
}

// make_tables(), without the interpreter's lock if there is much to do.
Reason make_unlocked(const Plan& plan, const Positions& positions, Dtype dtype, int role, void* cos, void* sin) {
  PyThreadState* python = positions.rows * plan.planes * 8 >= kReleaseLock ? PyEval_SaveThread() : nullptr;
  const Reason reason = make_tables(plan, positions, dtype, role, cos, sin);
  if (python) PyEval_RestoreThread(python);
  return reason;
}

// rotate_at(plan, q, k | None, offset, positions | None, cu_seqlens | None, length | None, role | None, seq_dim, interleaved, conjugate,
// in_place)
PyObject* rotate_at(PyObject*, PyObject* const* arguments, PySize count) {
  enum { kOfModule, kQ, kK, kOffset, kPositions, kCuSeqlens, kLength, kRole, kSeqDim, kInterleaved, kConjugate, kInPlace, kCount };
  if (count != kCount) return declined();
  const Plan* plan = plan_in(arguments[kOfModule]);
  PyObject *const none = constants().none, *const yes = constants().yes;
  if (!plan || arguments[kCuSeqlens] != none || !without_length(*plan, arguments[kLength])) return declined();
  for (int i = kInterleaved; i < kCount; ++i)
    if (!is_flag(arguments[i])) return declined();
  Call call;
  if (!read_tensors(call, arguments[kQ], arguments[kK] == none ? nullptr : arguments[kK], arguments[kSeqDim])) return declined();
  const bool pair = call.count == 2;
  const int role = pair ? (arguments[kRole] == none ? 0 : -1) : role_of(*plan, arguments[kRole]);
  const Layout &q = call.x[0], &k = call.x[pair];
  if (role < 0 || 2 * plan->planes > q.shape[q.dims - 1] || 2 * plan->planes > k.shape[k.dims - 1]) return declined();

  Positions positions;
  Index batch;
  Scratch listed_positions, tables;
  // If a scheme has a window, positions in a tensor are declined whatever their values: see Tables.at in _angles/cos_sin.py.
  if (plan->window >= 0 && (arguments[kPositions] != none || !is_integer(arguments[kOffset], batch))) return declined();
  if (!positions_of(*plan, call, arguments[kOffset], arguments[kPositions], listed_positions, positions, batch)) return declined();
  const Dtype dtype = static_cast<Dtype>(q.dtype), work = dtype == kFloat64 ? kFloat64 : kFloat32;
  if (!reaches(*plan, positions, dtype)) return declined();
  const bool two_tables = pair && plan->decay[0];
  const Index values = positions.rows * plan->planes, bytes = values * element_size(work);
  char* memory = tables.take(2 * bytes * (1 + two_tables));
  if (!memory) return declined();
  const Index rows = k.shape[call.axis];
  for (int i = 0; i < call.count; ++i) {
    if (i == 1 && !two_tables) {
      call.table[1] = call.table[0];
      continue;
    }
    char *cos = memory + 2 * i * bytes, *sin = cos + bytes;
    const Reason reason = make_unlocked(*plan, positions, work, pair ? i : role, cos, sin);
    if (reason) return reason < 0 ? threads_failed() : declined();
    call.table[i] = {dense(cos, work, batch, rows, plan->planes), dense(sin, work, batch, rows, plan->planes)};
  }
  if (q.shape[call.axis] != rows)
    cut_to(call.table[0].cos, q.shape[call.axis]), cut_to(call.table[0].sin, q.shape[call.axis]);
  call.interleaved = arguments[kInterleaved] == yes;
  call.conjugate = arguments[kConjugate] == yes;
  call.in_place = arguments[kInPlace] == yes;
  return rotated(call);
}

// tables_at(plan, positions, like, dtype, role | None, length | None): positions a tensor, or a number of them, counted from 0, and then
// tables are made if the tensor `like` is on the CPU.
PyObject* tables_at(PyObject*, PyObject* const* arguments, PySize count) {
  enum { kOfModule, kPositions, kLike, kDtype, kRole, kLength, kCount };
  if (count != kCount) return declined();
  const Plan* plan = plan_in(arguments[kOfModule]);
  if (!plan || !without_length(*plan, arguments[kLength])) return declined();
  const int role = role_of(*plan, arguments[kRole]);
  const Dtype dtype = arguments[kDtype] == constants().float64 ? kFloat64 : kFloat32;
  if (role < 0 || (dtype == kFloat32 && arguments[kDtype] != constants().float32)) return declined();
  Index rows;
  Layout shape, cos, sin;  // shape: of the positions, then of the tables
  Positions positions;
  Scratch scratch;
  if (is_integer(arguments[kPositions], rows)) {
    if (rows < 0 || !read(arguments[kLike], shape) || !nothing_intercepts() || !count_from(0, rows, positions)) return declined();
    shape.dims = 1, shape.shape[0] = rows;
  } else {
    // If a scheme has a window, positions in a tensor are declined, as in rotate_at.
    if (plan->window >= 0 || !read(arguments[kPositions], shape) || !nothing_intercepts()) return declined();
    if (!listed(*plan, shape, scratch, positions)) return declined();
  }
  const int last = shape.dims - positions.by_coordinate;
  if (last >= kMaxDims || !reaches(*plan, positions, dtype)) return declined();
  shape.shape[last] = plan->planes;
  PyObject* made_cos = empty(shape.shape, last + 1, dtype, cos);
  PyObject* made_sin = made_cos ? empty_like(made_cos, sin) : nullptr;
  PyObject* answer = nullptr;
  if (made_sin) {
    const Reason reason = make_unlocked(*plan, positions, dtype, role, cos.data, sin.data);
    answer = reason == 0 ? PyTuple_Pack(2, made_cos, made_sin) : reason < 0 ? threads_failed() : declined();
  } else {
    answer = declined();
  }
  if (made_cos) Py_DecRef(made_cos);
  if (made_sin) Py_DecRef(made_sin);
  return answer;
}

PyObject* make_plan(PyObject*, PyObject* const* arguments, PySize count) {
  PyObject* plan = count == 1 ? plan_of(arguments[0]) : nullptr;
  return plan || PyErr_Occurred() ? plan : declined();
}

}  // namespace

PyMethodDef kPlan = {"plan", make_plan, kPyFastCall, "plan(bytes) -> the plan that they are, or None"};
PyMethodDef kRotateAt = {"rotate_at", rotate_at, kPyFastCall,
                         "rotate_at(plan, q, k, offset, positions, cu_seqlens, length, role, seq_dim, interleaved, conjugate, in_place) -> "
                         "tensors, or None"};
PyMethodDef kTablesAt = {"tables_at", tables_at, kPyFastCall,
                         "tables_at(plan, positions, like, dtype, role, length) -> (cos, sin), or None"};

}  // namespace rotary
