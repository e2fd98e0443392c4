// Copies rows of keys and values into a cache, by slot.

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
  Index batch, seq, heads, pages, page;
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

Index slot_of(const Work& work, Index token) {
  return slot_at(work.slots + token / work.seq * work.slots_batch + token % work.seq * work.slots_seq, work.slot_bytes);
}

void store_range(Index begin, Index end, void* context) {
  const Work& work = *static_cast<const Work*>(context);
  for (Index token = begin; token < end; ++token) {
    const Index b = token / work.seq, s = token % work.seq;
    const Index slot = slot_of(work, token);
    if (slot < 0) continue;
    const Index page = slot / work.page, row = slot % work.page;
    for (const Copied& c : work.copied)
      for (Index h = 0; c.bytes && h < work.heads; ++h)
        std::memcpy(c.to + page * c.page + row * c.row + h * c.head_of_cache, c.from + b * c.batch + s * c.seq + h * c.head, c.bytes);
  }
}

}  // namespace
}  // namespace rotary

// words, as _fused/native.py writes them; strides are in elements, and channels are adjacent:
//
//     header       bytes of a number  bytes of a slot  batch  seq  heads  pages  page
//     slots        address  stride of batch  of seq
//     keys         address  stride of batch  of seq  of heads     cache  stride of a page  of a row  of a head     channels
//     values       the same
//
// If several tokens have one slot, one of them is stored there.
EXPORTED std::int32_t rotary_store(const std::int64_t* words) {
  using namespace rotary;
  Work work;
  const Index size = words[0];
  work.slot_bytes = words[1], work.batch = words[2], work.seq = words[3], work.heads = words[4];
  work.pages = words[5], work.page = words[6];
  if (size < 1 || size > 16 || (work.slot_bytes != 4 && work.slot_bytes != 8)) return kShapes;
  work.slots = reinterpret_cast<const char*>(words[7]);
  work.slots_batch = words[8] * work.slot_bytes, work.slots_seq = words[9] * work.slot_bytes;
  const Index* word = words + 10;
  Index bytes = 0;
  for (Copied& c : work.copied) {
    const Index tokens[] = {work.batch, work.seq, work.heads, word[8]}, rows[] = {work.pages, work.page, work.heads, word[8]};
    if (!countable(tokens, 4) || !countable(rows, 4)) return kShapes;
    c.from = reinterpret_cast<const char*>(word[0]);
    c.batch = word[1] * size, c.seq = word[2] * size, c.head = word[3] * size;
    c.to = reinterpret_cast<char*>(word[4]);
    c.page = word[5] * size, c.row = word[6] * size, c.head_of_cache = word[7] * size;
    c.bytes = static_cast<std::size_t>(word[8] * size);
    bytes += 2 * work.heads * word[8] * size;
    word += 9;
  }
  const Index tokens = work.batch * work.seq;
  if (tokens == 0 || bytes == 0) return kDone;
  if (!work.slots) return kMemory;
  for (Index token = 0; token < tokens; ++token)
    if (slot_of(work, token) >= work.pages * work.page) return kSlots;
  for (const Copied& c : work.copied)
    if (c.bytes && (!c.from || (!c.to && work.pages * work.page > 0))) return kMemory;
  return in_threads(tokens, larger(kGrain / larger(bytes, 1), 1), store_range, &work) ? kDone : kThreads;
}
