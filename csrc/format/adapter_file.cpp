// The two ways to open a .shb file, and what can be asked of an opened one.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_file.h"

#include <utility>

#include "base/file.h"
#include "format/adapter_digests.h"
#include "format/adapter_parser.h"
#include "format/file_bytes.h"

namespace shira {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are handed out as they stand");

using AdapterPointer = std::shared_ptr<const AdapterFile>;

Result<void> check_thread_count(const OpenOptions& options) {
  if (options.thread_count >= 1 && options.thread_count <= ThreadPool::kMaxThreads) return {};
  return Error{Status::INVALID_ARGUMENT,
               "the thread count is " + std::to_string(options.thread_count) + ", not in 1 to " +
                   std::to_string(ThreadPool::kMaxThreads)};
}

Result<AdapterPointer> open_and_parse(const std::string& path, const OpenOptions& options) {
  SHIRA_TRY(check_thread_count(options));
  SHIRA_ASSIGN(const File file, File::open(path));
  SHIRA_ASSIGN(FileBytes bytes, read_file_bytes(file, options));
  return AdapterParser::parse(std::move(bytes), path, options);
}

Result<AdapterPointer> copy_and_parse(const void* bytes, size_t size_bytes,
                                      const std::string& label, const OpenOptions& options) {
  SHIRA_TRY(check_thread_count(options));
  SHIRA_ASSIGN(FileBytes copy,
               copy_file_bytes(static_cast<const uint8_t*>(bytes), size_bytes, options));
  return AdapterParser::parse(std::move(copy), label, options);
}

template <typename T>
Result<T> with_label(Result<T> result, const std::string& label) {
  if (!result.ok()) result.error().file = label;
  return result;
}

}  // namespace

const char* value_kind_name(ValueKind kind) {
  return kind == ValueKind::target ? "target" : "delta";
}

Result<std::shared_ptr<const AdapterFile>> AdapterFile::open(const std::string& path,
                                                             const OpenOptions& options) {
  return with_label(open_and_parse(path, options), path);
}

Result<std::shared_ptr<const AdapterFile>> AdapterFile::from_bytes(const void* bytes,
                                                                   size_t size_bytes,
                                                                   const std::string& label,
                                                                   const OpenOptions& options) {
  return with_label(copy_and_parse(bytes, size_bytes, label, options), label);
}

Result<void> AdapterFile::check_digests() const {
  if (passed_key_) return {};
  if (!keeps_content_) {
    return Error{Status::NOT_SUPPORTED,
                 "the digests cannot be computed: the file was opened without keep_content", path_};
  }
  SHIRA_ASSIGN(const std::shared_ptr<ThreadPool> alone, ThreadPool::make(1));
  const ByteReader file(bytes_.data(), bytes_.size());
  return with_label(check_file_digests(file, sections_, alone.get()), path_);
}

Result<void> AdapterFile::check_signature(const PublicKey& key) const {
  if (passed_key_ == key) return {};
  const ByteReader file(bytes_.data(), bytes_.size());
  // Without its content the file is unsigned or has passed its signer's key.
  if (!keeps_content_) return with_label(check_signer(file, key), path_);
  SHIRA_ASSIGN(const std::shared_ptr<ThreadPool> alone, ThreadPool::make(1));
  return with_label(check_file_signature(file, sections_, key, alone.get()), path_);
}

uint64_t Adapter::entry_count() const {
  uint64_t count = 0;
  for (const AdapterTensor& tensor : tensors) count += tensor.nnz;
  return count;
}

std::shared_ptr<const Adapter> adapter_of(const std::shared_ptr<const AdapterFile>& file,
                                          uint32_t number) {
  return {file, &file->adapters()[number]};
}

}  // namespace shira
