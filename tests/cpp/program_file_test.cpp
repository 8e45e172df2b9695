// Tests of the .pte and .ptd table reader: what it lists, what it refuses, and hostile bytes.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <random>
#include <string>

#include "attach_fixtures.h"

namespace shira {
namespace {

using test::Bytes;
using test::Constant;
using test::FlatTensors;
using test::kBf16;
using test::kF16;
using test::kF32;
using test::kInt64;
using test::make_ptd;
using test::make_pte;
using test::TemporaryFile;

Result<ProgramFile> parse(const Bytes& bytes) {
  return parse_program_file(bytes.data(), bytes.size(), "memory.pte");
}

const ProgramTensor& tensor(const ProgramFile& file, const std::string& name) {
  for (const ProgramTensor& candidate : file.tensors) {
    if (candidate.name == name) return candidate;
  }
  ADD_FAILURE() << "no tensor " << name;
  static const ProgramTensor none;
  return none;
}

test::Program small_program() {
  test::Program program;
  program.methods = {{{"fc.weight", kF32, {3, 8}, {}, 1},
                      {"fc.bias", kF16, {8}, {}, 2},
                      {"norm.weight", kBf16, {2, 2, 2}, {}, 3}}};
  program.offsets = {0, 0, 128, 256};
  program.constant_bytes = 272;
  return program;
}

FlatTensors small_flat_tensors() {
  FlatTensors content;
  content.constants = {{"fc.weight", kF32, {3, 8}, {}, 0}, {"fc.bias", kF16, {8}, {}, 1}};
  content.segments = {{0, 96}, {128, 16}};
  return content;
}

TEST(ProgramFile, ListsTheNamedConstantsOfAPte) {
  const Bytes bytes = make_pte(small_program());
  const uint64_t data = bytes.size() - 272;
  const Result<ProgramFile> file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file.value().tensors.size(), 3U);
  EXPECT_EQ(file.value().file_bytes, bytes.size());
  EXPECT_FALSE(file.value().is_ptd);
  EXPECT_EQ(file.value().constants_offset_bytes, data);
  EXPECT_EQ(file.value().constants_size_bytes, 272U);
  EXPECT_EQ(file.value().tensors[0].name, "fc.bias") << "sorted by name";
  const ProgramTensor& weight = tensor(file.value(), "fc.weight");
  EXPECT_EQ(weight.dtype, Dtype::f32);
  EXPECT_EQ(weight.dims, (std::vector<uint32_t>{3, 8}));
  EXPECT_EQ(weight.offset_bytes, data);
  EXPECT_EQ(weight.size_bytes, 96U);
  EXPECT_EQ(weight.load, (FileRange{data, 272}));
  EXPECT_TRUE(weight.patchable);
  EXPECT_EQ(tensor(file.value(), "fc.bias").offset_bytes, data + 128);
  EXPECT_EQ(tensor(file.value(), "fc.bias").dtype, Dtype::f16);
  EXPECT_EQ(tensor(file.value(), "norm.weight").dtype, Dtype::bf16);
  EXPECT_EQ(tensor(file.value(), "norm.weight").size_bytes, 16U);
}

TEST(ProgramFile, ListsTheTensorsOfAPtd) {
  const Bytes bytes = make_ptd(small_flat_tensors());
  const uint64_t data = bytes.size() - 144;
  const Result<ProgramFile> file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file.value().tensors.size(), 2U);
  EXPECT_TRUE(file.value().is_ptd);
  EXPECT_EQ(tensor(file.value(), "fc.weight").load, (FileRange{data, 96}));
  EXPECT_EQ(tensor(file.value(), "fc.bias").offset_bytes, data + 128);
  EXPECT_EQ(tensor(file.value(), "fc.bias").load, (FileRange{data + 128, 16}));
}

TEST(ProgramFile, ConstantsThatCannotBePatchedSayWhy) {
  test::Program program = small_program();
  program.methods[0] = {{"counter", kInt64, {2}, {}, 1},
                        {"conv.weight", kF32, {2, 2, 2, 1}, {0, 2, 3, 1}, 2},
                        {"pointwise.weight", kF32, {2, 4, 1, 1}, {0, 2, 3, 1}, 3},
                        {"empty", kF32, {0, 4}, {}, 1},
                        {"odd", 99, {4}, {}, 4},
                        {"misaligned", kF32, {1}, {}, 5}};
  program.offsets = {0, 0, 64, 128, 200, 210};
  const Result<ProgramFile> file = parse(make_pte(program));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(tensor(file.value(), "counter").why_not, "its dtype is int64");
  EXPECT_EQ(tensor(file.value(), "conv.weight").why_not, "its elements are not in row-major order");
  EXPECT_TRUE(tensor(file.value(), "pointwise.weight").patchable)
      << "channels-last with one-pixel kernels is row-major all the same";
  EXPECT_EQ(tensor(file.value(), "empty").why_not, "it is empty");
  EXPECT_EQ(tensor(file.value(), "odd").why_not, "its dtype has the unknown code 99");
  EXPECT_EQ(tensor(file.value(), "misaligned").why_not, "it is misaligned");
  for (const ProgramTensor& listed : file.value().tensors) {
    EXPECT_EQ(listed.patchable, listed.why_not.empty()) << listed.name;
  }
}

TEST(ProgramFile, WhatIsNoConstantOfThisFileIsLeftOut) {
  test::Program program = small_program();
  program.methods[0] = {{"activation", kF32, {4}, {}, 0},
                        {"elsewhere", kF32, {4}, {}, 1, 1},
                        {"buffer", kF32, {4}, {}, 1, 0, true},
                        {"", kF32, {4}, {}, 2},
                        {"kept", kF32, {4}, {}, 3}};
  const Result<ProgramFile> file = parse(make_pte(program));
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file.value().tensors.size(), 1U);
  EXPECT_EQ(file.value().tensors[0].name, "kept");
}

TEST(ProgramFile, FindsSharedStorage) {
  test::Program program = small_program();
  program.methods[0] = {{"a.weight", kF32, {4}, {}, 1}, {"b.weight", kF32, {4}, {}, 1},
                        {"c.weight", kF32, {4}, {}, 2}, {"", kInt64, {2}, {}, 2},
                        {"d.weight", kF32, {8}, {}, 3}, {"e.weight", kF32, {4}, {}, 4}};
  program.offsets = {0, 0, 64, 128, 144};
  const Result<ProgramFile> file = parse(make_pte(program));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(tensor(file.value(), "a.weight").shares_storage_with, "b.weight");
  EXPECT_EQ(tensor(file.value(), "b.weight").shares_storage_with, "a.weight");
  EXPECT_EQ(tensor(file.value(), "c.weight").shares_storage_with, "(an unnamed constant)");
  EXPECT_EQ(tensor(file.value(), "d.weight").why_not, "its bytes overlap those of e.weight");
  EXPECT_EQ(tensor(file.value(), "e.weight").why_not, "its bytes overlap those of d.weight");
}

TEST(ProgramFile, AConstantMayBeDescribedTwice) {
  test::Program program = small_program();
  program.methods.push_back(program.methods[0]);
  Result<ProgramFile> file = parse(make_pte(program));
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file.value().tensors.size(), 3U);
  for (const ProgramTensor& listed : file.value().tensors) {
    EXPECT_TRUE(listed.patchable);
    EXPECT_EQ(listed.shares_storage_with, "");
  }
  program.methods[1][0].sizes = {4, 6};  // a view of fc.weight
  file = parse(make_pte(program));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_TRUE(tensor(file.value(), "fc.weight").patchable);
  EXPECT_EQ(tensor(file.value(), "fc.weight").dims, (std::vector<uint32_t>{3, 8}));
  program.methods[1][1].buffer = 3;  // fc.bias elsewhere
  file = parse(make_pte(program));
  ASSERT_TRUE(file.ok()) << file.error().message;
  ASSERT_EQ(file.value().tensors.size(), 3U);
  EXPECT_EQ(tensor(file.value(), "fc.bias").why_not,
            "the program gives this name to different constants");
  EXPECT_TRUE(tensor(file.value(), "fc.weight").patchable);
}

TEST(ProgramFile, RefusesContradictions) {
  struct Case {
    const char* what;
    void (*break_it)(test::Program*);
  };
  const Case cases[] = {
      {"no such constant", [](test::Program* p) { p->methods[0][0].buffer = 4; }},
      {"constant outside the segment", [](test::Program* p) { p->offsets[3] = 273; }},
      {"constant past the segment", [](test::Program* p) { p->offsets[3] = 260; }},
      {"offset near 2^64", [](test::Program* p) { p->offsets[3] = UINT64_MAX - 4; }},
      {"negative extent", [](test::Program* p) { p->methods[0][0].sizes = {-3, 8}; }},
      {"elements overflow", [](test::Program* p) { p->methods[0][0].sizes.assign(3, INT32_MAX); }},
      {"elements overflow to zero",
       [](test::Program* p) { p->methods[0][0].sizes = {1 << 30, 1 << 30, 1 << 4}; }},
      {"rank 17", [](test::Program* p) { p->methods[0][0].sizes.assign(17, 1); }},
      {"dimension order too long",
       [](test::Program* p) { p->methods[0][0].dim_order = {0, 1, 2}; }},
      {"dimension twice", [](test::Program* p) { p->methods[0][0].dim_order = {1, 1}; }},
      {"dimension out of range", [](test::Program* p) { p->methods[0][0].dim_order = {0, 2}; }},
      {"storage offset", [](test::Program* p) { p->methods[0][0].storage_offset = 1; }},
  };
  for (const Case& c : cases) {
    test::Program program = small_program();
    c.break_it(&program);
    const Result<ProgramFile> file = parse(make_pte(program));
    ASSERT_FALSE(file.ok()) << c.what;
    EXPECT_EQ(file.error().status, Status::BAD_PROGRAM_FILE) << c.what;
    EXPECT_EQ(file.error().file, "memory.pte");
    EXPECT_NE(file.error().offset_bytes, kNoOffset) << c.what;
  }
}

TEST(ProgramFile, AProgramWithoutSegmentsHasNoConstants) {
  test::Program program;
  program.methods = {{}};
  Bytes bytes = make_pte(program);
  memset(&bytes[8], 0, 32);  // such a file has no extended header
  const Result<ProgramFile> file = parse(bytes);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_TRUE(file.value().tensors.empty());
}

TEST(ProgramFile, RefusesOtherFiles) {
  Bytes bytes = make_pte(small_program());
  bytes[6] = '9';  // ET92
  EXPECT_EQ(parse(bytes).error().status, Status::BAD_PROGRAM_FILE);
  EXPECT_EQ(parse(bytes).error().offset_bytes, 4U);
  bytes = make_pte(small_program());
  bytes[8] = 'x';  // no extended header, and yet a segment
  EXPECT_EQ(parse(bytes).error().status, Status::BAD_PROGRAM_FILE);
  EXPECT_EQ(parse(Bytes(1000, 0)).error().status, Status::BAD_PROGRAM_FILE);
  EXPECT_EQ(parse({}).error().status, Status::BAD_PROGRAM_FILE);
}

/// Reading must stay inside the bytes, which end where ASan's red zone begins, and list only what
/// lies inside the file.
void expect_harmless(const Bytes& bytes, const std::string& what) {
  const Bytes exact(bytes);
  const Result<ProgramFile> file = parse_program_file(exact.data(), exact.size(), what);
  if (!file.ok()) {
    EXPECT_TRUE(file.error().status == Status::BAD_PROGRAM_FILE ||
                file.error().status == Status::TRUNCATED)
        << what << ": " << file.error().message;
    return;
  }
  for (const ProgramTensor& listed : file.value().tensors) {
    EXPECT_LE(listed.offset_bytes, exact.size()) << what;
    EXPECT_LE(listed.size_bytes, exact.size() - listed.offset_bytes) << what;
    EXPECT_LE(listed.load.offset_bytes, listed.offset_bytes) << what;
    EXPECT_GE(listed.load.end_bytes(), listed.end_bytes()) << what;
    EXPECT_LE(listed.load.end_bytes(), exact.size()) << what;
  }
}

TEST(ProgramFile, EveryTruncationIsRefused) {
  for (const Bytes& whole : {make_pte(small_program()), make_ptd(small_flat_tensors())}) {
    for (size_t length = 0; length < whole.size(); ++length) {
      const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
      expect_harmless(part, "the first " + std::to_string(length) + " bytes");
      EXPECT_FALSE(parse(part).ok()) << length;
    }
    EXPECT_TRUE(parse(whole).ok());
  }
}

TEST(ProgramFile, RandomDamageIsHarmless) {
  std::mt19937 random(20260101);
  for (const Bytes& whole : {make_pte(small_program()), make_ptd(small_flat_tensors())}) {
    const size_t tables_bytes = whole.size() - 144;
    for (int round = 0; round < 20000; ++round) {
      Bytes damaged = whole;
      const unsigned edits = 1 + random() % 4;
      for (unsigned e = 0; e < edits; ++e) {
        const size_t at = random() % tables_bytes;
        switch (random() % 4) {
          case 0:
            damaged[at] ^= static_cast<uint8_t>(1U << random() % 8);
            break;
          case 1:
            damaged[at] = static_cast<uint8_t>(random());
            break;
          case 2:
            damaged[at] = 0xff;
            break;
          default: {  // a plausible small offset or count
            const auto value = static_cast<uint32_t>(random() % 600);
            if (at + 4 <= damaged.size()) memcpy(&damaged[at], &value, 4);
          }
        }
      }
      expect_harmless(damaged, "round " + std::to_string(round));
    }
  }
}

TEST(ProgramFile, ManyEntriesForOneTableAreRefusedEarly) {
  // A quarter of a million entries that are all the same one, with a name of a megabyte: 256 GB of
  // names if nobody counted.
  constexpr size_t kCount = size_t{1} << 18;
  test::FlatWriter w(48);
  const auto root = w.table_at(0, {{0, 4}, {1, 4}, {2, 4}});
  const auto segment = w.table_at(w.references_at(root.fields.at(1), 1), {{0, 8}, {1, 8}});
  w.put<uint64_t>(segment.fields.at(1), 4);
  const size_t entries = w.references_at(root.fields.at(2), kCount);
  const auto entry = w.table_at(entries, {{0, 4}, {1, 4}, {2, 4}});
  for (size_t i = 0; i < kCount; ++i) w.refer_to(entries + 4 * i, entry.position);
  const auto layout = w.table_at(entry.fields.at(2), {{0, 1}});
  w.put<uint8_t>(layout.fields.at(0), kF32);
  w.string_at(entry.fields.at(0), std::string(size_t{1} << 20, 'n'));
  memcpy(&w.bytes()[4], "FT01FH01", 8);
  w.put<uint32_t>(12, 40);
  w.put<uint64_t>(16, 48);
  w.put<uint64_t>(24, w.bytes().size() - 48);
  w.put<uint64_t>(32, w.bytes().size());
  w.append<uint32_t>(0);
  const Result<ProgramFile> file = parse(w.bytes());
  ASSERT_FALSE(file.ok());
  EXPECT_EQ(file.error().message, "the file describes more entries than it has bytes for");
}

TEST(ProgramFile, ReadsFromDisk) {
  const TemporaryFile disk(make_pte(small_program()));
  const Result<ProgramFile> file = read_program_file(disk.path());
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(file.value().path, disk.path());
  EXPECT_EQ(file.value().tensors.size(), 3U);

  EXPECT_EQ(read_program_file(disk.path() + ".none").error().status, Status::IO_ERROR);
  EXPECT_EQ(read_program_file("/tmp").error().status, Status::IO_ERROR);
  ASSERT_EQ(truncate(disk.path().c_str(), static_cast<off_t>(file.value().file_bytes - 1)), 0);
  EXPECT_EQ(read_program_file(disk.path()).error().status, Status::TRUNCATED);
  ASSERT_EQ(truncate(disk.path().c_str(), 100), 0);
  EXPECT_EQ(read_program_file(disk.path()).error().status, Status::TRUNCATED);
  ASSERT_EQ(truncate(disk.path().c_str(), 3), 0);
  EXPECT_EQ(read_program_file(disk.path()).error().status, Status::BAD_PROGRAM_FILE);
}

TEST(ProgramFile, AFifoDoesNotBlock) {
  const test::TemporaryFolder folder;
  const std::string path = folder / "fifo";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(read_program_file(path).error().status, Status::IO_ERROR);
}

}  // namespace
}  // namespace shira
