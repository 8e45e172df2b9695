// Reading .pte and .ptd files: their header, their tables, and what the constants have in common.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_file.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "attach/program_tables.h"
#include "base/array.h"
#include "base/byte_reader.h"
#include "base/checked_math.h"

namespace shira {
namespace {

constexpr size_t kHeadBytes = 64;                    // holds either header, with room to grow
constexpr uint64_t kMaxFlatbufferBytes = INT32_MAX;  // its offsets are signed, of 32 bits
constexpr const char* kUnnamed = "(an unnamed constant)";

Result<void> check_flatbuffer_size(const ProgramHead& head, uint64_t offset_bytes,
                                   const std::string& path) {
  if (head.flatbuffer_end_bytes <= kMaxFlatbufferBytes) return {};
  return bad_program_file(
      path, offset_bytes,
      "the flatbuffer ends at byte " + std::to_string(head.flatbuffer_end_bytes) +
          ", and a flatbuffer has at most " + std::to_string(kMaxFlatbufferBytes) + " bytes");
}

Result<ProgramHead> parse_head(const ByteReader& head, uint64_t file_bytes,
                               const std::string& path) {
  constexpr uint64_t kIdentifier = 4;
  constexpr uint64_t kHeader = 8;
  const auto has = [&head](uint64_t offset, const char* text) {
    return head.contains(offset, 4) && memcmp(head.data() + offset, text, 4) == 0;
  };
  ProgramHead result;
  result.is_ptd = has(kIdentifier, "FT01");
  if (!result.is_ptd && !has(kIdentifier, "ET12")) {
    return bad_program_file(path, kIdentifier,
                            "the file is neither a .pte (ET12) nor a .ptd (FT01)");
  }
  if (!result.is_ptd && !has(kHeader, "eh00")) {
    // A .pte without segments has no such header; with segments it would be refused below.
    result.flatbuffer_end_bytes = file_bytes;
    SHIRA_TRY(check_flatbuffer_size(result, kIdentifier, path));
    return result;
  }
  // FH01: magic, length, flatbuffer offset and size, segment offset and size. eh00: magic, length,
  // flatbuffer size, segment offset; a longer header has more fields behind.
  const uint32_t needed_bytes = result.is_ptd ? 40 : 24;
  if (!has(kHeader, result.is_ptd ? "FH01" : "eh00") || head.u32(kHeader + 4) < needed_bytes ||
      !head.contains(kHeader, needed_bytes)) {
    return bad_program_file(
        path, kHeader,
        "the extended header that says where the segments are is missing or too short");
  }
  const uint64_t start_bytes = result.is_ptd ? head.u64(kHeader + 8) : 0;
  const uint64_t sizes = kHeader + (result.is_ptd ? 16 : 8);
  result.segments_offset_bytes = head.u64(sizes + 8);
  if (!checked_add(start_bytes, head.u64(sizes), &result.flatbuffer_end_bytes)) {
    return bad_program_file(path, sizes, "the size of the flatbuffer overflows");
  }
  if (result.flatbuffer_end_bytes > file_bytes) {
    return truncated_program_file(path, result.flatbuffer_end_bytes, file_bytes);
  }
  SHIRA_TRY(check_flatbuffer_size(result, sizes, path));
  return result;
}

/// Sorts by name. A program may describe a constant several times: once for each method, and once
/// for each view of it, which has another shape; the constant itself comes first and is kept. One
/// name for different constants stays as one tensor that no adapter can patch.
void merge_names(std::vector<ProgramTensor>* tensors) {
  std::stable_sort(tensors->begin(), tensors->end(),
                   [](const auto& a, const auto& b) { return a.name < b.name; });
  size_t kept = 0;
  for (ProgramTensor& tensor : *tensors) {
    if (ProgramTensor* first = kept == 0 ? nullptr : &(*tensors)[kept - 1];
        first != nullptr && !tensor.name.empty() && first->name == tensor.name) {
      if (!first->same_bytes_as(tensor)) {
        first->patchable = false;
        first->why_not = "the program gives this name to different constants";
      }
      continue;
    }
    if (&(*tensors)[kept] != &tensor) (*tensors)[kept] = std::move(tensor);
    ++kept;
  }
  tensors->erase(tensors->begin() + static_cast<std::ptrdiff_t>(kept), tensors->end());
}

/// Finds constants with bytes in common: the exporter stores equal contents once, so that two names
/// (or a name and a constant without one) may stand for the same bytes.
void mark_shared_storage(std::vector<ProgramTensor>* tensors) {
  std::vector<ProgramTensor*> order;
  for (ProgramTensor& tensor : *tensors) {
    if (tensor.size_bytes != 0) order.push_back(&tensor);
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto* a, const auto* b) { return a->offset_bytes < b->offset_bytes; });
  const auto mark = [](ProgramTensor* tensor, const ProgramTensor& other) {
    if (tensor->same_bytes_as(other)) {
      tensor->shares_storage_with = other.name.empty() ? kUnnamed : other.name;
    } else {
      tensor->patchable = false;
      tensor->why_not =
          "its bytes overlap those of " + (other.name.empty() ? kUnnamed : other.name);
    }
  };
  ProgramTensor* furthest = nullptr;  // of those so far, the one that ends last
  for (ProgramTensor* tensor : order) {
    if (furthest != nullptr && tensor->offset_bytes < furthest->end_bytes()) {
      mark(tensor, *furthest);
      mark(furthest, *tensor);
    }
    if (furthest == nullptr || tensor->end_bytes() > furthest->end_bytes()) {
      furthest = tensor;
    }
  }
}

Result<ProgramFile> parse_tables(const ProgramHead& head, const uint8_t* bytes, uint64_t file_bytes,
                                 const std::string& path) {
  ProgramFile file;
  file.path = path;
  file.file_bytes = file_bytes;
  file.is_ptd = head.is_ptd;
  SHIRA_TRY(read_program_tables(head, bytes, &file));
  merge_names(&file.tensors);
  mark_shared_storage(&file.tensors);
  const auto named = std::find_if(file.tensors.begin(), file.tensors.end(),
                                  [](const ProgramTensor& t) { return !t.name.empty(); });
  file.tensors.erase(file.tensors.begin(), named);
  return file;
}

}  // namespace

Result<ProgramFile> parse_program_file(const uint8_t* bytes, uint64_t size_bytes,
                                       const std::string& label) {
  SHIRA_ASSIGN(const ProgramHead head,
               parse_head(ByteReader(bytes, static_cast<size_t>(size_bytes)), size_bytes, label));
  return parse_tables(head, bytes, size_bytes, label);
}

Result<ProgramFile> read_program_file(const File& file) {
  SHIRA_ASSIGN(const FileState state, file.state());
  uint8_t head_bytes[kHeadBytes];
  SHIRA_ASSIGN(const uint64_t head_size, file.read_at(0, kHeadBytes, head_bytes));
  SHIRA_ASSIGN(const ProgramHead head,
               parse_head(ByteReader(head_bytes, static_cast<size_t>(head_size)), state.size_bytes,
                          file.path()));
  SHIRA_TRY(file.check_fits_memory(head.flatbuffer_end_bytes));
  SHIRA_ASSIGN(Array<uint8_t> tables,
               Array<uint8_t>::make(static_cast<size_t>(head.flatbuffer_end_bytes)));
  SHIRA_ASSIGN(const uint64_t got, file.read_at(0, head.flatbuffer_end_bytes, tables.data()));
  if (got != head.flatbuffer_end_bytes)
    return truncated_program_file(file.path(), head.flatbuffer_end_bytes, got);
  return parse_tables(head, tables.data(), state.size_bytes, file.path());
}

Result<ProgramFile> read_program_file(const std::string& path) {
  SHIRA_ASSIGN(const File file, File::open(path));
  return read_program_file(file);
}

}  // namespace shira
