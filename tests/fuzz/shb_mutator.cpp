// libFuzzer's mutator for .shb files: changes one part of a file and makes the rest fit, checksums
// included, so that fuzzing reaches what lies behind them. Some results are left broken.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>

#include "format/layout.h"
#include "shb_parts.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size_bytes, size_t max_bytes);

namespace shira::fuzz {
namespace {

using Random = std::minstd_rand;

/// Lets libFuzzer mutate `bytes`, which may grow by a bit.
void mutate_bytes(Bytes* bytes) {
  const size_t size_bytes = bytes->size();
  bytes->resize(size_bytes + 32);
  bytes->resize(LLVMFuzzerMutate(bytes->data(), size_bytes, bytes->size()));
}

/// Gives an aligned field of 1 to 8 bytes a value of the kind that checks forget: a small number,
/// a power of two, a limit, a neighbour of what it was.
void change_field(Bytes* bytes, Random& random) {
  const size_t width = size_t{1} << (random() % 4);
  if (bytes->size() < width) return;
  uint8_t* field = &(*bytes)[random() % (bytes->size() / width) * width];
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i) value |= uint64_t{field[i]} << (8 * i);
  switch (random() % 6) {
    case 0:
      value = random() % 10;
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

void mutate_rows(std::vector<Row>* rows, Random& random) {
  if (rows->empty()) return;
  const size_t chosen = random() % rows->size();
  switch (random() % 16) {
    case 0:
      if (rows->size() < 16) rows->push_back((*rows)[chosen]);
      break;
    case 1:
      rows->erase(rows->begin() + static_cast<std::ptrdiff_t>(chosen));
      break;
    case 2:
      std::swap((*rows)[chosen], (*rows)[random() % rows->size()]);
      break;
    case 3:
    case 4:
    case 5:
    case 6:
      change_field(&(*rows)[chosen].fields, random);
      break;
    case 7:
    case 8:
      change_field(&(*rows)[chosen].stream, random);
      break;
    default:
      mutate_bytes(&(*rows)[chosen].stream);
  }
}

void mutate_parts(ShbParts* parts, Random& random) {
  Section& section = parts->sections[random() % parts->sections.size()];
  switch (random() % 16) {
    case 0:
      return change_field(&parts->header, random);
    case 1:
      return change_field(&section.row, random);
    case 2:
      return mutate_bytes(&section.body);
    case 3:
      return change_field(&section.body, random);
    default:
      break;
  }
  // Tables and streams are where most rules are.
  if (!section.rows.empty()) return mutate_rows(&section.rows, random);
  std::vector<Row>* tensors = parts->rows(layout::kTensors);
  if (tensors != nullptr) mutate_rows(tensors, random);
}

size_t mutate(uint8_t* data, size_t size_bytes, size_t max_bytes, unsigned seed) {
  Random random(seed | 1U);
  random.discard(1 + seed % 3);
  std::optional<ShbParts> parts = take_apart(data, size_bytes);
  if (!parts || random() % 8 == 0) {
    const size_t mutated_bytes = LLVMFuzzerMutate(data, size_bytes, max_bytes);
    if (random() % 4 != 0) seal(data, mutated_bytes);
    return mutated_bytes;
  }
  mutate_parts(&*parts, random);
  if (random() % 4 != 0) make_agree(&*parts);
  const Bytes file = put_together(std::move(*parts));
  if (file.size() > max_bytes) return LLVMFuzzerMutate(data, size_bytes, max_bytes);
  std::copy(file.begin(), file.end(), data);
  return file.size();
}

}  // namespace
}  // namespace shira::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size_bytes, size_t max_bytes,
                                          unsigned seed) {
  return shira::fuzz::mutate(data, size_bytes, max_bytes, seed);
}
