// Runs a native library on cases written by replay.py, whose answers the eager formula gave, and compares bits. For processors on which
// there is no torch to ask: build for aarch64 and run by qemu. Usage: replay CASES; exit status 1 where a bit differs.
//
// A case, in 64-bit integers of little-endian order: how many words, bytes of memory, bytes of a stored number, bytes of x and out at the
// start of memory; the words of rotary_rotate(), whose addresses count from the start of memory; memory before; memory after.

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

extern "C" {
std::int32_t rotary_rotate(const std::int64_t* words);
std::int32_t rotary_rounds_twice(const char* name);
std::int32_t rotary_runs(const char* name);
std::int32_t rotary_use_instruction_set(const char* name);
const char* rotary_instruction_set(std::int32_t number);
}

namespace {

using Bytes = std::vector<unsigned char>;

bool flush(bool on) {  // denormal numbers to zero, in all ways that the processor has
#if defined(__SSE2__)
  _mm_setcsr((_mm_getcsr() & ~0x8040u) | (on ? 0x8040u : 0));
  return true;
#elif defined(__aarch64__)
  std::uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  const std::uint64_t bits = 1u << 24 | 1u << 19;
  control = on ? control | bits : control & ~bits;
  __asm__ volatile("msr fpcr, %0" : : "r"(control));
  return true;
#else
  return !on;
#endif
}

std::uint64_t number(const unsigned char* at, int size) {
  std::uint64_t u = 0;
  std::memcpy(&u, at, static_cast<std::size_t>(size));
  return u;
}

bool nan(std::uint64_t u, int dtype) {  // as rotary_rotate() numbers dtypes: float32, float64, bfloat16, float16
  const std::uint64_t infinity[] = {0x7F800000u, 0x7FF0000000000000u, 0x7F80u, 0x7C00u}, sign[] = {1u << 31, 1ull << 63, 1u << 15, 1u << 15};
  return (u & ~sign[dtype]) > infinity[dtype];
}

// How many numbers of x and out, or bytes of the rest, differ.
long differing(const Bytes& got, const Bytes& wanted, std::int64_t numbers_end, int size, int dtype) {
  long count = 0;
  for (std::size_t at = 0; at < static_cast<std::size_t>(numbers_end); at += static_cast<std::size_t>(size)) {
    const std::uint64_t a = number(&got[at], size), b = number(&wanted[at], size);
    count += a != b && !(nan(a, dtype) && nan(b, dtype));
  }
  for (std::size_t at = static_cast<std::size_t>(numbers_end); at < got.size(); ++at) count += got[at] != wanted[at];
  return count;
}

template <class T>
bool read(std::FILE* file, std::vector<T>& to) {
  return std::fread(to.data(), sizeof(T), to.size(), file) == to.size();
}

}  // namespace

int main(int, char** arguments) {
  std::FILE* file = std::fopen(arguments[1], "rb");
  if (!file) return std::perror(arguments[1]), 2;
  std::vector<std::int64_t> head(4);
  long cases = 0, wrong = 0;
  std::vector<const char*> sets;
  for (int i = 0; const char* name = rotary_instruction_set(i); ++i) {
    if (!rotary_runs(name)) continue;
    sets.push_back(name);
    if (!rotary_rounds_twice(name)) ++wrong, std::printf("%s: its loops do not keep to the arithmetic of the source\n", name);
  }
  while (read(file, head)) {
    std::vector<std::int64_t> words(static_cast<std::size_t>(head[0]));
    Bytes before(static_cast<std::size_t>(head[1])), after(before.size());
    if (!read(file, words) || !read(file, before) || !read(file, after)) return std::printf("%s is cut off\n", arguments[1]), 2;
    const int dtype = static_cast<int>(words[1]);
    for (const char* name : sets)
      for (const bool flushing : {false, true}) {
        if (flushing && dtype != 3) continue;  // half precision keeps its bits, of other dtypes nothing is promised
        // At an address that nothing but a number of the tables divides, so that no alignment helps.
        Bytes room(before.size() + 128);
        unsigned char* memory = room.data() + (64 - reinterpret_cast<std::uintptr_t>(room.data()) % 64) + (dtype == 1 ? 8 : 4);
        std::memcpy(memory, before.data(), before.size());
        std::vector<std::int64_t> given = words;
        for (std::size_t tensor = 5; tensor < given.size();) {
          for (std::size_t k = 0; k < 4; ++k) given[tensor + k] += reinterpret_cast<std::int64_t>(memory);
          tensor += 6 + 3 * static_cast<std::size_t>(given[tensor + 4] + given[tensor + 5]);
        }
        rotary_use_instruction_set(name);
        if (!flush(flushing)) continue;
        const std::int32_t status = rotary_rotate(given.data());
        flush(false);
        const long count = status ? -1 : differing(Bytes(memory, memory + before.size()), after, head[3], static_cast<int>(head[2]), dtype);
        if (count) ++wrong, std::printf("case %ld, %s, flushing %d: status %d, %ld differ\n", cases, name, flushing, status, count);
      }
    ++cases;
  }
  std::printf("%ld cases", cases);
  for (const char* name : sets) std::printf(", %s", name);
  std::printf(": %ld wrong\n", wrong);
  return wrong || !cases;
}
