// The extension module shira_runtime._core: pybind11 over the C++ classes, no logic; here the
// module itself, program files and programs.
// SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "attach/mapped_file.h"
#include "attach/program_file.h"
#include "attach/raw_span.h"
#include "base/hash.h"
#include "base/signature.h"
#include "format/adapter_file.h"
#include "kernels/dispatch.h"
#include "python/convert.h"
#include "runtime/program.h"

using namespace py::literals;

namespace shira {
namespace {

py::dict to_dict(const SwitchReport& report) {
  return py::dict(
      "tensors_matched"_a = report.tensors_matched, "elements_written"_a = report.elements_written,
      "elements_changed"_a = report.elements_changed, "bytes_written"_a = report.bytes_written,
      "pages_touched"_a = report.pages_touched, "wait_ns"_a = report.wait_ns,
      "check_ns"_a = report.check_ns, "plan_ns"_a = report.plan_ns, "pages_ns"_a = report.pages_ns,
      "store_ns"_a = report.store_ns, "total_ns"_a = report.total_ns, "epoch"_a = report.epoch,
      "source_read_bytes"_a = report.source_read_bytes,
      "source_cold_bytes"_a = report.source_cold_bytes);
}

void bind_program_file(py::module_& module) {
  py::class_<ProgramTensor>(module, "ProgramTensor")
      .def_property_readonly("name", [](const ProgramTensor& self) { return text(self.name); })
      .def_property_readonly("dtype",
                             [](const ProgramTensor& self) { return dtype_name(self.dtype); })
      .def_property_readonly("shape", [](const ProgramTensor& self) { return to_shape(self.dims); })
      .def_readonly("offset_bytes", &ProgramTensor::offset_bytes)
      .def_readonly("size_bytes", &ProgramTensor::size_bytes)
      .def_readonly("patchable", &ProgramTensor::patchable)
      .def_property_readonly("why_not",
                             [](const ProgramTensor& self) { return text(self.why_not); })
      .def_property_readonly("shares_storage_with", [](const ProgramTensor& self) {
        return text(self.shares_storage_with);
      });

  py::class_<ProgramFile>(module, "ProgramFile")
      .def_static(
          "read",
          [](const std::string& path) { return unlocked([&] { return read_program_file(path); }); },
          "path"_a)
      .def_property_readonly("path", [](const ProgramFile& self) { return text(self.path); })
      .def_readonly("file_bytes", &ProgramFile::file_bytes)
      .def_readonly("is_ptd", &ProgramFile::is_ptd)
      .def_readonly("constants_offset_bytes", &ProgramFile::constants_offset_bytes)
      .def_readonly("constants_size_bytes", &ProgramFile::constants_size_bytes)
      .def_readonly("tensors", &ProgramFile::tensors);
}

// What numpy has of a dtype: for bfloat16 its bits, for integers a byte for each code.
py::dtype element_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return py::dtype("float32");
    case Dtype::f16:
      return py::dtype("float16");
    case Dtype::bf16:
      return py::dtype("uint16");
    default:
      return py::dtype("int8");
  }
}

void bind_program(py::module_& module) {
  py::class_<Program>(module, "Program")
      .def(py::init<>())
      .def(
          "add_tensor",
          [](Program& self, std::string name, const std::string& dtype, std::vector<uint32_t> shape,
             uintptr_t address) {
            TensorSpec spec;
            spec.name = std::move(name);
            spec.dtype = parse_dtype(dtype);
            spec.dims = std::move(shape);
            spec.data = reinterpret_cast<uint8_t*>(address);
            spec.region = make_raw_region();
            unlocked([&] { return self.add_tensor(std::move(spec)); });
          },
          "name"_a, "dtype"_a, "shape"_a, "address"_a)
      .def(
          "attach_file",
          [](Program& self, const std::string& path,
             const std::vector<std::pair<std::string, uintptr_t>>& anchors) {
            std::vector<Anchor> places;
            for (const auto& [name, address] : anchors) places.push_back({name, address});
            unlocked([&]() -> Result<void> {
              SHIRA_ASSIGN(std::vector<TensorSpec> specs, attach_mapped_file(path, places));
              return self.add_tensors(std::move(specs));
            });
          },
          "path"_a, "anchors"_a)
      .def("tensors",
           [](const Program& self) {
             py::list rows;
             for (const TensorSpec& spec : released([&] { return self.tensors(); })) {
               rows.append(py::make_tuple(text(spec.name), dtype_name(spec.dtype),
                                          to_shape(spec.dims),
                                          reinterpret_cast<uintptr_t>(spec.data)));
             }
             return rows;
           })
      .def(
          "read_tensor",
          [](Program& self, const std::string& name) {
            for (const TensorSpec& spec : released([&] { return self.tensors(); })) {
              if (spec.name != name) continue;
              py::array out(element_type(spec.dtype),
                            std::vector<py::ssize_t>(spec.dims.begin(), spec.dims.end()));
              auto* bytes = static_cast<uint8_t*>(out.mutable_data());
              const auto size_bytes = static_cast<uint64_t>(out.nbytes());
              unlocked([&] { return self.read_tensor(name, bytes, size_bytes); });
              return out;
            }
            raise(Error{Status::UNKNOWN_TENSOR, "the program has no weight \"" + name + "\""});
          },
          "name"_a)
      .def(
          "add_adapter",
          [](Program& self, const std::shared_ptr<Adapter>& adapter, std::string name,
             bool allow_unverified_base, bool allow_partial) {
            const AddOptions options{std::move(name), allow_unverified_base, allow_partial};
            return unlocked([&] { return self.add_adapter(adapter, options); });
          },
          "adapter"_a, "name"_a, "allow_unverified_base"_a, "allow_partial"_a)
      .def(
          "require_signature",
          [](Program& self, const py::bytes& public_key) {
            const PublicKey key = to_key(public_key);
            unlocked([&] { return self.require_signature(key); });
          },
          "public_key"_a)
      .def(
          "remove_adapter",
          [](Program& self, const std::string& name) {
            unlocked([&] { return self.remove_adapter(name); });
          },
          "name"_a)
      .def("adapter_names",
           [](const Program& self) { return released([&] { return self.adapter_names(); }); })
      .def(
          "check_adapter",
          [](Program& self, const std::string& name) {
            unlocked([&] { return self.check_adapter(name); });
          },
          "name"_a)
      .def(
          "switch_to",
          [](Program& self, const std::vector<std::pair<std::string, float>>& members, bool wait) {
            std::vector<Member> set;
            for (const auto& [name, scale] : members) set.push_back({name, scale});
            return to_dict(unlocked([&] { return self.switch_to(set, wait); }));
          },
          "members"_a, "wait"_a)
      .def("hard_revert",
           [](Program& self) { return to_dict(unlocked([&] { return self.hard_revert(); })); })
      .def("verify_base",
           [](Program& self) {
             const VerifyReport report = unlocked([&] { return self.verify_base(); });
             py::list modified;
             for (const ModifiedTensor& tensor : report.modified) {
               modified.append(py::make_tuple(text(tensor.name),
                                              offset_or_none(tensor.first_offset_bytes),
                                              text(tensor.adapter)));
             }
             return py::make_tuple(report.tensors_checked, report.bytes_checked, modified);
           })
      .def("active",
           [](const Program& self) {
             py::list rows;
             for (const Member& member : released([&] { return self.active(); }))
               rows.append(py::make_tuple(text(member.name), member.scale));
             return rows;
           })
      .def("epoch", &Program::epoch, Unlocked())
      .def("digest",
           [](const Program& self) { return to_bytes(released([&] { return self.digest(); })); })
      .def(
          "adapter_pages",
          [](const Program& self, const std::string& name) {
            const AdapterPages pages = unlocked([&] { return self.adapter_pages(name); });
            py::list tensors;
            for (const TensorPages& tensor : pages.tensors) {
              tensors.append(
                  py::make_tuple(text(tensor.tensor), tensor.page_count, tensor.tensor_page_count));
            }
            return py::make_tuple(pages.page_bytes, tensors);
          },
          "name"_a)
      .def("memory",
           [](Program& self) {
             const ProgramMemory memory = unlocked([&] { return self.memory(); });
             return py::dict(
                 "mapped_bytes"_a = memory.mapped_bytes, "private_bytes"_a = memory.private_bytes,
                 "huge_bytes"_a = memory.huge_bytes, "originals_bytes"_a = memory.originals_bytes,
                 "source_read_bytes"_a = memory.source_read_bytes,
                 "source_cold_bytes"_a = memory.source_cold_bytes);
           })
      .def("release_pages",
           [](Program& self) { return unlocked([&] { return self.release_pages(); }); })
      .def("set_max_dirty_bytes", &Program::set_max_dirty_bytes, Unlocked(), "limit_bytes"_a)
      .def("max_dirty_bytes", &Program::max_dirty_bytes, Unlocked())
      .def(
          "set_first_touch",
          [](Program& self, int first_touch) {
            unlocked([&] { return self.set_first_touch(static_cast<FirstTouch>(first_touch)); });
          },
          "first_touch"_a)
      .def(
          "set_originals",
          [](Program& self, int originals) {
            unlocked([&] { return self.set_originals(static_cast<Originals>(originals)); });
          },
          "originals"_a)
      .def("originals",
           [](const Program& self) {
             return static_cast<int>(released([&] { return self.originals(); }));
           })
      .def("first_touch",
           [](const Program& self) {
             return static_cast<int>(released([&] { return self.first_touch(); }));
           })
      .def(
          "set_thread_count",
          [](Program& self, uint32_t count) {
            unlocked([&] { return self.set_thread_count(count); });
          },
          "count"_a)
      .def("thread_count", &Program::thread_count, Unlocked())
      .def("begin_forward", &Program::begin_forward, Unlocked())
      .def("end_forward", &Program::end_forward, Unlocked());
}

PYBIND11_MODULE(_core, module) {
  module.attr("__version__") = SHIRA_VERSION;
  py::list statuses;
#define X(number, name, parent, text) statuses.append(py::make_tuple(number, #name, #parent, text));
#include "shira/status.def"
#undef X
  module.attr("STATUS_TABLE") = py::tuple(statuses);
  module.def(
      "hash128",
      [](const py::array& array) {
        if ((array.flags() & py::array::c_style) == 0)
          throw py::value_error("the array is not C-contiguous");
        const size_t size_bytes = static_cast<size_t>(array.nbytes());
        return to_bytes(released([&] { return hash128(array.data(), size_bytes); }));
      },
      "array"_a);
  module.def("cryptography_available", &cryptography_available);
  module.def("kernels", [] {
    const auto* active = unwrap(kernels::active_kernels());
    py::list rows;
    for (const kernels::Implementation& each : kernels::implementations()) {
      rows.append(py::make_tuple(each.table.isa, each.supported, &each.table == active));
    }
    return rows;
  });
  bind_adapters(module);
  bind_program_file(module);
  bind_weights(module);
  bind_program(module);
}

}  // namespace
}  // namespace shira
