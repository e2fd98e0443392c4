// The part of DLPack (dmlc/dlpack, include/dlpack/dlpack.h, version 1.3) that this library uses: how a framework describes a tensor to a
// C function without an object of its own. torch hands the table out as torch.Tensor.__dlpack_c_exchange_api__ (2.10 and later).

#ifndef ROTARY_DLPACK_H
#define ROTARY_DLPACK_H

#include <cstdint>

extern "C" {

constexpr std::uint32_t kDLPackMajor = 1;  // another major version has another layout
constexpr std::int32_t kDLCPU = 1;
enum : std::uint8_t { kDLInt = 0, kDLFloat = 2, kDLBfloat = 4 };

struct DLDevice {
  std::int32_t device_type, device_id;
};

struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct DLTensor {  // shape and strides, in elements, are those of the tensor itself: valid while it lives and keeps its shape
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

struct DLPackExchangeAPI {
  struct Header {
    std::uint32_t major, minor;
    Header* older;
  } header;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*dltensor_from_py_object_no_sync)(void* object, DLTensor* out);  // 0, or -1 with a Python exception set; may be null
  void* current_work_stream;
};
}

#endif
