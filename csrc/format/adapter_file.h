// AdapterFile: an opened and wholly validated .shb file (docs/FORMAT.md), and the adapters in it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/array.h"
#include "base/dtype.h"
#include "base/hash.h"
#include "base/result.h"
#include "base/signature.h"
#include "format/index_codec.h"
#include "format/index_list.h"
#include "format/mask_rule.h"
#include "format/value_codec.h"

namespace shira {

class AdapterFile;
class IndexTable;

enum class ValueKind : uint8_t { target = 0, delta = 1 };

const char* value_kind_name(ValueKind kind);  // "target", "delta"

/// Where a tensor's positions come from, for inspection.
struct IndexInfo {
  IndexCodec codec = IndexCodec::gaps8;
  uint8_t rice_bits = 0;
  uint32_t block_length = 0;
  uint32_t unit_count = 0;
  uint64_t stream_bytes = 0;
  uint32_t tier = 0;
  uint32_t index_number = 0;  // equal numbers of one tier share their positions
};

/// One tensor of an adapter: all its rows in the opened tiers, merged. Pointers into the file's
/// bytes live as long as the AdapterFile.
struct AdapterTensor {
  std::string name;  // FQN in the program
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims;  // row-major shape
  uint64_t numel = 0;
  uint64_t nnz = 0;

  /// The positions, shared by all tensors that share them in the file. Null for a derived mask:
  /// `rule` then says how to find them once a tensor is there to bind to.
  std::shared_ptr<const IndexList> index;
  std::optional<MaskRule> rule;
  std::vector<IndexInfo> parts;  // one per opened tier that has entries of the tensor

  ValueKind value_kind = ValueKind::target;
  ValueCodec value_codec = ValueCodec::f16;
  uint64_t value_stream_bytes = 0;  // of all parts
  /// (nnz,) of value_dtype, aligned to 8 bytes: the file's own, or unpacked (scaled codecs to f32,
  /// I4 to one byte per code).
  const uint8_t* values = nullptr;
  Dtype value_dtype = Dtype::f32;

  Hash128 fingerprint{};  // of the opened tiers; meaningful when the adapter is bound
  Hash128 base_digest{};
};

/// One adapter of a file.
struct Adapter {
  const AdapterFile* file = nullptr;
  uint32_t number = 0;  // in the file
  std::string name;
  bool is_bound = false;               // every tensor has a fingerprint
  std::vector<AdapterTensor> tensors;  // ascending by name
  std::string_view metadata_json;      // a NUL follows

  uint64_t entry_count() const;  // sum of nnz
};

/// One row of the section table, for inspection.
struct SectionInfo {
  uint32_t kind = 0;
  uint32_t crc32c = 0;
  uint64_t offset_bytes = 0;
  uint64_t size_bytes = 0;
  uint32_t tier = 0;
  uint32_t index_count = 0;
  std::array<uint8_t, 32> sha256{};
};

struct OpenOptions {
  uint32_t tier_count = 0;  // open only the first tiers; 0: all
  /// Check digests and signature against this key before anything but the section table is looked
  /// at. NOT_SIGNED, WRONG_KEY, DIGEST_MISMATCH, BAD_SIGNATURE, NO_CRYPTOGRAPHY.
  std::optional<PublicKey> public_key;
  /// Files whose index sections this one may refer to, opened with keep_content.
  std::vector<std::shared_ptr<const AdapterFile>> index_sources;
  /// Keep the coded bytes beside what was decoded from them. Without, their memory is given back
  /// while they are decoded (on Linux), which is best for a file that is only to be applied; other
  /// files cannot refer to it then, and check_digests() works only if `public_key` was given. Of a
  /// signed file that is opened without a key they are kept in any case, so that check_signature()
  /// can always be answered.
  bool keep_content = true;
  /// 1 to ThreadPool::kMaxThreads: how many threads read, check and decode. A small file is opened
  /// by one, and one tensor decoded by one. The answer never depends on it.
  uint32_t thread_count = 1;
  /// A smaller file is opened by one thread: starting another takes as long as reading this. What
  /// each thread does at a time is a fraction of it. REQUIRES: 32 or more; another one is for
  /// tests.
  uint64_t threads_from_bytes = uint64_t{1} << 20;
};

/// Immutable once opened, so it may be shared between threads and programs.
class AdapterFile {
 public:
  /// Reads the whole file into owned memory (a file that changes or shrinks later cannot hurt) and
  /// validates it. Errors carry `path` and the byte offset of the offending field. Not a regular
  /// file, unreadable: IO_ERROR. More tiers asked for than there are: INVALID_ARGUMENT.
  static Result<std::shared_ptr<const AdapterFile>> open(const std::string& path,
                                                         const OpenOptions& options = {});

  /// The same over bytes that are copied; `label` stands for the path in errors.
  static Result<std::shared_ptr<const AdapterFile>> from_bytes(const void* bytes, size_t size_bytes,
                                                               const std::string& label,
                                                               const OpenOptions& options = {});

  const std::string& path() const { return path_; }
  const std::vector<Adapter>& adapters() const { return adapters_; }
  /// Digest of the content as declared; check_digests() proves it.
  const std::array<uint8_t, 32>& content_digest() const { return content_digest_; }
  const std::vector<SectionInfo>& sections() const { return sections_; }
  uint64_t file_bytes() const { return bytes_.size(); }
  uint16_t version_major() const { return version_major_; }
  uint16_t version_minor() const { return version_minor_; }
  uint32_t tier_count() const { return tier_count_; }                 // in the file
  uint32_t opened_tier_count() const { return opened_tier_count_; }   // available here
  const std::optional<PublicKey>& signer() const { return signer_; }  // as the file says
  bool keeps_content() const { return keeps_content_; }
  /// The file's own INDEX sections of the opened tiers, which other files may refer to. None
  /// without the content.
  const std::vector<std::shared_ptr<const IndexTable>>& index_tables() const {
    return index_tables_;
  }

  /// SHA-256 of every section and of header and table. DIGEST_MISMATCH, NO_CRYPTOGRAPHY;
  /// NOT_SUPPORTED without the content, unless opening has checked them.
  Result<void> check_digests() const;
  /// The file was signed with the secret half of `key`: digests, then the signature. NOT_SIGNED,
  /// WRONG_KEY, DIGEST_MISMATCH (not without the content), BAD_SIGNATURE, NO_CRYPTOGRAPHY. The key
  /// that the file was opened with costs nothing.
  Result<void> check_signature(const PublicKey& key) const;

  AdapterFile(const AdapterFile&) = delete;
  AdapterFile& operator=(const AdapterFile&) = delete;

 private:
  friend class AdapterParser;
  AdapterFile() = default;

  std::string path_;
  Array<uint8_t> bytes_;
  uint16_t version_major_ = 0;
  uint16_t version_minor_ = 0;
  uint32_t tier_count_ = 0;
  uint32_t opened_tier_count_ = 0;
  std::vector<Adapter> adapters_;
  std::array<uint8_t, 32> content_digest_{};
  std::optional<PublicKey> signer_;
  std::optional<PublicKey> passed_key_;  // that digests and signature were checked against
  bool keeps_content_ = true;
  std::vector<SectionInfo> sections_;
  std::vector<std::shared_ptr<const IndexTable>> index_tables_;
  Array<char> metadata_;                  // of all adapters, a NUL behind each
  std::vector<Array<uint8_t>> unpacked_;  // what the tensors' `values` point to outside bytes_
};

/// The `number`-th adapter as a pointer that keeps its file alive. REQUIRES: it exists.
std::shared_ptr<const Adapter> adapter_of(const std::shared_ptr<const AdapterFile>& file,
                                          uint32_t number);

}  // namespace shira
