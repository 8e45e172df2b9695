// Test helper: builds valid .shb files, lets a test corrupt them and re-seals the checksums.
// SPDX-License-Identifier: Apache-2.0
#pragma once

// Written from the specification, not from the reader: nothing of csrc/format is used but the
// enums, so that a misunderstanding shared by both would have to be made twice.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/float_bits.h"
#include "base/hash.h"
#include "format/adapter_file.h"

namespace shira::testing {

using Bytes = std::vector<uint8_t>;

// --- SHA-256 (FIPS 180-4)

class Sha256 {
 public:
  static std::array<uint8_t, 32> digest(const Bytes& message) {
    Bytes padded = message;
    padded.push_back(0x80);
    while (padded.size() % 64 != 56) padded.push_back(0);
    const uint64_t bit_count = uint64_t{message.size()} * 8;
    for (int shift = 56; shift >= 0; shift -= 8) {
      padded.push_back(static_cast<uint8_t>(bit_count >> shift));
    }
    std::array<uint32_t, 8> state = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    for (size_t begin = 0; begin < padded.size(); begin += 64) compress(&state, &padded[begin]);
    std::array<uint8_t, 32> result{};
    for (size_t i = 0; i < 32; ++i) {
      result[i] = static_cast<uint8_t>(state[i / 4] >> (24 - 8 * (i % 4)));
    }
    return result;
  }

 private:
  static uint32_t rotate(uint32_t x, int count) { return x >> count | x << (32 - count); }

  static void compress(std::array<uint32_t, 8>* state, const uint8_t* block) {
    static constexpr uint32_t kRound[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
    uint32_t w[64];
    for (int t = 0; t < 16; ++t) {
      w[t] = static_cast<uint32_t>(block[4 * t]) << 24 |
             static_cast<uint32_t>(block[4 * t + 1]) << 16 |
             static_cast<uint32_t>(block[4 * t + 2]) << 8 | static_cast<uint32_t>(block[4 * t + 3]);
    }
    for (int t = 16; t < 64; ++t) {
      const uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ (w[t - 15] >> 3);
      const uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ (w[t - 2] >> 10);
      w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    std::array<uint32_t, 8> v = *state;  // a to h
    for (int t = 0; t < 64; ++t) {
      const uint32_t s1 = rotate(v[4], 6) ^ rotate(v[4], 11) ^ rotate(v[4], 25);
      const uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
      const uint32_t t1 = v[7] + s1 + choice + kRound[t] + w[t];
      const uint32_t s0 = rotate(v[0], 2) ^ rotate(v[0], 13) ^ rotate(v[0], 22);
      const uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
      v = {t1 + s0 + majority, v[0], v[1], v[2], v[3] + t1, v[4], v[5], v[6]};
    }
    for (size_t i = 0; i < 8; ++i) (*state)[i] += v[i];
  }
};

// --- little-endian fields of a byte vector

template <typename T>
void put(Bytes* bytes, size_t offset, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    bytes->at(offset + i) = static_cast<uint8_t>(static_cast<uint64_t>(value) >> (8 * i));
  }
}

template <typename T>
T get(const Bytes& bytes, size_t offset) {
  uint64_t value = 0;
  for (size_t i = 0; i < sizeof(T); ++i)
    value |= static_cast<uint64_t>(bytes.at(offset + i)) << (8 * i);
  return static_cast<T>(value);
}

inline void append(Bytes* bytes, const void* source, size_t size_bytes) {
  const auto* begin = static_cast<const uint8_t*>(source);
  bytes->insert(bytes->end(), begin, begin + size_bytes);
}

inline void pad_to(Bytes* bytes, size_t alignment) {
  while (bytes->size() % alignment != 0) bytes->push_back(0);
}

/// The bit patterns of `values` in `dtype`, as a value stream or as live weights.
inline Bytes encode_values(Dtype dtype, const std::vector<float>& values) {
  Bytes bytes;
  for (const float value : values) {
    const uint16_t half = dtype == Dtype::f16 ? narrow_f16(value) : narrow_bf16(value);
    if (dtype == Dtype::f32) {
      append(&bytes, &value, 4);
    } else {
      append(&bytes, &half, 2);
    }
  }
  return bytes;
}

// --- index streams (section 10)

inline void append_digits(Bytes* stream, uint64_t gap, uint32_t digit_bytes) {
  const uint64_t more = digit_bytes == 1 ? 255 : 65535;
  for (uint64_t i = 0; i <= gap / more; ++i) {
    const uint64_t digit = i < gap / more ? more : gap % more;
    for (uint32_t k = 0; k < digit_bytes; ++k)
      stream->push_back(static_cast<uint8_t>(digit >> (8 * k)));
  }
}

inline void append_leb128(Bytes* stream, uint64_t number) {
  for (; number >= 0x80; number >>= 7) stream->push_back(static_cast<uint8_t>(number | 0x80));
  stream->push_back(static_cast<uint8_t>(number));
}

struct EncodedIndex {
  Bytes stream;
  uint32_t unit_count = 0;
};

/// `index` must suit the codec: whole aligned blocks of `block_length` for BLOCKS.
inline EncodedIndex encode_index(IndexCodec codec, const std::vector<uint32_t>& index,
                                 uint32_t block_length) {
  EncodedIndex encoded;
  uint64_t end = 0;  // of the unit before: position + 1, or for runs the end of the run
  if (codec == IndexCodec::runs) {
    for (size_t i = 0; i < index.size();) {
      size_t length = 1;
      while (i + length < index.size() && index[i + length] == index[i] + length) ++length;
      append_leb128(&encoded.stream, index[i] - end);
      append_leb128(&encoded.stream, length - 1);
      end = index[i] + length;
      i += length;
      ++encoded.unit_count;
    }
    return encoded;
  }
  const bool blocks = codec == IndexCodec::blocks8 || codec == IndexCodec::blocks16;
  const bool narrow = codec == IndexCodec::gaps8 || codec == IndexCodec::blocks8;
  const uint32_t step = blocks ? block_length : 1;
  for (size_t i = 0; i < index.size(); i += step) {
    append_digits(&encoded.stream, index[i] / step - end, narrow ? 1 : 2);
    end = uint64_t{index[i] / step} + 1;
    ++encoded.unit_count;
  }
  return encoded;
}

// --- files

struct TensorInput {
  std::string name = "layer.weight";
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims = {4, 4};
  IndexCodec codec = IndexCodec::gaps8;
  uint32_t block_length = 0;
  std::vector<uint32_t> index;  // strictly increasing
  ValueKind kind = ValueKind::target;
  Dtype value_dtype = Dtype::f32;
  Bytes values;  // index.size() values of value_dtype
  Hash128 fingerprint{};
  Hash128 base_digest{};
  std::optional<EncodedIndex>
      coded;  // replaces what `codec` would give, to write malformed streams

  void set_values(const std::vector<float>& numbers) {
    values = encode_values(value_dtype, numbers);
  }

  /// Fingerprint and base digest of a base tensor: all its bytes, row-major, in `dtype`.
  void set_base(const Bytes& base) {
    const size_t width = dtype_bytes(dtype);
    Bytes touched;
    for (const uint32_t position : index) append(&touched, &base.at(position * width), width);
    fingerprint = hash128(touched.data(), touched.size());
    base_digest = hash128(base.data(), base.size());
  }
};

struct AdapterInput {
  std::string name = "adapter";
  bool bound = true;
  std::string metadata = "{}";
  std::vector<TensorInput> tensors;  // any order: written sorted by name
};

/// Offset of row `section` (0 ADAPTERS to 5 VALUES) in the section table.
inline size_t section_row(size_t section) { return 128 + 64 * section; }
inline size_t section_offset(const Bytes& file, size_t section) {
  return static_cast<size_t>(get<uint64_t>(file, section_row(section) + 8));
}
inline size_t section_bytes(const Bytes& file, size_t section) {
  return static_cast<size_t>(get<uint64_t>(file, section_row(section) + 16));
}
/// Offset of the row of tensor `tensor`.
inline size_t tensor_row(const Bytes& file, size_t tensor) {
  return section_offset(file, 1) + 128 * tensor;
}

/// Recomputes every checksum and digest, so that a corrupted field is what a reader meets, not a
/// checksum. Sections that lie outside the file are left alone.
inline void reseal(Bytes* file) {
  for (size_t i = 0; i < 6; ++i) {
    const uint64_t offset = get<uint64_t>(*file, section_row(i) + 8);
    const uint64_t size_bytes = get<uint64_t>(*file, section_row(i) + 16);
    if (offset > file->size() || size_bytes > file->size() - offset) continue;
    const Bytes section(file->begin() + static_cast<ptrdiff_t>(offset),
                        file->begin() + static_cast<ptrdiff_t>(offset + size_bytes));
    put<uint32_t>(file, section_row(i) + 4, crc32c(section.data(), section.size()));
    const auto sha256 = Sha256::digest(section);
    std::copy(sha256.begin(), sha256.end(),
              file->begin() + static_cast<ptrdiff_t>(section_row(i) + 32));
  }
  put<uint32_t>(file, 52, crc32c(file->data() + 128, 384));
  Bytes identity(file->begin(), file->begin() + 512);
  std::fill(identity.begin() + 64, identity.begin() + 96, uint8_t{0});
  std::fill(identity.begin() + 124, identity.begin() + 128, uint8_t{0});
  const auto digest = Sha256::digest(identity);
  std::copy(digest.begin(), digest.end(), file->begin() + 64);
  put<uint32_t>(file, 124, crc32c(file->data(), 124));
}

using Sections = std::array<Bytes, 6>;

/// The file of these sections, in the order of their kinds.
inline Bytes assemble(const Sections& sections, uint32_t tensor_count) {
  Bytes file(512);
  for (size_t i = 0; i < sections.size(); ++i) {
    pad_to(&file, 64);
    put<uint32_t>(&file, section_row(i), i + 1);
    put<uint64_t>(&file, section_row(i) + 8, file.size());
    put<uint64_t>(&file, section_row(i) + 16, sections[i].size());
    append(&file, sections[i].data(), sections[i].size());
  }
  const uint8_t magic[8] = {0x89, 0x53, 0x48, 0x42, 0x0D, 0x0A, 0x1A, 0x0A};
  std::copy(magic, magic + 8, file.begin());
  put<uint16_t>(&file, 10, 1);  // version 0.1
  put<uint32_t>(&file, 12, 128);
  put<uint64_t>(&file, 16, file.size());
  put<uint32_t>(&file, 40, 6);
  put<uint32_t>(&file, 44, 1);
  put<uint32_t>(&file, 48, tensor_count);
  reseal(&file);
  return file;
}

/// The sections of a valid file, to be changed and assembled again.
inline Sections split(const Bytes& file) {
  Sections sections;
  for (size_t i = 0; i < sections.size(); ++i) {
    append(&sections[i], &file[section_offset(file, i)], section_bytes(file, i));
  }
  return sections;
}

inline Bytes build_adapter(AdapterInput input) {
  std::sort(input.tensors.begin(), input.tensors.end(),
            [](const TensorInput& a, const TensorInput& b) { return a.name < b.name; });
  const auto tensor_count = static_cast<uint32_t>(input.tensors.size());

  Sections sections;
  auto& [adapters, tensors, names, metadata, index, values] = sections;
  const auto append_name = [&names = sections[2]](Bytes* row, size_t at, const std::string& name) {
    put<uint32_t>(row, at, names.size());
    put<uint32_t>(row, at + 4, name.size());
    append(&names, name.data(), name.size());
  };
  adapters.resize(64);
  append_name(&adapters, 0, input.name);
  put<uint32_t>(&adapters, 12, tensor_count);
  put<uint32_t>(&adapters, 16, input.bound ? 1 : 0);
  append(&metadata, input.metadata.data(), input.metadata.size());
  for (const TensorInput& tensor : input.tensors) {
    const EncodedIndex coded = tensor.coded
                                   ? *tensor.coded
                                   : encode_index(tensor.codec, tensor.index, tensor.block_length);
    const size_t row = tensors.size();
    tensors.resize(row + 128);
    pad_to(&index, 8);
    pad_to(&values, 8);
    append_name(&tensors, row, tensor.name);
    put<uint8_t>(&tensors, row + 8, static_cast<uint8_t>(tensor.dtype));
    put<uint8_t>(&tensors, row + 9, tensor.dims.size());
    put<uint8_t>(&tensors, row + 10, static_cast<uint8_t>(tensor.codec));
    put<uint8_t>(&tensors, row + 11, static_cast<uint8_t>(tensor.value_dtype));
    put<uint8_t>(&tensors, row + 12, static_cast<uint8_t>(tensor.kind));
    put<uint8_t>(&tensors, row + 13, input.bound ? 1 : 0);
    put<uint32_t>(&tensors, row + 16, tensor.block_length);
    put<uint32_t>(&tensors, row + 20, 4);
    put<uint32_t>(&tensors, row + 24, 5);
    put<uint32_t>(&tensors, row + 28, coded.unit_count);
    put<uint64_t>(&tensors, row + 32, tensor.index.size());
    put<uint64_t>(&tensors, row + 40, index.size());
    put<uint64_t>(&tensors, row + 48, coded.stream.size());
    put<uint64_t>(&tensors, row + 56, values.size());
    for (size_t i = 0; i < tensor.dims.size(); ++i)
      put<uint32_t>(&tensors, row + 64 + 4 * i, tensor.dims[i]);
    if (input.bound) {
      std::copy(tensor.fingerprint.begin(), tensor.fingerprint.end(), &tensors[row + 96]);
      std::copy(tensor.base_digest.begin(), tensor.base_digest.end(), &tensors[row + 112]);
    }
    append(&index, coded.stream.data(), coded.stream.size());
    append(&values, tensor.values.data(), tensor.values.size());
  }

  return assemble(sections, tensor_count);
}

}  // namespace shira::testing
