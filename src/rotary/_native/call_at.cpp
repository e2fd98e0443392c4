// Tables at positions, and rotation by them, in one crossing from Python: RotaryEmbedding.rotate and cos_sin.

#include <cstdlib>

#include "call.h"
#include "plan.h"

namespace rotary {
namespace {

constexpr Index kLast = INT64_MAX;

class Scratch {  // memory of one call: a small piece of it at once, the rest when it is asked for
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(more_); }
  char* take(Index bytes) {  // once; null where there is none
    return static_cast<std::size_t>(bytes) <= sizeof near_ ? near_ : (more_ = static_cast<char*>(std::malloc(static_cast<std::size_t>(bytes))));
  }

 private:
  alignas(64) char near_[4096];
  char* more_ = nullptr;
};

Layout dense(char* data, Dtype dtype, Index batch, Index rows, Index planes) {  // without a batch where that is 0
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

// The numbers of a tensor one after the other, in `to` where they do not lie so.
const Index* in_order(const Layout& x, Index count, Scratch& to) {
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

// first, first + 1, ..., so many; false where they leave int64.
bool count_from(Index first, Index rows, Positions& positions) {
  if (rows > 0 && first > kLast - (rows - 1)) return false;
  positions = {nullptr, first, rows, false, first, first + (rows > 0 ? rows - 1 : 0)};
  return true;
}

// Positions (...) int64, or (..., coordinates) where the plan has axes.
bool listed(const Plan& plan, const Layout& x, Scratch& scratch, Positions& positions) {
  const bool spread = plan.coordinates > 0;
  if (x.dtype != kInt64 || (spread && (x.dims < 2 || x.shape[x.dims - 1] != plan.coordinates))) return false;
  Index count = 1;
  for (int d = 0; d < x.dims; ++d) count *= x.shape[d];
  const Index* list = in_order(x, count, scratch);
  if (!list && count) return false;
  Index low = count ? list[0] : 0, high = low;
  for (Index i = 1; i < count; ++i) low = smaller(low, list[i]), high = larger(high, list[i]);
  positions = {list, 0, spread ? count / plan.coordinates : count, spread, low, high};
  return true;
}

// Whether tables with a row for each of so many go with the batch of q and k.
bool batch_of(const Call& call, Index rows) {
  return call.axis != 0 && rows == call.x[0].shape[0] && rows == call.x[call.count - 1].shape[0];
}

// Positions of the keys from offset= and positions=, and the batch of their tables, 0 for one row for all: positions_of of
// _inputs/where.py, which has the words.
bool positions_of(const Plan& plan, const Call& call, PyObject* offset, PyObject* explicit_, Scratch& scratch, Positions& positions,
                  Index& batch) {
  const Layout& keys = call.x[call.count - 1];
  const Index rows = keys.shape[call.axis];
  Index first;
  Layout given;
  batch = 0;
  if (explicit_ != constants().none) {
    if (!is_integer(offset, first) || first != 0 || !read(explicit_, given)) return false;
    const int dims = given.dims - (plan.coordinates > 0);
    if (dims < 1 || dims > 2 || given.shape[dims - 1] != rows) return false;
    if (dims == 2 && given.shape[0] != 1) batch = given.shape[0];
    return (dims == 1 || given.shape[0] == 1 || batch_of(call, batch)) && listed(plan, given, scratch, positions);
  }
  if (is_integer(offset, first)) return count_from(first, rows, positions);
  if (!read(offset, given) || given.dtype != kInt64 || given.dims > 1) return false;
  const Index* starts = reinterpret_cast<const Index*>(given.data);
  if (given.dims == 0) return count_from(*starts, rows, positions);
  if (given.shape[0] == 1)
    return (call.axis == 0 || keys.dims <= 2 || keys.shape[0] == 1) && count_from(*starts, rows, positions);
  batch = given.shape[0];
  if (batch == 0 || !batch_of(call, batch)) return false;
  Index* list = reinterpret_cast<Index*>(scratch.take(batch * rows * 8));
  if (!list) return false;
  Index low = kLast, high = -kLast - 1;
  for (Index b = 0; b < batch; ++b) {
    const Index start = starts[b * given.strides[0]];
    if (rows == 0 || start > kLast - (rows - 1)) return false;
    low = smaller(low, start), high = larger(high, start + (rows - 1));
    for (Index i = 0; i < rows; ++i) list[b * rows + i] = start + i;
  }
  positions = {list, 0, batch * rows, false, low, high};
  return true;
}

// Whether the length of the context is one that changes nothing: none, or a number where no scheme asks for it.
bool without_length(const Plan& plan, PyObject* length) {
  Index tokens;
  return length == constants().none || (plan.window < 0 && is_integer(length, tokens) && tokens >= 0);
}

// The role of one tensor: 0 for queries, 1 for keys; -1 where it does not say.
int role_of(const Plan& plan, PyObject* role) {
  if (role == constants().query) return 0;
  if (role == constants().key) return 1;
  return role == constants().none && !plan.decay[0] ? 0 : -1;
}

Reason made_alone(const Plan& plan, const Positions& positions, Dtype dtype, int role, void* cos, void* sin) {
  PyThreadState* python = positions.rows * plan.planes * 8 >= kAlone ? PyEval_SaveThread() : nullptr;
  const Reason reason = make_tables(plan, positions, dtype, role, cos, sin);
  if (python) PyEval_RestoreThread(python);
  return reason;
}

// rotate_at(plan, q, k | None, offset, positions | None, cu_seqlens | None, length | None, role | None, seq_dim, interleaved, conjugate,
// in_place)
PyObject* rotate_at(PyObject*, PyObject* const* given, PySize count) {
  enum { kOwnPlan, kQ, kK, kOffset, kPositions, kCuSeqlens, kLength, kRole, kSeqDim, kInterleaved, kConjugate, kInPlace, kCount };
  if (count != kCount) return declined();
  const Plan* plan = held_plan(given[kOwnPlan]);
  PyObject *const none = constants().none, *const yes = constants().yes;
  if (!plan || given[kCuSeqlens] != none || !without_length(*plan, given[kLength])) return declined();
  for (int i = kInterleaved; i < kCount; ++i)
    if (!is_flag(given[i])) return declined();
  Call call;
  if (!read_tensors(call, given[kQ], given[kK] == none ? nullptr : given[kK], given[kSeqDim])) return declined();
  const bool pair = call.count == 2;
  const int role = pair ? (given[kRole] == none ? 0 : -1) : role_of(*plan, given[kRole]);
  const Layout &q = call.x[0], &k = call.x[pair];
  if (role < 0 || 2 * plan->planes > q.shape[q.dims - 1] || 2 * plan->planes > k.shape[k.dims - 1]) return declined();

  Positions positions;
  Index batch;
  Scratch listed_positions, tables;
  if (!positions_of(*plan, call, given[kOffset], given[kPositions], listed_positions, positions, batch)) return declined();
  const Dtype dtype = static_cast<Dtype>(q.dtype), work = dtype == kFloat64 ? kFloat64 : kFloat32;
  if (!reaches(*plan, positions, dtype)) return declined();
  const bool own = pair && plan->decay[0];
  const Index values = positions.rows * plan->planes, bytes = values * element_size(work);
  char* memory = tables.take(2 * bytes * (1 + own));
  if (!memory) return declined();
  const Index rows = k.shape[call.axis];
  for (int i = 0; i < call.count; ++i) {
    if (i == 1 && !own) {
      call.table[1] = call.table[0];
      continue;
    }
    char *cos = memory + 2 * i * bytes, *sin = cos + bytes;
    const Reason reason = made_alone(*plan, positions, work, pair ? i : role, cos, sin);
    if (reason) return reason < 0 ? threads_failed() : declined();
    call.table[i] = {dense(cos, work, batch, rows, plan->planes), dense(sin, work, batch, rows, plan->planes)};
  }
  if (q.shape[call.axis] != rows)
    cut_to(call.table[0].cos, q.shape[call.axis]), cut_to(call.table[0].sin, q.shape[call.axis]);
  call.interleaved = given[kInterleaved] == yes, call.conjugate = given[kConjugate] == yes, call.in_place = given[kInPlace] == yes;
  return rotated(call);
}

// tables_at(plan, positions, where, dtype, role | None, length | None): positions a tensor, or a number of them, counted from 0 where
// the tensor `where` is.
PyObject* tables_at(PyObject*, PyObject* const* given, PySize count) {
  enum { kOwnPlan, kPositions, kWhere, kDtype, kRole, kLength, kCount };
  if (count != kCount) return declined();
  const Plan* plan = held_plan(given[kOwnPlan]);
  if (!plan || !without_length(*plan, given[kLength])) return declined();
  const int role = role_of(*plan, given[kRole]);
  const Dtype dtype = given[kDtype] == constants().float64 ? kFloat64 : kFloat32;
  if (role < 0 || (dtype == kFloat32 && given[kDtype] != constants().float32)) return declined();
  Index rows;
  Layout read_from, cos, sin;
  Positions positions;
  Scratch scratch;
  if (is_integer(given[kPositions], rows)) {
    if (rows < 0 || !read(given[kWhere], read_from) || !nothing_intercepts() || !count_from(0, rows, positions)) return declined();
    read_from.dims = 1, read_from.shape[0] = rows;
  } else if (!read(given[kPositions], read_from) || !nothing_intercepts() || !listed(*plan, read_from, scratch, positions)) {
    return declined();
  }
  const int last = read_from.dims - positions.spread;
  if (last >= kMaxDims || !reaches(*plan, positions, dtype)) return declined();
  read_from.shape[last] = plan->planes;
  PyObject* made_cos = empty(read_from.shape, last + 1, dtype, cos);
  PyObject* made_sin = made_cos ? empty_like(made_cos, sin) : nullptr;
  PyObject* answer = nullptr;
  if (made_sin) {
    const Reason reason = made_alone(*plan, positions, dtype, role, cos.data, sin.data);
    answer = reason == 0 ? PyTuple_Pack(2, made_cos, made_sin) : reason < 0 ? threads_failed() : declined();
  } else {
    answer = declined();
  }
  if (made_cos) Py_DecRef(made_cos);
  if (made_sin) Py_DecRef(made_sin);
  return answer;
}

PyObject* make_plan(PyObject*, PyObject* const* given, PySize count) {
  PyObject* plan = count == 1 ? plan_of(given[0]) : nullptr;
  return plan || PyErr_Occurred() ? plan : declined();
}

}  // namespace

PyMethodDef kPlan = {"plan", make_plan, kPyFastCall, "plan(bytes) -> the plan that they are, or None"};
PyMethodDef kRotateAt = {"rotate_at", rotate_at, kPyFastCall,
                         "rotate_at(plan, q, k, offset, positions, cu_seqlens, length, role, seq_dim, interleaved, conjugate, in_place) -> "
                         "tensors, or None"};
PyMethodDef kTablesAt = {"tables_at", tables_at, kPyFastCall,
                         "tables_at(plan, positions, where, dtype, role, length) -> (cos, sin), or None"};

}  // namespace rotary
