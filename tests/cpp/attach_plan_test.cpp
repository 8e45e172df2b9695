// Tests of the choice between mappings, on made-up maps and with every page size.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "attach/mapping_plan.h"
#include "base/checked_math.h"

namespace shira {
namespace {

constexpr FileIdentity kFile{(uint64_t{0xfe} << 8) | 1, 77};

/// One line of a map: an area of the file, or of another one.
std::string area(uint64_t begin, uint64_t size, const char* permissions, uint64_t file_offset,
                 unsigned inode = 77) {
  char line[160];
  snprintf(line, sizeof(line), "%llx-%llx %s %08llx fe:01 %u    /data/model.pte\n",
           static_cast<unsigned long long>(begin), static_cast<unsigned long long>(begin + size),
           permissions, static_cast<unsigned long long>(file_offset), inode);
  return line;
}

ProgramTensor tensor(const std::string& name, uint64_t offset, uint64_t size, FileRange load) {
  ProgramTensor result;
  result.name = name;
  result.dims = {static_cast<uint32_t>(size / 4)};
  result.offset_bytes = offset;
  result.size_bytes = size;
  result.load = load;
  return result;
}

/// A .pte: the flatbuffer, and one constant segment with two tensors in it.
ProgramFile pte(uint64_t flatbuffer_bytes, FileRange constants) {
  ProgramFile file;
  file.path = "/data/model.pte";
  file.loads = {{0, flatbuffer_bytes}, constants};
  file.tensors = {tensor("a", constants.offset_bytes, 64, constants),
                  tensor("b", constants.end_bytes() - 64, 64, constants)};
  return file;
}

/// A .ptd: each tensor is a load.
ProgramFile ptd(uint64_t flatbuffer_bytes, const std::vector<FileRange>& tensors) {
  ProgramFile file;
  file.path = "/data/model.ptd";
  file.is_ptd = true;
  file.loads = {{0, flatbuffer_bytes}};
  for (size_t i = 0; i < tensors.size(); ++i) {
    file.loads.push_back(tensors[i]);
    file.tensors.push_back(tensor(std::string(1, static_cast<char>('a' + i)),
                                  tensors[i].offset_bytes, tensors[i].size_bytes, tensors[i]));
  }
  return file;
}

Result<MappingPlan> plan(const ProgramFile& file, const std::vector<Anchor>& anchors,
                         const std::string& map, uint64_t page) {
  Result<ProcessMaps> maps = ProcessMaps::parse(map);
  EXPECT_TRUE(maps.ok());
  return plan_mappings(file, anchors, maps.value(), kFile, page);
}

class MappingPlanOfPages : public ::testing::TestWithParam<uint64_t> {};

TEST_P(MappingPlanOfPages, WholePagesCoverTheRange) {
  const uint64_t page = GetParam();
  EXPECT_EQ(whole_pages({0, 1}, page), (FileRange{0, page}));
  EXPECT_EQ(whole_pages({page - 1, 2}, page), (FileRange{0, 2 * page}));
  EXPECT_EQ(whole_pages({page, page}, page), (FileRange{page, page}));
  EXPECT_EQ(whole_pages({3840, 2078772}, page).offset_bytes, 0U);
  EXPECT_EQ(whole_pages({3840, 2078772}, page).size_bytes, align_up(3840 + 2078772, page));
}

TEST_P(MappingPlanOfPages, APteIsFoundByTheExtentOfItsConstants) {
  const uint64_t page = GetParam();
  // The segment begins and ends inside a page, its last page is not locked and so an area of its
  // own, and the flatbuffer's pages are mapped apart.
  const FileRange constants{2 * page + 128, 5 * page};
  const ProgramFile file = pte(2 * page + 100, constants);
  const std::string map = area(0x100000000, 5 * page, "r--s", 2 * page) +
                          area(0x100000000 + 5 * page, page, "r--s", 7 * page) +
                          area(0x200000000, 3 * page, "r--s", 0);
  const Result<MappingPlan> result = plan(file, {}, map, page);
  ASSERT_TRUE(result.ok()) << result.error().message;
  ASSERT_EQ(result.value().spans.size(), 1U);
  EXPECT_EQ(result.value().spans[0].begin, 0x100000000U);
  EXPECT_EQ(result.value().spans[0].size_bytes, 6 * page);
  EXPECT_EQ(result.value().spans[0].file_offset_bytes, 2 * page);
  ASSERT_EQ(result.value().tensors.size(), 2U);
  EXPECT_EQ(result.value().tensors[0].address, 0x100000000U + 128);
  EXPECT_EQ(result.value().tensors[1].address, 0x100000000U + 128 + 5 * page - 64);
}

INSTANTIATE_TEST_SUITE_P(PageSizes, MappingPlanOfPages,
                         ::testing::Values(uint64_t{4} << 10, uint64_t{16} << 10,
                                           uint64_t{64} << 10));

constexpr uint64_t kPage = 4096;
const FileRange kConstants{2 * kPage, 4 * kPage};

TEST(MappingPlan, TwoMappingsNeedAnAnchor) {
  const ProgramFile file = pte(kPage, kConstants);
  const std::string map =
      area(0x100000, 4 * kPage, "r--s", 2 * kPage) + area(0x200000, 4 * kPage, "r--s", 2 * kPage);
  const Result<MappingPlan> ambiguous = plan(file, {}, map, kPage);
  ASSERT_FALSE(ambiguous.ok());
  EXPECT_EQ(ambiguous.error().status, Status::AMBIGUOUS);
  EXPECT_EQ(ambiguous.error().tensor, "a");
  for (const uintptr_t base : {uintptr_t{0x100000}, uintptr_t{0x200000}}) {
    const Result<MappingPlan> chosen = plan(file, {{"a", base}}, map, kPage);
    ASSERT_TRUE(chosen.ok()) << chosen.error().message;
    EXPECT_EQ(chosen.value().spans[0].begin, base);
    ASSERT_EQ(chosen.value().tensors.size(), 1U) << "b has no anchor and is left alone";
  }
}

TEST(MappingPlan, MergedMappingsOfTwoProgramsAreNotMistakenForOne) {
  // The second program's flatbuffer lies directly below the first one's constants and goes on in
  // the file where they begin: the kernel makes one area of them.
  const ProgramFile file = pte(2 * kPage, kConstants);
  const std::string map =
      area(0x100000, 6 * kPage, "r--s", 0) + area(0x200000, 4 * kPage, "r--s", 2 * kPage);
  EXPECT_EQ(plan(file, {}, map, kPage).error().status, Status::AMBIGUOUS);
  const Result<MappingPlan> chosen = plan(file, {{"b", 0x100000 + 6 * kPage - 64}}, map, kPage);
  ASSERT_TRUE(chosen.ok()) << chosen.error().message;
  EXPECT_EQ(chosen.value().spans[0].begin, 0x100000U + 2 * kPage);
  EXPECT_EQ(chosen.value().spans[0].size_bytes, 4 * kPage);
}

TEST(MappingPlan, AnotherMappingOfTheWholeFileIsACandidate) {
  const ProgramFile file = pte(kPage, kConstants);
  const std::string map =
      area(0x100000, 4 * kPage, "r--s", 2 * kPage) + area(0x200000, 8 * kPage, "r--s", 0);
  EXPECT_EQ(plan(file, {}, map, kPage).error().status, Status::AMBIGUOUS);
}

TEST(MappingPlan, APtdTensorIsFoundByItsOwnExtent) {
  // b's page is also the last page of a's mapping and the first of c's.
  const ProgramFile file =
      ptd(512, {{kPage, 2 * kPage + 100}, {3 * kPage + 128, 64}, {3 * kPage + 256, 3 * kPage}});
  const std::string map = area(0x100000, 3 * kPage, "r--s", kPage) +
                          area(0x200000, kPage, "r--s", 3 * kPage) +
                          area(0x300000, 4 * kPage, "r--s", 3 * kPage);
  const Result<MappingPlan> result = plan(file, {}, map, kPage);
  ASSERT_TRUE(result.ok()) << result.error().message;
  ASSERT_EQ(result.value().spans.size(), 3U);
  EXPECT_EQ(result.value().tensors[1].address, 0x200000U + 128);
  EXPECT_EQ(result.value().tensors[1].span_index, 1U);
  EXPECT_EQ(result.value().tensors[2].address, 0x300000U + 256);

  // Without its own mapping the others must not be taken for it.
  const std::string without =
      area(0x100000, 3 * kPage, "r--s", kPage) + area(0x300000, 4 * kPage, "r--s", 3 * kPage);
  EXPECT_EQ(plan(file, {}, without, kPage).error().status, Status::NOT_MAPPED);
  EXPECT_EQ(plan(file, {}, without, kPage).error().tensor, "b");
}

TEST(MappingPlan, PtdTensorsOfOnePageNeedAnchors) {
  const ProgramFile file = ptd(512, {{kPage, 64}, {kPage + 128, 64}});
  const std::string one = area(0x100000, kPage, "r--s", kPage);
  const std::string two = one + area(0x300000, kPage, "r--s", kPage);
  EXPECT_EQ(plan(file, {}, two, kPage).error().status, Status::AMBIGUOUS);
  EXPECT_EQ(plan(file, {}, one, kPage).error().status, Status::AMBIGUOUS)
      << "the one there is may be the other tensor's";
  const Result<MappingPlan> result =
      plan(file, {{"a", 0x300000}, {"b", 0x100000 + 128}}, two, kPage);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result.value().tensors[0].address, 0x300000U);
  EXPECT_EQ(result.value().tensors[0].span_index, 1U) << "spans ascend by address";
  EXPECT_EQ(result.value().tensors[1].address, 0x100000U + 128);
  EXPECT_EQ(result.value().tensors[1].span_index, 0U);
}

TEST(MappingPlan, TensorsThatShareAMappingShareASpan) {
  // A loader that maps a .ptd as a whole: the tensors' pages overlap.
  const ProgramFile file = ptd(512, {{kPage, kPage + 64}, {2 * kPage + 128, kPage}});
  const std::string map = area(0x100000, 8 * kPage, "r--s", 0);
  const Result<MappingPlan> result =
      plan(file, {{"a", 0x100000 + kPage}, {"b", 0x100000 + 2 * kPage + 128}}, map, kPage);
  ASSERT_TRUE(result.ok()) << result.error().message;
  ASSERT_EQ(result.value().spans.size(), 1U);
  EXPECT_EQ(result.value().spans[0].begin, 0x100000U + kPage);
  EXPECT_EQ(result.value().spans[0].size_bytes, 3 * kPage);
}

TEST(MappingPlan, AnchorsAreCheckedAgainstTheTables) {
  const ProgramFile file = pte(kPage, kConstants);
  const std::string map =
      area(0x100000, 4 * kPage, "r--s", 2 * kPage) + area(0x200000, 4 * kPage, "rw-p", 0, 5);
  EXPECT_EQ(plan(file, {{"a", 0x100040}}, map, kPage).error().status, Status::DETACHED);
  EXPECT_EQ(plan(file, {{"a", 0x200000}}, map, kPage).error().status, Status::DETACHED);
  EXPECT_EQ(plan(file, {{"a", 0x500000}}, map, kPage).error().status, Status::DETACHED);
  EXPECT_EQ(plan(file, {{"a", 0}}, map, kPage).error().status, Status::INVALID_ARGUMENT);
  EXPECT_EQ(plan(file, {{"x", 0x100000}}, map, kPage).error().status, Status::UNKNOWN_TENSOR);
  EXPECT_EQ(plan(file, {{"a", 0x100000}, {"a", 0x100040}}, map, kPage).error().status,
            Status::INVALID_ARGUMENT);
  EXPECT_TRUE(plan(file, {{"a", 0x100000}, {"a", 0x100000}}, map, kPage).ok());
  const std::string part = area(0x100000, 2 * kPage, "r--s", 2 * kPage);
  EXPECT_EQ(plan(file, {{"a", 0x100000}}, part, kPage).error().status, Status::DETACHED);
}

TEST(MappingPlan, AnAttachedMappingIsNotAttachedAgain) {
  const ProgramFile file = pte(kPage, kConstants);
  const std::string attached = area(0x100000, 4 * kPage, "rw-p", 2 * kPage);
  EXPECT_EQ(plan(file, {}, attached, kPage).error().status, Status::NOT_SUPPORTED);
  EXPECT_EQ(plan(file, {{"a", 0x100000}}, attached, kPage).error().status, Status::NOT_SUPPORTED);
  // A second program of the same file is the only one that can be meant.
  const std::string second = attached + area(0x200000, 4 * kPage, "r--s", 2 * kPage);
  const Result<MappingPlan> result = plan(file, {}, second, kPage);
  ASSERT_TRUE(result.ok()) << result.error().message;
  EXPECT_EQ(result.value().spans[0].begin, 0x200000U);
}

TEST(MappingPlan, APrivateReadOnlyMappingIsALoaders) {
  const ProgramFile file = pte(kPage, kConstants);
  EXPECT_TRUE(plan(file, {}, area(0x100000, 4 * kPage, "r--p", 2 * kPage), kPage).ok());
}

TEST(MappingPlan, SaysWhenNothingIsMapped) {
  const ProgramFile file = pte(kPage, kConstants);
  const std::string other = area(0x100000, 4 * kPage, "r--s", 2 * kPage, 78);
  EXPECT_EQ(plan(file, {}, other, kPage).error().status, Status::NOT_MAPPED);
  EXPECT_EQ(plan(file, {{"a", 0x100000}}, other, kPage).error().status, Status::NOT_MAPPED);
  EXPECT_EQ(plan(file, {}, "", kPage).error().status, Status::NOT_MAPPED);
  // The flatbuffer alone: loaded, but not far enough.
  EXPECT_EQ(plan(file, {}, area(0x100000, kPage, "r--s", 0), kPage).error().status,
            Status::NOT_MAPPED);
}

TEST(MappingPlan, ConstantsThatCannotBePatchedAreLeftAlone) {
  ProgramFile file = pte(kPage, kConstants);
  const std::string map = area(0x100000, 4 * kPage, "r--s", 2 * kPage);
  file.tensors[0].patchable = false;
  const Result<MappingPlan> result = plan(file, {}, map, kPage);
  ASSERT_TRUE(result.ok());
  ASSERT_EQ(result.value().tensors.size(), 1U);
  EXPECT_EQ(result.value().tensors[0].tensor_index, 1U);
  file.tensors[1].patchable = false;
  EXPECT_EQ(plan(file, {}, map, kPage).error().status, Status::NOT_SUPPORTED);
}

}  // namespace
}  // namespace shira
