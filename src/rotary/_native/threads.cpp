#include "threads.h"

#include "exported.h"

namespace rotary {
namespace {

using ParallelFor = std::int32_t (*)(Index begin, Index end, Index grain, Body body, void* context);

ParallelFor parallel_for = nullptr;  // torch_parallel_for, once rotary_threads has set it

}  // namespace

bool in_threads(Index count, Index grain, Body body, void* context) {
  if (count >= 2 * grain && parallel_for) return parallel_for(0, count, grain, body, context) == 0;
  body(0, count, context);
  return true;
}

}  // namespace rotary

// Where loops run in parallel from now on: torch_parallel_for, or null for one thread.
EXPORTED void rotary_threads(rotary::ParallelFor torch_parallel_for) { rotary::parallel_for = torch_parallel_for; }
