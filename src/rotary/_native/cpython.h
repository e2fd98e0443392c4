// The part of CPython's stable ABI (PEP 384) that this library uses, declared here so that a build needs no headers of Python and one
// library serves every Python from 3.10 on. Objects are opaque: nothing of their layout is used.
//
// Weak, since the library also loads where there is no Python, for the tests that call its loops from a program of C.

#ifndef ROTARY_CPYTHON_H
#define ROTARY_CPYTHON_H

#include <cstddef>

extern "C" {

struct PyObject;
struct PyThreadState;
using PySize = std::ptrdiff_t;
using PyFastFunction = PyObject* (*)(PyObject* self, PyObject* const* arguments, PySize count);

struct PyMethodDef {
  const char* name;
  PyFastFunction function;  // its type depends on `flags`
  int flags;
  const char* doc;
};

constexpr int kPyFastCall = 0x0080;  // METH_FASTCALL: positional arguments in an array

#define WEAK __attribute__((weak))
WEAK void Py_IncRef(PyObject*);
WEAK void Py_DecRef(PyObject*);
WEAK PyObject* PyObject_Type(PyObject*);
WEAK PyObject* PyObject_GetAttr(PyObject*, PyObject* name);
WEAK PyObject* PyObject_CallFunctionObjArgs(PyObject* function, ...);  // the arguments end with a null
WEAK int PyObject_IsTrue(PyObject*);
WEAK long long PyLong_AsLongLong(PyObject*);
WEAK PyObject* PyLong_FromLongLong(long long);
WEAK PyObject* PyObject_Call(PyObject* function, PyObject* arguments, PyObject* by_name);
WEAK int PyBytes_AsStringAndSize(PyObject*, char** data, PySize* size);
WEAK PyObject* PyTuple_New(PySize count);
WEAK int PyTuple_SetItem(PyObject*, PySize, PyObject* stolen);
WEAK PyObject* PyCapsule_New(void*, const char* name, void (*destructor)(PyObject*));
WEAK int PyCapsule_IsValid(PyObject*, const char* name);
WEAK PyObject* PyTuple_Pack(PySize count, ...);
WEAK PySize PyTuple_Size(PyObject*);
WEAK PyObject* PyTuple_GetItem(PyObject*, PySize);
WEAK PyObject* PyUnicode_InternFromString(const char*);
WEAK void* PyCapsule_GetPointer(PyObject*, const char* name);
WEAK PyObject* PyCFunction_NewEx(PyMethodDef*, PyObject* self, PyObject* module);
WEAK PyObject* PyErr_Occurred();
WEAK void PyErr_Clear();
WEAK PyThreadState* PyEval_SaveThread();
WEAK void PyEval_RestoreThread(PyThreadState*);
#undef WEAK
}

#endif
