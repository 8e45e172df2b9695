// Reads a file in pieces, each summed while it is in a core's cache; then combines the sums.
// SPDX-License-Identifier: Apache-2.0
#include "format/file_bytes.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "base/hash.h"
#include "format/layout.h"

namespace shira {
namespace {

/// Both sources read exactly `size_bytes` bytes from `offset_bytes` on.
struct FileSource {
  const File& file;

  Result<void> read(uint64_t offset_bytes, uint8_t* out, size_t size_bytes) const {
    SHIRA_ASSIGN(const uint64_t done_bytes, file.read_at(offset_bytes, size_bytes, out));
    if (done_bytes == size_bytes) return {};
    return file.error(Status::IO_ERROR, "the file became shorter while it was read");
  }
  Result<void> check_fits_memory(uint64_t size_bytes) const {
    return file.check_fits_memory(size_bytes);
  }
};

struct MemorySource {
  const uint8_t* bytes;

  Result<void> read(uint64_t offset_bytes, uint8_t* out, size_t size_bytes) const {
    if (size_bytes > 0) std::memcpy(out, bytes + offset_bytes, size_bytes);
    return {};
  }
  Result<void> check_fits_memory(uint64_t /*size_bytes*/) const { return {}; }  // it did already
};

/// Bytes of one section, and before the first of them the padding in front of it.
struct Piece {
  uint64_t read_begin = 0;
  uint64_t begin = 0;  // in the section
  uint64_t end = 0;
  uint32_t section_number = 0;
  uint32_t crc32c = 0;  // of [begin, end)
};

uint64_t piece_count(const SectionInfo& section, uint64_t piece_bytes) {
  return std::max<uint64_t>(1, (section.size_bytes + piece_bytes - 1) / piece_bytes);
}

/// They cover the file from the end of the section table on.
Result<Array<Piece>> cut_pieces(const std::vector<SectionInfo>& sections, uint64_t piece_bytes) {
  uint64_t count = 0;
  for (const SectionInfo& section : sections) count += piece_count(section, piece_bytes);
  SHIRA_ASSIGN(Array<Piece> pieces, Array<Piece>::make(count));
  uint64_t read_end = layout::section_row(static_cast<uint32_t>(sections.size()));
  Piece* piece = pieces.data();
  for (uint32_t number = 0; number < sections.size(); ++number) {
    const SectionInfo& section = sections[number];
    const uint64_t section_end = section.offset_bytes + section.size_bytes;
    for (uint64_t i = 0; i < piece_count(section, piece_bytes); ++i, ++piece) {
      const uint64_t begin = section.offset_bytes + i * piece_bytes;
      *piece = {read_end, begin, std::min(section_end, begin + piece_bytes), number, 0};
      read_end = piece->end;
    }
  }
  return pieces;
}

/// By section: the CRC32C of its bytes.
std::vector<uint32_t> combine(const Array<Piece>& pieces, size_t section_count) {
  std::vector<uint32_t> sums(section_count);  // 0: that of no bytes
  for (size_t i = 0; i < pieces.size(); ++i) {
    uint32_t& sum = sums[pieces[i].section_number];
    sum = crc32c_combine(sum, pieces[i].crc32c, pieces[i].end - pieces[i].begin);
  }
  return sums;
}

template <typename Source>
Result<FileBytes> read_all(const Source& source, uint64_t file_bytes, const OpenOptions& options) {
  // A file of another kind, or whose sections do not cover it, is refused before memory is spent.
  std::array<uint8_t, layout::kMaxSectionTableEnd> start;
  const auto start_bytes = static_cast<size_t>(std::min<uint64_t>(file_bytes, start.size()));
  SHIRA_TRY(source.read(0, start.data(), start_bytes));
  const ByteReader reader(start.data(), start_bytes);
  FileBytes file;
  SHIRA_ASSIGN(file.header, read_header(reader, file_bytes));
  SHIRA_ASSIGN(file.sections, read_section_table(file.header, reader, file_bytes));
  SHIRA_TRY(source.check_fits_memory(file_bytes));
  SHIRA_ASSIGN(file.bytes, Array<uint8_t>::make(static_cast<size_t>(file_bytes)));
  SHIRA_ASSIGN(file.pool,
               ThreadPool::make(file_bytes < options.threads_from_bytes ? 1 : options.thread_count,
                                options.threads_from_bytes / 32));
  // A quarter of a megabyte stays in a core's cache until it is summed.
  SHIRA_ASSIGN(Array<Piece> pieces, cut_pieces(file.sections, options.threads_from_bytes / 4));

  uint8_t* const out = file.bytes.data();
  std::memcpy(out, start.data(), start_bytes);
  SHIRA_TRY(file.pool->run(pieces.size(), file_bytes, [&](size_t i) -> Result<void> {
    Piece& piece = pieces[i];
    const uint64_t begin = std::max<uint64_t>(piece.read_begin, start_bytes);
    if (begin < piece.end) {
      SHIRA_TRY(source.read(begin, out + begin, static_cast<size_t>(piece.end - begin)));
    }
    piece.crc32c = crc32c(out + piece.begin, static_cast<size_t>(piece.end - piece.begin));
    return {};
  }));
  SHIRA_TRY(check_section_bytes(ByteReader(out, file.bytes.size()), file.sections,
                                combine(pieces, file.sections.size())));
  return file;
}

}  // namespace

Result<FileBytes> read_file_bytes(const File& file, const OpenOptions& options) {
  SHIRA_ASSIGN(const FileState state, file.state());
  return read_all(FileSource{file}, state.size_bytes, options);
}

Result<FileBytes> copy_file_bytes(const uint8_t* bytes, uint64_t size_bytes,
                                  const OpenOptions& options) {
  return read_all(MemorySource{bytes}, size_bytes, options);
}

}  // namespace shira
