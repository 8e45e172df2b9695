// The header of a .shb file and its section table: what is read before memory is spent on the rest.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/signature.h"
#include "format/adapter_file.h"

namespace shira {

/// The fields that later steps need. Everything else was checked.
struct Header {
  uint16_t version_major = 0;
  uint16_t version_minor = 0;
  uint32_t section_count = 0;
  uint32_t adapter_count = 0;
  uint32_t tensor_count = 0;
  uint32_t tier_count = 0;
  uint32_t section_table_crc32c = 0;
  std::array<uint8_t, 32> content_digest{};
  bool is_signed = false;
  PublicKey public_key{};
};

/// Step 1 of docs/FORMAT.md section 13, for a file of `file_bytes` bytes. `start` holds its first
/// min(layout::kMaxSectionTableEnd, file_bytes) bytes or more.
Result<Header> read_header(ByteReader start, uint64_t file_bytes);

/// Step 2 up to the end of the file: the section table by itself. REQUIRES: `start` as above, and
/// the header is that of read_header().
Result<std::vector<SectionInfo>> read_section_table(const Header& header, ByteReader start,
                                                    uint64_t file_bytes);

/// The rest of step 2: the padding between the sections, and their checksums. `crc32c_sums` are
/// those of their bytes.
Result<void> check_section_bytes(ByteReader file, const std::vector<SectionInfo>& sections,
                                 const std::vector<uint32_t>& crc32c_sums);

/// "section VALUES" for messages.
std::string section_name(const SectionInfo& section);

}  // namespace shira
