// Hostile headers, section tables and rows: steps 1 to 5 of docs/FORMAT.md section 13.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "shb_catalogue.h"

namespace shira::testing {

inline void add_hostile_headers(Catalogue* catalogue) {
  const Bytes good = sample();
  const auto add = [&](const char* what, size_t field, const Bytes& bytes, Status status,
                       uint64_t offset, Seal seal = Seal::all) {
    catalogue->add(good, what, field, bytes, status, offset, "", seal);
  };
  add("magic", 0, u8(0x88), Status::BAD_MAGIC, 0);
  add("magic after a text-mode transfer", 4, u8('\n'), Status::BAD_MAGIC, 0);
  add("magic in the other byte order", 0, {0x0A, 0x1A, 0x0A, 0x0D, 0x42, 0x48, 0x53, 0x89},
      Status::BAD_MAGIC, 0);
  add("a zip archive", 0, {'P', 'K', 3, 4, 20, 0, 0, 0}, Status::BAD_MAGIC, 0);
  add("version of the drafts", 8, u16(0), Status::UNSUPPORTED_VERSION, 8);
  add("newer major version", 8, u16(2), Status::UNSUPPORTED_VERSION, 8);
  add("newer major version, whatever the rest", 8, u16(0xFFFF), Status::UNSUPPORTED_VERSION, 8,
      Seal::none);
  for (const uint32_t size : {0U, 128U, 257U, 0x7FFFFFFFU, 0xFFFFFFFFU}) {
    add("header_bytes", 12, u32(size), Status::BAD_LAYOUT, 12);
  }
  for (const uint64_t more : {uint64_t{1}, uint64_t{4096}, uint64_t{1} << 32, uint64_t{1} << 63}) {
    add("file_bytes above", 16, u64(good.size() + more), Status::TRUNCATED, 16);
  }
  add("file_bytes at the top", 16, u64(UINT64_MAX), Status::TRUNCATED, 16);
  add("file_bytes below", 16, u64(good.size() - 1), Status::TRAILING_BYTES, 16);
  add("file_bytes zero", 16, u64(0), Status::TRAILING_BYTES, 16);
  add("required feature", 24, u64(1), Status::UNSUPPORTED_FEATURE, 24);
  add("required feature", 31, u8(0x80), Status::UNSUPPORTED_FEATURE, 24);
  for (const uint32_t count : {0U, 5U, 65U, 0xFFFFFFFFU}) {
    add("section_count", 40, u32(count), Status::BAD_COUNT, 40, Seal::header);
  }
  for (const uint32_t count : {0U, 1025U, 0xFFFFFFFFU}) {
    add("adapter_count", 44, u32(count), Status::BAD_COUNT, 44);
  }
  for (const uint32_t count : {0U, 65537U, 0xFFFFFFFFU}) {
    add("tensor_count", 48, u32(count), Status::BAD_COUNT, 48);
  }
  for (const uint32_t count : {0U, 2U, 9U, 0x80000001U}) {
    add("tier_count", 52, u32(count), Status::BAD_COUNT, 52);
  }
  add("section_table_crc32c", 56, u8(good[56] ^ 1), Status::HEADER_CHECKSUM, 56, Seal::header);
  add("section table", 300, u8(0xEE), Status::HEADER_CHECKSUM, 56, Seal::none);
  for (const size_t reserved : {60, 63, 100, 127, 224, 251}) {
    add("reserved", reserved, u8(0x80), Status::RESERVED_NOT_ZERO, reserved);
  }
  add("signature kind", 96, u32(2), Status::BAD_ENUM, 96);
  add("signature kind", 96, u32(0x80000000), Status::BAD_ENUM, 96);
  add("key of an unsigned file", 128, u8(1), Status::RESERVED_NOT_ZERO, 128);
  add("key of an unsigned file", 159, u8(1), Status::RESERVED_NOT_ZERO, 159);
  add("signature of an unsigned file", 160, u8(1), Status::RESERVED_NOT_ZERO, 160);
  add("signature of an unsigned file", 223, u8(1), Status::RESERVED_NOT_ZERO, 223);
  add("content_digest", 64, u64(0), Status::HEADER_CHECKSUM, 252, Seal::none);
  add("header_crc32c", 252, u8(good[252] ^ 0x10), Status::HEADER_CHECKSUM, 252, Seal::none);
}

/// Files that are longer or shorter than they should be. (Every length below the right one is
/// tested elsewhere.)
inline void add_hostile_sizes(Catalogue* catalogue) {
  const Bytes good = sample();
  const auto resized = [&good](size_t size) {
    Bytes file = good;
    file.resize(size);
    put<uint64_t>(&file, 16, size);
    reseal(&file);
    return file;
  };
  const size_t last_size = section_row(kValues) + 16;
  Bytes longer = good;
  longer.push_back(0);
  catalogue->add("one trailing byte", longer, Status::TRAILING_BYTES, 16);
  Bytes zip = good;
  append(&zip, "PK\x05\x06", 4);
  zip.resize(zip.size() + 18);
  catalogue->add("a zip archive behind it", zip, Status::TRAILING_BYTES, 16);
  catalogue->add("one byte that no section has", resized(good.size() + 1), Status::BAD_LAYOUT,
                 last_size);
  catalogue->add("a page that no section has", resized(good.size() + 4096), Status::BAD_LAYOUT,
                 last_size);
  catalogue->add("the last byte missing", resized(good.size() - 1), Status::BAD_LAYOUT, last_size);
  catalogue->add("nothing behind the header", resized(256), Status::TRUNCATED, 256);
  catalogue->add("no end of the section table", resized(256 + 6 * 64 - 1), Status::TRUNCATED,
                 256 + 6 * 64 - 1);
  catalogue->add("empty", {}, Status::TRUNCATED, 0);
  catalogue->add("zeros", Bytes(4096), Status::BAD_MAGIC, 0);
}

inline void add_hostile_section_tables(Catalogue* catalogue) {
  const Bytes good = pack();  // kinds 1 2 3 4, 5 6, 5 6, 40000
  const size_t section_count = split(good).sections.size();
  const auto add = [&](const char* what, size_t field, const Bytes& bytes, Status status,
                       uint64_t offset, Seal seal = Seal::all) {
    catalogue->add(good, what, field, bytes, status, offset, "", seal);
  };
  for (size_t i = 0; i < section_count; ++i) {
    const size_t row = section_row(i);
    const uint64_t offset = section_offset(good, i);
    const uint64_t end = section_end(good, i);
    const bool has_index = i == 4 || i == 6;
    add("kind of another section", row, u32(i == 0 ? 2 : 1), Status::BAD_LAYOUT, row);
    add("kind without a meaning", row, u32(8), Status::BAD_LAYOUT, row);
    add("kind just below the optional ones", row, u32(32767), Status::BAD_LAYOUT, row);
    add("section checksum", offset, u8(good[offset] ^ 1), Status::SECTION_CHECKSUM, row + 4,
        Seal::none);
    add("last byte of a section", end - 1, u8(good[end - 1] ^ 0x80), Status::SECTION_CHECKSUM,
        row + 4, Seal::none);
    for (const uint64_t wrong :
         {offset + 64, offset - 64, offset + 8, uint64_t{0}, uint64_t{1} << 63, UINT64_MAX - 63}) {
      add("offset", row + 8, u64(wrong), Status::BAD_LAYOUT, row + 8);
    }
    for (const uint64_t wrong : {uint64_t{0}, good.size() - offset + 1, uint64_t{1} << 63,
                                 UINT64_MAX - offset + 1, UINT64_MAX}) {
      add("size_bytes", row + 16, u64(wrong), Status::BAD_LAYOUT, row + 16);
    }
    add("tier", row + 24, u32(i < 6 ? 1 : 2), Status::BAD_LAYOUT, row + 24);
    add("index_count", row + 28, u32(has_index ? 0 : 1), Status::BAD_COUNT, row + 28);
    add("index_count", row + 28, u32(has_index ? 65537 : 0xFFFFFFFF), Status::BAD_COUNT, row + 28);
    if (i + 1 == section_count) continue;
    const uint64_t next = section_offset(good, i + 1);
    if (end == next) continue;
    add("padding between sections", end, u8(1), Status::RESERVED_NOT_ZERO, end);
    add("padding between sections", next - 1, u8(1), Status::RESERVED_NOT_ZERO, next - 1);
  }
  const size_t last = section_row(section_count - 1);
  add("hole at the end", last + 16, u64(section_bytes(good, section_count - 1) - 1),
      Status::BAD_LAYOUT, last + 16);
  // Sections that overlap: the next one no longer starts behind this one.
  add("section grows over the next", section_row(kNames) + 16,
      u64(section_bytes(good, kNames) + 128), Status::BAD_LAYOUT, section_row(kMetadata) + 8);
  add("two sections trade places", section_row(kIndex), u32(6), Status::BAD_LAYOUT,
      section_row(kIndex));
}

inline void add_hostile_adapter_rows(Catalogue* catalogue) {
  const Bytes good = pack();
  const size_t first = adapter_row(good, 0);
  const size_t second = adapter_row(good, 1);
  const uint32_t metadata_bytes = get<uint32_t>(good, first + 28);
  const auto add = [&](const char* what, size_t field, const Bytes& bytes, Status status,
                       uint64_t offset) {
    catalogue->add(good, what, field, bytes, status, offset);
  };
  add("first_tensor", first + 8, u32(1), Status::BAD_COUNT, first + 8);
  add("first_tensor", second + 8, u32(7), Status::BAD_COUNT, second + 8);
  add("first_tensor", second + 8, u32(0xFFFFFFFF), Status::BAD_COUNT, second + 8);
  add("no tensors", first + 12, u32(0), Status::BAD_COUNT, first + 12);
  add("tensor of the next adapter", first + 12, u32(9), Status::BAD_COUNT, second + 8);
  add("tensor_count in all", second + 12, u32(4), Status::BAD_COUNT, 48);
  add("tensor_count that wraps", second + 12, u32(0xFFFFFFFF), Status::BAD_COUNT, 48);
  add("header's tensor_count", 48, u32(10), Status::BAD_COUNT, 48);
  add("reserved flag", first + 16, u32(3), Status::RESERVED_NOT_ZERO, first + 16);
  add("reserved flag", first + 19, u8(0x80), Status::RESERVED_NOT_ZERO, first + 16);
  for (const size_t reserved : {20, 23, 32, 63}) {
    add("reserved", second + reserved, u8(1), Status::RESERVED_NOT_ZERO, second + reserved);
  }
  add("metadata_offset", first + 24, u32(1), Status::BAD_LAYOUT, first + 24);
  add("metadata_offset that overlaps", second + 24, u32(metadata_bytes - 1), Status::BAD_LAYOUT,
      second + 24);
  add("metadata_offset with a hole", second + 24, u32(metadata_bytes + 1), Status::BAD_LAYOUT,
      second + 24);
  for (const uint32_t size : {0U, 1U, 1048577U, 0xFFFFFFFFU}) {
    add("metadata_bytes", first + 28, u32(size), Status::BAD_METADATA, first + 28);
  }
  add("metadata leaves its section", second + 28, u32(3), Status::BAD_LAYOUT, second + 28);
  // 32 bytes that are no name of the second adapter: the first one's again.
  catalogue->add(
      good, "two adapters of one name", second,
      [&] {
        Bytes name = u32(get<uint32_t>(good, first));
        append(&name, &good[first + 4], 4);
        return name;
      }(),
      Status::BAD_NAME, second);
  for (const size_t section : {size_t{kAdapters}, size_t{kTensors}}) {
    const size_t field = section_row(section) + 16;
    catalogue->add_section(
        good, "a byte more", section, [](Bytes* b) { b->push_back(0); }, Status::BAD_LAYOUT, field);
    catalogue->add_section(
        good, "a byte less", section, [](Bytes* b) { b->pop_back(); }, Status::BAD_LAYOUT, field);
    catalogue->add_section(
        good, "a row more", section, [](Bytes* b) { b->resize(b->size() + 128); },
        Status::BAD_LAYOUT, field);
  }
}

inline void add_hostile_names(Catalogue* catalogue) {
  const Bytes good = sample();
  const size_t names = section_offset(good, kNames);  // "german" "alpha" "beta" "gamma" "zeta"
  const size_t adapter = adapter_row(good, 0);
  const size_t alpha = tensor_row(good, 0);
  const size_t beta = tensor_row(good, 1);
  const size_t zeta = tensor_row(good, 3);
  const auto add = [&](const char* what, size_t field, const Bytes& bytes, Status status,
                       uint64_t offset, const char* tensor = "") {
    catalogue->add(good, what, field, bytes, status, offset, tensor);
  };
  for (const size_t row : {adapter, alpha}) {
    add("empty name", row + 4, u32(0), Status::BAD_NAME, row + 4);
    add("name of 1,025 bytes", row + 4, u32(1025), Status::BAD_NAME, row + 4);
    add("name of 64 KiB", row + 4, u32(65536), Status::BAD_NAME, row + 4);
    add("name of 4 GiB", row + 4, u32(0xFFFFFFFF), Status::BAD_NAME, row + 4);
    add("name leaves NAMES", row + 4, u32(1024), Status::BAD_LAYOUT, row);
    add("name that is not the next", row, u32(get<uint32_t>(good, row) + 1), Status::BAD_LAYOUT,
        row);
    add("name far outside", row, u32(0xFFFFFFFF), Status::BAD_LAYOUT, row);
  }
  add("part of an earlier name", beta, u32(7), Status::BAD_LAYOUT, beta);
  add("longer than the earlier name", beta, u32(0), Status::BAD_LAYOUT, beta);
  add("a byte beyond NAMES", zeta + 4, u32(5), Status::BAD_LAYOUT, zeta);
  add("control character", names + 2, u8(0x1F), Status::BAD_NAME, names);
  add("delete", names + 8, u8(0x7F), Status::BAD_NAME, names + 6);
  add("NUL", names + 8, u8(0), Status::BAD_NAME, names + 6);
  add("newline", names + 10, u8('\n'), Status::BAD_NAME, names + 6);
  add("C1 control character", names + 7, {0xC2, 0x9B}, Status::BAD_NAME, names + 6);
  add("not UTF-8", names + 6, u8(0xFF), Status::BAD_NAME, names + 6);
  add("overlong UTF-8", names + 6, {0xC0, 0xAF}, Status::BAD_NAME, names + 6);
  add("surrogate", names + 6, {0xED, 0xA0, 0x80}, Status::BAD_NAME, names + 6);
  add("character cut by the name's end", names + 10, u8(0xC3), Status::BAD_NAME, names + 6);
  add("not ascending", names + 6, u8('z'), Status::BAD_NAME, beta, "beta");
  add("NAMES goes on", zeta + 4, u32(3), Status::BAD_LAYOUT, names + 6 + 5 + 4 + 5 + 3);
  catalogue->add_section(
      good, "a byte behind the names", kNames, [](Bytes* bytes) { bytes->push_back('x'); },
      Status::BAD_LAYOUT, section_end(good, kNames));
  AdapterInput twins = sample_input();
  twins.tensors.resize(2);
  twins.tensors[0].name = "w1";
  twins.tensors[1].name = "w2";
  const Bytes pair = build_adapter(twins);
  catalogue->add(pair, "a tensor twice", section_offset(pair, kNames) + 6 + 3, u8('1'),
                 Status::BAD_NAME, tensor_row(pair, 1), "w1");
  catalogue->add(pair, "a tensor twice, by one name", tensor_row(pair, 1), u32(6), Status::BAD_NAME,
                 tensor_row(pair, 1), "w1");
}

inline void add_hostile_tensor_types(Catalogue* catalogue) {
  const Bytes good = sample();
  const size_t alpha = tensor_row(good, 0);  // f32
  const size_t gamma = tensor_row(good, 2);  // f16 with f32 deltas
  const auto add = [&](const Bytes& file, const char* what, size_t field, const Bytes& bytes,
                       Status status, uint64_t offset, const char* tensor) {
    catalogue->add(file, what, field, bytes, status, offset, tensor);
  };
  for (const int number : {0, 6, 255}) {
    add(good, "dtype", alpha + 8, u8(number), Status::BAD_ENUM, alpha + 8, "alpha");
  }
  for (const int number : {0, 10, 255}) {
    add(good, "value codec", alpha + 11, u8(number), Status::BAD_ENUM, alpha + 11, "alpha");
  }
  add(good, "value kind", alpha + 12, u8(2), Status::BAD_ENUM, alpha + 12, "alpha");
  add(good, "target of another dtype", alpha + 11, u8(2), Status::BAD_ENUM, alpha + 12, "alpha");
  add(good, "target of a scaled codec", alpha + 11, u8(7), Status::BAD_ENUM, alpha + 12, "alpha");
  add(good, "target of a narrower dtype", gamma + 12, u8(0), Status::BAD_ENUM, gamma + 12, "gamma");
  add(good, "integer deltas", gamma + 11, u8(4), Status::BAD_ENUM, gamma + 12, "gamma");
  add(good, "deltas to codes", gamma + 8, u8(4), Status::BAD_ENUM, gamma + 12, "gamma");
  add(good, "no fingerprint", alpha + 13, u8(0), Status::BAD_ENUM, alpha + 13, "alpha");
  add(good, "reserved flag", alpha + 13, u8(3), Status::RESERVED_NOT_ZERO, alpha + 13, "alpha");
  add(good, "reserved flag", alpha + 13, u8(0x80), Status::RESERVED_NOT_ZERO, alpha + 13, "alpha");
  add(good, "unbound with fingerprints", adapter_row(good, 0) + 16, u32(0), Status::BAD_ENUM,
      alpha + 13, "alpha");
  for (const size_t reserved : {15, 48, 63}) {
    add(good, "reserved", alpha + reserved, u8(1), Status::RESERVED_NOT_ZERO, alpha + reserved,
        "alpha");
  }
  const Bytes unbound = build_adapter(unbound_input());
  add(unbound, "fingerprint", alpha + 96, u8(1), Status::RESERVED_NOT_ZERO, alpha + 96, "alpha");
  add(unbound, "fingerprint", alpha + 111, u8(1), Status::RESERVED_NOT_ZERO, alpha + 111, "alpha");
  add(unbound, "base digest", alpha + 127, u8(1), Status::RESERVED_NOT_ZERO, alpha + 127, "alpha");
  add(unbound, "flag", alpha + 13, u8(1), Status::BAD_ENUM, alpha + 13, "alpha");
  add(unbound, "target", alpha + 12, u8(0), Status::BAD_ENUM, alpha + 13, "alpha");
}

inline void add_hostile_shapes(Catalogue* catalogue) {
  const Bytes good = sample();
  const size_t alpha = tensor_row(good, 0);  // 4 x 8
  const size_t dims = alpha + 64;
  const auto add = [&](const char* what, size_t field, const Bytes& bytes, uint64_t offset) {
    catalogue->add(good, what, field, bytes, Status::BAD_SHAPE, offset, "alpha");
  };
  add("rank 0", alpha + 9, u8(0), alpha + 9);
  add("rank 9", alpha + 9, u8(9), alpha + 9);
  add("rank 255", alpha + 9, u8(255), alpha + 9);
  add("rank above the dimensions", alpha + 9, u8(3), dims + 8);
  add("rank below the dimensions", alpha + 9, u8(1), dims + 4);
  add("dimension 0", dims, u32(0), dims);
  add("dimension behind the rank", dims + 28, u32(1), dims + 28);
  add("other number of elements", dims + 4, u32(9), dims);
  add(
      "2^32 - 1 elements of another tensor", dims,
      [] {
        Bytes pair = u32(65535);
        append(&pair, u32(65537).data(), 4);
        return pair;
      }(),
      dims);
  for (const uint32_t dim : {65536U, 0x80000000U, 0xFFFFFFFFU}) {  // products 2^32, 2^62, 2^64
    Bytes pair = u32(dim);
    append(&pair, u32(dim).data(), 4);
    add("product beyond 32 bits", dims, pair, dims);
  }
  Bytes cube;
  for (int i = 0; i < 8; ++i) append(&cube, u32(0x10000).data(), 4);
  Bytes eight = good;
  put<uint8_t>(&eight, alpha + 9, 8);
  catalogue->add(eight, "product of 2^128, 0 in 64 bits", dims, cube, Status::BAD_SHAPE, dims,
                 "alpha");
}

inline void add_hostile_tensor_counts(Catalogue* catalogue) {
  const Bytes good = sample();
  const size_t alpha = tensor_row(good, 0);
  const size_t beta = tensor_row(good, 1);
  const size_t zeta = tensor_row(good, 3);
  const size_t values = section_offset(good, kValues);
  const auto add = [&](const char* what, size_t field, const Bytes& bytes, Status status,
                       uint64_t offset, const char* tensor, const Bytes* file = nullptr) {
    catalogue->add(file != nullptr ? *file : good, what, field, bytes, status, offset, tensor);
  };
  add("tier", alpha + 10, u8(1), Status::BAD_COUNT, alpha + 10, "alpha");
  add("tier", alpha + 10, u8(255), Status::BAD_COUNT, alpha + 10, "alpha");
  add("exponent of plain values", alpha + 14, u8(1), Status::BAD_VALUE, alpha + 14, "alpha");
  add("exponent of plain values", alpha + 14, u8(0xFF), Status::BAD_VALUE, alpha + 14, "alpha");
  add("group of plain values", alpha + 20, u32(64), Status::BAD_COUNT, alpha + 20, "alpha");
  add("first index_number", alpha + 16, u32(1), Status::BAD_LAYOUT, alpha + 16, "alpha");
  add("index_number left out", beta + 16, u32(2), Status::BAD_LAYOUT, beta + 16, "beta");
  add("index_number huge", beta + 16, u32(0xFFFFFFFF), Status::BAD_LAYOUT, beta + 16, "beta");
  const size_t index_count = section_row(kIndex) + 28;
  add("index row without a tensor", index_count, u32(5), Status::BAD_LAYOUT, index_count, "");
  add("tensor without an index row", index_count, u32(3), Status::BAD_LAYOUT, zeta + 16, "zeta");
  add("no entries", alpha + 24, u64(0), Status::BAD_COUNT, alpha + 24, "alpha");
  for (const uint64_t nnz : {uint64_t{3}, uint64_t{5}, uint64_t{1} << 32, uint64_t{1} << 61,
                             uint64_t{1} << 62, UINT64_MAX / 4 + 5, UINT64_MAX}) {
    add("nnz that the values do not have", alpha + 24, u64(nnz), Status::BAD_LAYOUT, alpha + 40,
        "alpha");
  }
  add("value_offset with a hole", alpha + 32, u64(8), Status::BAD_LAYOUT, alpha + 32, "alpha");
  add("value_offset that is not aligned", zeta + 32, u64(get<uint64_t>(good, zeta + 32) - 4),
      Status::BAD_LAYOUT, zeta + 32, "zeta");
  add("values that overlap", zeta + 32, u64(0), Status::BAD_LAYOUT, zeta + 32, "zeta");
  add("value_offset huge", zeta + 32, u64(UINT64_MAX - 7), Status::BAD_LAYOUT, zeta + 32, "zeta");
  add("value_bytes", alpha + 40, u64(15), Status::BAD_LAYOUT, alpha + 40, "alpha");
  add("value_bytes", alpha + 40, u64(17), Status::BAD_LAYOUT, alpha + 40, "alpha");
  add("value_bytes huge", alpha + 40, u64(UINT64_MAX), Status::BAD_LAYOUT, alpha + 40, "alpha");
  add("padding between values", values + 63, u8(1), Status::RESERVED_NOT_ZERO, values + 63, "zeta");
  catalogue->add_section(
      good, "a byte behind the values", kValues, [](Bytes* bytes) { bytes->push_back(0); },
      Status::BAD_LAYOUT, section_end(good, kValues));
  catalogue->add_section(
      good, "the last value cut", kValues, [](Bytes* bytes) { bytes->pop_back(); },
      Status::BAD_LAYOUT, zeta + 40, "zeta");
  catalogue->add_section(
      good, "the last values gone", kValues, [](Bytes* bytes) { bytes->resize(61); },
      Status::BAD_LAYOUT, zeta + 40, "zeta");
  const Bytes packed = pack();
  const size_t four = tensor_row(packed, 2);  // scaled
  add("exponent", four + 14, u8(65), Status::BAD_VALUE, four + 14, "q.four", &packed);
  add("exponent", four + 14, u8(0x80), Status::BAD_VALUE, four + 14, "q.four", &packed);
  for (const uint32_t group : {0U, 8U, 63U, 65U, 68U, 0xFFFFFFFFU}) {
    add("group", four + 20, u32(group), Status::BAD_COUNT, four + 20, "q.four", &packed);
  }
  add("group that asks for fewer scales", four + 20, u32(72), Status::BAD_LAYOUT, four + 40,
      "q.four", &packed);
}

/// Two rows of one adapter, the second as `change` leaves it, in the order given.
inline Bytes two_rows(const std::function<void(TensorInput*)>& change) {
  FileInput input;
  input.tier_count = 2;
  AdapterInput adapter;
  adapter.name = "a";
  adapter.keeps_order = true;
  const TensorInput lower = tensor("w", Dtype::f16, {8, 8}, IndexCodec::runs, {2, 3, 4, 40, 41});
  TensorInput upper =
      above(lower, tensor("w", Dtype::f16, {8, 8}, IndexCodec::gaps8, {0, 1, 5, 63}));
  change(&upper);
  adapter.tensors = {lower, upper};
  input.adapters = {adapter};
  return build_file(input);
}

inline void add_hostile_tiers(Catalogue* catalogue) {
  const auto add = [&](const char* what, Status status, size_t field,
                       const std::function<void(TensorInput*)>& change, const char* tensor = "w") {
    const Bytes file = two_rows(change);
    catalogue->add(what, file, status, tensor_row(file, 1) + field, tensor);
  };
  add("another shape than in the lower tier", Status::BAD_SHAPE, 0,
      [](TensorInput* row) { row->dims = {64}; });
  add("another dtype than in the lower tier", Status::BAD_SHAPE, 0,
      [](TensorInput* row) { row->dtype = row->value_dtype = Dtype::bf16; });
  add("another kind than in the lower tier", Status::BAD_SHAPE, 0,
      [](TensorInput* row) { row->kind = ValueKind::delta; });
  add("another base than in the lower tier", Status::BAD_SHAPE, 0,
      [](TensorInput* row) { row->base_digest[15] ^= 1; });
  for (const IndexCodec codec : {IndexCodec::gaps8, IndexCodec::runs}) {
    for (const uint32_t position : {2U, 4U, 41U}) {
      add("a position that the lower tier has too", Status::BAD_INDEX, 16, [&](TensorInput* row) {
        row->codec = codec;
        row->index = {0, 1, position, 63};
      });
    }
  }

  FileInput three = pack_input();
  three.adapters.resize(1);
  three.tier_count = 3;
  TensorInput top = three.adapters[0].tensors[4];
  top.tier = 2;
  three.adapters[0].tensors.push_back(top);
  const Bytes apart = build_file(three);
  catalogue->add("positions of the lowest of three tiers", apart, Status::BAD_INDEX,
                 tensor_row(apart, 8) + 16, "w");

  AdapterInput falling = sample_input();
  falling.keeps_order = true;
  falling.tensors[0].tier = 1;
  FileInput order;
  order.tier_count = 2;
  order.adapters = {falling};
  const Bytes file = build_file(order);
  catalogue->add("a lower tier behind a higher one", file, Status::BAD_LAYOUT,
                 tensor_row(file, 1) + 10, "beta");

  AdapterInput names = sample_input();
  names.keeps_order = true;
  names.tensors = {names.tensors[0], names.tensors[3], names.tensors[2]};
  names.tensors[1].tier = names.tensors[2].tier = 1;
  order.adapters = {names};
  const Bytes unsorted = build_file(order);
  catalogue->add("names of tier 1 that fall", unsorted, Status::BAD_NAME, tensor_row(unsorted, 2),
                 "gamma");

  const Bytes good = two_rows([](TensorInput*) {});
  Parts renamed = split(good);  // NAMES "aw" becomes "aww", and the second row takes the last
  renamed.sections[kNames].bytes.push_back('w');
  put<uint32_t>(&renamed.sections[kTensors].bytes, 128, 2);
  catalogue->add("the name stands twice", assemble(renamed), Status::BAD_SHAPE, tensor_row(good, 1),
                 "w");

  Parts empty = split(good);  // a third tier that no row is in
  empty.tier_count = 3;
  empty.sections.push_back({5, 2, 1, Bytes(48)});
  empty.sections.push_back({6, 2, 0, Bytes(1)});
  const Bytes unused = assemble(empty);
  catalogue->add("a tier without rows", unused, Status::BAD_LAYOUT, section_offset(unused, 9));

  FileInput derived;
  derived.tier_count = 2;
  derived.adapters = {derived_input()};
  derived.adapters[0].tensors[1].tier = 1;
  const Bytes masks = build_file(derived);
  catalogue->add("a derived mask in a file of two tiers", masks, Status::BAD_ENUM,
                 index_row(masks, 0));
}

inline void add_hostile_metadata(Catalogue* catalogue) {
  const Bytes good = sample();
  const size_t begin = section_offset(good, kMetadata);
  const auto add = [&](const std::string& json, uint64_t offset) {
    AdapterInput input = sample_input();
    input.metadata = json;
    catalogue->add("metadata " + json.substr(0, 20), build_adapter(input), Status::BAD_METADATA,
                   offset);
  };
  const size_t size_field = adapter_row(good, 0) + 28;
  add("{", size_field);
  add("{\"a\":\"" + std::string(1 << 20, 'x') + "\"}", size_field);
  for (const char* json :
       {"[]", "{}\n", " {}", "\xEF\xBB\xBF{}", "{\"a\":\"\xFF\"}", "{\"a\":nan}", "{\"a\":1,}",
        "{'a':1}", "{\"a\":01}", "{\"a\":\"\x01\"}", "{\"a\":1}{}", "{\"a\":1", "\"a\"", "nu"}) {
    add(json, begin);
  }
  add("{\"a\":" + std::string(64, '[') + std::string(64, ']') + "}", begin);
  add("{\"a\":" + std::string(100000, '[') + "}", begin);
  catalogue->add_section(
      good, "a byte behind the metadata", kMetadata, [](Bytes* bytes) { bytes->push_back(' '); },
      Status::BAD_LAYOUT, section_end(good, kMetadata));
}

}  // namespace shira::testing
