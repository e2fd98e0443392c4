// Rows of keys and values into a cache, by slot.

#include <cstring>

#include "exported.h"
#include "rectangles.h"
#include "threads.h"

namespace rotary {
namespace {

struct Copied {  // strides in bytes
  const char* from;
  char* to;
  Index batch, seq, head;          // of `from`
  Index page, row, head_of_cache;  // of `to`
  std::size_t bytes;
};

struct Work {
  const char* slots;
  Index slot_bytes, slots_batch, slots_seq;
  Index batch, seq, heads, page;
  Copied copied[2];
};

Index slot_at(const char* slots, Index bytes) {
  if (bytes == 8) {
    std::int64_t slot;
    std::memcpy(&slot, slots, sizeof slot);
    return slot;
  }
  std::int32_t slot;
  std::memcpy(&slot, slots, sizeof slot);
  return slot;
}

void store_range(Index begin, Index end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  for (Index token = begin; token < end; ++token) {
    const Index b = token / work.seq, s = token % work.seq;
    const Index slot = slot_at(work.slots + b * work.slots_batch + s * work.slots_seq, work.slot_bytes);
    if (slot < 0) continue;
    const Index page = slot / work.page, row = slot % work.page;
    for (const Copied& c : work.copied)
      for (Index h = 0; h < work.heads; ++h)
        std::memcpy(c.to + page * c.page + row * c.row + h * c.head_of_cache, c.from + b * c.batch + s * c.seq + h * c.head, c.bytes);
  }
}

}  // namespace
}  // namespace rotary

// words: bytes of a number, of a slot; batch, seq, heads, page; slots, its strides along batch and seq; then for keys and for values:
// address, strides along batch, seq and heads; address of the cache, strides of a page, of a row and of a head; channels. Strides in
// elements; channels are adjacent.
EXPORTED std::int32_t rotary_store(const std::int64_t* words) {
  using namespace rotary;
  Work work;
  const Index size = words[0];
  work.slot_bytes = words[1], work.batch = words[2], work.seq = words[3], work.heads = words[4], work.page = words[5];
  work.slots = reinterpret_cast<const char*>(words[6]);
  work.slots_batch = words[7] * work.slot_bytes, work.slots_seq = words[8] * work.slot_bytes;
  const Index* word = words + 9;
  Index bytes = 0;
  for (Copied& c : work.copied) {
    c.from = reinterpret_cast<const char*>(word[0]);
    c.batch = word[1] * size, c.seq = word[2] * size, c.head = word[3] * size;
    c.to = reinterpret_cast<char*>(word[4]);
    c.page = word[5] * size, c.row = word[6] * size, c.head_of_cache = word[7] * size;
    c.bytes = static_cast<std::size_t>(word[8] * size);
    bytes += 2 * work.heads * word[8] * size;
    word += 9;
  }
  const Index tokens = work.batch * work.seq;
  if (tokens <= 0 || work.heads <= 0 || work.page <= 0) return kDone;
  return in_threads(tokens, larger(kGrain / larger(bytes, 1), 1), store_range, &work) ? kDone : kThreads;
}
