// AdapterFile: an opened and wholly validated .shb file (docs/FORMAT.md).
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/dtype.h"
#include "base/hash.h"
#include "base/result.h"
#include "format/index_codec.h"
#include "format/index_list.h"

namespace shira {

enum class ValueKind : uint8_t { target = 0, delta = 1 };

const char* value_kind_name(ValueKind kind);  // "target", "delta"

/// One tensor of an adapter. Pointers into the file's bytes live as long as the AdapterFile.
struct AdapterTensor {
  std::string name;  // FQN in the program
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims;  // row-major shape
  uint64_t numel = 0;
  IndexList index;
  IndexCodec index_codec = IndexCodec::gaps8;
  uint32_t index_param = 0;
  uint32_t unit_count = 0;
  uint64_t index_bytes = 0;  // of the coded stream
  ValueKind value_kind = ValueKind::target;
  Dtype value_dtype = Dtype::f32;
  const uint8_t* values = nullptr;  // (nnz,) of value_dtype, aligned to 8 bytes
  Hash128 fingerprint{};            // meaningful when the adapter is bound
  Hash128 base_digest{};

  uint64_t nnz() const { return index.entry_count; }
  uint64_t value_bytes() const { return nnz() * dtype_bytes(value_dtype); }
};

/// One row of the section table, for inspection.
struct SectionInfo {
  uint32_t kind = 0;
  uint32_t crc32c = 0;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  std::array<uint8_t, 32> sha256{};
};

/// Immutable once opened, so it may be shared between threads and programs.
class AdapterFile {
 public:
  /// Reads the whole file into owned memory (a file that changes or shrinks later cannot hurt) and
  /// validates it. Errors carry `path` and the byte offset of the offending field. Not a regular
  /// file, unreadable: IO_ERROR.
  static Result<std::shared_ptr<const AdapterFile>> open(const std::string& path);

  /// The same over bytes that are copied; `label` stands for the path in errors.
  static Result<std::shared_ptr<const AdapterFile>> from_bytes(const void* bytes, size_t size_bytes,
                                                               const std::string& label);

  const std::string& path() const { return path_; }
  const std::string& name() const { return name_; }
  bool is_bound() const { return bound_; }  // every tensor has a fingerprint
  const std::vector<AdapterTensor>& tensors() const { return tensors_; }
  const std::string& metadata_json() const { return metadata_; }
  const std::array<uint8_t, 32>& content_digest() const { return content_digest_; }
  const std::vector<SectionInfo>& sections() const { return sections_; }
  uint64_t file_bytes() const { return bytes_.size(); }
  uint64_t entry_count() const;  // sum of nnz
  uint16_t version_major() const { return version_major_; }
  uint16_t version_minor() const { return version_minor_; }

  AdapterFile(const AdapterFile&) = delete;
  AdapterFile& operator=(const AdapterFile&) = delete;

 private:
  friend class AdapterParser;
  AdapterFile() = default;

  std::string path_;
  Array<uint8_t> bytes_;
  uint16_t version_major_ = 0;
  uint16_t version_minor_ = 0;
  std::string name_;
  bool bound_ = false;
  std::vector<AdapterTensor> tensors_;
  std::string metadata_;
  std::array<uint8_t, 32> content_digest_{};
  std::vector<SectionInfo> sections_;
};

}  // namespace shira
