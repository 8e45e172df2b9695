// Takes a .shb file apart, mutates one part, and puts it together with checksums that fit.
// SPDX-License-Identifier: Apache-2.0
#include "shb_mutator.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <optional>
#include <random>
#include <vector>

#include "base/byte_reader.h"
#include "base/hash.h"
#include "format/layout.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size_bytes, size_t max_bytes);

namespace shira::fuzz {
namespace {

using Bytes = std::vector<uint8_t>;
using Random = std::minstd_rand;

constexpr uint64_t kMaxSectionCount = 64;

struct Section {
  Bytes row;  // of the section table
  Bytes body;
};

/// A file in parts, of which any may be nonsense.
struct Parts {
  Bytes header;
  std::vector<Section> sections;
};

template <typename T>
void put(uint8_t* field, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) field[i] = static_cast<uint8_t>(value >> (8 * i));
}

std::optional<Parts> take_apart(const uint8_t* data, size_t size_bytes) {
  const ByteReader file(data, size_bytes);
  const uint64_t section_count = file.u32(layout::header::kSectionCount);
  if (section_count == 0 || section_count > kMaxSectionCount ||
      !file.contains(layout::kHeaderBytes, layout::kSectionRowBytes * section_count)) {
    return std::nullopt;
  }
  Parts parts;
  parts.header.assign(data, data + layout::kHeaderBytes);
  for (uint32_t i = 0; i < section_count; ++i) {
    const uint64_t row = layout::section_row(i);
    const ByteReader body = file.slice(file.u64(row + layout::section::kOffset),
                                       file.u64(row + layout::section::kSize));
    Section section;
    section.row.assign(data + row, data + row + layout::kSectionRowBytes);
    section.body.assign(body.data(), body.data() + body.size());
    parts.sections.push_back(std::move(section));
  }
  return parts;
}

/// Lays the sections out without holes.
Bytes put_together(Parts parts) {
  Bytes file = parts.header;
  file.resize(layout::section_row(static_cast<uint32_t>(parts.sections.size())));
  for (Section& section : parts.sections) {
    while (file.size() % layout::kSectionAlignment != 0) file.push_back(0);
    put(&section.row[layout::section::kOffset], uint64_t{file.size()});
    put(&section.row[layout::section::kSize], uint64_t{section.body.size()});
    file.insert(file.end(), section.body.begin(), section.body.end());
  }
  auto row = file.begin() + layout::kHeaderBytes;
  for (const Section& section : parts.sections) {
    row = std::copy(section.row.begin(), section.row.end(), row);
  }
  put(&file[layout::header::kFileBytes], uint64_t{file.size()});
  put(&file[layout::header::kSectionCount], static_cast<uint32_t>(parts.sections.size()));
  seal(file.data(), file.size());
  return file;
}

/// Lets libFuzzer mutate `bytes`, which may grow by a bit.
void mutate_bytes(Bytes* bytes) {
  const size_t size_bytes = bytes->size();
  bytes->resize(size_bytes + 64);
  bytes->resize(LLVMFuzzerMutate(bytes->data(), size_bytes, bytes->size()));
}

/// Gives an aligned field of 1 to 8 bytes a value of the kind that checks forget: 0, 1, a limit, a
/// neighbour of what it was.
void change_field(Bytes* bytes, Random& random) {
  const size_t width = size_t{1} << (random() % 4);
  if (bytes->size() < width) return;
  uint8_t* field = &(*bytes)[random() % (bytes->size() / width) * width];
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i) value |= uint64_t{field[i]} << (8 * i);
  switch (random() % 6) {
    case 0:
      value = random() % 4;
      break;
    case 1:
      value = uint64_t{1} << (random() % 64);
      break;
    case 2:
      value = ~uint64_t{0} >> (random() % 64);
      break;
    case 3:
      value += 1 + random() % 8;
      break;
    case 4:
      value -= 1 + random() % 8;
      break;
    default:
      value *= 2;
  }
  for (size_t i = 0; i < width; ++i) field[i] = static_cast<uint8_t>(value >> (8 * i));
}

void mutate_parts(Parts* parts, Random& random) {
  Section& section = parts->sections[random() % parts->sections.size()];
  switch (random() % 8) {
    case 0:
      return change_field(&parts->header, random);
    case 1:
      return change_field(&section.row, random);
    case 2:
    case 3:
    case 4:
      return change_field(&section.body, random);
    default:
      return mutate_bytes(&section.body);
  }
}

}  // namespace

void seal(uint8_t* data, size_t size_bytes) {
  const ByteReader file(data, size_bytes);
  const uint64_t section_count = file.u32(layout::header::kSectionCount);
  const uint64_t table_bytes = layout::kSectionRowBytes * section_count;
  if (section_count > kMaxSectionCount || !file.contains(layout::kHeaderBytes, table_bytes)) return;
  for (uint32_t i = 0; i < section_count; ++i) {
    const uint64_t row = layout::section_row(i);
    const ByteReader body = file.slice(file.u64(row + layout::section::kOffset),
                                       file.u64(row + layout::section::kSize));
    put(data + row + layout::section::kCrc, crc32c(body.data(), body.size()));
  }
  put(data + layout::header::kSectionTableCrc, crc32c(data + layout::kHeaderBytes, table_bytes));
  put(data + layout::header::kHeaderCrc, crc32c(data, layout::header::kHeaderCrc));
}

size_t mutate_shb(uint8_t* data, size_t size_bytes, size_t max_bytes, unsigned seed) {
  Random random(seed | 1U);
  random.discard(1 + seed % 3);
  std::optional<Parts> parts = take_apart(data, size_bytes);
  if (!parts || random() % 8 == 0) {
    const size_t mutated_bytes = LLVMFuzzerMutate(data, size_bytes, max_bytes);
    if (random() % 4 != 0) seal(data, mutated_bytes);
    return mutated_bytes;
  }
  mutate_parts(&*parts, random);
  const Bytes file = put_together(std::move(*parts));
  if (file.size() > max_bytes) return LLVMFuzzerMutate(data, size_bytes, max_bytes);
  std::copy(file.begin(), file.end(), data);
  return file.size();
}

}  // namespace shira::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size_bytes, size_t max_bytes,
                                          unsigned seed) {
  return shira::fuzz::mutate_shb(data, size_bytes, max_bytes, seed);
}
