// The core's kernels, called directly: what a switch costs without everything around the stores.
// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "bindings.h"
#include "kernels/dispatch.h"

namespace shira::bench {
namespace {

using kernels::KernelTable;

/// The kernels of this name, or those that a Program would use.
const KernelTable& table_of(const std::string& isa) {
  auto selected = isa.empty() ? kernels::active_kernels() : kernels::select_kernels(isa.c_str());
  if (!selected.ok()) throw std::invalid_argument(selected.error().message);
  return *selected.value();
}

template <typename T>
const kernels::MoveKernels<T>& moves_of(const std::string& isa) {
  const KernelTable& table = table_of(isa);
  if constexpr (sizeof(T) == 2) {
    return table.u16;
  } else {
    return table.u32;
  }
}

template <typename T>
void bind_elements(py::module_& module) {
  module.def(
      "kernel_gather",
      [](Values<T> weights, const Values<uint32_t>& index, Values<T> out, const std::string& isa) {
        require_ascending_below(index.data(), count_of(index), weights);
        require(out.size() == index.size(), "as many places as indices are needed");
        const auto gather = moves_of<T>(isa).gather;
        T* to = out.mutable_data();
        py::gil_scoped_release release;
        gather(weights.data(), index.data(), count_of(index), to);
      },
      py::arg("weights").noconvert(), py::arg("index").noconvert(), py::arg("out").noconvert(),
      py::arg("isa") = "");
  module.def(
      "kernel_store",
      [](Values<T> weights, const Values<uint32_t>& index, const Values<T>& values,
         const std::string& isa) {
        require_ascending_below(index.data(), count_of(index), weights);
        require(values.size() == index.size(), "as many values as indices are needed");
        const auto store = moves_of<T>(isa).store;
        T* data = weights.mutable_data();
        py::gil_scoped_release release;
        store(data, index.data(), count_of(index), values.data());
      },
      py::arg("weights").noconvert(), py::arg("index").noconvert(), py::arg("values").noconvert(),
      py::arg("isa") = "");
  module.def(
      "kernel_swap",
      [](Values<T> weights, const Values<uint32_t>& index, const Values<T>& values, Values<T> out,
         const std::string& isa) {
        require_ascending_below(index.data(), count_of(index), weights);
        require(values.size() == index.size() && out.size() == index.size(),
                "as many values and places as indices are needed");
        const auto swap = moves_of<T>(isa).swap;
        T* data = weights.mutable_data();
        T* to = out.mutable_data();
        py::gil_scoped_release release;
        swap(data, index.data(), count_of(index), values.data(), to);
      },
      py::arg("weights").noconvert(), py::arg("index").noconvert(), py::arg("values").noconvert(),
      py::arg("out").noconvert(), py::arg("isa") = "");
}

template <typename T>
void bind_runs(py::module_& module) {
  module.def(
      "kernel_store_runs",
      [](Values<T> weights, const Values<uint32_t>& runs, const Values<T>& values,
         const std::string& isa) {
        const Run* begin = runs_of(runs, weights);
        const auto store = moves_of<T>(isa).store_runs;
        T* data = weights.mutable_data();
        py::gil_scoped_release release;
        store(data, begin, runs.shape(0), values.data());
      },
      py::arg("weights").noconvert(), py::arg("runs").noconvert(), py::arg("values").noconvert(),
      py::arg("isa") = "");
  module.def(
      "kernel_swap_runs",
      [](Values<T> weights, const Values<uint32_t>& runs, const Values<T>& values, Values<T> out,
         const std::string& isa) {
        const Run* begin = runs_of(runs, weights);
        require(values.size() == out.size(), "as many places as values are needed");
        const auto swap = moves_of<T>(isa).swap_runs;
        T* data = weights.mutable_data();
        T* to = out.mutable_data();
        py::gil_scoped_release release;
        swap(data, begin, runs.shape(0), values.data(), to);
      },
      py::arg("weights").noconvert(), py::arg("runs").noconvert(), py::arg("values").noconvert(),
      py::arg("out").noconvert(), py::arg("isa") = "");
}

}  // namespace

void bind_kernels(py::module_& module) {
  bind_elements<uint16_t>(module);
  bind_elements<uint32_t>(module);
  bind_runs<uint16_t>(module);
  bind_runs<uint32_t>(module);
  module.def("kernel_isa", [] { return std::string(table_of("").isa); });
}

}  // namespace shira::bench
