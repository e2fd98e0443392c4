#include "instruction_sets.h"

#include <atomic>

#include "exported.h"

namespace rotary {

#ifdef ROTARY_SETS  // SET(avx2) SET(avx512): what build.py could compile beside the baseline, best last
#define ALL_SETS SET(baseline) ROTARY_SETS
#else
#define ROTARY_SETS
#define ALL_SETS SET(baseline)
#define NO_OTHER_SETS
#endif

#define SET ROTARY_DECLARE_SET
ALL_SETS
#undef SET

namespace {

bool runs_baseline() { return true; }

#ifndef NO_OTHER_SETS
// What build.py compiles them with. The compiler's own test asks the operating system too, which has to save the registers.
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2"); }

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}
#endif

#define SET(set) {#set, runs_##set, &set::rows},
constexpr InstructionSet kSets[] = {ALL_SETS};
#undef SET
constexpr int kCount = sizeof kSets / sizeof kSets[0];

std::atomic<const InstructionSet*> chosen{nullptr};

bool equal(const char* a, const char* b) {
  for (; *a && *a == *b; ++a, ++b) {
  }
  return *a == *b;
}

}  // namespace

const InstructionSet* instruction_set(const char* name) {
  for (const InstructionSet& set : kSets)
    if (equal(set.name, name)) return set.runs() ? &set : nullptr;
  return nullptr;
}

const InstructionSet& instruction_set() {
  const InstructionSet* set = chosen.load(std::memory_order_relaxed);
  for (int i = kCount; !set;)  // the baseline, which comes last here, runs everywhere
    if (kSets[--i].runs()) set = &kSets[i];
  return *set;
}

}  // namespace rotary

// The names of the sets compiled, the best last, or null past the end.
EXPORTED const char* rotary_instruction_set(std::int32_t number) {
  return number < 0 || number >= rotary::kCount ? nullptr : rotary::kSets[number].name;
}

// The name of the set in use.
EXPORTED const char* rotary_instruction_set_in_use() { return rotary::instruction_set().name; }

// Whether this processor runs that set.
EXPORTED std::int32_t rotary_runs(const char* name) { return rotary::instruction_set(name) != nullptr; }

// Compute by that set from now on, in every thread; 0 where it was not compiled or does not run here, and then nothing changes.
EXPORTED std::int32_t rotary_use_instruction_set(const char* name) {
  const rotary::InstructionSet* set = rotary::instruction_set(name);
  if (set) rotary::chosen.store(set, std::memory_order_relaxed);
  return set != nullptr;
}
