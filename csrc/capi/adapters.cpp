// The C ABI of adapter files and of the adapters in them.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <memory>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "capi/convert.h"

namespace {

using namespace shira::capi;
using shira::Error;
using shira::Result;
using shira::Status;

const char* label_or_default(const char* label) { return label == nullptr ? "<memory>" : label; }

using SharedFile = std::shared_ptr<const shira::AdapterFile>;

shira::OpenOptions without_content() {
  shira::OpenOptions options;
  options.keep_content = false;
  return options;
}

Result<shira::OpenOptions> to_options(const shira_open_options* options) {
  shira::OpenOptions known = without_content();
  if (options == nullptr) return known;
  const auto invalid_argument = [](const char* message) {
    return Error{Status::INVALID_ARGUMENT, message};
  };
  if (!fits(options))
    return invalid_argument("options->struct_bytes is not the size of the struct");
  if (!is_understood(options))
    return invalid_argument("options has fields that this version of the library does not know");
  if (options->index_sources == nullptr && options->index_source_count > 0)
    return invalid_argument("options->index_sources is NULL");
  known.tier_count = options->tier_count;
  known.keep_content = options->keep_content != 0;
  if (options->thread_count != 0) known.thread_count = options->thread_count;
  if (options->public_key != nullptr) known.public_key = to_key(options->public_key);
  for (size_t i = 0; i < options->index_source_count; ++i) {
    if (options->index_sources[i] == nullptr) return invalid_argument("an index source is NULL");
    known.index_sources.push_back(options->index_sources[i]->file);
  }
  return known;
}

shira_status give_file(Result<SharedFile> file, shira_file** out, shira_error* error) {
  if (!file.ok()) return fail(file.error(), error);
  return give(new (std::nothrow) shira_file{std::move(file.value())}, out, error);
}

constexpr size_t kNamesInMessage = 8;

shira_status give_only_adapter(Result<SharedFile> file, shira_adapter** out, shira_error* error) {
  if (!file.ok()) return fail(file.error(), error);
  const std::vector<shira::Adapter>& adapters = file.value()->adapters();
  if (adapters.size() > 1) {
    std::string message = "the file holds " + std::to_string(adapters.size()) +
                          " adapters, which shira_file_open and "
                          "shira_file_get_adapter give one by one:";
    for (size_t i = 0; i < std::min(adapters.size(), kNamesInMessage); ++i)
      message += (i == 0 ? " \"" : ", \"") + adapters[i].name + "\"";
    if (adapters.size() > kNamesInMessage) message += ", ...";
    return fail(Error{Status::INVALID_ARGUMENT, std::move(message), file.value()->path()}, error);
  }
  return give(new (std::nothrow) shira_adapter{shira::adapter_of(file.value(), 0)}, out, error);
}

}  // namespace

// ---- adapter files ----

shira_status shira_file_open(const char* path, const shira_open_options* options, shira_file** file,
                             shira_error* error) {
  if (path == nullptr || file == nullptr) return invalid("path or file is NULL", error);
  const Result<shira::OpenOptions> known = to_options(options);
  if (!known.ok()) return fail(known.error(), error);
  return give_file(shira::AdapterFile::open(path, known.value()), file, error);
}

shira_status shira_file_open_memory(const void* bytes, size_t size_bytes, const char* label,
                                    const shira_open_options* options, shira_file** file,
                                    shira_error* error) {
  if (bytes == nullptr || file == nullptr) return invalid("bytes or file is NULL", error);
  const Result<shira::OpenOptions> known = to_options(options);
  if (!known.ok()) return fail(known.error(), error);
  return give_file(
      shira::AdapterFile::from_bytes(bytes, size_bytes, label_or_default(label), known.value()),
      file, error);
}

void shira_file_free(shira_file* file) { delete file; }

shira_status shira_file_get_info(const shira_file* file, shira_file_info* info,
                                 shira_error* error) {
  if (file == nullptr || info == nullptr) return invalid("file or info is NULL", error);
  if (!fits(info)) return invalid("info->struct_bytes is not the size of the struct", error);
  const shira::AdapterFile& source = *file->file;
  shira_file_info known{};
  known.adapter_count = static_cast<uint32_t>(source.adapters().size());
  known.tier_count = source.tier_count();
  known.opened_tier_count = source.opened_tier_count();
  known.is_signed = source.signer() ? 1 : 0;
  known.file_bytes = source.file_bytes();
  std::copy(source.content_digest().begin(), source.content_digest().end(), known.content_digest);
  if (source.signer()) std::copy(source.signer()->begin(), source.signer()->end(), known.signer);
  copy_struct(known, info);
  return succeed(error);
}

shira_status shira_file_get_adapter(const shira_file* file, uint32_t adapter_index,
                                    shira_adapter** adapter, shira_error* error) {
  if (file == nullptr || adapter == nullptr) return invalid("file or adapter is NULL", error);
  if (adapter_index >= file->file->adapters().size())
    return invalid("adapter_index is out of range", error);
  return give(new (std::nothrow) shira_adapter{shira::adapter_of(file->file, adapter_index)},
              adapter, error);
}

// ---- adapters ----

shira_status shira_adapter_open(const char* path, shira_adapter** adapter, shira_error* error) {
  if (path == nullptr || adapter == nullptr) return invalid("path or adapter is NULL", error);
  return give_only_adapter(shira::AdapterFile::open(path, without_content()), adapter, error);
}

shira_status shira_adapter_open_memory(const void* bytes, size_t size_bytes, const char* label,
                                       shira_adapter** adapter, shira_error* error) {
  if (bytes == nullptr || adapter == nullptr) return invalid("bytes or adapter is NULL", error);
  return give_only_adapter(
      shira::AdapterFile::from_bytes(bytes, size_bytes, label_or_default(label), without_content()),
      adapter, error);
}

void shira_adapter_free(shira_adapter* adapter) { delete adapter; }

shira_status shira_adapter_get_info(const shira_adapter* adapter, shira_adapter_info* info,
                                    shira_error* error) {
  if (adapter == nullptr || info == nullptr) return invalid("adapter or info is NULL", error);
  if (!fits(info)) return invalid("info->struct_bytes is not the size of the struct", error);
  const shira::Adapter& source = *adapter->adapter;
  const shira::AdapterFile& file = *source.file;
  shira_adapter_info known{};
  known.name = source.name.c_str();
  known.metadata_json = source.metadata_json.data();
  known.tensor_count = static_cast<uint32_t>(source.tensors.size());
  known.is_bound = source.is_bound ? 1 : 0;
  known.entry_count = source.entry_count();
  known.file_bytes = file.file_bytes();
  std::copy(file.content_digest().begin(), file.content_digest().end(), known.content_digest);
  copy_struct(known, info);
  return succeed(error);
}

shira_status shira_adapter_get_tensor(const shira_adapter* adapter, uint32_t tensor_index,
                                      shira_tensor_info* info, shira_error* error) {
  if (adapter == nullptr || info == nullptr) return invalid("adapter or info is NULL", error);
  if (!fits(info)) return invalid("info->struct_bytes is not the size of the struct", error);
  if (tensor_index >= adapter->adapter->tensors.size())
    return invalid("tensor_index is out of range", error);
  const shira::AdapterTensor& tensor = adapter->adapter->tensors[tensor_index];
  shira_tensor_info known{};
  known.name = tensor.name.c_str();
  known.dtype = static_cast<shira_dtype>(tensor.dtype);
  known.rank = static_cast<uint32_t>(tensor.dims.size());
  std::copy(tensor.dims.begin(), tensor.dims.end(), known.dims);
  known.nnz = tensor.nnz;
  for (const shira::IndexInfo& part : tensor.parts) known.index_bytes += part.stream_bytes;
  known.value_bytes = tensor.value_stream_bytes;
  known.value_codec = shira::value_codec_name(tensor.value_codec);
  known.is_delta = tensor.value_kind == shira::ValueKind::delta ? 1 : 0;
  known.is_derived = tensor.rule ? 1 : 0;
  copy_struct(known, info);
  return succeed(error);
}
