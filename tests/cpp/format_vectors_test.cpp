// Every stored .shb file of tests/vectors: the status and offset, or the content, of its manifest.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "format/adapter_file.h"
#include "index_encoder.h"
#include "shb_builder.h"

namespace shira::testing {
namespace {

const std::string kFolder = SHIRA_TESTS_DIR "/vectors/";

/// A row of manifest.tsv.
struct Vector {
  std::string path;
  std::string status;
  std::string offset;       // in decimal, or "-"
  std::string dump_sha256;  // of the decoded content, or "-"
  std::vector<std::string> sources;
  std::string public_key;  // in hexadecimal, or "-"
};

std::vector<Vector> manifest() {
  std::vector<Vector> vectors;
  std::ifstream stream(kFolder + "manifest.tsv");
  for (std::string line; std::getline(stream, line);) {
    std::istringstream fields(line);
    Vector vector;
    std::string sources;
    fields >> vector.path >> vector.status >> vector.offset >> vector.dump_sha256 >> sources >>
        vector.public_key;
    std::istringstream names(sources == "-" ? "" : sources);
    for (std::string name; std::getline(names, name, ',');) vector.sources.push_back(name);
    vectors.push_back(vector);
  }
  return vectors;
}

PublicKey key_of(const std::string& hex) {
  PublicKey key{};
  for (size_t i = 0; i < key.size(); ++i) {
    key[i] = static_cast<uint8_t>(std::stoi(hex.substr(2 * i, 2), nullptr, 16));
  }
  return key;
}

// --- the dump that tests/vectors/dump.py describes

template <typename T>
void append_number(Bytes* dump, T number) {
  dump->resize(dump->size() + sizeof(T));
  put<T>(dump, dump->size() - sizeof(T), number);
}

void append_text(Bytes* dump, std::string_view text) {
  append_number<uint32_t>(dump, static_cast<uint32_t>(text.size()));
  append(dump, text.data(), text.size());
}

std::vector<uint32_t> positions_for_dump(const AdapterTensor& tensor) {
  if (tensor.index) return positions_of(*tensor.index);
  if (tensor.rule->codec == IndexCodec::top_magnitude) return {UINT32_MAX};
  return positions_of(expand_mask(*tensor.rule).value());
}

float value_at(const AdapterTensor& tensor, uint64_t i) {
  uint32_t bits = 0;
  const size_t width = dtype_bytes(tensor.value_dtype);
  std::memcpy(&bits, tensor.values + i * width, width);
  switch (tensor.value_dtype) {
    case Dtype::f32:
      return float_from_bits(bits);
    case Dtype::f16:
      return f16_to_f32(static_cast<uint16_t>(bits));
    case Dtype::bf16:
      return bf16_to_f32(static_cast<uint16_t>(bits));
    default:
      return static_cast<float>(static_cast<int8_t>(bits));
  }
}

Bytes dump_of(const AdapterFile& file) {
  Bytes dump;
  for (const Adapter& adapter : file.adapters()) {
    append_text(&dump, adapter.name);
    append_number<uint32_t>(&dump, adapter.is_bound ? 1 : 0);
    append_text(&dump, adapter.metadata_json);
    append_number<uint32_t>(&dump, static_cast<uint32_t>(adapter.tensors.size()));
    for (const AdapterTensor& tensor : adapter.tensors) {
      append_text(&dump, tensor.name);
      dump.push_back(static_cast<uint8_t>(tensor.dtype));
      dump.push_back(static_cast<uint8_t>(tensor.value_codec));
      dump.push_back(static_cast<uint8_t>(tensor.value_kind));
      dump.push_back(static_cast<uint8_t>(tensor.dims.size()));
      for (const uint32_t dim : tensor.dims) append_number<uint32_t>(&dump, dim);
      append(&dump, tensor.fingerprint.data(), tensor.fingerprint.size());
      append(&dump, tensor.base_digest.data(), tensor.base_digest.size());
      append_number<uint64_t>(&dump, tensor.nnz);
      for (const uint32_t position : positions_for_dump(tensor)) {
        append_number<uint32_t>(&dump, position);
      }
      for (uint64_t i = 0; i < tensor.nnz; ++i) {
        append_number<uint32_t>(&dump, bits_from_float(value_at(tensor, i)));
      }
    }
  }
  return dump;
}

void check_vector(const Vector& vector, OpenOptions options) {
  if (vector.public_key != "-") options.public_key = key_of(vector.public_key);
  for (const std::string& source : vector.sources) {
    options.index_sources.push_back(AdapterFile::open(kFolder + source).value());
  }
  const auto opened = AdapterFile::open(kFolder + vector.path, options);
  if (vector.status != "OK") {
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(status_name(opened.error().status), vector.status) << opened.error().message;
    EXPECT_EQ(std::to_string(opened.error().offset_bytes), vector.offset) << opened.error().message;
    return;
  }
  ASSERT_TRUE(opened.ok()) << opened.error().message << " at " << opened.error().offset_bytes;
  const AdapterFile& file = *opened.value();
  const auto digest = Sha256::digest(dump_of(file));
  EXPECT_EQ(to_hex(digest.data(), digest.size()), vector.dump_sha256);
  if (!cryptography_available()) return;
  const auto checked = file.check_digests();
  EXPECT_TRUE(checked.ok()) << checked.error().message;
  if (file.signer()) {
    const auto signature = file.check_signature(*file.signer());
    EXPECT_TRUE(signature.ok()) << signature.error().message;
    EXPECT_EQ(file.check_signature(PublicKey{}).error().status, Status::WRONG_KEY);
  } else {
    EXPECT_EQ(file.check_signature(PublicKey{}).error().status, Status::NOT_SIGNED);
  }
}

TEST(Vectors, AreReadAsTheManifestSays) {
  const std::vector<Vector> vectors = manifest();
  ASSERT_GT(vectors.size(), 100U) << "the premise: " << kFolder << "manifest.tsv can be read";
  for (const Vector& vector : vectors) {
    SCOPED_TRACE(vector.path);
    const bool needs_cryptography = vector.public_key != "-" || !vector.sources.empty();
    if (needs_cryptography && !cryptography_available()) continue;
    OpenOptions options;
    check_vector(vector, options);
    options.thread_count = 3;
    options.threads_from_bytes = 256;
    check_vector(vector, options);
  }
}

/// No bit of a signed file can change unnoticed, not even with every checksum mended.
TEST(Vectors, ThatAreSignedCannotBeChanged) {
  if (!cryptography_available()) GTEST_SKIP() << "this build has no libsodium";
  std::ifstream stream(kFolder + "good/signed.shb", std::ios::binary);
  Bytes good((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  ASSERT_GT(good.size(), 256U);
  OpenOptions options;
  options.public_key.emplace();
  std::copy_n(&good[128], 32, options.public_key->begin());
  const auto open = [&](const Bytes& bytes) {
    return AdapterFile::from_bytes(bytes.data(), bytes.size(), "signed", options);
  };
  ASSERT_TRUE(open(good).ok());
  for (size_t offset = 0; offset < good.size(); ++offset) {
    Bytes bytes = good;
    bytes[offset] ^= static_cast<uint8_t>(1 << offset % 8);
    reseal(&bytes);
    if (bytes == good) continue;  // a checksum: it was mended too
    ASSERT_FALSE(open(bytes).ok()) << offset;
  }
  Bytes twisted = good;
  twisted[200] ^= 1;
  put_crc_of_header(&twisted);
  EXPECT_EQ(open(twisted).error().status, Status::BAD_SIGNATURE);
  EXPECT_EQ(open(twisted).error().offset_bytes, 160U);
}

}  // namespace
}  // namespace shira::testing
