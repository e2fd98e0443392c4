// Functions that Python calls; everything else is hidden in the library.

#ifndef ROTARY_EXPORTED_H
#define ROTARY_EXPORTED_H

#define EXPORTED extern "C" __attribute__((visibility("default")))

#endif
