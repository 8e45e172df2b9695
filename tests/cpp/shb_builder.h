// Test helper: builds any valid .shb file, finds its fields, and mends the checksums of broken
// ones. SPDX-License-Identifier: Apache-2.0
#pragma once

// Written from the specification, not from the reader: nothing of csrc/format is used but the
// enums, so that a misunderstanding shared by both would have to be made twice.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/float_bits.h"
#include "base/hash.h"
#include "format/adapter_file.h"
#include "index_encoder.h"

namespace shira::testing {

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

/// The bit patterns of `values` in `dtype`, as live weights: i8 and i4 take one byte per code.
inline Bytes encode_values(Dtype dtype, const std::vector<float>& values) {
  Bytes bytes;
  if (dtype == Dtype::f32) {
    append(&bytes, values.data(), values.size() * sizeof(float));
    return bytes;
  }
  for (const float value : values) {
    if (!is_float(dtype)) {
      bytes.push_back(static_cast<uint8_t>(static_cast<int8_t>(value)));
      continue;
    }
    const uint16_t half = dtype == Dtype::f16 ? narrow_f16(value) : narrow_bf16(value);
    append(&bytes, &half, 2);
  }
  return bytes;
}

// --- what a file is made from

/// Values of a scaled codec (section 10): levels and the f16 patterns of their scales.
struct ScaledValues {
  ValueCodec codec = ValueCodec::q4;
  uint32_t group = 64;
  int8_t exponent = 0;
  std::vector<uint16_t> scales;
  std::vector<int> levels;  // q, one per entry
};

/// One row of TENSORS. Rows of a tier whose positions are coded alike share them, unless one says
/// otherwise.
struct TensorInput {
  std::string name = "layer.weight";
  Dtype dtype = Dtype::f32;
  std::vector<uint32_t> dims = {4, 4};
  uint8_t tier = 0;
  IndexCodec codec = IndexCodec::gaps8;
  uint32_t block_length = 1;    // of GAPS8, GAPS16, RICE, RANDOM
  uint8_t rice_bits = 0;        // of RICE
  std::vector<uint32_t> index;  // strictly increasing
  /// Replaces what `codec` would give: streams of derived masks, and malformed ones.
  std::optional<EncodedIndex> coded;
  std::optional<uint64_t> entry_count;  // where it is not index.size()
  bool shares_index = true;
  ValueKind kind = ValueKind::target;
  Dtype value_dtype = Dtype::f32;
  Bytes values;  // index.size() values of value_dtype; i4 is packed on writing
  std::optional<ScaledValues> scaled;  // replaces both
  Hash128 fingerprint{};
  Hash128 base_digest{};

  void set_values(const std::vector<float>& numbers) {
    values = encode_values(value_dtype, numbers);
  }

  /// Fingerprint and base digest of a base tensor: all its bytes, row-major, in `dtype`.
  void set_base(const Bytes& base) { set_base(base, index); }

  /// The same where the fingerprint covers the positions of lower tiers too.
  void set_base(const Bytes& base, const std::vector<uint32_t>& positions) {
    const size_t width = dtype_bytes(dtype);
    Bytes touched;
    for (const uint32_t position : positions) append(&touched, &base.at(position * width), width);
    fingerprint = hash128(touched.data(), touched.size());
    base_digest = hash128(base.data(), base.size());
  }
};

struct AdapterInput {
  std::string name = "adapter";
  bool bound = true;
  std::string metadata = "{}";
  std::vector<TensorInput> tensors;  // any order: written by tier, then by name
  bool keeps_order = false;          // write them as they stand, valid or not
};

struct FileInput {
  std::vector<AdapterInput> adapters;
  uint32_t tier_count = 1;
  std::map<uint32_t, std::array<uint8_t, 32>> references;  // by tier: instead of an INDEX section
  std::vector<std::pair<uint32_t, Bytes>> optional;        // kind and bytes
};

// --- the parts of a finished file

/// One row of the section table and its bytes.
struct Section {
  uint32_t kind = 0;
  uint32_t tier = 0;
  uint32_t index_count = 0;
  Bytes bytes;
};

/// A file taken apart at its sections, to be changed and assembled again.
struct Parts {
  uint32_t adapter_count = 0;
  uint32_t tensor_count = 0;
  uint32_t tier_count = 0;
  std::vector<Section> sections;
};

/// Offset of row `section` of the section table.
inline size_t section_row(size_t section) { return 256 + 64 * section; }
inline size_t section_offset(const Bytes& file, size_t section) {
  return static_cast<size_t>(get<uint64_t>(file, section_row(section) + 8));
}
inline size_t section_bytes(const Bytes& file, size_t section) {
  return static_cast<size_t>(get<uint64_t>(file, section_row(section) + 16));
}
inline size_t section_end(const Bytes& file, size_t section) {
  return section_offset(file, section) + section_bytes(file, section);
}
/// Offset of a row of ADAPTERS, of TENSORS, or of the index table of a tier.
inline size_t adapter_row(const Bytes& file, size_t adapter) {
  return section_offset(file, 0) + 64 * adapter;
}
inline size_t tensor_row(const Bytes& file, size_t tensor) {
  return section_offset(file, 1) + 128 * tensor;
}
inline size_t index_row(const Bytes& file, size_t number, size_t tier = 0) {
  return section_offset(file, 4 + 2 * tier) + 48 * number;
}
/// Offset of the stream of an index row, or of the values of a row of TENSORS.
inline size_t index_stream_offset(const Bytes& file, size_t number, size_t tier = 0) {
  const uint64_t offset = get<uint64_t>(file, index_row(file, number, tier) + 32);
  return section_offset(file, 4 + 2 * tier) + static_cast<size_t>(offset);
}
inline size_t value_stream_offset(const Bytes& file, size_t tensor) {
  const size_t row = tensor_row(file, tensor);
  const size_t section = 5 + 2 * size_t{get<uint8_t>(file, row + 10)};
  return section_offset(file, section) + static_cast<size_t>(get<uint64_t>(file, row + 32));
}

inline void put_crc_of_header(Bytes* file) { put<uint32_t>(file, 252, crc32c(file->data(), 252)); }

/// Recomputes every checksum and digest, so that a corrupted field is what a reader meets, not a
/// checksum. Sections that lie outside the file are left alone.
inline void reseal(Bytes* file) {
  const size_t section_count = std::min<size_t>(get<uint32_t>(*file, 40), 64);
  const size_t table_end = std::min(file->size(), section_row(section_count));
  for (size_t i = 0; section_row(i + 1) <= table_end; ++i) {
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
  put<uint32_t>(file, 56, crc32c(file->data() + 256, table_end - 256));
  Bytes identity(file->begin(), file->begin() + static_cast<ptrdiff_t>(table_end));
  std::fill(identity.begin() + 64, identity.begin() + 224, uint8_t{0});
  std::fill(identity.begin() + 252, identity.begin() + 256, uint8_t{0});
  const auto digest = Sha256::digest(identity);
  std::copy(digest.begin(), digest.end(), file->begin() + 64);
  put_crc_of_header(file);
}

inline Bytes assemble(const Parts& parts) {
  Bytes file(section_row(parts.sections.size()));
  for (size_t i = 0; i < parts.sections.size(); ++i) {
    const Section& section = parts.sections[i];
    pad_to(&file, 64);
    put<uint32_t>(&file, section_row(i), section.kind);
    put<uint64_t>(&file, section_row(i) + 8, file.size());
    put<uint64_t>(&file, section_row(i) + 16, section.bytes.size());
    put<uint32_t>(&file, section_row(i) + 24, section.tier);
    put<uint32_t>(&file, section_row(i) + 28, section.index_count);
    append(&file, section.bytes.data(), section.bytes.size());
  }
  const uint8_t magic[8] = {0x89, 0x53, 0x48, 0x42, 0x0D, 0x0A, 0x1A, 0x0A};
  std::copy(magic, magic + 8, file.begin());
  put<uint16_t>(&file, 8, 1);  // version 1.0
  put<uint32_t>(&file, 12, 256);
  put<uint64_t>(&file, 16, file.size());
  put<uint32_t>(&file, 40, parts.sections.size());
  put<uint32_t>(&file, 44, parts.adapter_count);
  put<uint32_t>(&file, 48, parts.tensor_count);
  put<uint32_t>(&file, 52, parts.tier_count);
  reseal(&file);
  return file;
}

/// The parts of a valid file.
inline Parts split(const Bytes& file) {
  Parts parts;
  parts.adapter_count = get<uint32_t>(file, 44);
  parts.tensor_count = get<uint32_t>(file, 48);
  parts.tier_count = get<uint32_t>(file, 52);
  parts.sections.resize(get<uint32_t>(file, 40));
  for (size_t i = 0; i < parts.sections.size(); ++i) {
    Section& section = parts.sections[i];
    section.kind = get<uint32_t>(file, section_row(i));
    section.tier = get<uint32_t>(file, section_row(i) + 24);
    section.index_count = get<uint32_t>(file, section_row(i) + 28);
    append(&section.bytes, &file[section_offset(file, i)], section_bytes(file, i));
  }
  return parts;
}

// --- writing

/// Codes of `bits` bits, the lowest ones of each number.
inline Bytes pack_codes(const std::vector<int>& codes, unsigned bits) {
  BitWriter writer;
  for (const int code : codes) {
    for (unsigned bit = 0; bit < bits; ++bit) writer.put((code >> bit & 1) != 0);
  }
  return writer.bytes();
}

inline ValueCodec codec_of(const TensorInput& tensor) {
  return tensor.scaled ? tensor.scaled->codec : static_cast<ValueCodec>(tensor.value_dtype);
}

inline Bytes value_stream_of(const TensorInput& tensor) {
  if (tensor.scaled) {
    Bytes stream;
    for (const uint16_t scale : tensor.scaled->scales) append(&stream, &scale, 2);
    std::vector<int> codes = tensor.scaled->levels;
    for (int& code : codes) {
      if (tensor.scaled->codec == ValueCodec::q2) code = (code + 3) / 2;
      if (tensor.scaled->codec == ValueCodec::q1) code = (code + 1) / 2;
    }
    const unsigned bits = 8U >> (static_cast<int>(tensor.scaled->codec) - 6);  // Q8, Q4, Q2, Q1
    const Bytes packed = pack_codes(codes, bits);
    append(&stream, packed.data(), packed.size());
    return stream;
  }
  if (tensor.value_dtype != Dtype::i4) return tensor.values;
  return pack_codes(std::vector<int>(tensor.values.begin(), tensor.values.end()), 4);
}

/// Collects the sections of one file.
class FileBuilder {
 public:
  explicit FileBuilder(const FileInput& input) : input_(input), tiers_(input.tier_count) {}

  Bytes build() {
    for (const AdapterInput& adapter : input_.adapters) add_adapter_row(adapter);
    for (const AdapterInput& adapter : input_.adapters) {
      for (const TensorInput& tensor : in_file_order(adapter)) add_tensor(adapter, tensor);
    }
    Parts parts;
    parts.adapter_count = static_cast<uint32_t>(input_.adapters.size());
    parts.tensor_count = static_cast<uint32_t>(tensors_.size() / 128);
    parts.tier_count = input_.tier_count;
    parts.sections = {
        {1, 0, 0, adapters_}, {2, 0, 0, tensors_}, {3, 0, 0, names_}, {4, 0, 0, metadata_}};
    for (uint32_t tier = 0; tier < input_.tier_count; ++tier) {
      parts.sections.push_back(index_section(tier));
      parts.sections.push_back({6, tier, 0, tiers_[tier].values});
    }
    for (const auto& [kind, bytes] : input_.optional) parts.sections.push_back({kind, 0, 0, bytes});
    return assemble(parts);
  }

 private:
  struct IndexEntry {
    Bytes row;  // without the place of the stream
    Bytes stream;
  };
  struct Tier {
    std::vector<IndexEntry> index;
    Bytes values;
  };

  static std::vector<TensorInput> in_file_order(const AdapterInput& adapter) {
    std::vector<TensorInput> tensors = adapter.tensors;
    if (adapter.keeps_order) return tensors;
    std::stable_sort(tensors.begin(), tensors.end(),
                     [](const TensorInput& a, const TensorInput& b) {
                       return std::tie(a.tier, a.name) < std::tie(b.tier, b.name);
                     });
    return tensors;
  }

  void put_name(Bytes* row, const std::string& name) {
    const auto [place, is_new] = name_offsets_.emplace(name, names_.size());
    if (is_new) append(&names_, name.data(), name.size());
    put<uint32_t>(row, 0, place->second);
    put<uint32_t>(row, 4, name.size());
  }

  void add_adapter_row(const AdapterInput& adapter) {
    Bytes row(64);
    put_name(&row, adapter.name);
    put<uint32_t>(&row, 8, tensor_count_);
    put<uint32_t>(&row, 12, adapter.tensors.size());
    put<uint32_t>(&row, 16, adapter.bound ? 1 : 0);
    put<uint32_t>(&row, 24, metadata_.size());
    put<uint32_t>(&row, 28, adapter.metadata.size());
    append(&metadata_, adapter.metadata.data(), adapter.metadata.size());
    append(&adapters_, row.data(), row.size());
    tensor_count_ += adapter.tensors.size();
  }

  void add_tensor(const AdapterInput& adapter, const TensorInput& tensor) {
    Tier& tier = tiers_.at(tensor.tier);
    const Bytes values = value_stream_of(tensor);
    pad_to(&tier.values, 8);
    Bytes row(128);
    put_name(&row, tensor.name);
    put<uint8_t>(&row, 8, static_cast<uint8_t>(tensor.dtype));
    put<uint8_t>(&row, 9, tensor.dims.size());
    put<uint8_t>(&row, 10, tensor.tier);
    put<uint8_t>(&row, 11, static_cast<uint8_t>(codec_of(tensor)));
    put<uint8_t>(&row, 12, static_cast<uint8_t>(tensor.kind));
    put<uint8_t>(&row, 13, adapter.bound ? 1 : 0);
    put<uint8_t>(&row, 14, tensor.scaled ? tensor.scaled->exponent : 0);
    put<uint32_t>(&row, 16, add_index(&tier, tensor));
    put<uint32_t>(&row, 20, tensor.scaled ? tensor.scaled->group : 0);
    put<uint64_t>(&row, 24, tensor.entry_count.value_or(tensor.index.size()));
    put<uint64_t>(&row, 32, tier.values.size());
    put<uint64_t>(&row, 40, values.size());
    for (size_t i = 0; i < tensor.dims.size(); ++i) put<uint32_t>(&row, 64 + 4 * i, tensor.dims[i]);
    if (adapter.bound) {
      std::copy(tensor.fingerprint.begin(), tensor.fingerprint.end(), &row[96]);
      std::copy(tensor.base_digest.begin(), tensor.base_digest.end(), &row[112]);
    }
    append(&tensors_, row.data(), row.size());
    append(&tier.values, values.data(), values.size());
  }

  /// The number of the tensor's row in the index table.
  static uint32_t add_index(Tier* tier, const TensorInput& tensor) {
    const bool has_blocks = tensor.codec != IndexCodec::runs &&
                            tensor.codec != IndexCodec::structured &&
                            tensor.codec != IndexCodec::top_magnitude;
    const uint32_t block_length = has_blocks ? std::max(tensor.block_length, 1U) : 0;
    const EncodedIndex coded =
        tensor.coded ? *tensor.coded
                     : encode_index(tensor.codec, tensor.index, block_length, tensor.rice_bits);
    uint64_t element_count = 1;
    for (const uint32_t dim : tensor.dims) element_count *= dim;
    Bytes row(48);
    put<uint8_t>(&row, 0, static_cast<uint8_t>(tensor.codec));
    put<uint8_t>(&row, 1, tensor.rice_bits);
    put<uint32_t>(&row, 4, block_length);
    put<uint32_t>(&row, 8, coded.unit_count);
    put<uint64_t>(&row, 16, element_count);
    put<uint64_t>(&row, 24, tensor.entry_count.value_or(tensor.index.size()));
    for (size_t i = 0; i < tier->index.size() && tensor.shares_index; ++i) {
      if (tier->index[i].row == row && tier->index[i].stream == coded.stream)
        return static_cast<uint32_t>(i);
    }
    tier->index.push_back({row, coded.stream});
    return static_cast<uint32_t>(tier->index.size() - 1);
  }

  Section index_section(uint32_t tier) const {
    const std::vector<IndexEntry>& index = tiers_[tier].index;
    const auto index_count = static_cast<uint32_t>(index.size());
    if (const auto found = input_.references.find(tier); found != input_.references.end()) {
      return {7, tier, index_count, Bytes(found->second.begin(), found->second.end())};
    }
    Section section{5, tier, index_count, Bytes(48 * index.size())};
    for (size_t i = 0; i < index.size(); ++i) {
      pad_to(&section.bytes, 8);
      std::copy(index[i].row.begin(), index[i].row.end(), &section.bytes[48 * i]);
      put<uint64_t>(&section.bytes, 48 * i + 32, section.bytes.size());
      put<uint64_t>(&section.bytes, 48 * i + 40, index[i].stream.size());
      append(&section.bytes, index[i].stream.data(), index[i].stream.size());
    }
    return section;
  }

  const FileInput& input_;
  std::vector<Tier> tiers_;
  Bytes adapters_, tensors_, names_, metadata_;
  std::map<std::string, size_t> name_offsets_;
  size_t tensor_count_ = 0;
};

inline Bytes build_file(const FileInput& input) { return FileBuilder(input).build(); }

inline Bytes build_adapter(const AdapterInput& input) {
  FileInput file;
  file.adapters.push_back(input);
  return build_file(file);
}

}  // namespace shira::testing
