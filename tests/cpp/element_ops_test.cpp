// Gather, store, swap and count over slices of a list, which may begin and end inside a run.
// SPDX-License-Identifier: Apache-2.0
#include "runtime/element_ops.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dispatch.h"

namespace shira {
namespace {

constexpr Dtype kDtypes[] = {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::i8};

const kernels::KernelTable& kernels_in_use() { return *kernels::select_kernels(nullptr).value(); }

std::vector<uint8_t> random_bytes(size_t count) {
  static std::mt19937 source(7);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(source());
  return bytes;
}

IndexList list_of(const std::vector<Run>& runs) {
  IndexList list;
  list.runs = std::move(Array<Run>::make(runs.size()).value());
  for (size_t i = 0; i < runs.size(); ++i) {
    list.runs[i] = runs[i];
    list.entry_count += runs[i].length;
  }
  return list;
}

IndexList list_of(const std::vector<uint32_t>& entries) {
  IndexList list;
  list.entries = std::move(Array<uint32_t>::make(entries.size()).value());
  std::memcpy(list.entries.data(), entries.data(), entries.size() * sizeof(uint32_t));
  list.entry_count = entries.size();
  return list;
}

/// Does each operation over `slice`, whose positions are `positions`, to a tensor of 200 elements.
void check_slice(const IndexList& list, const Slice& slice,
                 const std::vector<uint32_t>& positions) {
  ASSERT_EQ(slice.entry_count, positions.size());
  for (const Dtype dtype : kDtypes) {
    SCOPED_TRACE(dtype_name(dtype));
    const size_t element_bytes = dtype_bytes(dtype);
    const std::vector<uint8_t> original = random_bytes(200 * element_bytes);
    const std::vector<uint8_t> values = random_bytes(positions.size() * element_bytes);
    std::vector<uint8_t> expected = original;
    std::vector<uint8_t> gathered(values.size());
    for (size_t j = 0; j < positions.size(); ++j) {
      uint8_t* weight = expected.data() + positions[j] * element_bytes;
      std::memcpy(gathered.data() + j * element_bytes, weight, element_bytes);
      std::memcpy(weight, values.data() + j * element_bytes, element_bytes);
    }
    std::vector<uint8_t> weights = original;
    TensorSpec tensor;
    tensor.dtype = dtype;
    tensor.data = weights.data();
    std::vector<uint8_t> out(values.size());
    gather(kernels_in_use(), tensor, list, slice, out.data());
    EXPECT_EQ(out, gathered);
    store(kernels_in_use(), tensor, list, slice, values.data());
    EXPECT_EQ(weights, expected);
    weights = original;
    out.assign(out.size(), 0);
    swap(kernels_in_use(), tensor, list, slice, values.data(), out.data());
    EXPECT_EQ(out, gathered);
    EXPECT_EQ(weights, expected);
  }
}

TEST(ElementOps, EntriesOfASlice) {
  const std::vector<uint32_t> entries = {0, 3, 4, 9, 50, 120, 199};
  const IndexList list = list_of(entries);
  for (size_t first = 0; first <= entries.size(); ++first) {
    for (size_t end = first; end <= entries.size(); ++end) {
      Slice slice;
      slice.first_unit = slice.first_entry = first;
      slice.unit_count = slice.entry_count = end - first;
      check_slice(list, slice, {entries.begin() + first, entries.begin() + end});
    }
  }
}

/// Every part of the list from one entry to another, whole runs and clipped ones.
TEST(ElementOps, RunsOfASlice) {
  const std::vector<shira::Run> runs = {{2, 5}, {10, 1}, {12, 20}, {40, 3}, {100, 100}};
  const IndexList list = list_of(runs);
  struct Place {
    size_t unit;
    uint32_t offset;
    uint32_t position;
  };
  std::vector<Place> places;
  for (size_t unit = 0; unit < runs.size(); ++unit) {
    for (uint32_t offset = 0; offset < runs[unit].length; ++offset)
      places.push_back({unit, offset, runs[unit].start + offset});
  }
  for (size_t first = 0; first < places.size(); ++first) {
    for (size_t last = first; last < places.size(); last += 1 + last % 3) {
      SCOPED_TRACE("entries " + std::to_string(first) + " to " + std::to_string(last));
      Slice slice;
      slice.first_unit = places[first].unit;
      slice.unit_count = places[last].unit - places[first].unit + 1;
      slice.first_entry = first;
      slice.entry_count = last - first + 1;
      slice.skip_front = places[first].offset;
      slice.skip_back = runs[places[last].unit].length - places[last].offset - 1;
      std::vector<uint32_t> positions;
      for (size_t i = first; i <= last; ++i) positions.push_back(places[i].position);
      check_slice(list, slice, positions);
      if (HasFailure()) return;
    }
  }
}

TEST(ElementOps, WholeListIsASlice) {
  const IndexList runs = list_of(std::vector<shira::Run>{{1, 4}, {8, 2}});
  check_slice(runs, whole(runs), {1, 2, 3, 4, 8, 9});
  const IndexList entries = list_of(std::vector<uint32_t>{5, 6, 150});
  check_slice(entries, whole(entries), {5, 6, 150});
}

TEST(ElementOps, CountsElementsAndNotBytes) {
  for (const Dtype dtype : kDtypes) {
    const size_t element_bytes = dtype_bytes(dtype);
    const std::vector<uint8_t> a = random_bytes(100 * element_bytes);
    std::vector<uint8_t> b = a;
    for (size_t j = 0; j < 100; j += 7) {  // 15 elements, each differs in its first and last byte
      b[j * element_bytes] ^= 1;
      b[(j + 1) * element_bytes - 1] ^= 0x80;
    }
    EXPECT_EQ(count_different(kernels_in_use(), dtype, a.data(), b.data(), 100), 15U);
    EXPECT_EQ(count_different(kernels_in_use(), dtype, a.data(), a.data(), 100), 0U);
  }
}

/// In one pass as in two, for target values and deltas of each dtype.
TEST(ElementOps, ScaleValuesIsContributeAndAddRound) {
  for (const Dtype dtype : {Dtype::f32, Dtype::f16, Dtype::bf16}) {
    for (const ValueKind kind : {ValueKind::target, ValueKind::delta}) {
      const size_t count = 301;
      std::vector<uint8_t> base = random_bytes(count * dtype_bytes(dtype));
      std::vector<uint8_t> values = random_bytes(base.size());
      AdapterTensor source;
      source.nnz = count;
      source.value_kind = kind;
      source.value_dtype = dtype;
      source.values = values.data();
      const auto& scalar = kernels::implementations().back().table;
      std::vector<float> contribution(count);
      contribute(scalar, source, 0.37F, base.data(), contribution.data());
      std::vector<uint8_t> expected(base.size());
      const uint64_t non_finite_count =
          add_round(scalar, dtype, base.data(), contribution.data(), count, expected.data());
      std::vector<uint8_t> out(base.size());
      EXPECT_EQ(scale_values(scalar, source, 0.37F, base.data(), out.data()), non_finite_count);
      for (size_t j = 0; j < count; ++j) {
        const size_t at = j * dtype_bytes(dtype);
        if (!is_finite(dtype, expected.data() + at)) continue;
        EXPECT_EQ(std::memcmp(out.data() + at, expected.data() + at, dtype_bytes(dtype)), 0) << j;
      }
    }
  }
}

}  // namespace
}  // namespace shira
