// From tensors to rectangles of rows, and these in torch's threads. No torch headers: a tensor is addresses, sizes and steps, so that one
// library serves every Python and every torch.

#include "rotate.h"

#include "exported.h"
#include "instruction_sets.h"
#include "threads.h"

namespace rotary {
namespace {

constexpr Index kTableBlock = 64 * 1024;  // bytes of tables kept near while the heads go over them: a part of any L2 cache
constexpr Index kGrain = 256 * 1024;      // bytes read and written below which a second thread costs more than it helps

struct Work {  // rectangles one after another: row numbers run through all of them
  Rows rows;
  bool conjugate;
  int rectangles;
  Rectangle rectangle[2 * kMaxTensors];  // q and k, each with the rest of its sequence that fills no block
};

void rotate_range(Index begin, Index end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  for (int i = 0; i < work.rectangles && begin < end; ++i) {
    const Rectangle& rectangle = work.rectangle[i];
    if (begin < rectangle.rows) work.rows(rectangle, begin, smaller(end, rectangle.rows), work.conjugate);
    begin = larger(begin - rectangle.rows, 0);
    end -= rectangle.rows;
  }
}

bool mergeable(const Dim& outer, const Dim& inner) {  // the two are one longer dimension
  return outer.x == inner.size * inner.x && outer.out == inner.size * inner.out && outer.cos == inner.size * inner.cos &&
         outer.sin == inner.size * inner.sin;
}

void add_dim(Rectangle& rectangle, const Dim& dim) {
  if (dim.size == 1) return;
  if (rectangle.dims && mergeable(rectangle.dim[rectangle.dims - 1], dim)) {
    const Index size = rectangle.dim[rectangle.dims - 1].size * dim.size;
    rectangle.dim[rectangle.dims - 1] = dim;
    rectangle.dim[rectangle.dims - 1].size = size;
    return;
  }
  rectangle.dim[rectangle.dims++] = dim;
}

// Rows begin .. begin + count of the sequence, in blocks. Dimensions along which the tables move come first, then the blocks, then
// the heads and the positions of one block as they lie in memory: tables are read from memory once for all heads, and the
// activations still arrive in long stretches.
void add_rectangle(Work& work, Rectangle rectangle, const Dim& seq, Index begin, Index count, Index block, const Dim* tensor_dims,
                   int n) {
  if (count == 0) return;
  rectangle.x += begin * seq.x, rectangle.out += begin * seq.out, rectangle.cos += begin * seq.cos, rectangle.sin += begin * seq.sin;
  rectangle.dims = 0;
  rectangle.rows = count;
  for (int l = 0; l < n; ++l) {
    rectangle.rows *= tensor_dims[l].size;
    if (tensor_dims[l].cos || tensor_dims[l].sin) add_dim(rectangle, tensor_dims[l]);
  }
  add_dim(rectangle, {count / block, seq.x * block, seq.out * block, seq.cos * block, seq.sin * block});
  const Dim within{block, seq.x, seq.out, seq.cos, seq.sin};
  bool placed = false;
  for (int l = 0; l < n; ++l) {
    if (tensor_dims[l].cos || tensor_dims[l].sin) continue;
    if (!placed && within.out > tensor_dims[l].out) {
      add_dim(rectangle, within);
      placed = true;
    }
    add_dim(rectangle, tensor_dims[l]);
  }
  if (!placed) add_dim(rectangle, within);
  if (rectangle.dims == 0) rectangle.dim[rectangle.dims++] = Dim{1, 0, 0, 0, 0};
  work.rectangle[work.rectangles++] = rectangle;
}

// Whether these are tensors whose memory may be read and written as they say: judged before a shape is believed.
Reason served(const Tensor& t, Index seq_dim, Index size, Index table_size) {
  if (t.dims > kMaxDims) return kDims;
  if (t.dims < 2 || t.table_dims < 2 || t.table_dims > 3 || seq_dim < 0 || seq_dim >= t.dims - 1) return kShapes;
  const int channel = t.dims - 1, plane = t.table_dims - 1;
  const Index channels = t.shape[channel], planes = t.table_shape[plane];
  if (planes < 0 || planes > channels / 2 || t.table_shape[plane - 1] != t.shape[seq_dim]) return kShapes;
  if (t.table_dims == 3 && t.table_shape[0] != 1 && (seq_dim == 0 || t.table_shape[0] != t.shape[0])) return kShapes;
  for (int d = 0; d < t.dims; ++d)
    if (t.shape[d] == 0) return kDone;
  const auto beside = [](const void* a, const void* b, Index bytes) {
    return (reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b)) % static_cast<std::uintptr_t>(bytes) == 0;
  };
  if (!t.x || !t.out || (planes && (!t.cos || !t.sin))) return kMemory;
  if (!beside(t.x, t.out, size) || !beside(t.cos, t.sin, table_size)) return kAligned;
  if (planes > 1 && (t.cos_strides[plane] != 1 || t.sin_strides[plane] != 1)) return kTables;
  if (channels > 1 && (t.x_strides[channel] != 1 || t.out_strides[channel] != 1)) return kChannels;
  return kDone;
}

// Adds the rows of a tensor; returns how many bytes they are, read and written.
Index add_tensor(Work& work, const Tensor& t, Index seq_dim, Index size, Index table_size) {
  Index numbers = 1;
  for (int d = 0; d < t.dims; ++d) numbers *= t.shape[d];
  if (numbers == 0) return 0;
  const Index channels = t.shape[t.dims - 1], planes = t.table_shape[t.table_dims - 1], seq = t.shape[seq_dim];
  Rectangle rectangle{};
  rectangle.x = t.x, rectangle.out = t.out, rectangle.cos = t.cos, rectangle.sin = t.sin;
  rectangle.planes = planes;
  rectangle.tail = t.x == t.out ? 0 : (channels - 2 * planes) * size;

  const int row_of_table = t.table_dims - 2;
  const bool per_batch = t.table_dims == 3 && t.table_shape[0] > 1 && seq_dim > 0;
  Dim tensor_dims[kMaxDims];
  int n = 0;
  for (int d = 0; d < t.dims - 1; ++d) {
    if (d == seq_dim) continue;
    const bool batch = d == 0 && per_batch;
    const Dim dim{t.shape[d], t.x_strides[d] * size, t.out_strides[d] * size, batch ? t.cos_strides[0] * table_size : 0,
                  batch ? t.sin_strides[0] * table_size : 0};
    int place = n++;  // long steps outside
    for (; place > 0 && tensor_dims[place - 1].out < dim.out; --place) tensor_dims[place] = tensor_dims[place - 1];
    tensor_dims[place] = dim;
  }
  const Dim along{seq, t.x_strides[seq_dim] * size, t.out_strides[seq_dim] * size, t.cos_strides[row_of_table] * table_size,
                  t.sin_strides[row_of_table] * table_size};
  const Index row_bytes = 2 * larger(planes, 1) * table_size;
  const Index block = smaller(seq, larger(kTableBlock / row_bytes, 1));
  add_rectangle(work, rectangle, along, 0, seq - seq % block, block, tensor_dims, n);
  if (seq % block) add_rectangle(work, rectangle, along, seq - seq % block, seq % block, seq % block, tensor_dims, n);
  return 2 * numbers * size;
}

}  // namespace

Reason rotate(const Rotation& rotation) {
  if (rotation.tensors < 1 || rotation.tensors > kMaxTensors || rotation.dtype < kFloat32 || rotation.dtype > kFloat16) return kShapes;
  const Index size = rotation.dtype == kFloat64 ? 8 : rotation.dtype == kFloat32 ? 4 : 2;
  const Index table_size = rotation.dtype == kFloat64 ? 8 : 4;
  for (int i = 0; i < rotation.tensors; ++i)
    if (const Reason reason = served(rotation.tensor[i], rotation.seq_dim, size, table_size)) return reason;
  Work work;
  work.rows = instruction_set().rows->rows[rotation.dtype][rotation.interleaved];
  work.conjugate = rotation.conjugate;
  work.rectangles = 0;
  Index bytes = 0, rows = 0;
  for (int i = 0; i < rotation.tensors; ++i) bytes += add_tensor(work, rotation.tensor[i], rotation.seq_dim, size, table_size);
  for (int i = 0; i < work.rectangles; ++i) rows += work.rectangle[i].rows;
  if (rows == 0) return kDone;
  return in_threads(rows, larger(kGrain / larger(bytes / rows, 1), 1), rotate_range, &work) ? kDone : kThreads;
}

}  // namespace rotary

// words, as _rotation/native.py draws them: count, dtype, interleaved, conjugate, seq_dim; then for every tensor: addresses of x, out,
// cos, sin; table_ndim, ndim; shape, x_strides, out_strides (in elements); table_shape, cos_strides, sin_strides.
EXPORTED std::int32_t rotary_rotate(const std::int64_t* words) {
  using namespace rotary;
  if (words[0] < 1 || words[0] > kMaxTensors || words[1] < kFloat32 || words[1] > kFloat16) return kShapes;
  Rotation rotation;
  rotation.tensors = static_cast<int>(words[0]), rotation.dtype = static_cast<Dtype>(words[1]);
  rotation.interleaved = words[2] != 0, rotation.conjugate = words[3] != 0, rotation.seq_dim = words[4];
  const Index* word = words + 5;
  for (int i = 0; i < rotation.tensors; ++i) {
    Tensor& t = rotation.tensor[i];
    t.x = reinterpret_cast<const char*>(word[0]), t.out = reinterpret_cast<char*>(word[1]);
    t.cos = reinterpret_cast<const char*>(word[2]), t.sin = reinterpret_cast<const char*>(word[3]);
    t.table_dims = static_cast<int>(word[4]), t.dims = static_cast<int>(word[5]);
    t.shape = word + 6, t.x_strides = t.shape + t.dims, t.out_strides = t.x_strides + t.dims;
    t.table_shape = t.out_strides + t.dims, t.cos_strides = t.table_shape + t.table_dims;
    t.sin_strides = t.cos_strides + t.table_dims;
    word = t.sin_strides + t.table_dims;
  }
  return rotate(rotation);
}
