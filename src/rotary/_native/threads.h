// torch's own threads, for every loop of this library.

#ifndef ROTARY_THREADS_H
#define ROTARY_THREADS_H

#include "numbers.h"

namespace rotary {

using Body = void (*)(Index begin, Index end, void* context);

// Run body over 0 .. count: in torch's threads, at least `grain` (1 or more) in each, or in this thread where count is below two grains or
// torch has no torch_parallel_for. False if the pool reported an error; then the work is not complete.
bool in_threads(Index count, Index grain, Body body, void* context);

}  // namespace rotary

#endif
