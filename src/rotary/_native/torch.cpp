#include "torch.h"

#include "dlpack.h"

namespace rotary {
namespace {

struct {
  bool kept;
  int (*read)(void* object, DLTensor* out);
  PyObject *tensor, *empty_like, *empty, *as_float32, *as_float64;
  PyObject *is_grad_enabled, *is_neg, *is_inference, *increment_versions, *forward_ad, *questions, *threads_failed;
  PyObject *current_level, *requires_grad;  // names of attributes
  PySize number_of_questions;
  Constants constants;
} torch;

// The truth of an object, whose reference is dropped. True if it is null or its truth raises: true declines the call.
bool truth(PyObject* object) {
  if (!object) {
    PyErr_Clear();
    return true;
  }
  const int is_true = PyObject_IsTrue(object);
  Py_DecRef(object);
  if (is_true < 0) PyErr_Clear();
  return is_true != 0;
}

Index dtype_of(const DLDataType& dtype) {
  switch (dtype.lanes == 1 ? dtype.code << 8 | dtype.bits : -1) {
    case kDLFloat << 8 | 32: return kFloat32;
    case kDLFloat << 8 | 64: return kFloat64;
    case kDLFloat << 8 | 16: return kFloat16;
    case kDLBfloat << 8 | 16: return kBFloat16;
    case kDLInt << 8 | 64: return kInt64;
    default: return -1;
  }
}

bool is_plain_class(PyObject* object) {
  PyObject* type = PyObject_Type(object);
  Py_DecRef(type);  // the object keeps it
  return type == torch.tensor;
}

bool read_layout(PyObject* object, Layout& layout) {
  DLTensor read;
  if (torch.read(object, &read)) {
    PyErr_Clear();  // no memory, no strides, another layout: the Python road raises the error
    return false;
  }
  layout.dtype = dtype_of(read.dtype);
  if (layout.dtype < 0 || read.device.device_type != kDLCPU || read.ndim > kMaxDims) return false;
  layout.data = static_cast<char*>(read.data) + read.byte_offset;
  layout.dims = read.ndim;
  for (int d = 0; d < read.ndim; ++d) layout.shape[d] = read.shape[d], layout.strides[d] = read.strides[d];
  return true;
}

// The new tensor, with its layout; null where it is null or cannot be read.
PyObject* readable(PyObject* tensor, Layout& layout) {
  if (tensor && is_plain_class(tensor) && read_layout(tensor, layout)) return tensor;
  if (tensor) Py_DecRef(tensor);
  PyErr_Clear();
  return nullptr;
}

}  // namespace

bool keep_torch(PyObject* objects, bool& reads) {
  PyObject** const places[] = {&torch.tensor,
                               &torch.empty_like,
                               &torch.empty,
                               &torch.as_float32,
                               &torch.as_float64,
                               &torch.is_grad_enabled,
                               &torch.is_neg,
                               &torch.is_inference,
                               &torch.increment_versions,
                               &torch.forward_ad,
                               &torch.current_level,
                               &torch.questions,
                               &torch.threads_failed,
                               &torch.constants.none,
                               &torch.constants.yes,
                               &torch.constants.no,
                               &torch.constants.integer,
                               &torch.constants.query,
                               &torch.constants.key,
                               &torch.constants.float32,
                               &torch.constants.float64};
  if (!torch.kept) {
    const auto* api = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(PyTuple_GetItem(objects, 0), "dlpack_exchange_api"));
    if (!api) return false;
    PySize i = 1;
    for (PyObject** place : places) {
      if (!(*place = PyTuple_GetItem(objects, i++))) return false;
      Py_IncRef(*place);  // for the life of the process
    }
    torch.requires_grad = PyUnicode_InternFromString("requires_grad");
    torch.number_of_questions = PyTuple_Size(torch.questions);
    if (!torch.requires_grad || torch.number_of_questions < 0) return false;
    torch.read = api->header.major == kDLPackMajor ? api->dltensor_from_py_object_no_sync : nullptr;
    torch.kept = true;
  }
  reads = torch.read != nullptr;
  return true;
}

bool nothing_intercepts() {
  for (PySize i = 0; i < torch.number_of_questions; ++i)
    if (truth(PyObject_CallFunctionObjArgs(PyTuple_GetItem(torch.questions, i), nullptr))) return false;
  Index level;
  PyObject* current = PyObject_GetAttr(torch.forward_ad, torch.current_level);
  const bool outside = current && is_integer(current, level) && level < 0;
  if (current) Py_DecRef(current);
  PyErr_Clear();
  return outside;
}

bool read(PyObject* object, Layout& layout) {
  return is_plain_class(object) && read_layout(object, layout) &&
         !(truth(PyObject_GetAttr(object, torch.requires_grad)) &&
           truth(PyObject_CallFunctionObjArgs(torch.is_grad_enabled, nullptr))) &&
         !truth(PyObject_CallFunctionObjArgs(torch.is_neg, object, nullptr));
}

PyObject* empty_like(PyObject* like, Layout& layout) {
  return readable(PyObject_CallFunctionObjArgs(torch.empty_like, like, nullptr), layout);
}

PyObject* empty(const Index* shape, int dims, Dtype dtype, Layout& layout) {
  PyObject* sizes = PyTuple_New(dims);
  for (int d = 0; sizes && d < dims; ++d) {
    PyObject* size = PyLong_FromLongLong(shape[d]);
    if (!size || PyTuple_SetItem(sizes, d, size)) {
      Py_DecRef(sizes);
      sizes = nullptr;
    }
  }
  PyObject* arguments = sizes ? PyTuple_Pack(1, sizes) : nullptr;
  PyObject* tensor = arguments ? PyObject_Call(torch.empty, arguments, dtype == kFloat64 ? torch.as_float64 : torch.as_float32) : nullptr;
  if (arguments) Py_DecRef(arguments);
  if (sizes) Py_DecRef(sizes);
  return readable(tensor, layout);
}

bool raise_versions(PyObject* const* tensors, int count) {
  PyObject* counted[kMaxWritten];
  int n = 0;
  for (int i = 0; i < count; ++i)
    if (!truth(PyObject_CallFunctionObjArgs(torch.is_inference, tensors[i], nullptr))) counted[n++] = tensors[i];
  if (n == 0) return true;
  PyObject* all = n == 1 ? PyTuple_Pack(1, counted[0]) : PyTuple_Pack(2, counted[0], counted[1]);
  PyObject* done = all ? PyObject_CallFunctionObjArgs(torch.increment_versions, all, nullptr) : nullptr;
  if (all) Py_DecRef(all);
  if (done) Py_DecRef(done);
  return done != nullptr;
}

PyObject* threads_failed() { return PyObject_CallFunctionObjArgs(torch.threads_failed, nullptr); }

const Constants& constants() { return torch.constants; }

bool is_flag(PyObject* object) { return object == torch.constants.yes || object == torch.constants.no; }

bool is_integer(PyObject* object, Index& value) {
  PyObject* type = PyObject_Type(object);
  Py_DecRef(type);
  if (type != torch.constants.integer) return false;
  value = PyLong_AsLongLong(object);
  if (value != -1 || !PyErr_Occurred()) return true;
  PyErr_Clear();
  return false;
}

}  // namespace rotary
