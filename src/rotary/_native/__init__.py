"""The native CPU library.

build.py        compiles the C++ sources when the package is installed
library.py      loads the library, or gives the reason why it cannot be used
functions.py    its Python functions, which take tensors
*.cpp, *.h      the sources; rotate.h, tables.h and norm_loops.h state what is computed
"""
