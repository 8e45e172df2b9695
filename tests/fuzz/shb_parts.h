// A .shb file taken apart, so that a part can be changed and the rest be made to fit again.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace shira::fuzz {

using Bytes = std::vector<uint8_t>;

/// A row of a table and the stream that it describes, if any.
struct Row {
  Bytes fields;
  Bytes stream;
};

/// One section. Those with tables are kept as rows: ADAPTERS and TENSORS (the value streams of
/// TENSORS belong to the VALUES sections), INDEX (with its streams).
struct Section {
  uint32_t kind = 0;  // as found; the fields of `row` may be changed
  uint32_t tier = 0;
  Bytes row;   // of the section table
  Bytes body;  // of a section without a table
  std::vector<Row> rows;
};

/// Any of it may be nonsense: the fields are those of the file, wherever they were.
struct ShbParts {
  Bytes header;
  std::vector<Section> sections;

  /// The rows of the first section of this kind and tier; null if there is none.
  std::vector<Row>* rows(uint32_t kind, uint32_t tier = 0);

  /// The name that a row of ADAPTERS or TENSORS points to.
  std::string name_of(const Row& row) const;
};

/// Nothing when the file has no section table that could be one.
std::optional<ShbParts> take_apart(const uint8_t* data, size_t size_bytes);

/// Makes counts and sizes agree with each other: of entries, elements, values.
void make_agree(ShbParts* parts);

/// Lays everything out without holes, and sets offsets, sizes, counts of rows and checksums.
Bytes put_together(ShbParts parts);

/// Corrects the checksums of the sections that lie inside the file, of the table and the header.
/// What is too short or has no plausible section table stays as it is.
void seal(uint8_t* data, size_t size_bytes);

}  // namespace shira::fuzz
