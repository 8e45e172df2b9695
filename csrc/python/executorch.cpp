// The extension module shira_runtime._executorch: pybind11 over ExecutorchProgram, no logic.
// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "executorch/executorch_program.h"
#include "python/convert.h"

using namespace py::literals;

namespace shira {
namespace {

const char* kind_name(Value::Kind kind) {
  switch (kind) {
    case Value::Kind::none:
      return "none";
    case Value::Kind::tensor:
      return "tensor";
    case Value::Kind::integer:
      return "integer";
    case Value::Kind::real:
      return "real";
    case Value::Kind::boolean:
      return "boolean";
    case Value::Kind::text:
      return "text";
  }
  return "";
}

ElementType parse_element_type(const std::string& name) {
  for (const ElementType type : {
#define X(name, bytes, scalar_type) ElementType::name,
#include "executorch/element_types.def"
#undef X
       }) {
    if (name == element_name(type)) return type;
  }
  raise({Status::INVALID_ARGUMENT, "no program takes elements of type " + name});
}

/// numpy has no bfloat16 of its own: it comes and goes as its bits.
py::dtype numpy_type(ElementType type) {
  return py::dtype(type == ElementType::bfloat16 ? "uint16" : element_name(type));
}

/// (bytes, element name, sizes) for a tensor, with its bytes in the order that the method wants; or
/// a number, a truth value or None. Arrays are kept alive by the caller for the length of the call.
Value to_value(const py::handle& object) {
  if (object.is_none()) return {};
  if (py::isinstance<py::bool_>(object)) return Value::of_boolean(object.cast<bool>());
  if (py::isinstance<py::int_>(object)) return Value::of_integer(object.cast<int64_t>());
  if (py::isinstance<py::float_>(object)) return Value::of_real(object.cast<double>());
  const auto [array, name, sizes, dim_order] =
      object.cast<std::tuple<py::array, std::string, std::vector<int64_t>, std::vector<uint8_t>>>();
  Value value = Value::of_tensor(parse_element_type(name), sizes, array.data());
  value.dim_order = dim_order;
  if ((array.flags() & py::array::c_style) == 0 ||
      static_cast<uint64_t>(array.nbytes()) != value.size_bytes())
    throw py::value_error("the array has not the bytes of the tensor");
  return value;
}

/// The array owns the bytes; its strides are those of the tensor's order of dimensions.
py::array to_array(const Value& value) {
  const py::dtype type = numpy_type(value.element_type);
  std::vector<py::ssize_t> sizes(value.sizes.begin(), value.sizes.end());
  std::vector<py::ssize_t> strides(sizes.size());
  py::ssize_t stride = type.itemsize();
  for (size_t i = sizes.size(); i-- > 0;) {
    const size_t dim = value.dim_order.empty() ? i : value.dim_order[i];
    strides[dim] = stride;
    stride *= std::max<py::ssize_t>(sizes[dim], 1);
  }
  auto keep = std::make_unique<std::shared_ptr<const void>>(value.owner);
  const py::capsule owner(keep.release(), [](void* pointer) {
    delete static_cast<std::shared_ptr<const void>*>(pointer);
  });
  return py::array(type, sizes, strides, value.data, owner);
}

py::object to_object(const Value& value) {
  switch (value.kind) {
    case Value::Kind::none:
      return py::none();
    case Value::Kind::integer:
      return py::int_(value.integer);
    case Value::Kind::real:
      return py::float_(value.real);
    case Value::Kind::boolean:
      return py::bool_(value.boolean);
    case Value::Kind::text:
      return text(value.text);
    case Value::Kind::tensor:
      break;
  }
  return py::make_tuple(to_array(value), element_name(value.element_type));
}

py::list to_rows(const std::vector<ValueInfo>& infos) {
  py::list rows;
  for (const ValueInfo& info : infos) {
    rows.append(py::make_tuple(info.is_supported ? kind_name(info.kind) : "unsupported",
                               element_name(info.element_type), py::tuple(py::cast(info.sizes)),
                               py::tuple(py::cast(info.dim_order))));
  }
  return rows;
}

PYBIND11_MODULE(_executorch, module) {
  py::module_::import("shira_runtime._core");  // knows the class Program
  module.attr("EXECUTORCH_VERSION") = SHIRA_EXECUTORCH_VERSION;
  py::class_<ExecutorchProgram>(module, "ExecutorchProgram")
      .def_static(
          "load",
          [](const std::string& path, std::vector<std::string> data_paths,
             std::vector<std::string> methods) {
            const ExecutorchProgram::Options options{std::move(data_paths), std::move(methods)};
            return unlocked([&] { return ExecutorchProgram::load(path, options); });
          },
          "path"_a, "data_paths"_a, "methods"_a)
      .def("program", &ExecutorchProgram::program, py::return_value_policy::reference_internal)
      .def("unpatchable",
           [](const ExecutorchProgram& self) {
             py::dict reasons;
             for (const auto& [name, reason] : self.unpatchable())
               reasons[text(name)] = text(reason);
             return reasons;
           })
      .def("methods",
           [](const ExecutorchProgram& self) {
             py::list rows;
             for (const MethodInfo& info : self.methods()) {
               rows.append(py::make_tuple(text(info.name), to_rows(info.inputs),
                                          to_rows(info.outputs),
                                          py::tuple(py::cast(info.backends))));
             }
             return rows;
           })
      .def(
          "execute",
          [](ExecutorchProgram& self, const std::string& method, const py::list& inputs) {
            std::vector<Value> values;
            for (const py::handle input : inputs) values.push_back(to_value(input));
            const std::vector<Value> outputs =
                unlocked([&] { return self.execute(method, values); });
            py::list objects;
            for (const Value& output : outputs) objects.append(to_object(output));
            return objects;
          },
          "method"_a, "inputs"_a)
      .def("packed_weights",
           [](const ExecutorchProgram& self) {
             py::list rows;
             for (const PackedCacheEntry& entry : self.packed_weights())
               rows.append(py::make_tuple(text(entry.name), entry.offset_bytes, entry.size_bytes));
             return rows;
           })
      .def("load_report", [](const ExecutorchProgram& self) {
        const LoadReport& report = self.load_report();
        return py::dict("open_ns"_a = report.open_ns, "methods_ns"_a = report.methods_ns,
                        "compare_ns"_a = report.compare_ns, "attach_ns"_a = report.attach_ns,
                        "total_ns"_a = report.total_ns);
      });
}

}  // namespace
}  // namespace shira
