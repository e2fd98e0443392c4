// Whether tensors share memory, decided as in _rotation/overlap.py, which has a drawing and the error messages.

#ifndef ROTARY_OVERLAP_H
#define ROTARY_OVERLAP_H

#include "layout.h"

namespace rotary {

// Whether two indices of x name one element, as in an expanded tensor.
bool overlaps_itself(const Layout& x);

// Whether some element of x is also one of y. Both have elements of `size` bytes.
bool overlap(const Layout& x, const Layout& y, Index size);

}  // namespace rotary

#endif
