// Hostile index tables, positions and values: steps 6 to 9 of docs/FORMAT.md section 13.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "shb_catalogue.h"

namespace shira::testing {

inline void add_hostile_index_tables(Catalogue* catalogue) {
  const Bytes good = sample();
  const size_t alpha = index_row(good, 0);  // GAPS8, 4 entries of 32
  const size_t beta = index_row(good, 1);   // GAPS8, 3 blocks of 4
  const size_t gamma = index_row(good, 2);  // RUNS, 3 of 5 entries
  const size_t zeta = index_row(good, 3);   // GAPS16
  const auto add = [&](const char* what, size_t field, const Bytes& bytes, Status status,
                       uint64_t offset) {
    catalogue->add(good, what, field, bytes, status, offset);
  };
  for (const int codec : {0, 8, 255}) {
    add("index codec", alpha, u8(codec), Status::BAD_ENUM, alpha);
  }
  add("rice_bits of gaps", alpha + 1, u8(1), Status::BAD_INDEX, alpha + 1);
  for (const size_t reserved : {2, 3, 12, 15}) {
    add("reserved", zeta + reserved, u8(1), Status::RESERVED_NOT_ZERO, zeta + reserved);
  }
  for (const uint32_t length : {0U, 16777217U, 0xFFFFFFFFU}) {
    add("block_length", alpha + 4, u32(length), Status::BAD_INDEX, alpha + 4);
  }
  add("block_length of runs", gamma + 4, u32(1), Status::BAD_INDEX, gamma + 4);
  add("no units", alpha + 8, u32(0), Status::BAD_COUNT, alpha + 8);
  for (const uint32_t count : {3U, 5U, 0xFFFFFFFFU, 0x40000001U}) {
    add("units that nnz does not have", alpha + 8, u32(count), Status::BAD_COUNT, alpha + 24);
  }
  for (const uint32_t count : {2U, 12U, 0xFFFFFFFFU, 0x40000003U}) {
    add("units that nnz does not have", beta + 8, u32(count), Status::BAD_COUNT, beta + 24);
  }
  add("more runs than entries", gamma + 8, u32(6), Status::BAD_COUNT, gamma + 24);
  for (const uint64_t count : {uint64_t{0}, uint64_t{1} << 32, uint64_t{1} << 63, UINT64_MAX}) {
    add("element_count", alpha + 16, u64(count), Status::BAD_SHAPE, alpha + 16);
  }
  for (const uint64_t nnz : {uint64_t{0}, uint64_t{33}, (uint64_t{1} << 32) + 4, UINT64_MAX}) {
    add("nnz", alpha + 24, u64(nnz), Status::BAD_COUNT, alpha + 24);
  }
  const uint64_t begin = get<uint64_t>(good, alpha + 32);
  for (const uint64_t offset : {begin + 8, begin - 8, begin + 1, uint64_t{0}, UINT64_MAX - 7}) {
    add("stream offset", alpha + 32, u64(offset), Status::BAD_LAYOUT, alpha + 32);
  }
  add("streams that overlap", zeta + 32, u64(begin), Status::BAD_LAYOUT, zeta + 32);
  for (const uint64_t size : {uint64_t{1000}, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - begin}) {
    add("stream leaves INDEX", alpha + 40, u64(size), Status::BAD_LAYOUT, alpha + 40);
  }
  add("no stream", alpha + 40, u64(0), Status::BAD_INDEX, alpha + 40);
  add("a byte less than units", alpha + 40, u64(3), Status::BAD_INDEX, alpha + 40);
  add("a byte less than runs need", gamma + 40, u64(5), Status::BAD_INDEX, gamma + 40);
  add("a byte less than 16-bit digits", zeta + 40, u64(5), Status::BAD_INDEX, zeta + 40);
  const size_t streams = index_stream_offset(good, 0);
  add("padding between streams", streams + 4, u8(1), Status::RESERVED_NOT_ZERO, streams + 4);
  add("padding between streams", streams + 7, u8(1), Status::RESERVED_NOT_ZERO, streams + 7);
  const size_t size_field = section_row(kIndex) + 16;
  for (const size_t size : {size_t{1}, size_t{4 * 48 - 1}}) {
    catalogue->add_section(
        good, "table that does not fit", kIndex, [&](Bytes* bytes) { bytes->resize(size); },
        Status::BAD_LAYOUT, size_field);
  }
  catalogue->add_section(
      good, "streams missing", kIndex, [](Bytes* bytes) { bytes->resize(4 * 48); },
      Status::BAD_LAYOUT, alpha + 40);
  catalogue->add_section(
      good, "last byte missing", kIndex, [](Bytes* bytes) { bytes->pop_back(); },
      Status::BAD_LAYOUT, zeta + 40);
  catalogue->add_section(
      good, "a byte behind the streams", kIndex, [](Bytes* bytes) { bytes->push_back(0); },
      Status::BAD_LAYOUT, section_end(good, kIndex));
  // Few bytes that declare four billion entries.
  for (const int codec : {1, 2, 3, 4}) {
    for (const uint32_t length : {1U, 3U}) {
      if (codec == 4 && length > 1) continue;
      Bytes file = good;
      put<uint8_t>(&file, alpha, codec);
      put<uint32_t>(&file, alpha + 4, codec == 4 ? 0 : length);
      put<uint32_t>(&file, alpha + 8, 0xFFFFFFFFU / length);
      put<uint64_t>(&file, alpha + 16, 0xFFFFFFFFU);
      catalogue->add(file, "four billion entries", alpha + 24, u64(0xFFFFFFFFU), Status::BAD_INDEX,
                     alpha + 40);
    }
  }
  const size_t tensor = tensor_row(good, 0);
  Bytes fewer = good;
  put<uint32_t>(&fewer, alpha + 8, 3);
  catalogue->add(fewer, "nnz of the tensor and of its positions", alpha + 24, u64(3),
                 Status::BAD_COUNT, tensor + 24, "alpha");
  catalogue->add(good, "elements of the tensor and of its positions", alpha + 16, u64(33),
                 Status::BAD_SHAPE, tensor + 64, "alpha");
  const Bytes packed = pack();
  const size_t rice = index_row(packed, 2);
  for (const int bits : {32, 64, 255}) {
    catalogue->add(packed, "rice_bits", rice + 1, u8(bits), Status::BAD_INDEX, rice + 1);
  }
  catalogue->add(packed, "rice_bits that need more bytes", rice + 1, u8(3), Status::BAD_INDEX,
                 rice + 40);
}

inline void add_hostile_references(Catalogue* catalogue) {
  const Bytes good = referring_to(sample());
  const size_t reference = section_offset(good, kIndex);
  const size_t row = section_row(kIndex);
  catalogue->add(good, "reference to nothing", reference, u8(good[reference] ^ 1),
                 Status::MISSING_INDEX, reference);
  catalogue->add(good, "reference to nothing", reference + 31, u8(good[reference + 31] ^ 0x80),
                 Status::MISSING_INDEX, reference + 31 - 31);
  for (const size_t size : {size_t{31}, size_t{33}}) {
    catalogue->add_section(
        good, "size of a reference", kIndex, [&](Bytes* bytes) { bytes->resize(size); },
        Status::BAD_LAYOUT, row + 16);
  }
  FileInput input;
  input.adapters = {sample_input()};
  input.adapters[0].tensors.pop_back();
  input.references[0] = Sha256::digest(split(sample()).sections[kIndex].bytes);
  catalogue->add("reference to a table of another length", build_file(input), Status::BAD_COUNT,
                 row + 28);
  input.adapters = {sample_input()};
  input.adapters[0].tensors[1].dims = {5, 5};
  const Bytes shape = build_file(input);
  catalogue->add("reference to positions of another shape", shape, Status::BAD_SHAPE,
                 tensor_row(shape, 1) + 64, "beta");
  input.adapters = {derived_input()};
  input.adapters[0].tensors.push_back(tensor("z", Dtype::f32, {4}, IndexCodec::gaps8, {1}));
  input.adapters[0].tensors.back().tier = 1;
  input.tier_count = 2;
  input.references[0] =
      Sha256::digest(split(build_adapter(derived_input())).sections[kIndex].bytes);
  const Bytes tiers = build_file(input);
  catalogue->add("reference from a file of two tiers to derived masks", tiers, Status::BAD_ENUM,
                 section_offset(tiers, kIndex));
}

/// A file of one tensor, "w", with this index stream.
inline void add_stream(Catalogue* catalogue, const char* what, IndexCodec codec,
                       const EncodedIndex& coded, uint64_t entry_count, uint32_t element_count,
                       uint64_t bad_offset, uint32_t block_length = 1, uint8_t rice_bits = 0) {
  AdapterInput input;
  TensorInput w;
  w.name = "w";
  w.dtype = w.value_dtype = Dtype::i8;
  w.dims = {element_count};
  w.codec = codec;
  w.block_length = block_length;
  w.rice_bits = rice_bits;
  w.coded = coded;
  w.entry_count = entry_count;
  w.values.assign(entry_count, 0);
  input.tensors = {w};
  const Bytes file = build_adapter(input);
  catalogue->add(what, file, Status::BAD_INDEX, index_stream_offset(file, 0) + bad_offset, "w");
}

inline void add_hostile_positions(Catalogue* catalogue) {
  const auto gaps = [&](const char* what, const Bytes& stream, uint32_t units, uint64_t bad_offset,
                        uint32_t block_length = 1) {
    add_stream(catalogue, what, IndexCodec::gaps8, {stream, units}, uint64_t{units} * block_length,
               300, bad_offset, block_length);
  };
  gaps("position 300 of 300", {45, 253, 0}, 3, 2);
  gaps("position 300 of 300 by two digits", {255, 45}, 1, 0);
  gaps("block 100 of 100", {98, 0, 0}, 3, 2, 3);
  gaps("digits that do not end", {3, 4, 255}, 3, 2);
  gaps("nothing but digits that go on", Bytes(100, 255), 2, 0);
  gaps("a unit too many", {255, 0, 3}, 3, 3);
  gaps("a byte behind the last unit", {1, 2, 3, 0}, 3, 3);
  gaps("many bytes behind the last unit", Bytes(100), 3, 3);
  const auto wide = [&](const char* what, const Bytes& stream, uint32_t units, uint32_t elements,
                        uint64_t bad_offset) {
    add_stream(catalogue, what, IndexCodec::gaps16, {stream, units}, units, elements, bad_offset);
  };
  wide("half a digit", {1, 0, 2, 0, 3}, 2, 300, 4);
  wide("digits that do not end", {1, 0, 0xFF, 0xFF}, 2, 0xFFFFFFFF, 2);
  wide("half a digit after one that goes on", {0xFF, 0xFF, 1}, 1, 0xFFFFFFFF, 0);
  Bytes wrapping;  // 65,537 digits of 65,535 are 2^32 - 1; the rest makes position 2^32 + 4
  append_digits(&wrapping, (uint64_t{1} << 32) + 4, 2);
  wide("a position that is 4 modulo 2^32", wrapping, 1, 0xFFFFFFFF, 0);

  const auto runs = [&](const char* what, const Bytes& stream, uint32_t units, uint64_t entries,
                        uint64_t bad_offset, uint32_t elements = 300) {
    add_stream(catalogue, what, IndexCodec::runs, {stream, units}, entries, elements, bad_offset);
  };
  runs("runs that touch", {5, 2, 0, 0}, 2, 4, 2);
  runs("a run leaves the tensor", {5, 2, 0xA3, 2, 1}, 2, 5, 2);
  runs("lengths below nnz", {5, 2, 9, 0}, 2, 5, 0);
  runs("lengths above nnz", {5, 2, 9, 0}, 2, 3, 0);
  runs("number cut by the end", {5, 2, 9, 0x80}, 2, 4, 2);
  runs("number not in its shortest form", {5, 2, 0x89, 0, 0}, 2, 4, 2);
  runs("number of six bytes", {5, 2, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 0}, 2, 4, 2);
  runs("number of 2^32", {0x80, 0x80, 0x80, 0x80, 0x10, 0}, 1, 1, 0, 0xFFFFFFFF);
  runs("length of 2^32", {0, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F}, 1, 5, 0, 0xFFFFFFFF);
  runs("start and length that wrap", {9, 1, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 3}, 2, 6, 2, 0xFFFFFFFF);
  runs("a byte behind the last run", {5, 2, 9, 0, 0}, 2, 4, 4);

  const auto rice = [&](const char* what, const Bytes& stream, uint32_t units, uint8_t bits,
                        uint64_t bad_offset, uint32_t elements = 300) {
    add_stream(catalogue, what, IndexCodec::rice, {stream, units}, units, elements, bad_offset, 1,
               bits);
  };
  rice("unused low bits", {0x1F, 0x03}, 2, 2, 0);
  rice("unused high bits", {0x0F, 0x07}, 2, 2, 1);
  rice("no last one bit", {0x0F, 0x01, 0x00}, 2, 2, 1);
  rice("no one bits at all", Bytes(50), 2, 2, 1);
  rice("a byte behind the last unit", {0x0F, 0x03, 0x00}, 2, 2, 2);
  rice("position 300 of 300", {0x2B, 0x00, 0x05}, 2, 8, 2);
  rice(
      "a high part of 2^33",
      [] {
        Bytes stream = {0, 0, 0, 0};  // 31 low bits
        stream.push_back(0x10);       // q = 4
        return stream;
      }(),
      1, 31, 4, 0xFFFFFFFF);

  const Bytes good = build_adapter(derived_input());
  const size_t stream = index_stream_offset(good, 0);  // columns 1, 4 of 6
  const auto derived = [&](const char* what, size_t field, const Bytes& bytes) {
    catalogue->add(good, what, stream + field, bytes, Status::BAD_INDEX, stream, "column");
  };
  derived("no parts", 0, u8(0));
  derived("unknown part", 0, u8(8 + 2));
  derived("other parts, with another nnz", 0, u8(3));
  derived("reserved", 1, u8(1));
  derived("reserved", 3, u8(0x80));
  derived("no columns", 4, u32(0));
  derived("columns that do not divide", 4, u32(5));
  derived("columns of another nnz", 4, u32(4));
  derived("columns beyond the tensor", 4, u32(0xFFFFFFFF));
  derived("no period", 8, u32(0));
  derived("period of another nnz", 8, u32(2));
  derived("phase that is the period", 12, u32(3));
  derived("phase huge", 12, u32(0xFFFFFFFF));
  derived("diagonal with a period", 0, u8(4));
  const auto row = [&](const char* what, size_t number, size_t field, const Bytes& bytes,
                       Status status, size_t offset) {
    const size_t begin = index_row(good, number);
    catalogue->add(good, what, begin + field, bytes, status, begin + offset);
  };
  row("two structured masks", 0, 8, u32(2), Status::BAD_COUNT, 24);
  row("two largest", 1, 8, u32(2), Status::BAD_COUNT, 24);
  row("block_length of a structured mask", 0, 4, u32(1), Status::BAD_INDEX, 4);
  row("block_length of the largest", 1, 4, u32(1), Status::BAD_INDEX, 4);
  row("block_length of a seed", 2, 4, u32(0), Status::BAD_INDEX, 4);
  row("structured mask of 8 bytes", 0, 40, u64(8), Status::BAD_INDEX, 40);
  row("largest of 8 bytes", 1, 40, u64(8), Status::BAD_INDEX, 40);
  row("seed of 7 bytes", 2, 40, u64(7), Status::BAD_INDEX, 40);
  AdapterInput codes = derived_input();
  codes.tensors = {tensor("w", Dtype::i8, {10}, IndexCodec::top_magnitude, {0, 1, 2})};
  codes.tensors[0].coded = EncodedIndex{{}, 1};
  const Bytes integers = build_adapter(codes);
  catalogue->add("the largest of integers", integers, Status::BAD_ENUM, tensor_row(integers, 0) + 8,
                 "w");
}

inline void add_hostile_values(Catalogue* catalogue) {
  const Bytes good = sample();
  const size_t alpha = value_stream_offset(good, 0);
  const size_t beta = value_stream_offset(good, 1);
  const size_t gamma = value_stream_offset(good, 2);
  const size_t zeta = value_stream_offset(good, 3);
  const auto add = [&](const char* what, size_t place, const Bytes& bytes, const char* tensor) {
    catalogue->add(good, what, place, bytes, Status::BAD_VALUE, place, tensor);
  };
  add("f32 infinity", alpha + 4, u32(0x7F800000), "alpha");
  add("f32 -infinity", alpha + 12, u32(0xFF800000), "alpha");
  add("f32 signalling NaN", alpha, u32(0x7F800001), "alpha");
  add("f32 quiet NaN", alpha + 8, u32(0xFFC00000), "alpha");
  add("bf16 infinity", beta + 22, u16(0x7F80), "beta");
  add("bf16 -infinity", beta + 2, u16(0xFF80), "beta");
  add("bf16 NaN", beta, u16(0xFFC0), "beta");
  add("f32 delta NaN", gamma + 16, u32(0xFFFFFFFF), "gamma");
  add("f16 infinity", zeta + 2, u16(0x7C00), "zeta");
  add("f16 -infinity", zeta + 2, u16(0xFC00), "zeta");
  add("f16 NaN", zeta + 4, u16(0x7C01), "zeta");

  const Bytes packed = pack();
  const size_t four = value_stream_offset(packed, 2);  // 3 scales, 131 codes
  const auto scale = [&](const char* what, size_t place, uint64_t bits) {
    catalogue->add(packed, what, place, u16(bits), Status::BAD_VALUE, place, "q.four");
  };
  scale("scale of -0", four, 0x8000);
  scale("negative scale", four + 2, 0xB800);
  scale("infinite scale", four + 4, 0x7C00);
  scale("scale that is NaN", four + 4, 0x7E00);
  const auto unused = [&](const char* what, size_t tensor, uint64_t mask, const char* name) {
    const size_t row = tensor_row(packed, tensor);
    const size_t last = value_stream_offset(packed, tensor) + get<uint64_t>(packed, row + 40) - 1;
    catalogue->add(packed, what, last, u8(packed[last] | mask), Status::RESERVED_NOT_ZERO, last,
                   name);
  };
  unused("unused bits of I4", 0, 0x10, "code.i4");
  unused("unused bits of Q4", 2, 0x80, "q.four");
  unused("unused bits of Q2", 3, 0x40, "q.two");
  unused("unused bits of Q1", 6, 0x08, "q.one");
}

}  // namespace shira::testing
