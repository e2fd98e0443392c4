// From tensors to rectangles of rows (rows.h).

#ifndef ROTARY_RECTANGLES_H
#define ROTARY_RECTANGLES_H

#include "rotate.h"
#include "rows.h"

namespace rotary {

constexpr Index kGrain = 256 * 1024;  // bytes read and written below which a second thread costs more than it helps

// Whether a call has words for so many dimensions: judged before what lies behind them is read.
Reason readable(Index dims, Index table_dims);

// Whether none of these sizes is negative and their product, 0 among them or not, can be counted in bytes.
bool countable(const Index* sizes, int count);

// Whether these are tensors whose memory may be read and written as they say: judged before a shape is believed. size, table_size: bytes
// of a number.
Reason served(const Tensor& t, Index seq_dim, Index size, Index table_size);

// How many numbers a tensor has.
Index numbers(const Tensor& t);

// The rows of a tensor in at most two rectangles, the second with the rest of a sequence that fills no block of tables. Returns how many.
int near_tables(const Tensor& t, Index seq_dim, Index size, Index table_size, Rectangle* to);

// The rows of a tensor through the batch, the sequence and the other dimensions, however they lie in memory; y: of its shape.
Rectangle in_order(const Tensor& t, const char* y, const Index* y_strides, Index seq_dim, Index size, Index table_size);

}  // namespace rotary

#endif
