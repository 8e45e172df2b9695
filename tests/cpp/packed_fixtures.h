// Weight matrices as ExecuTorch packed them, from tests/data/packed: see README.md there.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "packed/base_matrix.h"

namespace shira::test {

using Bytes = std::vector<uint8_t>;

inline Bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return Bytes(std::istreambuf_iterator<char>(file), {});
}

inline std::string packed_data_path(const std::string& name) {
  return std::string(SHIRA_TESTS_DIR) + "/data/packed/" + name;
}

/// What `target` made of a base, and of the base with `values` at `positions`.
struct PackedPair {
  Bytes base;
  Bytes patched;
};

/// One kind of weight on all targets.
struct PackedFixture {
  BaseMatrix base_matrix() const {
    BaseMatrix base;
    base.name = name;
    base.row_count = row_count;
    base.column_count = column_count;
    base.dtype = dtype;
    base.codes = codes.data();
    base.scales = scales.data();
    base.group_length = group_length;
    base.bias = bias.data();
    return base;
  }

  std::string name;
  uint32_t row_count = 0;
  uint32_t column_count = 0;
  uint32_t group_length = 0;  // of bf16 scales
  Dtype dtype = Dtype::f32;
  Bytes codes, scales, bias;
  std::vector<uint32_t> positions;
  Bytes values;
  std::map<std::string, PackedPair> targets;
};

inline PackedFixture load_packed_fixture(const std::string& name) {
  PackedFixture fixture;
  fixture.name = name;
  fixture.dtype = name == "f32"                ? Dtype::f32
                  : name == "f16"              ? Dtype::f16
                  : name.rfind("int8", 0) == 0 ? Dtype::i8
                                               : Dtype::i4;
  const Bytes file = read_file(packed_data_path(name + ".records"));
  for (size_t at = 0; at < file.size();) {
    uint32_t lengths[2];
    std::memcpy(lengths, &file[at], sizeof(lengths));
    const auto key = file.begin() + static_cast<ptrdiff_t>(at + sizeof(lengths));
    const std::string what(key, key + lengths[0]);
    const Bytes content(key + lengths[0], key + lengths[0] + lengths[1]);
    at += sizeof(lengths) + lengths[0] + lengths[1];
    const size_t slash = what.find('/');
    if (slash != std::string::npos) {
      PackedPair& pair = fixture.targets[what.substr(0, slash)];
      (what.substr(slash + 1) == "base" ? pair.base : pair.patched) = content;
    } else if (what == "shape") {
      uint32_t shape[3];
      std::memcpy(shape, content.data(), sizeof(shape));
      fixture.row_count = shape[0];
      fixture.column_count = shape[1];
      const bool grouped = name == "int4_group" || name == "int4_one_group";
      fixture.group_length = grouped ? shape[2] : 0;
    } else if (what == "positions") {
      fixture.positions.resize(content.size() / sizeof(uint32_t));
      std::memcpy(fixture.positions.data(), content.data(), content.size());
    } else {
      (what == "codes"    ? fixture.codes
       : what == "scales" ? fixture.scales
       : what == "bias"   ? fixture.bias
                          : fixture.values) = content;
    }
  }
  return fixture;
}

inline const std::vector<PackedFixture>& packed_fixtures() {
  static const std::vector<PackedFixture> kFixtures = [] {
    std::vector<PackedFixture> fixtures;
    for (const char* name :
         {"int8_channel", "int4_group", "int4_one_group", "int4_channel", "f16", "f32"}) {
      fixtures.push_back(load_packed_fixture(name));
    }
    return fixtures;
  }();
  return kFixtures;
}

}  // namespace shira::test
