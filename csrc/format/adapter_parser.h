// AdapterParser: from the bytes of a .shb file to an AdapterFile, by the steps of docs/FORMAT.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/array_pool.h"
#include "base/spent_bytes.h"
#include "format/adapter_file.h"
#include "format/adapter_steps.h"
#include "format/adapter_tiers.h"
#include "format/file_bytes.h"

namespace shira {

class AdapterParser {
 public:
  /// Steps 3 to 10, and digests and signature before them if there is a key. Errors carry tensor
  /// and offset; the label is the caller's to add.
  static Result<std::shared_ptr<const AdapterFile>> parse(FileBytes bytes, const std::string& label,
                                                          const OpenOptions& options);

 private:
  /// Values that are unpacked when there is a place for all of them.
  struct Packed {
    const ValueStream* stream = nullptr;
    uint8_t* out = nullptr;
  };

  AdapterParser(AdapterFile* file, FileBytes* bytes);

  Result<void> run_steps(const OpenOptions& options);
  Result<void> choose_tiers(const OpenOptions& options);

  // What was checked, as the classes that users see.
  void describe_file();
  Result<void> copy_metadata();
  Result<void> build_adapters();
  Result<void> build_tensor(uint32_t last_row, AdapterTensor* tensor);
  Result<void> take_positions(const std::vector<uint32_t>& row_numbers, AdapterTensor* tensor);
  Result<void> take_values(const std::vector<uint32_t>& row_numbers, const IndexLists& lists,
                           AdapterTensor* tensor);
  Result<void> merge_values_of(const std::vector<uint32_t>& row_numbers, const IndexLists& lists,
                               AdapterTensor* tensor);
  Result<void> unpack_all();

  AdapterFile& file_;
  ParsedFile parsed_;
  ArrayPool value_pool_;
  std::vector<Packed> packed_;
  std::vector<SpentBytes> spent_values_;  // of merged ones, by tier, in the order of VALUES
  /// By the lists of the tiers: adapters that share positions share the merged ones too.
  std::map<std::vector<const IndexList*>, std::shared_ptr<const IndexList>> merged_;
};

}  // namespace shira
