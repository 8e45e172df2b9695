// The extension module shira_runtime._core: pybind11 over the C++ classes, no logic.
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
      "check_ns"_a = report.check_ns, "plan_ns"_a = report.plan_ns, "store_ns"_a = report.store_ns,
      "total_ns"_a = report.total_ns, "epoch"_a = report.epoch);
}

void bind_adapter_file(py::module_& module) {
  py::class_<SectionInfo>(module, "SectionInfo")
      .def_readonly("kind", &SectionInfo::kind)
      .def_readonly("crc32c", &SectionInfo::crc32c)
      .def_readonly("offset_bytes", &SectionInfo::offset_bytes)
      .def_readonly("size_bytes", &SectionInfo::size_bytes)
      .def_property_readonly("sha256",
                             [](const SectionInfo& self) { return to_bytes(self.sha256); });

  using Tensor = AdapterTensor;
  py::class_<Tensor>(module, "AdapterTensor")
      .def_readonly("name", &Tensor::name)
      .def_property_readonly("dtype", [](const Tensor& self) { return dtype_name(self.dtype); })
      .def_property_readonly("shape", [](const Tensor& self) { return to_shape(self.dims); })
      .def_readonly("numel", &Tensor::numel)
      .def_property_readonly("nnz", &Tensor::nnz)
      .def_property_readonly("index_codec",
                             [](const Tensor& self) { return index_codec_name(self.index_codec); })
      .def_readonly("index_param", &Tensor::index_param)
      .def_readonly("unit_count", &Tensor::unit_count)
      .def_readonly("index_bytes", &Tensor::index_bytes)
      .def_property_readonly("value_kind",
                             [](const Tensor& self) { return value_kind_name(self.value_kind); })
      .def_property_readonly("value_dtype",
                             [](const Tensor& self) { return dtype_name(self.value_dtype); })
      .def_property_readonly("value_bytes", &Tensor::value_bytes)
      .def_property_readonly("fingerprint",
                             [](const Tensor& self) { return to_bytes(self.fingerprint); })
      .def_property_readonly("base_digest",
                             [](const Tensor& self) { return to_bytes(self.base_digest); })
      .def("indices", &tensor_indices)
      .def("bits", &tensor_bits)
      .def("values", &tensor_values);

  // The holder is not const because pybind11 knows no holder of const; every bound member is const.
  const auto hold = [](const std::shared_ptr<const AdapterFile>& file) {
    return std::const_pointer_cast<AdapterFile>(file);
  };
  py::class_<AdapterFile, std::shared_ptr<AdapterFile>>(module, "AdapterFile")
      .def_static(
          "open",
          [hold](const std::string& path) {
            return hold(unlocked([&] { return AdapterFile::open(path); }));
          },
          "path"_a)
      .def_static(
          "from_bytes",
          [hold](const py::bytes& data, const std::string& label) {
            char* bytes = nullptr;
            py::ssize_t size_bytes = 0;
            if (PyBytes_AsStringAndSize(data.ptr(), &bytes, &size_bytes) != 0)
              throw py::error_already_set();
            return hold(unlocked([&] {
              return AdapterFile::from_bytes(bytes, static_cast<size_t>(size_bytes), label);
            }));
          },
          "data"_a, "label"_a)
      .def_property_readonly("path", [](const AdapterFile& self) { return text(self.path()); })
      .def_property_readonly("name", &AdapterFile::name)
      .def_property_readonly("is_bound", &AdapterFile::is_bound)
      .def_property_readonly("metadata_json",
                             [](const AdapterFile& self) { return text(self.metadata_json()); })
      .def_property_readonly(
          "content_digest", [](const AdapterFile& self) { return to_bytes(self.content_digest()); })
      .def_property_readonly("file_bytes", &AdapterFile::file_bytes)
      .def_property_readonly("entry_count", &AdapterFile::entry_count)
      .def_property_readonly("version",
                             [](const AdapterFile& self) {
                               return py::make_tuple(self.version_major(), self.version_minor());
                             })
      .def_property_readonly("sections", &AdapterFile::sections)
      .def_property_readonly("tensors", &AdapterFile::tensors);
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
             for (const TensorSpec& spec : self.tensors()) {
               rows.append(py::make_tuple(text(spec.name), dtype_name(spec.dtype),
                                          to_shape(spec.dims),
                                          reinterpret_cast<uintptr_t>(spec.data)));
             }
             return rows;
           })
      .def(
          "add_adapter",
          [](Program& self, const std::shared_ptr<AdapterFile>& file, std::string name,
             bool allow_unverified_base, bool allow_partial) {
            const AddOptions options{std::move(name), allow_unverified_base, allow_partial};
            return unlocked([&] { return self.add_adapter(file, options); });
          },
          "file"_a, "name"_a, "allow_unverified_base"_a, "allow_partial"_a)
      .def(
          "remove_adapter",
          [](Program& self, const std::string& name) {
            unlocked([&] { return self.remove_adapter(name); });
          },
          "name"_a)
      .def("adapter_names", &Program::adapter_names, Unlocked())
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
  module.def("kernels", [] {
    const auto* active = unwrap(kernels::active_kernels());
    py::list rows;
    for (const kernels::Implementation& each : kernels::implementations()) {
      rows.append(py::make_tuple(each.table->isa, each.supported, each.table == active));
    }
    return rows;
  });
  bind_adapter_file(module);
  bind_program_file(module);
  bind_program(module);
}

}  // namespace
}  // namespace shira
