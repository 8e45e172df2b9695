// Says in text what the C++ reader makes of .shb files, for comparison with the Python reader:
// reader_server [SOURCE...] < requests, where positions may be taken from the SOURCE files.
// SPDX-License-Identifier: Apache-2.0
//
// A request is the size of a file and the number of tiers to open (0: all), both u32, and the
// file's bytes; the answer is the size of a text, u32, and the text. tests/fuzz/differential.py
// writes the same text from what the Python reader gives.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "format/adapter_file.h"
#include "index_encoder.h"

namespace shira::fuzz {
namespace {

using testing::Bytes;

constexpr uint64_t kMaxExpandedElements = 1 << 16;  // of derived masks

std::string hex(const void* bytes, size_t size_bytes) {
  return to_hex(static_cast<const uint8_t*>(bytes), size_bytes);
}
std::string hex(std::string_view text) { return hex(text.data(), text.size()); }

/// Byte `i` of the base that the largest values are looked for in.
uint8_t base_byte(uint64_t i) { return static_cast<uint8_t>((i * 167 + 13) % 251); }

std::string positions_text(const AdapterTensor& tensor) {
  if (tensor.index) {
    const std::vector<uint32_t> positions = testing::positions_of(*tensor.index);
    return hex(positions.data(), 4 * positions.size());
  }
  if (tensor.numel > kMaxExpandedElements) return "by rule";
  Bytes base(tensor.numel * dtype_bytes(tensor.dtype));
  for (size_t i = 0; i < base.size(); ++i) base[i] = base_byte(i);
  const Result<IndexList> list = tensor.rule->codec == IndexCodec::top_magnitude
                                     ? select_top_magnitude(*tensor.rule, tensor.dtype, base.data())
                                     : expand_mask(*tensor.rule);
  if (!list.ok()) return status_name(list.error().status);
  const std::vector<uint32_t> positions = testing::positions_of(list.value());
  return hex(positions.data(), 4 * positions.size());
}

std::string values_text(const AdapterTensor& tensor) {
  std::vector<float> values(tensor.nnz);
  for (uint64_t i = 0; i < tensor.nnz; ++i) {
    const uint8_t* value = tensor.values + i * dtype_bytes(tensor.value_dtype);
    uint16_t half = 0;
    std::memcpy(&half, value, is_float(tensor.value_dtype) ? 2 : 1);
    switch (tensor.value_dtype) {
      case Dtype::f32:
        std::memcpy(&values[i], value, sizeof(float));
        break;
      case Dtype::f16:
        values[i] = f16_to_f32(half);
        break;
      case Dtype::bf16:
        values[i] = bf16_to_f32(half);
        break;
      default:
        values[i] = static_cast<float>(static_cast<int8_t>(half));
    }
  }
  return hex(values.data(), 4 * values.size());
}

std::string tensor_text(const AdapterTensor& tensor) {
  std::string text = "tensor " + hex(tensor.name) + "\ndtype " +
                     std::to_string(static_cast<int>(tensor.dtype)) + "\nkind " +
                     std::to_string(static_cast<int>(tensor.value_kind)) + "\nvalue_codec " +
                     std::to_string(static_cast<int>(tensor.value_codec)) + "\nshape";
  for (const uint32_t dim : tensor.dims) text += " " + std::to_string(dim);
  text += "\nbase_digest " + hex(tensor.base_digest.data(), tensor.base_digest.size());
  text += "\nfingerprint " + hex(tensor.fingerprint.data(), tensor.fingerprint.size());
  for (const IndexInfo& part : tensor.parts) {
    text += "\npart " + std::to_string(part.tier) + " " + std::to_string(part.index_number) + " " +
            std::to_string(static_cast<int>(part.codec)) + " " + std::to_string(part.rice_bits) +
            " " + std::to_string(part.block_length) + " " + std::to_string(part.unit_count) + " " +
            std::to_string(part.stream_bytes);
  }
  return text + "\npositions " + positions_text(tensor) + "\nvalues " + values_text(tensor) + "\n";
}

std::string answer(const Bytes& file, const OpenOptions& options) {
  const auto opened = AdapterFile::from_bytes(file.data(), file.size(), "request.shb", options);
  if (!opened.ok()) {
    return std::string(status_name(opened.error().status)) + " " +
           std::to_string(opened.error().offset_bytes) + "\n";
  }
  std::string text = "OK " + std::to_string(opened.value()->version_minor()) + " " +
                     std::to_string(opened.value()->tier_count()) + " " +
                     hex(opened.value()->content_digest().data(), 32) + "\n";
  for (const Adapter& adapter : opened.value()->adapters()) {
    text += "adapter " + hex(adapter.name) + "\nbound " + (adapter.is_bound ? "1" : "0") +
            "\nmetadata " + hex(adapter.metadata_json) + "\n";
    for (const AdapterTensor& tensor : adapter.tensors) text += tensor_text(tensor);
  }
  return text;
}

bool read_exactly(void* bytes, size_t size_bytes) {
  return size_bytes == 0 || fread(bytes, size_bytes, 1, stdin) == 1;
}

int serve(const std::vector<std::shared_ptr<const AdapterFile>>& sources) {
  uint32_t request[2];
  while (read_exactly(request, sizeof(request))) {
    Bytes file(request[0]);
    if (!read_exactly(file.data(), file.size())) return 1;
    OpenOptions options;
    options.tier_count = request[1];
    options.index_sources = sources;
    const std::string text = answer(file, options);
    const auto text_bytes = static_cast<uint32_t>(text.size());
    fwrite(&text_bytes, sizeof(text_bytes), 1, stdout);
    fwrite(text.data(), 1, text.size(), stdout);
    fflush(stdout);
  }
  return 0;
}

}  // namespace
}  // namespace shira::fuzz

int main(int argc, char** argv) {
  std::vector<std::shared_ptr<const shira::AdapterFile>> sources;
  for (int i = 1; i < argc; ++i) {
    const auto source = shira::AdapterFile::open(argv[i]);
    if (!source.ok()) {
      fprintf(stderr, "%s: %s\n", argv[i], source.error().message.c_str());
      return 2;
    }
    sources.push_back(source.value());
  }
  return shira::fuzz::serve(sources);
}
