// Reading .pte and .ptd files: their header, their tables, and what the constants have in common.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_file.h"

#include <algorithm>
#include <utility>

#include "attach/program_head.h"
#include "attach/program_tables.h"
#include "base/byte_reader.h"

namespace shira {
namespace {

constexpr const char* kUnnamed = "(an unnamed constant)";

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
  SHIRA_ASSIGN(
      const ProgramHead head,
      parse_program_head(ByteReader(bytes, static_cast<size_t>(size_bytes)), size_bytes, label));
  return parse_tables(head, bytes, size_bytes, label);
}

Result<ProgramFile> read_program_file(const File& file) {
  SHIRA_ASSIGN(const ProgramTables tables, load_program_tables(file));
  return parse_tables(tables.head, tables.flatbuffer.data(), tables.file_bytes, file.path());
}

Result<ProgramFile> read_program_file(const std::string& path) {
  SHIRA_ASSIGN(const File file, File::open(path));
  return read_program_file(file);
}

}  // namespace shira
