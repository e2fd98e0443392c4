// From tensors to rectangles of rows (rows.h).

#ifndef ROTARY_RECTANGLES_H
#define ROTARY_RECTANGLES_H

#include "rotate.h"
#include "rows.h"

namespace rotary {

constexpr Index kGrain = 256 * 1024;  // bytes read and written below which a second thread costs more than it helps

// kDone if a block of integers can describe tensors of so many dimensions, else the reason; to be asked before more of it is read.
Reason readable(Index dims, Index table_dims);

// Whether none of these sizes is negative and their product, 0 among them or not, can be counted in bytes.
bool countable(const Index* sizes, int count);

// kDone if the memory of these tensors may be read and written by their addresses, shapes and strides, else the reason. size, table_size:
// bytes of a number.
Reason served(const Tensor& t, Index seq_dim, Index size, Index table_size);

// The count of numbers in a tensor.
Index numbers(const Tensor& t);

// The rows of a tensor in at most two rectangles, the second with the end of the sequence that fills no block of tables. Returns their
// number. Rows that share a row of the tables are close to each other: drawn in rectangles.cpp.
int near_tables(const Tensor& t, Index seq_dim, Index size, Index table_size, Rectangle* to);

// The rows of a tensor as one rectangle, numbered through the batch, then the sequence, then the other dimensions, whatever their order in
// memory. y: a second tensor of its shape.
Rectangle in_order(const Tensor& t, const char* y, const Index* y_strides, Index seq_dim, Index size, Index table_size);

}  // namespace rotary

#endif
