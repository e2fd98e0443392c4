#include "instruction_sets.h"

#include <atomic>

#include "exported.h"

namespace rotary {

// ROTARY_SETS: SET(avx2) SET(avx512) ..., what build.py could compile beside the baseline, best last.
#ifdef ROTARY_SETS
#define SETS_OF_X86
#else
#define ROTARY_SETS
#endif

#define SET ROTARY_DECLARE_SET
SET(baseline)
ROTARY_SETS
#undef SET

namespace {

bool runs_baseline() { return true; }

#if defined(__aarch64__) && defined(__ARM_NEON)
constexpr const char* kBaseline = "neon";
#else
constexpr const char* kBaseline = "baseline";
#endif

#ifdef SETS_OF_X86
// The instructions of build.py's flags. __builtin_cpu_supports asks the operating system too, which has to save the registers.
bool runs_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2"); }

bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vl");
}

bool runs_avx512_bf16() { return runs_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

#define MEMBERS(set) runs_##set, &set::rows, &set::norms, &set::tables
#define SET(set) {#set, MEMBERS(set)},
constexpr InstructionSet kSets[] = {{kBaseline, MEMBERS(baseline)}, ROTARY_SETS};
#undef SET
#undef MEMBERS
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
  for (int i = kCount; !set;)  // ends at the baseline, which is tried last and runs everywhere
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
