// From tensors to rectangles of rows.

#include "rectangles.h"

namespace rotary {
namespace {

constexpr Index kTableBlock = 64 * 1024;  // bytes of tables that all heads read before the next ones: a part of any L2 cache

bool mergeable(const Dim& outer, const Dim& inner) {  // the two can be one longer dimension
  return outer.x == inner.size * inner.x && outer.out == inner.size * inner.out && outer.cos == inner.size * inner.cos &&
         outer.sin == inner.size * inner.sin && outer.y == inner.size * inner.y;
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

// A rectangle of rows begin .. begin + count of the sequence, in blocks of positions. Its dimensions, outermost first: those along which
// the tables move, then the blocks, then the heads and the positions of one block, in the order of memory:
//
//     (batch, heads, seq, channels)      block | batch | heads | position in the block
//     (batch, seq, heads, channels)      block | batch | position in the block | heads
//     the same, tables per batch entry   batch | block | ...
//
// So the tables of a block are read from memory once for all heads, and x is still read in long stretches.
int add_rectangle(Rectangle* to, Rectangle rectangle, const Dim& seq, Index begin, Index count, Index block,
                  const Dim* tensor_dims, int n) {
  if (count == 0) return 0;
  rectangle.x += begin * seq.x, rectangle.out += begin * seq.out, rectangle.cos += begin * seq.cos, rectangle.sin += begin * seq.sin;
  rectangle.dims = 0;
  rectangle.rows = count;
  for (int l = 0; l < n; ++l) {
    rectangle.rows *= tensor_dims[l].size;
    if (tensor_dims[l].cos || tensor_dims[l].sin) add_dim(rectangle, tensor_dims[l]);
  }
  add_dim(rectangle, {count / block, seq.x * block, seq.out * block, seq.cos * block, seq.sin * block, 0});
  const Dim within{block, seq.x, seq.out, seq.cos, seq.sin, 0};
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
  if (rectangle.dims == 0) rectangle.dim[rectangle.dims++] = Dim{1, 0, 0, 0, 0, 0};
  *to = rectangle;
  return 1;
}

}  // namespace

Reason readable(Index dims, Index table_dims) {
  if (dims > kMaxDims) return kDims;
  return dims < 2 || table_dims < 2 || table_dims > 3 ? kShapes : kDone;
}

bool countable(const Index* sizes, int count) {
  constexpr Index kMost = Index{1} << 48;  // more than any memory, and far from where a product with a size or a step is too large
  Index product = 1;
  for (int i = 0; i < count; ++i) {
    if (sizes[i] < 0 || sizes[i] > kMost / product) return false;
    product *= larger(sizes[i], 1);
  }
  return true;
}

Reason served(const Tensor& t, Index seq_dim, Index size, Index table_size) {
  if (const Reason reason = readable(t.dims, t.table_dims)) return reason;
  if (seq_dim < 0 || seq_dim >= t.dims - 1 || !countable(t.shape, t.dims)) return kShapes;
  const int channel = t.dims - 1, plane = t.table_dims - 1;
  const Index channels = t.shape[channel], planes = t.table_shape[plane];
  if (planes < 0 || planes > channels / 2 || t.table_shape[plane - 1] != t.shape[seq_dim]) return kShapes;
  if (t.table_dims == 3 && t.table_shape[0] != 1 && (seq_dim == 0 || t.table_shape[0] != t.shape[0])) return kShapes;
  for (int d = 0; d < t.dims; ++d)
    if (t.shape[d] == 0) return kDone;
  const auto aligned = [](const void* a, const void* b, Index bytes) {
    return (reinterpret_cast<std::uintptr_t>(a) | reinterpret_cast<std::uintptr_t>(b)) % static_cast<std::uintptr_t>(bytes) == 0;
  };
  if (!t.x || !t.out || (planes && (!t.cos || !t.sin))) return kMemory;
  if (!aligned(t.x, t.out, size) || !aligned(t.cos, t.sin, table_size)) return kAligned;
  if (planes > 1 && (t.cos_strides[plane] != 1 || t.sin_strides[plane] != 1)) return kTables;
  if (channels > 1 && (t.x_strides[channel] != 1 || t.out_strides[channel] != 1)) return kChannels;
  return kDone;
}

Index numbers(const Tensor& t) {
  Index count = 1;
  for (int d = 0; d < t.dims; ++d) count *= t.shape[d];
  return count;
}

int near_tables(const Tensor& t, Index seq_dim, Index size, Index table_size, Rectangle* to) {
  if (numbers(t) == 0) return 0;
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
                  batch ? t.sin_strides[0] * table_size : 0, 0};
    int place = n++;  // sorted: long steps are outermost
    for (; place > 0 && tensor_dims[place - 1].out < dim.out; --place) tensor_dims[place] = tensor_dims[place - 1];
    tensor_dims[place] = dim;
  }
  const Dim along{seq, t.x_strides[seq_dim] * size, t.out_strides[seq_dim] * size, t.cos_strides[row_of_table] * table_size,
                  t.sin_strides[row_of_table] * table_size, 0};
  const Index row_bytes = 2 * larger(planes, 1) * table_size;
  const Index block = smaller(seq, larger(kTableBlock / row_bytes, 1));
  const int whole = add_rectangle(to, rectangle, along, 0, seq - seq % block, block, tensor_dims, n);
  return whole + add_rectangle(to + whole, rectangle, along, seq - seq % block, seq % block, larger(seq % block, 1), tensor_dims, n);
}

Rectangle in_order(const Tensor& t, const char* y, const Index* y_strides, Index seq_dim, Index size, Index table_size) {
  Rectangle rectangle{};
  rectangle.x = t.x, rectangle.out = t.out, rectangle.cos = t.cos, rectangle.sin = t.sin, rectangle.y = y;
  rectangle.planes = t.table_shape[t.table_dims - 1];
  rectangle.rows = 1;
  const int row_of_table = t.table_dims - 2;
  const bool per_batch = t.table_dims == 3 && t.table_shape[0] > 1 && seq_dim > 0;
  const auto add = [&](Index d, Index cos, Index sin) {
    rectangle.rows *= t.shape[d];
    add_dim(rectangle, {t.shape[d], t.x_strides[d] * size, t.out_strides[d] * size, cos * table_size, sin * table_size,
                        y_strides[d] * size});
  };
  if (seq_dim > 0) add(0, per_batch ? t.cos_strides[0] : 0, per_batch ? t.sin_strides[0] : 0);
  add(seq_dim, t.cos_strides[row_of_table], t.sin_strides[row_of_table]);
  for (Index d = 1; d < t.dims - 1; ++d)
    if (d != seq_dim) add(d, 0, 0);
  if (rectangle.dims == 0) rectangle.dim[rectangle.dims++] = Dim{1, 0, 0, 0, 0, 0};
  return rectangle;
}

}  // namespace rotary
