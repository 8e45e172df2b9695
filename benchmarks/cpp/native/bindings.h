// What the bindings share: arrays of bits as numpy has them, and checks of them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>

#include "base/run.h"

namespace shira::bench {

namespace py = pybind11;

template <typename T>
using Values = py::array_t<T, py::array::c_style>;

template <typename T>
size_t count_of(const Values<T>& array) {
  return static_cast<size_t>(array.size());
}

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

template <typename T>
void require_ascending_below(const uint32_t* index, size_t count, const Values<T>& weights) {
  require(count == 0 || index[count - 1] < count_of(weights), "an index lies outside the weights");
}

/// Runs as rows of two 32-bit numbers, start and length, which is what a Run is.
template <typename T>
const Run* runs_of(const Values<uint32_t>& pairs, const Values<T>& weights) {
  require(pairs.ndim() == 2 && pairs.shape(1) == 2, "runs are (start, length) pairs");
  const auto* runs = reinterpret_cast<const Run*>(pairs.data());
  if (pairs.shape(0) > 0) {
    const Run& last = runs[pairs.shape(0) - 1];
    require(uint64_t{last.start} + last.length <= count_of(weights), "a run leaves the weights");
  }
  return runs;
}

void bind_kernels(py::module_& module);  // kernel_bindings.cpp

}  // namespace shira::bench
