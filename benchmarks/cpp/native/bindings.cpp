// The extension module _bench: rooflines, layouts and LoRA fusion on numpy's memory, without logic.
// SPDX-License-Identifier: Apache-2.0
//
// Weights are the bits of a contiguous array, uint16 or uint32. Every function runs on the calling
// thread with the GIL released. An index outside of the weights is the caller's mistake: checked
// once, when a list is wrapped.
#include "bindings.h"

#include <cstring>
#include <string>
#include <type_traits>

#include "lora.h"
#include "memory.h"
#include "rooflines.h"

namespace shira::bench {
namespace {

/// Calls `function` with the distance as a template argument.
template <typename Function>
void with_distance(size_t distance, Function function) {
  switch (distance) {
    case 0:
      return function(std::integral_constant<size_t, 0>());
    case 8:
      return function(std::integral_constant<size_t, 8>());
    case 16:
      return function(std::integral_constant<size_t, 16>());
    case 32:
      return function(std::integral_constant<size_t, 32>());
    case 64:
      return function(std::integral_constant<size_t, 64>());
    case 128:
      return function(std::integral_constant<size_t, 128>());
    default:
      throw std::invalid_argument("a prefetch distance is 0, 8, 16, 32, 64 or 128");
  }
}

Element parse_element(const std::string& dtype) {
  if (dtype == "f32") return Element::f32;
  if (dtype == "f16") return Element::f16;
  if (dtype == "bf16") return Element::bf16;
  throw std::invalid_argument("dtype is '" + dtype + "', expected f32, f16 or bf16");
}

template <typename T>
void bind_for(py::module_& module) {
  module.def(
      "touch",
      [](Values<T> weights, const Values<uint32_t>& index, size_t distance) {
        require_ascending_below(index.data(), count_of(index), weights);
        T* data = weights.mutable_data();
        py::gil_scoped_release release;
        with_distance(distance, [&](auto d) { touch<T, d>(data, index.data(), index.size()); });
      },
      py::arg("weights").noconvert(), py::arg("index").noconvert(), py::arg("distance"));
  module.def(
      "read_lines",
      [](const Values<T>& weights, const Values<uint32_t>& index, size_t distance) {
        require_ascending_below(index.data(), count_of(index), weights);
        T result = 0;
        py::gil_scoped_release release;
        with_distance(distance, [&](auto d) {
          result = read_lines<T, d>(weights.data(), index.data(), index.size());
        });
        return result;
      },
      py::arg("weights").noconvert(), py::arg("index").noconvert(), py::arg("distance"));
  module.def(
      "store_flat32",
      [](Values<T> weights, const Values<uint32_t>& index, const Values<T>& values,
         size_t distance) {
        require_ascending_below(index.data(), count_of(index), weights);
        require(values.size() == index.size(), "as many values as indices are needed");
        T* data = weights.mutable_data();
        py::gil_scoped_release release;
        with_distance(distance, [&](auto d) {
          store_flat32<T, d>(data, index.data(), index.size(), values.data());
        });
      },
      py::arg("weights").noconvert(), py::arg("index").noconvert(), py::arg("values").noconvert(),
      py::arg("distance"));
  module.def(
      "swap_flat32",
      [](Values<T> weights, const Values<uint32_t>& index, const Values<T>& values, Values<T> out,
         size_t distance) {
        require_ascending_below(index.data(), count_of(index), weights);
        require(values.size() == index.size() && out.size() == index.size(),
                "as many values and places as indices are needed");
        T* data = weights.mutable_data();
        T* originals = out.mutable_data();
        py::gil_scoped_release release;
        with_distance(distance, [&](auto d) {
          swap_flat32<T, d>(data, index.data(), index.size(), values.data(), originals);
        });
      },
      py::arg("weights").noconvert(), py::arg("index").noconvert(), py::arg("values").noconvert(),
      py::arg("out").noconvert(), py::arg("distance"));
  module.def(
      "store_gaps16",
      [](Values<T> weights, const Values<uint16_t>& gaps, const Values<T>& values) {
        require(values.size() == gaps.size(), "as many values as gaps are needed");
        T* data = weights.mutable_data();
        py::gil_scoped_release release;
        store_gaps16<T, 64>(data, gaps.data(), gaps.size(), values.data());
      },
      py::arg("weights").noconvert(), py::arg("gaps").noconvert(), py::arg("values").noconvert());
  module.def(
      "store_row_csr",
      [](Values<T> weights, const Values<uint32_t>& row_starts, const Values<uint16_t>& columns,
         const Values<T>& values) {
        require(weights.ndim() == 2 && row_starts.size() == weights.shape(0) + 1,
                "a matrix and one start for each row, and the end, are needed");
        require(values.size() == columns.size(), "as many values as columns are needed");
        T* data = weights.mutable_data();
        const size_t row_count = weights.shape(0);
        const size_t column_count = weights.shape(1);
        py::gil_scoped_release release;
        store_row_csr<T, 64>(data, row_starts.data(), row_count, column_count, columns.data(),
                             values.data());
      },
      py::arg("weights").noconvert(), py::arg("row_starts").noconvert(),
      py::arg("columns").noconvert(), py::arg("values").noconvert());
  module.def(
      "fill",
      [](Values<T> bits, const std::string& dtype, uint64_t seed, uint64_t first) {
        const Element element = parse_element(dtype);
        require(sizeof(T) == (element == Element::f32 ? 4 : 2), "bits are of the dtype named");
        require(first % 4 == 0, "a part starts at a multiple of 4 elements");
        const size_t mantissa_bits = element == Element::f32   ? 23
                                     : element == Element::f16 ? 10
                                                               : 7;
        const size_t lowest_exponent = element == Element::f16 ? 8 : 120;  // 2^-7
        const auto step = static_cast<T>(T{1} << mantissa_bits);
        const auto sign = static_cast<T>(T{1} << (8 * sizeof(T) - 1));
        T* data = bits.mutable_data();
        const size_t count = bits.size();
        py::gil_scoped_release release;
        fill<T>(data, count, first, seed, static_cast<T>(lowest_exponent * step), step - 1, sign,
                step);
      },
      py::arg("bits").noconvert(), py::arg("dtype"), py::arg("seed"), py::arg("first") = 0);
  module.def(
      "copy_runs",
      [](Values<T> weights, const Values<uint32_t>& runs, const Values<T>& values) {
        const Run* begin = runs_of(runs, weights);
        T* data = weights.mutable_data();
        py::gil_scoped_release release;
        copy_runs(data, begin, runs.shape(0), values.data());
      },
      py::arg("weights").noconvert(), py::arg("runs").noconvert(), py::arg("values").noconvert());
}

void bind_lora(py::module_& module) {
  module.def(
      "fuse_lora",
      [](py::array weights, const std::string& dtype, const Values<float>& b,
         const Values<float>& a, float scale) {
        const Element element = parse_element(dtype);
        require(weights.ndim() == 2 && b.ndim() == 2 && a.ndim() == 2, "matrices are needed");
        require((weights.flags() & py::array::c_style) != 0 &&
                    weights.itemsize() == (element == Element::f32 ? 4 : 2),
                "weights are row-major, of the dtype named");
        require(b.shape(0) == weights.shape(0) && a.shape(1) == weights.shape(1) &&
                    b.shape(1) == a.shape(0),
                "B is (rows, rank), A is (rank, columns)");
        const Fusion fusion = {weights.mutable_data(),
                               element,
                               static_cast<size_t>(weights.shape(0)),
                               static_cast<size_t>(weights.shape(1)),
                               static_cast<size_t>(b.shape(1)),
                               b.data(),
                               a.data()};
        py::gil_scoped_release release;
        fuse_lora(fusion, scale);
      },
      py::arg("weights"), py::arg("dtype"), py::arg("b").noconvert(), py::arg("a").noconvert(),
      py::arg("scale"));
}

void bind_memory(py::module_& module) {
  py::class_<Buffer>(module, "Buffer", py::buffer_protocol())
      .def(py::init<size_t, bool>(), py::arg("size_bytes"), py::arg("huge_pages"))
      .def("advise", &Buffer::advise, py::arg("huge_pages"))
      .def("drop", &Buffer::drop)
      .def_buffer([](Buffer& buffer) {
        return py::buffer_info(buffer.data(), 1, "B",
                               static_cast<py::ssize_t>(buffer.size_bytes()));
      });
  module.def(
      "copy_bytes",
      [](Values<uint8_t> to, const Values<uint8_t>& from) {
        require(to.size() == from.size(), "both arrays have the same length");
        uint8_t* data = to.mutable_data();
        py::gil_scoped_release release;
        std::memcpy(data, from.data(), from.size());
      },
      py::arg("to").noconvert(), py::arg("from_").noconvert());
  module.def(
      "equal_bytes",
      [](const Values<uint8_t>& a, const Values<uint8_t>& b) {
        require(a.size() == b.size(), "both arrays have the same length");
        py::gil_scoped_release release;
        return std::memcmp(a.data(), b.data(), a.size()) == 0;
      },
      py::arg("a").noconvert(), py::arg("b").noconvert());
  module.def(
      "read_all",
      [](const Values<uint64_t>& words) {
        py::gil_scoped_release release;
        return read_all(words.data(), words.size());
      },
      py::arg("words").noconvert());
  module.def(
      "stream_copy",
      [](const Values<double>& a, Values<double> c) {
        require(a.size() == c.size(), "all arrays have the same length");
        double* to = c.mutable_data();
        py::gil_scoped_release release;
        stream_copy(a.data(), to, a.size());
      },
      py::arg("a").noconvert(), py::arg("c").noconvert());
  module.def(
      "stream_triad",
      [](Values<double> a, const Values<double>& b, const Values<double>& c, double scalar) {
        require(a.size() == b.size() && a.size() == c.size(), "all arrays have the same length");
        double* to = a.mutable_data();
        py::gil_scoped_release release;
        stream_triad(to, b.data(), c.data(), scalar, a.size());
      },
      py::arg("a").noconvert(), py::arg("b").noconvert(), py::arg("c").noconvert(),
      py::arg("scalar"));
}

}  // namespace
}  // namespace shira::bench

PYBIND11_MODULE(_bench, module) {
  module.attr("COMPILER") = __VERSION__;
  module.attr("FLAGS") = SHIRA_BENCH_FLAGS;
  shira::bench::bind_memory(module);
  shira::bench::bind_for<uint16_t>(module);
  shira::bench::bind_for<uint32_t>(module);
  shira::bench::bind_lora(module);
  shira::bench::bind_kernels(module);
}
