// RMSNorm and rotation of one or two tensors in one call, forward and backward.

#include "exported.h"
#include "instruction_sets.h"
#include "rectangles.h"
#include "threads.h"

namespace rotary {
namespace {

struct Normed {  // a tensor, its weight, and for the backward pass the gradient y of its output and memory for sums over rows
  Tensor tensor;
  const char *weight, *y;
  char* sums;  // (chunks, channels), or null
  Index weight_stride;
  const Index* y_strides;
};

struct Norms {
  Dtype dtype;
  bool interleaved, model, after;
  Index seq_dim;
  double eps, offset;
  int tensors;
  Normed tensor[kMaxTensors];
};

struct Work {  // rectangles one after another; rows, in the backward pass chunks of rows, are numbered through all of them
  NormRows forward;
  NormGradients backward;
  Index number_size;
  int rectangles;
  Rectangle rectangle[2 * kMaxTensors];
  NormRow norm[2 * kMaxTensors];
  char* sums[2 * kMaxTensors];
};

void forward_range(Index begin, Index end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  for (int i = 0; i < work.rectangles && begin < end; ++i) {
    const Index rows = work.rectangle[i].rows;
    if (begin < rows) work.forward(work.rectangle[i], work.norm[i], begin, smaller(end, rows));
    begin = larger(begin - rows, 0);
    end -= rows;
  }
}

Index chunks(Index rows) { return (rows + kChunkRows - 1) / kChunkRows; }

void backward_range(Index begin, Index end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  for (int i = 0; i < work.rectangles && begin < end; ++i) {
    const Index rows = work.rectangle[i].rows, count = chunks(rows), bytes = work.norm[i].channels * work.number_size;
    for (Index c = begin; c < smaller(end, count); ++c)
      work.backward(work.rectangle[i], work.norm[i], c * kChunkRows, smaller((c + 1) * kChunkRows, rows),
                    work.sums[i] ? work.sums[i] + c * bytes : nullptr);
    begin = larger(begin - count, 0);
    end -= count;
  }
}

// weight + offset, or 1 without a weight, in the type of the arithmetic, then zeros up to a multiple of kNormLanes.
template <class T>
void factor_of(const Normed& n, Index channels, double offset, void* to) {
  using Number = typename T::Number;
  Number* const factor = static_cast<Number*>(to);
  for (Index i = 0; i < channels; ++i) {
    factor[i] = 1;
    if (!n.weight) continue;
    typename T::Stored stored;
    std::memcpy(&stored, n.weight + i * n.weight_stride * static_cast<Index>(sizeof stored), sizeof stored);
    factor[i] = T::load(stored);
    if (offset != 0) factor[i] += static_cast<Number>(offset);
  }
  for (Index i = channels; i % kNormLanes; ++i) factor[i] = 0;
}

constexpr void (*kFactorOf[])(const Normed&, Index, double, void*) = {factor_of<Float32>, factor_of<Float64>, factor_of<BFloat16>,
                                                                      factor_of<Float16>};  // by Dtype

Reason run(const Norms& call, bool backward) {
  if (call.tensors < 1 || call.tensors > kMaxTensors || call.dtype < kFloat32 || call.dtype > kFloat16) return kShapes;
  const Index size = call.dtype == kFloat64 ? 8 : call.dtype == kFloat32 ? 4 : 2, number_size = call.dtype == kFloat64 ? 8 : 4;
  for (int i = 0; i < call.tensors; ++i) {
    const Normed& n = call.tensor[i];
    if (const Reason reason = served(n.tensor, call.seq_dim, size, number_size)) return reason;
    const Index channels = n.tensor.shape[n.tensor.dims - 1];
    if (channels > kMaxChannels) return kWide;
    if (!backward || numbers(n.tensor) == 0) continue;
    if (!n.y) return kMemory;
    if (channels > 1 && n.y_strides[n.tensor.dims - 1] != 1) return kChannels;
    if (reinterpret_cast<std::uintptr_t>(n.y) % static_cast<std::uintptr_t>(size)) return kAligned;
  }
  alignas(64) double factors[kMaxTensors][kMaxChannels];
  Work work;
  work.forward = instruction_set().norms->forward[call.dtype][call.interleaved];
  work.backward = instruction_set().norms->backward[call.dtype][call.interleaved];
  work.number_size = number_size;
  work.rectangles = 0;
  Index bytes = 0, count = 0;
  for (int i = 0; i < call.tensors; ++i) {
    const Normed& n = call.tensor[i];
    const Index channels = n.tensor.shape[n.tensor.dims - 1];
    if (numbers(n.tensor) == 0) continue;
    const NormRow norm{factors[i], call.eps, channels, call.model, call.after};
    kFactorOf[call.dtype](n, channels, call.offset, factors[i]);
    int more = 1;
    if (backward)
      work.rectangle[work.rectangles] = in_order(n.tensor, n.y, n.y_strides, call.seq_dim, size, number_size);
    else
      more = near_tables(n.tensor, call.seq_dim, size, number_size, work.rectangle + work.rectangles);
    for (; more > 0; --more, ++work.rectangles) {
      work.norm[work.rectangles] = norm, work.sums[work.rectangles] = n.sums;
      const Index rows = work.rectangle[work.rectangles].rows;
      count += backward ? chunks(rows) : rows;
    }
    bytes += (backward ? 3 : 2) * numbers(n.tensor) * size;
  }
  if (count == 0) return kDone;
  return in_threads(count, larger(kGrain / larger(bytes / count, 1), 1), backward ? backward_range : forward_range, &work) ? kDone : kThreads;
}

// words, as _fused/native.py draws them.
Reason read(const std::int64_t* words, bool backward) {
  Norms call;
  if (words[0] < 1 || words[0] > kMaxTensors || words[1] < kFloat32 || words[1] > kFloat16) return kShapes;
  call.tensors = static_cast<int>(words[0]), call.dtype = static_cast<Dtype>(words[1]), call.interleaved = words[2] != 0;
  call.seq_dim = words[3], call.model = words[4] != 0, call.after = words[5] != 0;
  call.eps = bits<double>(words[6]), call.offset = bits<double>(words[7]);
  const Index* word = words + 8;
  for (int i = 0; i < call.tensors; ++i) {
    Normed& n = call.tensor[i];
    Tensor& t = n.tensor;
    t.x = reinterpret_cast<const char*>(word[0]), t.out = reinterpret_cast<char*>(word[1]);
    t.cos = reinterpret_cast<const char*>(word[2]), t.sin = reinterpret_cast<const char*>(word[3]);
    if (const Reason reason = readable(word[5], word[4])) return reason;
    t.table_dims = static_cast<int>(word[4]), t.dims = static_cast<int>(word[5]);
    n.weight = reinterpret_cast<const char*>(word[6]), n.weight_stride = word[7];
    word += 8;
    n.y = nullptr, n.sums = nullptr;
    if (backward) n.y = reinterpret_cast<const char*>(word[0]), n.sums = reinterpret_cast<char*>(word[1]), word += 2;
    t.shape = word, t.x_strides = t.shape + t.dims, t.out_strides = t.x_strides + t.dims;
    word = t.out_strides + t.dims;
    n.y_strides = word;
    if (backward) word += t.dims;
    t.table_shape = word, t.cos_strides = word + t.table_dims, t.sin_strides = word + 2 * t.table_dims;
    word += 3 * t.table_dims;
  }
  return run(call, backward);
}

}  // namespace
}  // namespace rotary

EXPORTED std::int32_t rotary_norm_rotate(const std::int64_t* words) { return rotary::read(words, false); }

EXPORTED std::int32_t rotary_norm_rotate_backward(const std::int64_t* words) { return rotary::read(words, true); }
