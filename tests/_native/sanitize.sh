#!/usr/bin/env bash
# The native CPU kernel under AddressSanitizer and UndefinedBehaviorSanitizer, over the battery that every kernel passes.
# A build of its own, which the tests are told of by ROTARY_LIBRARY; nothing in the checkout changes.
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
selected=${2:-native or call}   # pytest -k
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# Checks of addresses are calls, not code of their own at every access, and stacks are given by lines alone: a third of the time to compile.
checks=address,undefined,float-cast-overflow
calls="--param asan-instrumentation-with-call-threshold=0"
CXXFLAGS="-Og -g1 -fno-omit-frame-pointer -fsanitize=$checks $calls -fno-sanitize-recover=all -DROTARY_SANITIZED" \
  "$python" src/rotary/_native/build.py "$folder/librotary.so" >"$folder/commands" || { cat "$folder/commands"; exit 1; }

# The library alone is instrumented, so the run time comes first by LD_PRELOAD. Leaks of Python itself are not ours to look for.
runtime=$("${CXX:-c++}" -print-file-name=libasan.so)
standard=$("${CXX:-c++}" -print-file-name=libstdc++.so.6)  # before the run time looks __cxa_throw up, or an exception of torch ends it
LD_PRELOAD="$runtime $standard" ASAN_OPTIONS=detect_leaks=0:abort_on_error=0:exitcode=86 UBSAN_OPTIONS=print_stacktrace=1 \
  ROTARY_LIBRARY="$folder/librotary.so" "$python" -m pytest -q -s -p no:faulthandler tests/_rotation tests/_native tests/_angles \
  --ignore=tests/_native/test_build.py -k "($selected) and not can_take_the_place"  # those compile, and run nothing of this library
echo "sanitize: nothing found"
