// Brings the bytes of a .shb file into owned memory and has them parsed.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/file.h"
#include "format/adapter_parser.h"
#include "format/layout.h"

namespace shira {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are handed out as they stand");

using AdapterPointer = std::shared_ptr<const AdapterFile>;

/// Reads exactly `size_bytes` bytes.
Result<void> read_exactly(const File& file, uint64_t offset_bytes, uint8_t* out,
                          size_t size_bytes) {
  SHIRA_ASSIGN(const uint64_t done_bytes, file.read_at(offset_bytes, size_bytes, out));
  if (done_bytes == size_bytes) return {};
  return file.error(Status::IO_ERROR, "the file became shorter while it was read");
}

Result<AdapterPointer> read_and_parse(const std::string& path) {
  SHIRA_ASSIGN(const File file, File::open(path));
  SHIRA_ASSIGN(const FileState state, file.state());
  const uint64_t file_bytes = state.size_bytes;
  uint8_t header[layout::kHeaderBytes] = {};
  const auto header_bytes = static_cast<size_t>(std::min(file_bytes, layout::kHeaderBytes));
  SHIRA_TRY(read_exactly(file, 0, header, header_bytes));
  SHIRA_TRY(check_header(ByteReader(header, header_bytes), file_bytes));
  if (file_bytes > SIZE_MAX) {
    return Error{Status::OUT_OF_MEMORY, "the file does not fit the address space"};
  }
  SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(static_cast<size_t>(file_bytes)));
  std::memcpy(bytes.data(), header, header_bytes);
  SHIRA_TRY(
      read_exactly(file, header_bytes, bytes.data() + header_bytes, bytes.size() - header_bytes));
  return AdapterParser::parse(std::move(bytes), path);
}

Result<AdapterPointer> copy_and_parse(const void* source, size_t size_bytes,
                                      const std::string& label) {
  const auto* source_bytes = static_cast<const uint8_t*>(source);
  SHIRA_TRY(check_header(ByteReader(source_bytes, size_bytes), size_bytes));
  SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(size_bytes));
  std::memcpy(bytes.data(), source_bytes, size_bytes);
  return AdapterParser::parse(std::move(bytes), label);
}

Result<AdapterPointer> with_label(Result<AdapterPointer> result, const std::string& label) {
  if (!result.ok()) result.error().file = label;
  return result;
}

}  // namespace

const char* value_kind_name(ValueKind kind) {
  return kind == ValueKind::target ? "target" : "delta";
}

Result<std::shared_ptr<const AdapterFile>> AdapterFile::open(const std::string& path) {
  return with_label(read_and_parse(path), path);
}

Result<std::shared_ptr<const AdapterFile>> AdapterFile::from_bytes(const void* bytes,
                                                                   size_t size_bytes,
                                                                   const std::string& label) {
  return with_label(copy_and_parse(bytes, size_bytes, label), label);
}

uint64_t AdapterFile::entry_count() const {
  uint64_t count = 0;
  for (const AdapterTensor& tensor : tensors_) count += tensor.nnz();
  return count;
}

}  // namespace shira
