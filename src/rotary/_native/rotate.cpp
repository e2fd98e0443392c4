// Rotation of tensors: as rectangles of rows, in torch's threads. No torch headers: a tensor is addresses, sizes and strides, so that one
// library serves every Python and every torch.

#include "rotate.h"

#include "exported.h"
#include "instruction_sets.h"
#include "rectangles.h"
#include "threads.h"

namespace rotary {
namespace {

struct Work {  // rectangles one after another; rows are numbered through all of them
  Rows rows;
  bool conjugate;
  int rectangles;
  Rectangle rectangle[2 * kMaxTensors];  // of q and k, each with one for the end of its sequence that fills no block
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
  for (int i = 0; i < rotation.tensors; ++i) {
    const Tensor& t = rotation.tensor[i];
    work.rectangles += near_tables(t, rotation.seq_dim, size, table_size, work.rectangle + work.rectangles);
    bytes += 2 * numbers(t) * size;
  }
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
    if (const Reason reason = readable(word[5], word[4])) return reason;
    t.table_dims = static_cast<int>(word[4]), t.dims = static_cast<int>(word[5]);
    t.shape = word + 6, t.x_strides = t.shape + t.dims, t.out_strides = t.x_strides + t.dims;
    t.table_shape = t.out_strides + t.dims, t.cos_strides = t.table_shape + t.table_dims;
    t.sin_strides = t.cos_strides + t.table_dims;
    word = t.sin_strides + t.table_dims;
  }
  return rotate(rotation);
}
