// The part of shira_runtime._core about a program's packed and quantized weights.
// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attach/program_weights.h"
#include "attach/weight_data.h"
#include "base/dtype.h"
#include "python/convert.h"

using namespace py::literals;

namespace shira {
namespace {

/// A weight beside the list that it is from, which knows the files.
struct ListedWeight {
  std::shared_ptr<const ProgramWeights> list;
  size_t index;

  const ProgramWeight& get() const { return list->weights[index]; }
};

const char* storage_name(WeightStorage storage) {
  switch (storage) {
    case WeightStorage::packed:
      return "packed";
    case WeightStorage::packed_bias:
      return "packed bias";
    case WeightStorage::byte_table:
      return "byte table";
    case WeightStorage::nibble_table:
      return "nibble table";
    case WeightStorage::unknown:
      break;
  }
  return "unknown";
}

/// The array takes over the elements.
template <typename T>
py::array to_array(Array<T> elements, const py::dtype& dtype, std::vector<py::ssize_t> shape) {
  auto* held = new Array<T>(std::move(elements));
  py::capsule owner(held, [](void* pointer) { delete static_cast<Array<T>*>(pointer); });
  return py::array(dtype, std::move(shape), held->data(), owner);
}

void require_known(const ProgramWeight& weight) {
  if (!weight.why_not.empty() && (!weight.dtype || !weight.codes)) {
    raise(
        {Status::NOT_SUPPORTED, "its numbers cannot be read: " + weight.why_not, {}, weight.name});
  }
}

py::array codes_of(const ListedWeight& self) {
  const ProgramWeight& weight = self.get();
  require_known(weight);
  Array<uint8_t> codes = unlocked([&] { return read_weight_codes(weight, self.list->paths); });
  const char* dtype = weight.dtype == Dtype::f32   ? "<f4"
                      : weight.dtype == Dtype::f16 ? "<f2"
                                                   : "i1";
  return to_array(std::move(codes), py::dtype(dtype), {weight.dims.begin(), weight.dims.end()});
}

py::object floats_of(const ListedWeight& self, const WeightBytes& bytes, Dtype dtype,
                     bool is_vector) {
  const ProgramWeight& weight = self.get();
  if (!bytes) return py::none();
  Array<float> numbers =
      unlocked([&] { return read_weight_floats(weight, bytes, dtype, self.list->paths); });
  const auto count = static_cast<py::ssize_t>(numbers.size());
  const py::ssize_t row_count = weight.dims[0];
  std::vector<py::ssize_t> shape{row_count, count / row_count};
  if (is_vector) shape = {count};
  return to_array(std::move(numbers), py::dtype("<f4"), std::move(shape));
}

}  // namespace

void bind_weights(py::module_& module) {
  const auto text_property = [](std::string ProgramWeight::* member) {
    return [member](const ListedWeight& self) { return text(self.get().*member); };
  };
  py::class_<ListedWeight>(module, "ProgramWeight")
      .def_property_readonly("name", text_property(&ProgramWeight::name))
      .def_property_readonly("owner", text_property(&ProgramWeight::owner))
      .def_property_readonly("node", text_property(&ProgramWeight::node))
      .def_property_readonly("key", text_property(&ProgramWeight::key))
      .def_property_readonly("scale_key", text_property(&ProgramWeight::scale_key))
      .def_property_readonly("bias_key", text_property(&ProgramWeight::bias_key))
      .def_property_readonly("packed_name",
                             [](const ListedWeight& self) {
                               const ProgramWeight& weight = self.get();
                               const bool is_packed = weight.storage == WeightStorage::packed;
                               return text(is_packed ? packed_name(weight) : std::string());
                             })
      .def_property_readonly("why_not", text_property(&ProgramWeight::why_not))
      .def_property_readonly("beside", text_property(&ProgramWeight::beside))
      .def_property_readonly("shares_storage_with",
                             text_property(&ProgramWeight::shares_storage_with))
      .def_property_readonly(
          "storage", [](const ListedWeight& self) { return storage_name(self.get().storage); })
      .def_property_readonly("dtype",
                             [](const ListedWeight& self) -> py::object {
                               const auto& dtype = self.get().dtype;
                               if (!dtype) return py::none();
                               return py::str(dtype_name(*dtype));
                             })
      .def_property_readonly("shape",
                             [](const ListedWeight& self) { return to_shape(self.get().dims); })
      .def_property_readonly("group_length",
                             [](const ListedWeight& self) { return self.get().group_length; })
      .def_property_readonly("file_index",
                             [](const ListedWeight& self) { return self.get().codes.file_index; })
      .def_property_readonly(
          "offset_bytes",
          [](const ListedWeight& self) { return self.get().codes.range.offset_bytes; })
      .def_property_readonly(
          "size_bytes", [](const ListedWeight& self) { return self.get().codes.range.size_bytes; })
      .def_property_readonly("methods",
                             [](const ListedWeight& self) {
                               py::list methods;
                               for (const std::string& each : self.get().methods)
                                 methods.append(text(each));
                               return py::tuple(methods);
                             })
      .def("codes", &codes_of)
      .def("scales",
           [](const ListedWeight& self) {
             return floats_of(self, self.get().scales, self.get().scale_dtype, false);
           })
      .def("zero_points",
           [](const ListedWeight& self) {
             return floats_of(self, self.get().zero_points, self.get().scale_dtype, false);
           })
      .def("bias", [](const ListedWeight& self) {
        const bool is_half = self.get().dtype == Dtype::f16;
        return floats_of(self, self.get().bias, is_half ? Dtype::f16 : Dtype::f32, true);
      });

  module.def(
      "program_weights",
      [](const std::string& path, const std::vector<std::string>& data_paths) {
        const auto list = std::make_shared<const ProgramWeights>(
            unlocked([&] { return read_program_weights(path, data_paths); }));
        std::vector<ListedWeight> weights;
        for (size_t i = 0; i < list->weights.size(); ++i) weights.push_back({list, i});
        return weights;
      },
      "path"_a, "data_paths"_a);
}

}  // namespace shira
