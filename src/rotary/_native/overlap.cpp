#include "overlap.h"

namespace rotary {
namespace {

constexpr int kSteps = 1000;  // of the search; beyond it the answer is "they share", the call is not ordinary, and Python searches longer

struct Axis {  // an index along it lies in low .. high
  Index stride, low, high;
};

struct Axes {
  int count = 0;
  Axis axis[2 * kMaxDims];
  Index below[2 * kMaxDims + 1], above[2 * kMaxDims + 1];  // the smallest and the largest sum of the axes from this one on
  int steps = 0;

  // Adds an axis, longest stride first; one of a stride that is there already is merged with it, and the answer is false.
  bool add(Index stride, Index low, Index high) {
    int place = 0;
    while (place < count && axis[place].stride > stride) ++place;
    if (place < count && axis[place].stride == stride) {
      axis[place].low += low, axis[place].high += high;
      return false;
    }
    for (int i = count++; i > place; --i) axis[i] = axis[i - 1];
    axis[place] = Axis{stride, low, high};
    return true;
  }

  // Whether the sum of stride x index is `target`; with indices that are not all 0 unless `trivial`.
  bool reach(Index target, bool trivial) {
    below[count] = above[count] = 0;
    for (int i = count - 1; i >= 0; --i) {
      below[i] = below[i + 1] + axis[i].stride * axis[i].low;
      above[i] = above[i + 1] + axis[i].stride * axis[i].high;
    }
    return search(0, target, trivial);
  }

  bool search(int i, Index rest, bool moved) {
    if (++steps > kSteps) return true;
    if (i == count) return rest == 0 && moved;
    Index low = axis[i].low, high = axis[i].high;
    const Index stride = axis[i].stride;
    if (stride == 0) return rest == 0 && (moved || low != high);  // the last axis: strides fall, and none is negative
    // below <= rest - stride n <= above
    low = larger(low, -floor_divided(above[i + 1] - rest, stride));
    high = smaller(high, floor_divided(rest - below[i + 1], stride));
    for (Index n = low; n <= high; ++n)
      if (search(i + 1, rest - stride * n, moved || n != 0)) return true;
    return false;
  }

  static Index floor_divided(Index a, Index b) { return a / b - (a % b < 0); }  // b > 0
};

Index last(const Layout& x) {  // the index of the last element in memory; -1 where there is none
  Index index = 0;
  for (int d = 0; d < x.dims; ++d) {
    if (x.shape[d] == 0) return -1;
    index += (x.shape[d] - 1) * x.strides[d];
  }
  return index;
}

}  // namespace

bool overlaps_itself(const Layout& x) {
  Axes axes;
  bool shared = false;  // two dimensions have one stride: their indices (0, 1) and (1, 0) are one element
  for (int d = 0; d < x.dims; ++d) {
    if (x.shape[d] == 0) return false;
    if (x.shape[d] > 1 && !axes.add(x.strides[d], 1 - x.shape[d], x.shape[d] - 1)) shared = true;
  }
  return shared || axes.reach(0, false);
}

bool overlap(const Layout& x, const Layout& y, Index size) {
  const Index x_last = last(x), y_last = last(y);
  if (x_last < 0 || y_last < 0) return false;
  if (x.data + (x_last + 1) * size <= y.data || y.data + (y_last + 1) * size <= x.data) return false;
  const Index distance = y.data - x.data;
  if (distance % size) return true;
  Axes axes;
  for (int d = 0; d < x.dims; ++d)
    if (x.shape[d] > 1) axes.add(x.strides[d], 0, x.shape[d] - 1);
  for (int d = 0; d < y.dims; ++d)
    if (y.shape[d] > 1) axes.add(y.strides[d], 1 - y.shape[d], 0);
  return axes.reach(distance / size, true);
}

}  // namespace rotary
