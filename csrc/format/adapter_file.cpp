// Brings the bytes of a .shb file into owned memory and has them parsed.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_file.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/file.h"
#include "format/adapter_digests.h"
#include "format/adapter_parser.h"
#include "format/header.h"
#include "format/layout.h"

namespace shira {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are handed out as they stand");

using AdapterPointer = std::shared_ptr<const AdapterFile>;

/// Both sources read exactly `size_bytes` bytes from `offset_bytes` on.
struct FileSource {
  const File& file;

  Result<void> read(uint64_t offset_bytes, uint8_t* out, size_t size_bytes) const {
    SHIRA_ASSIGN(const uint64_t done_bytes, file.read_at(offset_bytes, size_bytes, out));
    if (done_bytes == size_bytes) return {};
    return file.error(Status::IO_ERROR, "the file became shorter while it was read");
  }
  Result<void> check_fits_memory(uint64_t size_bytes) const {
    return file.check_fits_memory(size_bytes);
  }
};

struct MemorySource {
  const uint8_t* bytes;

  Result<void> read(uint64_t offset_bytes, uint8_t* out, size_t size_bytes) const {
    if (size_bytes > 0) std::memcpy(out, bytes + offset_bytes, size_bytes);
    return {};
  }
  Result<void> check_fits_memory(uint64_t /*size_bytes*/) const { return {}; }  // it did already
};

/// Reads every byte once and looks at the copy only: a source that changes meanwhile cannot show
/// one table to the checks of the sections and another one to those of the signature.
template <typename Source>
Result<AdapterPointer> copy_and_parse(const Source& source, uint64_t file_bytes,
                                      const std::string& label, const OpenOptions& options) {
  // A file of another kind, or whose sections do not cover it, is refused before memory is spent.
  std::array<uint8_t, layout::kMaxSectionTableEnd> start;
  const auto start_bytes = static_cast<size_t>(std::min<uint64_t>(file_bytes, start.size()));
  SHIRA_TRY(source.read(0, start.data(), start_bytes));
  const ByteReader reader(start.data(), start_bytes);
  SHIRA_ASSIGN(const Header header, read_header(reader, file_bytes));
  SHIRA_ASSIGN(std::vector<SectionInfo> sections, read_section_table(header, reader, file_bytes));
  SHIRA_TRY(source.check_fits_memory(file_bytes));
  SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(static_cast<size_t>(file_bytes)));
  std::memcpy(bytes.data(), start.data(), start_bytes);
  SHIRA_TRY(source.read(start_bytes, bytes.data() + start_bytes, bytes.size() - start_bytes));
  return AdapterParser::parse(std::move(bytes), label, header, std::move(sections), options);
}

Result<AdapterPointer> open_and_parse(const std::string& path, const OpenOptions& options) {
  SHIRA_ASSIGN(const File file, File::open(path));
  SHIRA_ASSIGN(const FileState state, file.state());
  return copy_and_parse(FileSource{file}, state.size_bytes, path, options);
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
  const MemorySource source{static_cast<const uint8_t*>(bytes)};
  return with_label(copy_and_parse(source, size_bytes, label, options), label);
}

Result<void> AdapterFile::check_digests() const {
  if (passed_key_) return {};
  if (!keeps_content_) {
    return Error{Status::NOT_SUPPORTED,
                 "the digests cannot be computed: the file was opened without keep_content", path_};
  }
  return with_label(check_file_digests({bytes_.data(), bytes_.size()}, sections_), path_);
}

Result<void> AdapterFile::check_signature(const PublicKey& key) const {
  if (passed_key_ == key) return {};
  const ByteReader file(bytes_.data(), bytes_.size());
  // Without its content the file is unsigned or has passed its signer's key.
  return with_label(
      keeps_content_ ? check_file_signature(file, sections_, key) : check_signer(file, key), path_);
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
