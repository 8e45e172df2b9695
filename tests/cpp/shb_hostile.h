// The catalogue of hostile .shb files: each breaks one rule and names the status and offset due.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "shb_hostile_streams.h"
#include "shb_hostile_tables.h"

namespace shira::testing {

inline OpenOptions hostile_sources() {
  OpenOptions options;
  for (const Bytes& file : {sample(), build_adapter(derived_input())}) {
    options.index_sources.push_back(read(file).value());
  }
  return options;
}

inline std::vector<HostileFile> hostile_files() {
  Catalogue catalogue;
  add_hostile_headers(&catalogue);
  add_hostile_sizes(&catalogue);
  add_hostile_section_tables(&catalogue);
  add_hostile_adapter_rows(&catalogue);
  add_hostile_names(&catalogue);
  add_hostile_tensor_types(&catalogue);
  add_hostile_shapes(&catalogue);
  add_hostile_tensor_counts(&catalogue);
  add_hostile_tiers(&catalogue);
  add_hostile_metadata(&catalogue);
  add_hostile_index_tables(&catalogue);
  add_hostile_references(&catalogue);
  add_hostile_positions(&catalogue);
  add_hostile_values(&catalogue);
  return catalogue.files;
}

}  // namespace shira::testing
