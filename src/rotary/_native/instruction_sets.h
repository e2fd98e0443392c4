// The instruction sets that this library was compiled for, and the one in use.
//
// A source that build.py compiles once for each of them defines its loops as one constant in the namespace ROTARY_SET, which is the name
// of the set ("baseline", "avx2", "avx512"). To add such a source: a line in build.py, a declaration in the macro below, a member
// of InstructionSet, and its place in the list of instruction_sets.cpp.

#ifndef ROTARY_INSTRUCTION_SETS_H
#define ROTARY_INSTRUCTION_SETS_H

#include "rows.h"

namespace rotary {

struct InstructionSet {
  const char* name;
  bool (*runs)();  // whether this processor and its operating system run it
  const RowLoops* rows;
};

// What every source that is compiled for a set defines.
#define ROTARY_DECLARE_SET(set) \
  namespace set {               \
  extern const RowLoops rows;   \
  }

// The set in use: the best that the processor runs, or the one that rotary_use_instruction_set() has chosen.
const InstructionSet& instruction_set();

// The set of that name, or null where it was not compiled or this processor does not run it.
const InstructionSet* instruction_set(const char* name);

}  // namespace rotary

#endif
