#include "plan.h"

#include <cstdlib>
#include <cstring>

namespace rotary {
namespace {

constexpr char kName[] = "rotary.plan";
constexpr Index kFar = Index{1} << 31;  // the largest |position| for which one word gives float32 tables: FAR of _angles/turns.py
constexpr Index kHead = 8;             // numbers before the arrays, in the order of _angles/plan.py

void free_plan(PyObject* capsule) { std::free(PyCapsule_GetPointer(capsule, kName)); }

}  // namespace

PyObject* plan_of(PyObject* bytes) {
  char* data;
  PySize size;
  if (PyBytes_AsStringAndSize(bytes, &data, &size)) return nullptr;
  Plan* plan = static_cast<Plan*>(std::malloc(sizeof(Plan) + static_cast<std::size_t>(size)));
  if (!plan) return nullptr;
  std::memcpy(plan->numbers, data, static_cast<std::size_t>(size));
  const Index* number = plan->numbers;
  const Index numbers = size / 8, planes = size >= 8 * kHead ? number[0] : -1;
  const bool axes = planes > 0 && number[1] > 0, decay = planes > 0 && number[3] >= 0;
  if (planes <= 0 || size % 8 || numbers != kHead + 3 * planes + (axes ? planes : 0) + (decay ? 2 * (planes + 1) : 0)) {
    std::free(plan);
    return nullptr;
  }
  plan->planes = planes, plan->coordinates = number[1], plan->window = number[2];
  for (int i = 0; i < 4; ++i) plan->furthest[i] = number[3 + i];
  plan->amplitude = bits<double>(number[7]);
  number += kHead;
  plan->one_word = number, plan->high = number + planes, plan->low = number + 2 * planes;
  number += 3 * planes;
  plan->axes = axes ? number : nullptr;
  number += axes ? planes : 0;
  const double* powers = reinterpret_cast<const double*>(number);
  plan->decay[0] = decay ? powers : nullptr, plan->decay[1] = decay ? powers + planes + 1 : nullptr;
  PyObject* capsule = PyCapsule_New(plan, kName, free_plan);
  if (!capsule) std::free(plan);
  return capsule;
}

const Plan* plan_in(PyObject* object) {
  return PyCapsule_IsValid(object, kName) ? static_cast<const Plan*>(PyCapsule_GetPointer(object, kName)) : nullptr;
}

bool reaches(const Plan& plan, const Positions& positions, Dtype dtype) {
  if (positions.rows == 0) return true;
  if (plan.window >= 0 && positions.high >= plan.window) return false;
  const Index furthest = plan.furthest[dtype];
  return !plan.decay[0] || (positions.low >= -furthest && positions.high <= furthest);
}

Reason make_tables(const Plan& plan, const Positions& positions, Dtype dtype, int role, void* cos, void* sin) {
  const bool far = positions.low < -kFar || positions.high > kFar;
  Tables tables;
  tables.dtype = dtype;
  tables.words = dtype == kFloat64 ? kBoth : far ? kBothWhereFar : kOne;
  tables.batch = 1, tables.rows = positions.rows, tables.planes = plan.planes, tables.step = 0;
  tables.coordinates = positions.by_coordinate ? plan.coordinates : 1;
  tables.amplitudes = 1, tables.amplitude = &plan.amplitude;
  tables.first = positions.first, tables.positions = positions.positions;
  tables.axes = positions.by_coordinate ? plan.axes : nullptr;
  tables.high = tables.words == kOne ? plan.one_word : plan.high;
  tables.low = tables.words == kOne ? nullptr : plan.low;
  tables.decay = plan.decay[role];
  tables.cos = cos, tables.sin = sin;
  return make_tables(tables);
}

}  // namespace rotary
