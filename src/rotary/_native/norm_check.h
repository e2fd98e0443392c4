#ifndef ROTARY_NORM_CHECK_H
#define ROTARY_NORM_CHECK_H

#include "norm_loops.h"

namespace rotary {

// Whether these loops round after every operation.
bool norms_round_each(const NormLoops& loops);

}  // namespace rotary

#endif
