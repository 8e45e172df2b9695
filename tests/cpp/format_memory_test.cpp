// Files opened without their content: coded bytes are given back, and nothing that is needed is.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "index_encoder.h"
#include "shb_expect.h"
#include "shb_large.h"
#include "shb_sample.h"

namespace shira::testing {
namespace {

OpenOptions without_content() {
  OpenOptions options;
  options.keep_content = false;
  return options;
}

// --- index streams

constexpr uint32_t kUnits = 1200000;

struct Coding {
  IndexCodec codec;
  unsigned rice_bits;
  uint32_t block_length;
};

const Coding kCodings[] = {{IndexCodec::gaps8, 0, 1},  {IndexCodec::gaps8, 0, 3},
                           {IndexCodec::gaps16, 0, 1}, {IndexCodec::gaps16, 0, 2},
                           {IndexCodec::rice, 0, 1},   {IndexCodec::rice, 9, 1},
                           {IndexCodec::rice, 16, 2},  {IndexCodec::runs, 0, 1}};

std::string name_of(const Coding& coding) {
  return std::string(index_codec_name(coding.codec)) + " " + std::to_string(coding.rice_bits) +
         " " + std::to_string(coding.block_length);
}

/// Small gaps, and now and then one of several digits.
std::vector<uint32_t> positions_for(const Coding& coding) {
  std::vector<uint32_t> index;
  uint32_t block = 0;
  for (uint32_t unit = 0; unit < kUnits; ++unit) {
    block += 1 + unit * 7 % 5 + (unit % 5000 == 4999 ? 3000 : 0);
    for (uint32_t i = 0; i < coding.block_length; ++i) {
      index.push_back(block * coding.block_length + i);
    }
  }
  return index;
}

/// Decodes a copy, once with its bytes kept and once with them spent: equal answers are expected.
void expect_same(const IndexStream& stream, const std::string& name) {
  const Result<IndexList> expected = decode_index(stream);
  Array<uint8_t> copy = std::move(Array<uint8_t>::make(stream.bytes.size()).value());
  std::copy_n(stream.bytes.data(), copy.size(), copy.data());
  IndexStream spent_stream = stream;
  spent_stream.bytes = ByteReader(copy.data(), copy.size());
  ArrayPool pool;
  SpentBytes spent(true);
  const Result<IndexList> list = decode_index(spent_stream, &pool, &spent);
#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)  // which lets nobody look at spent bytes
  if (copy.size() >= 1 << 20) {
    // The pages at the start are gone, but for the bytes that share one with something else.
    EXPECT_TRUE(std::all_of(&copy[8192], &copy[65536], [](uint8_t byte) { return byte == 0; }))
        << name << ": the premise, bytes were given back";
  }
#endif
  ASSERT_EQ(list.ok(), expected.ok()) << name;
  if (list.ok()) {
    ASSERT_TRUE(positions_of(list.value()) == positions_of(expected.value())) << name;
  } else {
    EXPECT_EQ(list.error().offset_bytes, expected.error().offset_bytes) << name;
    EXPECT_EQ(list.error().message, expected.error().message) << name;
  }
}

TEST(SpentIndexStreams, GiveTheSameListsAndErrors) {
  for (const Coding& coding : kCodings) {
    const std::vector<uint32_t> index = positions_for(coding);
    EncodedIndex encoded = encode_index(coding.codec, index, coding.block_length, coding.rice_bits);
    const auto stream_of = [&](uint64_t element_count) {
      return index_stream(coding.codec, encoded, index.size(), element_count, coding.block_length,
                          coding.rice_bits);
    };
    const uint64_t element_count = uint64_t{index.back()} + 1;
    expect_same(stream_of(element_count), name_of(coding));
    expect_same(stream_of(element_count - 1), name_of(coding) + ", the last unit outside");
    expect_same(stream_of(element_count / 2), name_of(coding) + ", half of the units outside");
    encoded.stream.push_back(0);
    expect_same(stream_of(element_count), name_of(coding) + ", a byte too many");
  }
}

// --- files

/// Packed values next to single ones that stay in the file, in one page with them.
TEST(FilesWithoutContent, HoldTheSame) {
  std::vector<TensorInput> tensors;
  for (int i = 0; i < 4; ++i) {
    const std::string name = "layer" + std::to_string(i);
    tensors.push_back(large_tensor(name + ".a", 300000 + i, IndexCodec::rice, ValueCodec::q8));
    tensors.push_back(tensor(name + ".b", Dtype::f16, {9}, IndexCodec::gaps8, {7}));
    tensors.back().kind = ValueKind::delta;
    tensors.push_back(large_tensor(name + ".c", 200000, IndexCodec::gaps16, ValueCodec::q4, 2));
    tensors.push_back(large_tensor(name + ".d", 200000, IndexCodec::gaps8, std::nullopt));
  }
  FileInput input;
  input.adapters.push_back(unbound(tensors));
  expect_holds_the_same(*open_good(build_file(input), without_content()),
                        *open_good(build_file(input)));
  // In two tiers, of which one or both are opened.
  for (size_t i = 0; i < tensors.size(); i += 2) {
    TensorInput row =
        large_tensor(tensors[i].name, 100000, IndexCodec::gaps16,
                     tensors[i].scaled ? std::optional(tensors[i].scaled->codec) : std::nullopt);
    const uint32_t behind = tensors[i].index.back() + 2;
    for (uint32_t& position : row.index) position += behind;
    row.dims = {row.index.back() + 2};
    input.adapters[0].tensors[i].dims = row.dims;
    row.tier = 1;
    input.adapters[0].tensors.push_back(row);
  }
  input.tier_count = 2;
  const Bytes bytes = build_file(input);
  for (const uint32_t tier_count : {1, 2}) {
    OpenOptions options;
    options.tier_count = tier_count;
    const FilePointer expected = open_good(bytes, options);
    options.keep_content = false;
    const FilePointer file = open_good(bytes, options);
    ASSERT_TRUE(file && expected);
    expect_holds_the_same(*file, *expected);
  }
}

// --- memory at its peak

/// Makes freed memory go back to the system, so that none of it is there to be used again.
bool can_count_memory() {
#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  return mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1 && malloc_trim(0) >= 0;
#else
  return false;
#endif
}

uint64_t status_bytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field, 0) == 0) return 1024 * std::stoull(line.substr(field.size()));
  }
  return 0;
}

/// What opening adds to the memory of this process at its peak, as a multiple of what is decoded.
double peak_of(const Bytes& bytes, const OpenOptions& options) {
  std::ofstream("/proc/self/clear_refs") << "5";  // the peak is now what is resident
  const uint64_t before = status_bytes("VmRSS:");
  const FilePointer file = open_good(bytes, options);
  const uint64_t peak = status_bytes("VmHWM:");
  const AdapterTensor& tensor = file->adapters()[0].tensors[0];
  const uint64_t plan_bytes = tensor.index->entries.size() * sizeof(uint32_t) +
                              tensor.index->runs.size() * sizeof(Run) +
                              tensor.nnz * dtype_bytes(tensor.value_dtype);
  return static_cast<double>(peak - before) / static_cast<double>(plan_bytes);
}

TEST(FilesWithoutContent, TakeLittleMoreThanWhatIsDecoded) {
  if (!can_count_memory()) GTEST_SKIP() << "needs Linux and glibc, without a sanitizer";
  struct Case {
    IndexCodec codec;
    std::optional<ValueCodec> values;
    uint32_t block_length;
  };
  // A single tensor: no list is finished before the last byte was decoded.
  for (const Case& input :
       {Case{IndexCodec::gaps16, std::nullopt, 1}, Case{IndexCodec::gaps8, std::nullopt, 1},
        Case{IndexCodec::runs, std::nullopt, 1}, Case{IndexCodec::rice, ValueCodec::q8, 1},
        Case{IndexCodec::gaps16, ValueCodec::q8, 1}, Case{IndexCodec::gaps16, ValueCodec::q4, 1},
        Case{IndexCodec::gaps16, ValueCodec::q4, 2}}) {
    const Bytes bytes = build_adapter(
        unbound({large_tensor("w", 4000000, input.codec, input.values, input.block_length)}));
    EXPECT_LE(peak_of(bytes, without_content()), 1.2)
        << index_codec_name(input.codec) << " x " << input.block_length;
    if (input.codec == IndexCodec::gaps16 && !input.values) {
      EXPECT_GT(peak_of(bytes, {}), 1.3) << "the premise: kept content counts";
    }
  }
}

// --- what can still be asked

using WithoutContent = WithCryptography;

TEST_F(WithoutContent, UnsignedFilesAreRefusedAndTheirDigestsUnknown) {
  const FilePointer file = open_good(sample(), without_content());
  ASSERT_TRUE(file);
  EXPECT_FALSE(file->keeps_content());
  EXPECT_EQ(file->check_signature(PublicKey{1}).error().status, Status::NOT_SIGNED);
  const Error error = file->check_digests().error();
  EXPECT_EQ(error.status, Status::NOT_SUPPORTED);
  EXPECT_EQ(error.file, "test.shb");
  EXPECT_NE(error.message.find("keep_content"), std::string::npos);
}

TEST_F(WithoutContent, SignedFilesCanAlwaysBeChecked) {
  const std::string path = std::string(SHIRA_TESTS_DIR) + "/vectors/good/signed.shb";
  OpenOptions options = without_content();
  const FilePointer kept = AdapterFile::open(path, options).value();
  ASSERT_TRUE(kept->signer());
  EXPECT_TRUE(kept->keeps_content()) << "nobody has checked its signature yet";
  EXPECT_TRUE(kept->check_digests().ok());
  EXPECT_TRUE(kept->check_signature(*kept->signer()).ok());
  EXPECT_EQ(kept->check_signature(PublicKey{1}).error().status, Status::WRONG_KEY);

  options.public_key = kept->signer();
  const FilePointer file = AdapterFile::open(path, options).value();
  EXPECT_FALSE(file->keeps_content());
  EXPECT_TRUE(file->check_digests().ok()) << "they were checked with the signature";
  EXPECT_TRUE(file->check_signature(*kept->signer()).ok());
  EXPECT_EQ(file->check_signature(PublicKey{1}).error().status, Status::WRONG_KEY);
}

TEST_F(WithoutContent, NoOtherFileCanReferToIt) {
  OpenOptions options;
  options.index_sources = {open_good(sample(), without_content())};
  const Error error = read(referring_to(sample()), options).error();
  EXPECT_EQ(error.status, Status::MISSING_INDEX);
  EXPECT_NE(error.message.find("1 were opened without keep_content"), std::string::npos)
      << error.message;
  // One that refers needs no content of its own, and does not spend that of the other.
  const FilePointer source = open_good(sample());
  options.index_sources = {source};
  options.keep_content = false;
  EXPECT_TRUE(open_good(referring_to(sample()), options));
  EXPECT_TRUE(source->check_digests().ok());
}

}  // namespace
}  // namespace shira::testing
