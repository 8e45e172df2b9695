// HostileFile: a .shb file that breaks one rule, with the status and offset due; and their
// collector. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "shb_builder.h"
#include "shb_sample.h"

namespace shira::testing {

/// What a reader must say about `bytes`. hostile_sources() are the index sources it is given.
struct HostileFile {
  std::string what;
  Bytes bytes;
  Status status = Status::OK;
  uint64_t offset = 0;
  std::string tensor;
  bool refers = false;  // to an index section: cannot be judged without SHA-256
};

/// Which checksums are mended after the damage, so that it is the damage that a reader meets.
enum class Seal { all, header, none };

/// Collects files that differ from a good one.
class Catalogue {
 public:
  /// Replaces the bytes at `field` of `good`.
  void add(const Bytes& good, const std::string& what, size_t field, const Bytes& bytes,
           Status status, uint64_t offset, const std::string& tensor = "", Seal seal = Seal::all) {
    Bytes file = good;
    if (field + bytes.size() > file.size()) std::abort();
    std::copy(bytes.begin(), bytes.end(), file.begin() + static_cast<ptrdiff_t>(field));
    if (file == good) std::abort();  // the premise: something is damaged
    if (seal == Seal::all) reseal(&file);
    if (seal == Seal::header) put_crc_of_header(&file);
    add(what + " at " + std::to_string(field), std::move(file), status, offset, tensor);
  }

  /// Changes one section, whatever that does to its size.
  void add_section(const Bytes& good, const std::string& what, size_t section,
                   const std::function<void(Bytes*)>& change, Status status, uint64_t offset,
                   const std::string& tensor = "") {
    Parts parts = split(good);
    change(&parts.sections.at(section).bytes);
    add(what, assemble(parts), status, offset, tensor);
  }

  void add(const std::string& what, Bytes bytes, Status status, uint64_t offset,
           const std::string& tensor = "") {
    const bool refers = bytes.size() > section_row(kIndex) + 4 &&
                        get<uint32_t>(bytes, section_row(kIndex)) == 7 &&
                        status != Status::BAD_MAGIC;
    files.push_back({what, std::move(bytes), status, offset, tensor, refers});
  }

  std::vector<HostileFile> files;
};

template <typename T>
Bytes le(uint64_t value) {
  Bytes bytes(sizeof(T));
  put<T>(&bytes, 0, static_cast<T>(value));
  return bytes;
}
inline Bytes u8(uint64_t value) { return le<uint8_t>(value); }
inline Bytes u16(uint64_t value) { return le<uint16_t>(value); }
inline Bytes u32(uint64_t value) { return le<uint32_t>(value); }
inline Bytes u64(uint64_t value) { return le<uint64_t>(value); }

}  // namespace shira::testing
