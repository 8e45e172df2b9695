// IndexTable: the checked rows of an INDEX section, which other files may refer to.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "base/signature.h"
#include "format/index_codec.h"
#include "format/index_list.h"
#include "format/mask_rule.h"

namespace shira {

/// A row of an index table. Its stream may not have been checked yet.
struct IndexRow {
  uint64_t stream_offset = 0;  // of the stream in the file that holds it
  IndexStream stream;
  /// The decoded positions, for as long as a tensor of any file uses them.
  std::weak_ptr<const IndexList> list;
};

/// Views point into the bytes of the file that holds the section.
class IndexTable {
 public:
  explicit IndexTable(ByteReader section) : section_(section) {}

  std::vector<IndexRow> rows;

  /// SHA-256 of the section, computed once. Thread-safe. NO_CRYPTOGRAPHY.
  Result<Hash256> digest() const;

 private:
  ByteReader section_;
  mutable std::mutex mutex_;
  mutable std::optional<Hash256> digest_;
};

/// Where the positions of a tier come from.
struct TierIndex {
  std::shared_ptr<const IndexTable> table;     // of this file, or of the one referred to
  std::shared_ptr<IndexTable> own;             // null for a reference
  std::vector<std::optional<MaskRule>> rules;  // by row of the table; empty for a tier not opened
};

}  // namespace shira
