// The rotation on a CPU: y = x * (cos + i sin), one pass over memory.
//
// Portable C++17 behind a C ABI; no torch headers, no OpenMP and no intrinsics, so that one library serves every Python and every
// torch. Threads are torch's own: the caller passes the address of torch_parallel_for, or null for a serial loop.
//
// Build with -ffp-contract=off (build.py does): a fused multiply-add rounds once where the formula in plain torch rounds twice, and
// the bits of both are promised to be equal.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__FAST_MATH__)
#error "-ffast-math changes bits: compile without it"
#endif

// One body, compiled for several instruction sets; the loader of the library picks one at run time.
#if defined(ROTARY_CLONES) && defined(__x86_64__)
#define CLONED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CLONED
#endif
#define INLINE inline __attribute__((always_inline))

// Within a row, iteration j reads and writes only the two channels of plane j; out is x or apart from it. So no iteration
// depends on another, in place included, which no alias analysis can see.
#if defined(__clang__)
#define INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define INDEPENDENT _Pragma("GCC ivdep")
#endif

#ifndef ROTARY_SOURCE
#define ROTARY_SOURCE 0
#endif

namespace {

using Index = std::int64_t;
using Body = void (*)(Index begin, Index end, void* context);
using ParallelFor = std::int32_t (*)(Index begin, Index end, Index grain, Body body, void* context);

constexpr int kMaxDims = 16;
constexpr Index kMaxTensors = 2;             // q and k
constexpr int kMaxRectangleDims = kMaxDims + 1;       // every dimension but head_dim, and the sequence once more in blocks
constexpr Index kTableBlock = 64 * 1024;      // bytes of tables kept near while the heads go over them: a part of any L2 cache
constexpr Index kAhead = 4 * 1024;            // bytes between what is read and what is fetched, see docs/cpu.md
constexpr Index kGrain = 256 * 1024;          // bytes read and written below which a second thread costs more than it helps

enum Dtype : Index { kFloat32, kFloat64, kBFloat16, kFloat16 };

// The status returned: 0 done, negative if threads failed, else why these tensors are not served; _rotation/native.py has the words.
enum Reason : std::int32_t { kThreads = -1, kDone, kChannels, kTables, kDims, kAligned, kMemory, kShapes };

// ---------------------------------------------------------------- numbers in memory and in arithmetic

template <class To, class From>
INLINE To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

struct Float32 {
  using Stored = float;
  using Number = float;
  static INLINE float load(float stored) { return stored; }
  static INLINE float store(float number) { return number; }
};

struct Float64 {
  using Stored = double;
  using Number = double;
  static INLINE double load(double stored) { return stored; }
  static INLINE double store(double number) { return number; }
};

struct BFloat16 {
  using Stored = std::uint16_t;
  using Number = float;
  static INLINE float load(Stored stored) { return bits<float>(static_cast<std::uint32_t>(stored) << 16); }
  static INLINE Stored store(float number) {
    const std::uint32_t u = bits<std::uint32_t>(number);
    const std::uint32_t even = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;  // nearest, ties to even; the carry makes infinity by itself
    return static_cast<Stored>(number == number ? even : 0x7FC0u);      // NaN stays NaN
  }
};

// In integers, because compilers before GCC 13 do not vectorise their own _Float16, and because these see the denormals of
// half precision whether or not the processor flushes its own.
struct Float16 {
  using Stored = std::uint16_t;
  using Number = float;
  static INLINE float load(Stored stored) {
    const std::uint32_t magnitude = stored & 0x7FFFu;
    const std::uint32_t sign = static_cast<std::uint32_t>(stored & 0x8000u) << 16;
    const std::uint32_t top = magnitude >= 0x7C00u ? (255u - 31u) << 23 : (127u - 15u) << 23;  // infinities and NaNs keep the last exponent
    const std::uint32_t normal = (magnitude << 13) + top;
    const float counted = static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f;  // denormals are counts of 2^-24
    return bits<float>((magnitude < 0x0400u ? bits<std::uint32_t>(counted) : normal) | sign);
  }
  static INLINE Stored store(float number) {
    const std::uint32_t u = bits<std::uint32_t>(number);
    const std::uint32_t magnitude = u & 0x7FFFFFFFu;
    const std::uint32_t even = ((magnitude + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13) - ((127u - 15u) << 10);
    const std::uint32_t capped = even > 0x7C00u ? 0x7C00u : even;
    // Below 2^-14 the last place is 2^-24, which is the last place of 0.5 in float32: adding 0.5 rounds there.
    const std::uint32_t counted = bits<std::uint32_t>(bits<float>(magnitude) + 0.5f) - bits<std::uint32_t>(0.5f);
    const std::uint32_t finite = magnitude < 0x38800000u ? counted : capped;
    return static_cast<Stored>((magnitude > 0x7F800000u ? 0x7E00u : finite) | ((u >> 16) & 0x8000u));
  }
};

// ---------------------------------------------------------------- one row: the channels of one head at one position

template <class T, bool kInterleaved, bool kConjugate>
INLINE void rotate_row(const typename T::Stored* x, typename T::Stored* out, const typename T::Number* cos,
                       const typename T::Number* sin, Index planes) {
  using Number = typename T::Number;
  INDEPENDENT
  for (Index j = 0; j < planes; ++j) {
    const Index first = kInterleaved ? 2 * j : j;
    const Index second = kInterleaved ? 2 * j + 1 : j + planes;
    const Number a = T::load(x[first]), b = T::load(x[second]);
    const Number c = cos[j], s = kConjugate ? -sin[j] : sin[j];
    out[first] = T::store(a * c + b * -s);
    out[second] = T::store(b * c + a * s);
  }
}

// ---------------------------------------------------------------- the loops around it

struct Dim {  // steps in bytes
  Index size, x, out, cos, sin;
};

struct Rectangle {  // rows of one tensor at regular steps: their first addresses, and a size and steps for each dimension
  const char *x, *cos, *sin;
  char* out;
  Index rows, planes, tail;  // tail: bytes past the planes, to be copied; 0 in place
  int dims;
  Dim dim[kMaxRectangleDims];  // outermost first
};

// Prefetch memory that is read soon; any address is allowed.
INLINE void prefetch(const char* x, Index distance, Index bytes) {
#if defined(__GNUC__)
  const std::uintptr_t from = reinterpret_cast<std::uintptr_t>(x) + static_cast<std::uintptr_t>(distance);
  for (Index b = 0; b < bytes; b += 64) __builtin_prefetch(reinterpret_cast<const void*>(from + static_cast<std::uintptr_t>(b)));
#else
  (void)x, (void)distance, (void)bytes;
#endif
}

// kPlanes: the number of planes where it is known to the compiler, which then unrolls the row; 0 where it is not.
template <class T, bool kInterleaved, bool kConjugate, Index kPlanes>
INLINE void rotate_rows(const Rectangle& rectangle, Index begin, Index end) {
  using Stored = typename T::Stored;
  using Number = typename T::Number;
  Index at[kMaxRectangleDims];
  const char *x = rectangle.x, *cos = rectangle.cos, *sin = rectangle.sin;
  char* out = rectangle.out;
  Index rest = begin;
  for (int l = rectangle.dims - 1; l >= 0; --l) {
    const Dim& dim = rectangle.dim[l];
    at[l] = rest % dim.size;
    rest /= dim.size;
    x += at[l] * dim.x, out += at[l] * dim.out, cos += at[l] * dim.cos, sin += at[l] * dim.sin;
  }
  const int inner = rectangle.dims - 1;
  const Dim step = rectangle.dim[inner];
  const Index planes = kPlanes ? kPlanes : rectangle.planes, tail = rectangle.tail;
  const Index tail_at = 2 * planes * static_cast<Index>(sizeof(Stored));
  const Index ahead = step.x ? std::max<Index>(kAhead / step.x, 1) : 0;  // rows
  const Index jump = inner ? rectangle.dim[inner - 1].x - step.size * step.x : 0;  // from the row after a run to the next run
  for (Index row = begin; row < end;) {
    const Index run = std::min(step.size - at[inner], end - row);
    for (Index i = 0; i < run; ++i) {
      prefetch(x, ahead * step.x + (i + ahead < run ? 0 : jump), tail_at);
      rotate_row<T, kInterleaved, kConjugate>(reinterpret_cast<const Stored*>(x), reinterpret_cast<Stored*>(out),
                                              reinterpret_cast<const Number*>(cos), reinterpret_cast<const Number*>(sin), planes);
      if (tail) std::memcpy(out + tail_at, x + tail_at, static_cast<std::size_t>(tail));
      x += step.x, out += step.out, cos += step.cos, sin += step.sin;
    }
    row += run;
    at[inner] += run;
    // An odometer: a dimension that has reached its size goes back to 0, and the next outer one steps by 1.
    for (int l = inner; l >= 0 && at[l] == rectangle.dim[l].size; --l) {
      const Dim& dim = rectangle.dim[l];
      at[l] = 0;
      x -= dim.size * dim.x, out -= dim.size * dim.out, cos -= dim.size * dim.cos, sin -= dim.size * dim.sin;
      if (l == 0) break;
      const Dim& next = rectangle.dim[l - 1];
      ++at[l - 1];
      x += next.x, out += next.out, cos += next.cos, sin += next.sin;
    }
  }
}

using Rows = void (*)(const Rectangle&, Index, Index, bool);

template <class T, bool kInterleaved, bool kConjugate>
INLINE void rotate_rows(const Rectangle& rectangle, Index begin, Index end) {
  switch (rectangle.planes) {
    case 32:
      return rotate_rows<T, kInterleaved, kConjugate, 32>(rectangle, begin, end);
    case 64:
      return rotate_rows<T, kInterleaved, kConjugate, 64>(rectangle, begin, end);
    default:
      return rotate_rows<T, kInterleaved, kConjugate, 0>(rectangle, begin, end);
  }
}

#define ROWS(name, T, interleaved)                                                \
  CLONED void name(const Rectangle& rectangle, Index begin, Index end, bool conjugate) {  \
    if (conjugate)                                                                \
      rotate_rows<T, interleaved, true>(rectangle, begin, end);                       \
    else                                                                          \
      rotate_rows<T, interleaved, false>(rectangle, begin, end);                      \
  }
ROWS(rows_float32_half, Float32, false)
ROWS(rows_float32_interleaved, Float32, true)
ROWS(rows_float64_half, Float64, false)
ROWS(rows_float64_interleaved, Float64, true)
ROWS(rows_bfloat16_half, BFloat16, false)
ROWS(rows_bfloat16_interleaved, BFloat16, true)
ROWS(rows_float16_half, Float16, false)
ROWS(rows_float16_interleaved, Float16, true)

constexpr Rows kRows[4][2] = {{rows_float32_half, rows_float32_interleaved},
                              {rows_float64_half, rows_float64_interleaved},
                              {rows_bfloat16_half, rows_bfloat16_interleaved},
                              {rows_float16_half, rows_float16_interleaved}};

struct Work {  // rectangles one after another: row numbers run through all of them
  Rows rows;
  bool conjugate;
  int rectangles;
  Rectangle rectangle[2 * kMaxTensors];  // q and k, each with the rest of its sequence that fills no block
};

ParallelFor parallel_for = nullptr;  // torch_parallel_for, once rotary_threads has set it

void rotate_range(Index begin, Index end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  for (int i = 0; i < work.rectangles && begin < end; ++i) {
    const Rectangle& rectangle = work.rectangle[i];
    if (begin < rectangle.rows) work.rows(rectangle, begin, std::min(end, rectangle.rows), work.conjugate);
    begin = std::max<Index>(begin - rectangle.rows, 0);
    end -= rectangle.rows;
  }
}

// ---------------------------------------------------------------- from a tensor to rectangles

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
void add_rectangle(Work& work, Rectangle rectangle, const Dim& seq, Index begin, Index count, Index block, const Dim* tensor_dims, int n) {
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

const Index* add_tensor(Work& work, const Index* word, Dtype dtype, Index seq_dim, Index& moved, Reason& reason) {
  const Index size = dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2;
  const Index table_size = dtype == kFloat64 ? 8 : 4;
  const Index pointer[4] = {word[0], word[1], word[2], word[3]};  // x, out, cos, sin
  const int table_dims = static_cast<int>(word[4]), dims = static_cast<int>(word[5]);
  const Index* shape = word + 6;
  const Index* x_stride = shape + dims;
  const Index* out_stride = x_stride + dims;
  const Index* table_shape = out_stride + dims;
  const Index* cos_stride = table_shape + table_dims;
  const Index* sin_stride = cos_stride + table_dims;
  const Index* next = sin_stride + table_dims;

  // Before a shape is believed: an axis, a rank or a size that does not fit would be read or written beyond a tensor.
  if (dims > kMaxDims) reason = kDims;
  if (dims < 2 || table_dims < 2 || table_dims > 3 || seq_dim < 0 || seq_dim >= dims - 1) reason = kShapes;
  if (reason) return next;
  const Index channels = shape[dims - 1], planes = table_shape[table_dims - 1], seq = shape[seq_dim];
  if (planes < 0 || planes > channels / 2 || table_shape[table_dims - 2] != seq) reason = kShapes;
  if (table_dims == 3 && table_shape[0] != 1 && (seq_dim == 0 || table_shape[0] != shape[0])) reason = kShapes;
  if (reason) return next;
  Index rows = 1;
  for (int d = 0; d < dims - 1; ++d) rows *= shape[d];
  if (rows == 0 || channels == 0) return next;
  if (channels > 1 && (x_stride[dims - 1] != 1 || out_stride[dims - 1] != 1)) reason = kChannels;
  if (planes > 1 && (cos_stride[table_dims - 1] != 1 || sin_stride[table_dims - 1] != 1)) reason = kTables;
  if ((pointer[0] | pointer[1]) % size || (pointer[2] | pointer[3]) % table_size) reason = kAligned;
  if (!pointer[0] || !pointer[1] || (planes && (!pointer[2] || !pointer[3]))) reason = kMemory;
  if (reason) return next;

  Rectangle rectangle{};
  rectangle.x = reinterpret_cast<const char*>(pointer[0]);
  rectangle.out = reinterpret_cast<char*>(pointer[1]);
  rectangle.cos = reinterpret_cast<const char*>(pointer[2]);
  rectangle.sin = reinterpret_cast<const char*>(pointer[3]);
  rectangle.planes = planes;
  rectangle.tail = pointer[0] == pointer[1] ? 0 : (channels - 2 * planes) * size;

  const Index row_of_table = table_dims - 2;
  const bool per_batch = table_dims == 3 && table_shape[0] > 1 && seq_dim > 0;
  Dim tensor_dims[kMaxDims];
  int n = 0;
  for (int d = 0; d < dims - 1; ++d) {
    if (d == seq_dim) continue;
    const bool batch = d == 0 && per_batch;
    const Dim dim{shape[d], x_stride[d] * size, out_stride[d] * size, batch ? cos_stride[0] * table_size : 0,
                    batch ? sin_stride[0] * table_size : 0};
    int place = n++;  // long steps outside
    for (; place > 0 && tensor_dims[place - 1].out < dim.out; --place) tensor_dims[place] = tensor_dims[place - 1];
    tensor_dims[place] = dim;
  }
  const Dim along{seq, x_stride[seq_dim] * size, out_stride[seq_dim] * size, cos_stride[row_of_table] * table_size,
                   sin_stride[row_of_table] * table_size};
  const Index row_bytes = 2 * std::max<Index>(planes, 1) * table_size;
  const Index block = std::min(seq, std::max<Index>(kTableBlock / row_bytes, 1));
  add_rectangle(work, rectangle, along, 0, seq - seq % block, block, tensor_dims, n);
  if (seq % block) add_rectangle(work, rectangle, along, seq - seq % block, seq % block, seq % block, tensor_dims, n);
  moved += 2 * rows * channels * size;
  return next;
}

// ---------------------------------------------------------------- is this library what its source says

// The loops as this processor runs them against one operation at a time. GCC 12 joins a * c - b * s, b * c + a * s into a fused
// multiply-add-subtract in spite of -ffp-contract=off (rotate_row is written so that it does not); the next compiler may find another way.
template <class T>
bool rounds_twice(Rows rows, bool interleaved, bool conjugate) {
  using Number = typename T::Number;
  constexpr int kMost = 64;
  for (const int planes : {1, 2, 3, 5, 32, 37, 64}) {
    typename T::Stored x[2 * kMost], out[2 * kMost];
    Number cos[kMost], sin[kMost];
    std::uint32_t noise = 1;
    const auto next = [&noise] {
      noise = noise * 1664525u + 1013904223u;
      return static_cast<Number>((noise * 0x1p-32 - 0.5) * 0.7390851332151607);  // every bit in use: short numbers have exact products
    };
    for (int i = 0; i < 2 * planes; ++i) x[i] = T::store(next());
    for (int j = 0; j < planes; ++j) cos[j] = next(), sin[j] = next();
    Rectangle rectangle{};
    rectangle.x = reinterpret_cast<const char*>(x), rectangle.out = reinterpret_cast<char*>(out);
    rectangle.cos = reinterpret_cast<const char*>(cos), rectangle.sin = reinterpret_cast<const char*>(sin);
    rectangle.rows = 1, rectangle.planes = planes, rectangle.dims = 1, rectangle.dim[0] = Dim{1, 0, 0, 0, 0};
    rows(rectangle, 0, 1, conjugate);
    for (int j = 0; j < planes; ++j) {
      const int first = interleaved ? 2 * j : j, second = interleaved ? 2 * j + 1 : j + planes;
      const Number a = T::load(x[first]), b = T::load(x[second]), s = conjugate ? -sin[j] : sin[j];
      const volatile Number ac = a * cos[j], bs = b * s, bc = b * cos[j], as = a * s;
      const volatile Number y_a = ac - bs, y_b = bc + as;
      if (out[first] != T::store(y_a) || out[second] != T::store(y_b)) return false;
    }
  }
  return true;
}

template <class T>
bool rounds_twice(Dtype dtype) {
  for (int i = 0; i < 4; ++i)
    if (!rounds_twice<T>(kRows[dtype][i & 1], i & 1, i >> 1)) return false;
  return true;
}

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// A number made from the text of this file when the library was built, by which a stale library is known.
EXPORTED std::int64_t rotary_source() { return ROTARY_SOURCE; }

// Whether the compiler kept to the arithmetic of the source.
EXPORTED std::int32_t rotary_rounds_twice() {
  return rounds_twice<Float32>(kFloat32) && rounds_twice<Float64>(kFloat64) && rounds_twice<BFloat16>(kBFloat16) &&
         rounds_twice<Float16>(kFloat16);
}

// Where loops run in parallel from now on: torch_parallel_for, or null for one thread.
EXPORTED void rotary_threads(ParallelFor torch_parallel_for) { parallel_for = torch_parallel_for; }

// words, as _rotation/native.py draws them: count, dtype, interleaved, conjugate, seq_dim; then for every tensor: addresses of x, out,
// cos, sin; table_ndim, ndim; shape, x_strides, out_strides (in elements); table_shape, cos_strides, sin_strides.
EXPORTED std::int32_t rotary_rotate(const std::int64_t* words) {
  Work work;
  if (words[0] < 1 || words[0] > kMaxTensors || words[1] < kFloat32 || words[1] > kFloat16) return kShapes;
  const Dtype dtype = static_cast<Dtype>(words[1]);
  work.rows = kRows[dtype][words[2] != 0];
  work.conjugate = words[3] != 0;
  work.rectangles = 0;
  Index moved = 0;
  Reason reason = kDone;
  const Index* word = words + 5;
  for (Index i = 0; i < words[0]; ++i) word = add_tensor(work, word, dtype, words[4], moved, reason);
  if (reason) return reason;
  Index rows = 0;
  for (int i = 0; i < work.rectangles; ++i) rows += work.rectangle[i].rows;
  if (moved < 2 * kGrain || !parallel_for) {
    rotate_range(0, rows, &work);
    return kDone;
  }
  const Index grain = std::max<Index>(kGrain / std::max<Index>(moved / rows, 1), 1);
  return parallel_for(0, rows, grain, rotate_range, &work) == 0 ? kDone : kThreads;
}
}
