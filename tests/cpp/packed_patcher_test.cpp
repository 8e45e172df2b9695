// Patched packings against fresh ones: those of ExecuTorch, and of every layout there is.
// SPDX-License-Identifier: Apache-2.0
#include "packed/patcher.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "packed/calibrate.h"
#include "packed_builder.h"
#include "packed_fixtures.h"

namespace shira {
namespace {

using test::BuiltMatrix;
using test::Bytes;
using test::PackedFixture;

/// A packed weight under patches: what swap() took out comes back by restore().
class Patched {
 public:
  Patched(const PackedLayout& layout, Bytes packed)
      : layout_(layout), packed_(std::move(packed)), patcher_(layout_, packed_.data()) {}

  void swap(const std::vector<uint32_t>& index, const Bytes& values) {
    index_ = index;
    old_values_.assign(values.size(), 0xAA);
    patcher_.swap(index.data(), index.size(), values.data(), old_values_.data());
  }
  void restore() { store(index_, old_values_); }
  void store(const std::vector<uint32_t>& index, const Bytes& values) {
    patcher_.store(index.data(), index.size(), values.data());
  }
  Bytes gather(const std::vector<uint32_t>& index, size_t element_bytes) const {
    Bytes values(index.size() * element_bytes);
    patcher_.gather(index.data(), index.size(), values.data());
    return values;
  }

  const Bytes& packed() const { return packed_; }

 private:
  const PackedLayout layout_;
  Bytes packed_;
  PackedPatcher patcher_;
  std::vector<uint32_t> index_;
  Bytes old_values_;
};

/// True for every bit of a real row, where packing may leave anything in the others.
Bytes real_bits(const PackedLayout& layout, size_t size_bytes) {
  Bytes mask(size_bytes, 0);
  const auto set = [&](uint64_t offset, uint64_t length) {
    std::fill_n(mask.begin() + static_cast<ptrdiff_t>(offset), length, 0xFF);
  };
  for (uint32_t row = 0; row < layout.row_count(); ++row) {
    for (uint32_t column = 0; column < layout.column_count(); ++column) {
      const CodePlace place = layout.code(row, column);
      if (layout.is_nibbles()) {
        mask.at(place.offset_bytes) |= static_cast<uint8_t>(15U << place.shift);
      } else {
        set(place.offset_bytes, layout.element_bytes());
      }
    }
    set(layout.bias(row), layout.has_sums() ? sizeof(float) : layout.element_bytes());
    if (layout.has_sums()) set(layout.sum(row), sizeof(float));
    if (layout.has_row_scales()) set(layout.row_scale(row), sizeof(float));
    for (uint32_t group = 0; layout.is_grouped() && group < layout.group_count(); ++group)
      set(layout.group_scale(row, group), sizeof(uint16_t));
  }
  return mask;
}

Bytes masked(Bytes bytes, const Bytes& mask) {
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] &= mask[i];
  return bytes;
}

TEST(PackedPatcher, PatchesAreWhatExecuTorchPacks) {
  for (const PackedFixture& fixture : test::packed_fixtures()) {
    for (const auto& [target, pair] : fixture.targets) {
      const std::string label = fixture.name + " on " + target;
      const auto layout =
          calibrate(fixture.base_matrix(), pair.base.data(), pair.base.size()).value();
      const Bytes mask = real_bits(layout, pair.base.size());
      const size_t element_bytes = fixture.values.size() / fixture.positions.size();
      Patched patched(layout, pair.base);
      patched.swap(fixture.positions, fixture.values);
      EXPECT_EQ(masked(patched.packed(), mask), masked(pair.patched, mask)) << label;
      EXPECT_NE(masked(patched.packed(), mask), masked(pair.base, mask)) << label;
      EXPECT_EQ(patched.gather(fixture.positions, element_bytes), fixture.values) << label;
      patched.restore();
      EXPECT_EQ(patched.packed(), pair.base) << label;
      patched.store(fixture.positions, fixture.values);
      EXPECT_EQ(masked(patched.packed(), mask), masked(pair.patched, mask)) << label;
    }
  }
}

// Without sums that follow, a row's result would be wrong by all that its codes changed.
TEST(PackedPatcher, PatchesChangeSums) {
  for (const PackedFixture& fixture : test::packed_fixtures()) {
    for (const auto& [target, pair] : fixture.targets) {
      const auto layout =
          calibrate(fixture.base_matrix(), pair.base.data(), pair.base.size()).value();
      if (!layout.has_sums()) continue;
      unsigned changed_count = 0;
      for (uint32_t row = 0; row < layout.row_count(); ++row) {
        changed_count += test::get<uint32_t>(pair.base, layout.sum(row)) !=
                         test::get<uint32_t>(pair.patched, layout.sum(row));
      }
      EXPECT_GT(changed_count, 10U) << fixture.name << " on " << target;
    }
  }
}

/// Random positions of a density, and values for them.
std::pair<std::vector<uint32_t>, std::vector<uint32_t>> random_entries(const PackedLayout& layout,
                                                                       double density,
                                                                       std::mt19937* random) {
  std::vector<uint32_t> index;
  std::vector<uint32_t> values;
  std::uniform_real_distribution<> uniform;
  const uint64_t code_count = uint64_t{layout.row_count()} * layout.column_count();
  for (uint32_t position = 0; position < code_count; ++position) {
    if (uniform(*random) >= density) continue;
    index.push_back(position);
    const auto bits = static_cast<uint32_t>((*random)());
    values.push_back(layout.is_nibbles() ? static_cast<uint32_t>(bits % 16) - 8 : bits);
  }
  return {index, values};
}

Bytes as_bytes(const PackedLayout& layout, const std::vector<uint32_t>& values) {
  Bytes bytes(values.size() * layout.element_bytes());
  for (size_t i = 0; i < values.size(); ++i)
    std::memcpy(&bytes[i * layout.element_bytes()], &values[i], layout.element_bytes());
  return bytes;
}

TEST(PackedPatcher, EveryLayoutTakesPatches) {
  std::mt19937 random(7);
  unsigned count = 0;
  for (const PackedFamily& family : packed_families()) {
    const bool grouped = family.fields == std::string("ncb") || family.fields == std::string("cnb");
    for (uint32_t rows = 1; rows <= PackedLayout::kMaxBlockRows; rows *= 4) {
      for (uint32_t piece = 1; piece <= PackedLayout::kMaxPieceLength; piece *= 2) {
        for (uint32_t rotation = 1; rotation <= family.max_rotation; rotation *= 2) {
          const PackedLayout::Parameters parameters = {37,       grouped ? 320U : 261U, rows, piece,
                                                       rotation, grouped ? 160U : 0U};
          if (!PackedLayout::is_possible(family, parameters)) continue;
          const PackedLayout layout(family, parameters);
          std::vector<uint32_t> codes(37 * parameters.column_count);
          for (uint32_t& code : codes) code = static_cast<uint32_t>(random());
          const BuiltMatrix base(layout, codes, ++count);
          // From no entry at all to every one, and rows without any.
          for (const double density : {0.0, 0.001, 0.02, 0.3, 1.0}) {
            const auto [index, values] = random_entries(layout, density, &random);
            std::vector<uint32_t> new_codes = codes;
            for (size_t i = 0; i < index.size(); ++i) new_codes[index[i]] = values[i];
            const BuiltMatrix fresh(layout, new_codes, count);
            Patched patched(layout, base.packed);
            patched.swap(index, as_bytes(layout, values));
            ASSERT_EQ(patched.packed(), fresh.packed) << layout.describe() << " " << density;
            patched.restore();
            ASSERT_EQ(patched.packed(), base.packed) << layout.describe() << " " << density;
          }
        }
      }
    }
  }
  EXPECT_GT(count, 200U);
}

// Base -> A -> B -> A ... by storing over each other, then back: no history is left.
TEST(PackedPatcher, SumsDoNotDriftOverManySwitches) {
  std::mt19937 random(11);
  for (const char* family : {"x8", "k8", "xb4", "kb4", "xc4", "xc4u", "kc4"}) {
    const PackedFamily& of = test::family_named(family);
    const bool grouped = of.fields == std::string("ncb") || of.fields == std::string("cnb");
    const PackedLayout layout(of, {24, 128, 8, 8, 1, grouped ? 32U : 0U});
    std::vector<uint32_t> codes(24 * 128);
    for (uint32_t& code : codes) code = static_cast<uint32_t>(random());
    const BuiltMatrix base(layout, codes);
    Patched patched(layout, base.packed);
    const std::vector<uint32_t> index = random_entries(layout, 0.05, &random).first;
    const Bytes originals = patched.gather(index, 1);
    for (unsigned i = 0; i < 2000; ++i) {
      std::vector<uint32_t> values;
      for (size_t j = 0; j < index.size(); ++j)
        values.push_back(layout.is_nibbles() ? static_cast<uint32_t>(random() % 16) - 8
                                             : static_cast<uint32_t>(random()));
      patched.store(index, as_bytes(layout, values));
      if (i % 500 != 0) continue;
      std::vector<uint32_t> new_codes = codes;
      for (size_t j = 0; j < index.size(); ++j) new_codes[index[j]] = values[j];
      ASSERT_EQ(patched.packed(), BuiltMatrix(layout, new_codes).packed) << family;
    }
    patched.store(index, originals);
    EXPECT_EQ(patched.packed(), base.packed) << family;
  }
}

}  // namespace
}  // namespace shira
