// The part of shira_runtime._core about adapter files: what is in them, as Python objects and
// arrays. SPDX-License-Identifier: Apache-2.0
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "format/adapter_file.h"
#include "format/mask_rule.h"
#include "python/convert.h"

using namespace py::literals;

namespace shira {
namespace {

// pybind11 knows no holder of const; every bound member is const.
template <typename T>
std::shared_ptr<T> hold(const std::shared_ptr<const T>& object) {
  return std::const_pointer_cast<T>(object);
}

using Sources = std::vector<std::shared_ptr<AdapterFile>>;

OpenOptions to_options(uint32_t tier_count, const std::optional<py::bytes>& public_key,
                       const Sources& index_sources, bool keep_content, uint32_t thread_count) {
  OpenOptions options;
  options.thread_count = thread_count;
  options.keep_content = keep_content;
  options.tier_count = tier_count;
  if (public_key) options.public_key = to_key(*public_key);
  options.index_sources.assign(index_sources.begin(), index_sources.end());
  return options;
}

// The bytes of a base tensor, whose dtype numpy may know under another name.
const void* base_bytes(const AdapterTensor& tensor, const std::optional<py::array>& base) {
  const auto invalid = [&](std::string message) {
    return Error{Status::INVALID_ARGUMENT, std::move(message), {}, tensor.name};
  };
  if (!base) {
    raise(invalid("the positions are those of the largest base values: give the base tensor"));
  }
  const char kind = base->dtype().kind();
  const bool is_dtype = tensor.dtype == Dtype::bf16 ? kind == 'V' || kind == 'u' : kind == 'f';
  if (static_cast<size_t>(base->itemsize()) != dtype_bytes(tensor.dtype) || !is_dtype ||
      static_cast<uint64_t>(base->size()) != tensor.numel ||
      (base->flags() & py::array::c_style) == 0) {
    raise(invalid("the base tensor must be a C-contiguous array of " +
                  std::to_string(tensor.numel) + " elements of " + dtype_name(tensor.dtype)));
  }
  return base->data();
}

// REQUIRES: the tensor has a rule.
Result<IndexList> find_mask(const AdapterTensor& tensor, const void* base) {
  const MaskRule& rule = *tensor.rule;  // NOLINT(bugprone-unchecked-optional-access)
  if (base == nullptr) return expand_mask(rule);
  return select_top_magnitude(rule, tensor.dtype, base);
}

// (nnz,) uint32, ascending
py::array_t<uint32_t> tensor_indices(const AdapterTensor& tensor,
                                     const std::optional<py::array>& base) {
  IndexList derived;
  if (tensor.rule) {
    const bool needs_base = tensor.rule->codec == IndexCodec::top_magnitude;
    const void* bytes = needs_base ? base_bytes(tensor, base) : nullptr;
    derived = unlocked([&] { return find_mask(tensor, bytes); });
  }
  const IndexList& list = tensor.rule ? derived : *tensor.index;
  py::array_t<uint32_t> indices(static_cast<py::ssize_t>(tensor.nnz));
  uint32_t* out = indices.mutable_data();
  for (size_t i = 0; i < list.entries.size(); ++i) *out++ = list.entries[i];
  for (size_t i = 0; i < list.runs.size(); ++i) {
    const Run& run = list.runs[i];
    for (uint32_t k = 0; k < run.length; ++k) *out++ = run.start + k;
  }
  return indices;
}

// (nnz,) uint32, uint16 or int8: the bits of the values in value_dtype
py::array tensor_bits(const AdapterTensor& tensor) {
  const auto type = tensor.value_dtype == Dtype::f32 ? py::dtype::of<uint32_t>()
                    : is_float(tensor.value_dtype)   ? py::dtype::of<uint16_t>()
                                                     : py::dtype::of<int8_t>();
  return py::array(type, {static_cast<py::ssize_t>(tensor.nnz)}, tensor.values);
}

float widened(const AdapterTensor& tensor, uint64_t i) {
  const auto* halves = reinterpret_cast<const uint16_t*>(tensor.values);
  switch (tensor.value_dtype) {
    case Dtype::f32:
      return reinterpret_cast<const float*>(tensor.values)[i];
    case Dtype::f16:
      return f16_to_f32(halves[i]);
    case Dtype::bf16:
      return bf16_to_f32(halves[i]);
    default:
      return static_cast<float>(static_cast<int8_t>(tensor.values[i]));
  }
}

// (nnz,) float32: widening is exact
py::array_t<float> tensor_values(const AdapterTensor& tensor) {
  py::array_t<float> values(static_cast<py::ssize_t>(tensor.nnz));
  float* out = values.mutable_data();
  for (uint64_t i = 0; i < tensor.nnz; ++i) out[i] = widened(tensor, i);
  return values;
}

void bind_tensor(py::module_& module) {
  py::class_<IndexInfo>(module, "IndexInfo")
      .def_property_readonly("codec",
                             [](const IndexInfo& self) { return index_codec_name(self.codec); })
      .def_readonly("rice_bits", &IndexInfo::rice_bits)
      .def_readonly("block_length", &IndexInfo::block_length)
      .def_readonly("unit_count", &IndexInfo::unit_count)
      .def_readonly("stream_bytes", &IndexInfo::stream_bytes)
      .def_readonly("tier", &IndexInfo::tier)
      .def_readonly("index_number", &IndexInfo::index_number);

  using Tensor = AdapterTensor;
  py::class_<Tensor>(module, "AdapterTensor")
      .def_readonly("name", &Tensor::name)
      .def_property_readonly("dtype", [](const Tensor& self) { return dtype_name(self.dtype); })
      .def_property_readonly("shape", [](const Tensor& self) { return to_shape(self.dims); })
      .def_readonly("numel", &Tensor::numel)
      .def_readonly("nnz", &Tensor::nnz)
      .def_property_readonly("is_derived", [](const Tensor& self) { return self.rule.has_value(); })
      .def_readonly("parts", &Tensor::parts)
      .def_property_readonly("value_kind",
                             [](const Tensor& self) { return value_kind_name(self.value_kind); })
      .def_property_readonly("value_codec",
                             [](const Tensor& self) { return value_codec_name(self.value_codec); })
      .def_property_readonly("value_bits",
                             [](const Tensor& self) { return value_bits(self.value_codec); })
      .def_readonly("value_bytes", &Tensor::value_stream_bytes)
      .def_property_readonly("fingerprint",
                             [](const Tensor& self) { return to_bytes(self.fingerprint); })
      .def_property_readonly("base_digest",
                             [](const Tensor& self) { return to_bytes(self.base_digest); })
      .def("indices", &tensor_indices, "base"_a = py::none())
      .def("bits", &tensor_bits)
      .def("values", &tensor_values);
}

void bind_file(py::module_& module) {
  py::class_<SectionInfo>(module, "SectionInfo")
      .def_readonly("kind", &SectionInfo::kind)
      .def_readonly("crc32c", &SectionInfo::crc32c)
      .def_readonly("offset_bytes", &SectionInfo::offset_bytes)
      .def_readonly("size_bytes", &SectionInfo::size_bytes)
      .def_readonly("tier", &SectionInfo::tier)
      .def_readonly("index_count", &SectionInfo::index_count)
      .def_property_readonly("sha256",
                             [](const SectionInfo& self) { return to_bytes(self.sha256); });

  using File = AdapterFile;
  py::class_<File, std::shared_ptr<File>>(module, "AdapterFile")
      .def_static(
          "open",
          [](const std::string& path, uint32_t tier_count,
             const std::optional<py::bytes>& public_key, const Sources& index_sources,
             bool keep_content, uint32_t thread_count) {
            const OpenOptions options =
                to_options(tier_count, public_key, index_sources, keep_content, thread_count);
            return hold(unlocked([&] { return File::open(path, options); }));
          },
          "path"_a, "tier_count"_a, "public_key"_a, "index_sources"_a, "keep_content"_a = true,
          "thread_count"_a = 1)
      .def_static(
          "from_bytes",
          [](const py::bytes& data, const std::string& label, uint32_t tier_count,
             const std::optional<py::bytes>& public_key, const Sources& index_sources,
             bool keep_content, uint32_t thread_count) {
            char* bytes = nullptr;
            py::ssize_t size_bytes = 0;
            if (PyBytes_AsStringAndSize(data.ptr(), &bytes, &size_bytes) != 0)
              throw py::error_already_set();
            const OpenOptions options =
                to_options(tier_count, public_key, index_sources, keep_content, thread_count);
            return hold(unlocked([&] {
              return File::from_bytes(bytes, static_cast<size_t>(size_bytes), label, options);
            }));
          },
          "data"_a, "label"_a, "tier_count"_a, "public_key"_a, "index_sources"_a,
          "keep_content"_a = true, "thread_count"_a = 1)
      .def_property_readonly("path", [](const File& self) { return text(self.path()); })
      .def_property_readonly("adapters",
                             [](const std::shared_ptr<File>& self) {
                               std::vector<std::shared_ptr<Adapter>> adapters;
                               for (uint32_t i = 0; i < self->adapters().size(); ++i)
                                 adapters.push_back(hold(adapter_of(self, i)));
                               return adapters;
                             })
      .def_property_readonly("content_digest",
                             [](const File& self) { return to_bytes(self.content_digest()); })
      .def_property_readonly("file_bytes", &File::file_bytes)
      .def_property_readonly("version",
                             [](const File& self) {
                               return py::make_tuple(self.version_major(), self.version_minor());
                             })
      .def_property_readonly("tier_count", &File::tier_count)
      .def_property_readonly("opened_tier_count", &File::opened_tier_count)
      .def_property_readonly("signer",
                             [](const File& self) -> std::optional<py::bytes> {
                               if (!self.signer()) return std::nullopt;
                               return to_bytes(*self.signer());
                             })
      .def_property_readonly("sections", &File::sections)
      .def("check_digests",
           [](const File& self) { unlocked([&] { return self.check_digests(); }); })
      .def(
          "check_signature",
          [](const File& self, const py::bytes& public_key) {
            const PublicKey key = to_key(public_key);
            unlocked([&] { return self.check_signature(key); });
          },
          "public_key"_a);
}

void bind_adapter(py::module_& module) {
  py::class_<Adapter, std::shared_ptr<Adapter>>(module, "Adapter")
      .def_readonly("name", &Adapter::name)
      .def_readonly("number", &Adapter::number)
      .def_readonly("is_bound", &Adapter::is_bound)
      .def_property_readonly("entry_count", &Adapter::entry_count)
      .def_property_readonly("metadata_json",
                             [](const Adapter& self) { return text(self.metadata_json); })
      .def_readonly("tensors", &Adapter::tensors);
}

}  // namespace

void bind_adapters(py::module_& module) {
  bind_tensor(module);
  bind_adapter(module);
  bind_file(module);
}

}  // namespace shira
