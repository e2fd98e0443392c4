"""The native CPU library: build.py compiles the C++ sources when the package is installed, library.py loads it and says why not."""
