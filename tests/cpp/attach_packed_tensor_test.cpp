// Tests of packed weights as tensors: elements by their index, sums, and the memory they lie in.
// SPDX-License-Identifier: Apache-2.0
#include "attach/packed_tensor.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "attach/packed_memory.h"
#include "packed/calibrate.h"
#include "packed_fixtures.h"
#include "runtime/program.h"
#include "temporary_folder.h"

namespace shira {
namespace {

using test::Bytes;
using test::PackedFixture;

constexpr uint64_t kPackedOffset = 4096;  // of the weight in the memory
constexpr uint64_t kCodesOffset = 7;      // of its codes in the model's file

/// A packed weight in a memfd, the file that has its codes, and the tensor over both.
class Packed {
 public:
  Packed(const PackedFixture& fixture, const Bytes& content,
         PackedBiases biases = PackedBiases::constant)
      : fixture(fixture) {
    const int descriptor = memfd_create("packed", MFD_CLOEXEC);
    EXPECT_EQ(pwrite(descriptor, content.data(), content.size(), kPackedOffset),
              static_cast<ssize_t>(content.size()));
    memory = PackedMemory::map(descriptor).value();
    close(descriptor);
    packed = memory->data() + kPackedOffset;
    write_codes(fixture.codes);
    tensor = make_packed_tensor(fixture.name, layout(content), memory, kPackedOffset,
                                source(kCodesOffset), biases);
    bias = make_packed_bias("bias", layout(content), memory, kPackedOffset,
                            source(kCodesOffset + fixture.codes.size()));
  }

  PackedLayout layout(const Bytes& content) const {
    return calibrate(fixture.base_matrix(), content.data(), content.size()).value();
  }

  PackedSource source(uint64_t offset_bytes) const {
    PackedSource from;
    from.file = std::make_shared<const File>(std::move(File::open(path_).value()));
    from.state = from.file->state().value();
    from.offset_bytes = offset_bytes;
    from.code_bias = 8;
    return from;
  }

  void write_codes(const Bytes& codes) const {
    std::FILE* file = std::fopen(path_.c_str(), "wb");
    std::fwrite("prefix.", 1, kCodesOffset, file);
    std::fwrite(codes.data(), 1, codes.size(), file);
    std::fwrite(fixture.bias.data(), 1, fixture.bias.size(), file);
    std::fclose(file);
  }

  uint64_t element_count() const { return uint64_t{fixture.row_count} * fixture.column_count; }
  Bytes all() const {
    return Bytes(packed, packed + static_cast<ptrdiff_t>(tensor.layout->size_bytes()));
  }
  Result<void> check() const {
    const ProcessMaps maps = std::move(ProcessMaps::read().value());
    return tensor.region->check(maps, tensor.data, tensor.layout->size_bytes());
  }

  const PackedFixture& fixture;
  std::shared_ptr<PackedMemory> memory;
  uint8_t* packed = nullptr;
  TensorSpec tensor, bias;

 private:
  const test::TemporaryFolder folder_;
  const std::string path_ = folder_ / "model.pte";
};

/// The codes of a fixture, a byte for each of 4 bits.
Bytes elements_of(const PackedFixture& fixture) {
  if (fixture.dtype != Dtype::i4) return fixture.codes;
  Bytes elements;
  const uint32_t row_bytes = (fixture.column_count + 1) / 2;
  for (uint32_t row = 0; row < fixture.row_count; ++row) {
    for (uint32_t column = 0; column < fixture.column_count; ++column) {
      const uint32_t byte = fixture.codes[row * row_bytes + column / 2];
      elements.push_back(static_cast<uint8_t>((byte >> column % 2 * 4 & 15U) - 8U));
    }
  }
  return elements;
}

template <typename Body>
void for_each_packing(Body body) {
  for (const PackedFixture& fixture : test::packed_fixtures()) {
    for (const auto& [target, pair] : fixture.targets) {
      SCOPED_TRACE(fixture.name + " on " + target);
      body(fixture, pair);
    }
  }
}

TEST(PackedTensor, ReadsAnyStretchOfElements) {
  for_each_packing([](const PackedFixture& fixture, const test::PackedPair& pair) {
    const Packed packed(fixture, pair.base);
    const Bytes expected = elements_of(fixture);
    const uint64_t element_bytes = dtype_bytes(fixture.dtype);
    ASSERT_EQ(expected.size(), packed.element_count() * element_bytes);
    const uint64_t row = fixture.column_count;
    const uint64_t stretches[][2] = {{0, packed.element_count()},
                                     {0, 1},
                                     {row - 1, 2},
                                     {row + 3, 2 * row},
                                     {packed.element_count() - 5, 5}};
    for (const auto& [first, count] : stretches) {
      const Bytes wanted(
          expected.begin() + static_cast<ptrdiff_t>(first * element_bytes),
          expected.begin() + static_cast<ptrdiff_t>((first + count) * element_bytes));
      Bytes live(count * element_bytes);
      Bytes from_file(count * element_bytes);
      packed.tensor.layout->read(first, count, live.data());
      EXPECT_EQ(live, wanted) << first;
      const Result<void> read = packed.tensor.layout->read_source(
          *packed.tensor.region, packed.tensor.data, first * element_bytes, from_file.size(),
          from_file.data());
      ASSERT_TRUE(read.ok()) << read.error().message;
      EXPECT_EQ(from_file, wanted) << first;
    }
  });
}

TEST(PackedTensor, PlacesAreWhereStoresGo) {
  for_each_packing([](const PackedFixture& fixture, const test::PackedPair& pair) {
    const Packed packed(fixture, pair.base);
    const ElementLayout& layout = *packed.tensor.layout;
    const uint64_t element_bytes = dtype_bytes(fixture.dtype);
    for (size_t i = 0; i < fixture.positions.size(); i += 7) {
      const uint32_t index = fixture.positions[i];
      const Bytes before = packed.all();
      const ElementPlace place = layout.place_of(index);
      Bytes other(element_bytes, 3);
      layout.store(&index, 1, other.data());
      const Bytes after = packed.all();
      for (size_t at = 0; at < after.size(); ++at) {
        if (after[at] == before[at]) continue;
        const bool is_element =
            at >= place.element_offset_bytes && at < place.element_offset_bytes + element_bytes;
        EXPECT_TRUE(is_element || (at >= place.sum_offset_bytes && at < place.sum_offset_bytes + 4))
            << at;
      }
    }
  });
}

TEST(PackedTensor, StoresWhatExecuTorchPacksAndTakesItBack) {
  for_each_packing([](const PackedFixture& fixture, const test::PackedPair& pair) {
    const Packed packed(fixture, pair.base);
    const ElementLayout& layout = *packed.tensor.layout;
    const Bytes base = packed.all();
    const size_t count = fixture.positions.size();
    Bytes replaced(fixture.values.size());
    layout.swap(fixture.positions.data(), count, fixture.values.data(), replaced.data());
    EXPECT_TRUE(layout.check_beside().ok()) << "sums of what is there now";
    EXPECT_NE(packed.all(), base);
    Bytes fresh_packing = pair.patched;
    const PackedElements fresh(packed.layout(pair.base), fresh_packing.data(),
                               PackedBiases::constant);
    Bytes wanted(packed.element_count() * dtype_bytes(fixture.dtype));
    Bytes found(wanted.size());
    fresh.read(0, packed.element_count(), wanted.data());
    layout.read(0, packed.element_count(), found.data());
    EXPECT_EQ(found, wanted);
    Bytes gathered(fixture.values.size());
    layout.gather(fixture.positions.data(), count, gathered.data());
    EXPECT_EQ(gathered, fixture.values);

    layout.store(fixture.positions.data(), count, replaced.data());
    EXPECT_EQ(packed.all(), base);
    layout.store(fixture.positions.data(), count, fixture.values.data());
    EXPECT_TRUE(packed.tensor.region->hard_revert().ok());
    EXPECT_EQ(packed.all(), base);
  });
}

TEST(PackedTensor, WhatLiesBesideElementsIsChecked) {
  for_each_packing([](const PackedFixture& fixture, const test::PackedPair& pair) {
    const Packed packed(fixture, pair.base);
    const PackedLayout layout = packed.layout(pair.base);
    const ElementLayout& elements = *packed.tensor.layout;
    ASSERT_TRUE(elements.check_beside().ok());
    const uint32_t row = fixture.row_count - 1;
    std::vector<uint64_t> places = {layout.bias(row)};
    if (layout.has_sums()) places.push_back(layout.sum(row));
    if (layout.has_row_scales()) places.push_back(layout.row_scale(row));
    if (layout.is_grouped()) places.push_back(layout.group_scale(row, layout.group_count() - 1));
    for (const uint64_t place : places) {
      packed.packed[place] ^= 1;
      EXPECT_EQ(elements.check_beside().error().status, Status::BASE_MODIFIED) << place;
      packed.packed[place] ^= 1;
    }
    EXPECT_TRUE(elements.check_beside().ok());
  });
}

// Calibration compares all biases with what they are said to be.
TEST(PackedBias, IsWhatPackingOtherBiasesMakesAndGoesBack) {
  for_each_packing([](const PackedFixture& fixture, const test::PackedPair& pair) {
    const Packed packed(fixture, pair.base, PackedBiases::a_tensor);
    const ElementLayout& biases = *packed.bias.layout;
    const uint64_t bias_bytes = dtype_bytes(packed.bias.dtype);
    ASSERT_EQ(fixture.bias.size(), fixture.row_count * bias_bytes);
    EXPECT_EQ(packed.bias.dims, (std::vector<uint32_t>{fixture.row_count}));
    EXPECT_EQ(packed.bias.dtype, fixture.dtype == Dtype::f16 ? Dtype::f16 : Dtype::f32);

    std::vector<uint32_t> rows;
    for (uint32_t row = 0; row < fixture.row_count; row += 3) rows.push_back(row);
    if (rows.back() != fixture.row_count - 1) rows.push_back(fixture.row_count - 1);
    Bytes changed = fixture.bias;
    Bytes values(rows.size() * bias_bytes);
    Bytes wanted_old(values.size());
    for (size_t j = 0; j < rows.size(); ++j) {
      for (uint64_t b = 0; b < bias_bytes; ++b) {
        uint8_t& byte = changed[rows[j] * bias_bytes + b];
        wanted_old[j * bias_bytes + b] = byte;
        byte = static_cast<uint8_t>(byte + 7 * j + 1);
        values[j * bias_bytes + b] = byte;
      }
    }
    const Bytes base = packed.all();
    Bytes old_values(values.size());
    biases.swap(rows.data(), rows.size(), values.data(), old_values.data());
    EXPECT_EQ(old_values, wanted_old);
    BaseMatrix matrix = fixture.base_matrix();
    EXPECT_EQ(calibrate(matrix, packed.packed, pair.base.size()).error().status,
              Status::BASE_MODIFIED);
    matrix.bias = changed.data();
    const auto layout = calibrate(matrix, packed.packed, pair.base.size());
    ASSERT_TRUE(layout.ok()) << layout.error().message;
    const Bytes after = packed.all();
    uint64_t different_count = 0;
    for (size_t i = 0; i < after.size(); ++i) different_count += after[i] != base[i] ? 1 : 0;
    EXPECT_LE(different_count, values.size()) << "rows of padding have no elements";
    for (const uint32_t row : rows)
      EXPECT_EQ(biases.place_of(row).element_offset_bytes, layout.value().bias(row));

    Bytes live(fixture.bias.size());
    biases.read(0, fixture.row_count, live.data());
    EXPECT_EQ(live, changed);
    Bytes gathered(values.size());
    biases.gather(rows.data(), rows.size(), gathered.data());
    EXPECT_EQ(gathered, values);
    const uint64_t cut = bias_bytes * 2;
    Bytes from_file(fixture.bias.size() - cut);
    ASSERT_TRUE(biases
                    .read_source(*packed.bias.region, packed.bias.data, cut, from_file.size(),
                                 from_file.data())
                    .ok());
    EXPECT_TRUE(std::equal(from_file.begin(), from_file.end(),
                           fixture.bias.begin() + static_cast<ptrdiff_t>(cut)));
    EXPECT_TRUE(packed.tensor.layout->check_beside().ok()) << "they are no constants";

    biases.store(rows.data(), rows.size(), old_values.data());
    EXPECT_EQ(packed.all(), base);
    biases.store(rows.data(), rows.size(), values.data());
    EXPECT_TRUE(packed.bias.region->hard_revert().ok());
    EXPECT_EQ(packed.all(), base);
  });
}

TEST(PackedBias, LeavesScalesAndPaddingConstant) {
  for_each_packing([](const PackedFixture& fixture, const test::PackedPair& pair) {
    const Packed packed(fixture, pair.base, PackedBiases::a_tensor);
    const PackedLayout layout = packed.layout(pair.base);
    const uint32_t last = fixture.row_count - 1;
    std::vector<uint64_t> places;
    if (layout.has_row_scales()) places.push_back(layout.row_scale(last));
    if (layout.is_grouped()) places.push_back(layout.group_scale(last, 0));
    if (fixture.row_count % layout.block_rows() != 0)
      places.push_back(layout.bias(last) + layout.bias_bytes());
    for (const uint64_t place : places) {
      packed.packed[place] ^= 1;
      EXPECT_EQ(packed.tensor.layout->check_beside().error().status, Status::BASE_MODIFIED)
          << place;
      packed.packed[place] ^= 1;
    }
    packed.packed[layout.bias(last)] ^= 1;
    EXPECT_TRUE(packed.tensor.layout->check_beside().ok());
  });
}

// A matrix and its biases are apart though their bytes take turns; two names of a bias are not.
TEST(PackedBias, IsNotTheMemoryOfItsMatrix) {
  const PackedFixture& fixture = test::packed_fixtures()[0];
  const Packed packed(fixture, fixture.targets.begin()->second.base, PackedBiases::a_tensor);
  TensorSpec other = packed.bias;
  other.name = "other";
  Program program;
  ASSERT_TRUE(program.add_tensors({packed.tensor, packed.bias, other}).ok());
  EXPECT_EQ(program.tensors()[0].shares_storage_with, "");
  EXPECT_EQ(program.tensors()[1].shares_storage_with, "other");
  EXPECT_EQ(program.tensors()[2].shares_storage_with, "bias");
  const Result<VerifyReport> sound = program.verify_base();
  ASSERT_TRUE(sound.ok()) << sound.error().message;
  EXPECT_TRUE(sound.value().modified.empty());
  packed.packed[packed.bias.layout->place_of(3).element_offset_bytes] ^= 1;
  const Result<VerifyReport> changed = program.verify_base();
  ASSERT_EQ(changed.value().modified.size(), 2U);
  EXPECT_EQ(changed.value().modified[0].name, "bias");
  EXPECT_EQ(changed.value().modified[0].first_offset_bytes, 12U);
}

TEST(PackedTensor, AChangedFileIsNoSource) {
  const PackedFixture& fixture = test::packed_fixtures()[1];
  const Packed packed(fixture, fixture.targets.begin()->second.base);
  packed.write_codes(Bytes(3, 0));
  EXPECT_EQ(packed.bias.region->hard_revert().error().status, Status::DETACHED);
  Bytes out(8);
  const Result<void> read = packed.tensor.region->read_source(packed.tensor.data, 8, out.data());
  EXPECT_EQ(read.error().status, Status::DETACHED);
  EXPECT_EQ(packed.tensor.region->hard_revert().error().status, Status::DETACHED);
}

TEST(PackedMemory, RecognisesItsMapping) {
  const PackedFixture& fixture = test::packed_fixtures()[0];
  const Packed packed(fixture, fixture.targets.begin()->second.base);
  EXPECT_TRUE(packed.check().ok()) << packed.check().error().message;
  void* page = packed.memory->data() + kPackedOffset;
  ASSERT_EQ(mprotect(page, 4096, PROT_READ), 0);
  EXPECT_EQ(packed.check().error().status, Status::READ_ONLY);
  ASSERT_EQ(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
  EXPECT_TRUE(packed.check().ok());
  ASSERT_NE(
      mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0),
      MAP_FAILED);
  EXPECT_EQ(packed.check().error().status, Status::DETACHED);
}

// What a child stored here would change the parent's weights.
TEST(PackedMemory, IsNotTheForkedChilds) {
  const PackedFixture& fixture = test::packed_fixtures()[0];
  const Packed packed(fixture, fixture.targets.begin()->second.base);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const ProcessMaps maps = std::move(ProcessMaps::read().value());
    const bool is_mapped = maps.find(reinterpret_cast<uintptr_t>(packed.packed)) != nullptr;
    _exit(!is_mapped && packed.check().error().status == Status::DETACHED ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(packed.check().ok());
}

}  // namespace
}  // namespace shira
