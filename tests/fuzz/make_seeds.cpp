// Writes the first inputs of each fuzz target: make_seeds FOLDER fills FOLDER/<target>/.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "attach_fixtures.h"
#include "packed_cache_builder.h"
#include "shb_sample.h"
#include "weights_builder.h"

namespace shira::fuzz {
namespace {

using Bytes = std::vector<uint8_t>;

class Folder {
 public:
  explicit Folder(std::filesystem::path path) : path_(std::move(path)) {}

  void add(const std::string& target, const std::string& name, const Bytes& bytes) const {
    std::filesystem::create_directories(path_ / target);
    std::ofstream(path_ / target / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }

 private:
  std::filesystem::path path_;
};

void add_adapters(const Folder& folder) {
  testing::AdapterInput small = testing::sample_input();
  small.tensors.pop_back();  // the large one
  testing::AdapterInput unbound = testing::unbound_input();
  unbound.tensors.pop_back();
  const testing::FileInput pack = testing::pack_input();
  const Bytes derived = testing::build_adapter(testing::derived_input());
  for (const char* target : {"fuzz_open", "fuzz_apply"}) {
    folder.add(target, "small.shb", testing::build_adapter(small));
    folder.add(target, "unbound.shb", testing::build_adapter(unbound));
    folder.add(target, "pack.shb", testing::build_file(pack));
    folder.add(target, "derived.shb", derived);
    for (const testing::TensorInput& tensor : pack.adapters[0].tensors) {
      if (tensor.tier != 0) continue;
      testing::AdapterInput single{"single", true, "{}", {tensor}};
      folder.add(target, tensor.name + ".shb", testing::build_adapter(single));
    }
  }
  folder.add("fuzz_open", "sample.shb", testing::sample());
  folder.add("fuzz_open", "reference.shb", testing::referring_to(testing::sample()));
}

void add_index_streams(const Folder& folder) {
  const auto add = [&](IndexCodec codec, const testing::EncodedIndex& coded, uint32_t entry_count,
                       uint32_t block_length) {
    Bytes input(20);
    input[0] = static_cast<uint8_t>(static_cast<int>(codec) - 1);
    input[1] = 2;  // rice_bits
    input[2] = block_length == 1 ? 0 : 1;
    testing::put<uint32_t>(&input, 4, coded.unit_count - (is_derived(codec) ? 0 : 1));
    testing::put<uint32_t>(&input, 8, entry_count - coded.unit_count);
    testing::put<uint32_t>(&input, 12, 700);
    testing::put<uint32_t>(&input, 16, block_length - 1);
    testing::append(&input, coded.stream.data(), coded.stream.size());
    folder.add("fuzz_index", std::string(index_codec_name(codec)) + std::to_string(block_length),
               input);
  };
  const std::vector<uint32_t> index = {0, 1, 2, 3, 8, 9, 10, 11, 600, 601, 602, 603};
  for (const auto codec :
       {IndexCodec::gaps8, IndexCodec::gaps16, IndexCodec::rice, IndexCodec::runs}) {
    for (const uint32_t block_length : {1U, 2U}) {
      add(codec, testing::encode_index(codec, index, block_length, 2), 12, block_length);
    }
  }
  add(IndexCodec::structured, {testing::encode_structured(7, 35, 5, 2), 1}, 1, 1);
  add(IndexCodec::random, {testing::encode_seed(7), 20}, 20, 1);
  add(IndexCodec::top_magnitude, {{}, 3}, 4, 1);
}

void add_value_streams(const Folder& folder) {
  for (uint8_t codec = 0; codec < 9; ++codec) {
    Bytes input = {codec, 60, 0, 1, 0, 0, 0x00, 0x3C};
    for (uint8_t i = 0; i < 40; ++i) input.push_back(i);
    folder.add("fuzz_values", value_codec_name(static_cast<ValueCodec>(codec + 1)), input);
  }
}

void add_program_files(const Folder& folder) {
  test::Program program;
  program.methods = {
      {{"fc.weight", test::kF32, {3, 8}, {}, 1},
       {"fc.bias", test::kF16, {8}, {}, 2},
       {"conv.weight", test::kF32, {2, 2, 1, 1}, {0, 2, 3, 1}, 3},
       {"", test::kBf16, {2, 2, 2}, {}, 3}},
      {{"fc.weight", test::kF32, {24}, {}, 1}, {"counter", test::kInt64, {2}, {}, 3}}};
  program.offsets = {0, 0, 128, 144};
  program.constant_bytes = 160;
  program.segment_alignment = 16;
  folder.add("fuzz_pte", "two_methods.pte", test::make_pte(program));
  folder.add("fuzz_pte", "weights.pte", test::make_weights_pte().bytes);
  test::FlatTensors content;
  content.constants = {{"fc.weight", test::kF32, {3, 8}, {}, 0},
                       {"fc.bias", test::kF16, {8}, {}, 1},
                       {"odd", 99, {4}, {}, 1}};
  content.segments = {{0, 96}, {96, 16}};
  content.segment_alignment = 16;
  folder.add("fuzz_ptd", "two_segments.ptd", test::make_ptd(content));
}

void add_packed_caches(const Folder& folder) {
  test::CacheInput input;
  input.data_bytes = 256;
  input.entries = {{"b", 0, 64}, {"ab", 64, 64}, {"abc", 192, 64}};
  folder.add("fuzz_xnn_cache", "three.cache", test::build_cache(input));
  input.entries.clear();
  folder.add("fuzz_xnn_cache", "none.cache", test::build_cache(input));
}

}  // namespace
}  // namespace shira::fuzz

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: make_seeds FOLDER\n");
    return 2;
  }
  const shira::fuzz::Folder folder(argv[1]);
  shira::fuzz::add_adapters(folder);
  shira::fuzz::add_index_streams(folder);
  shira::fuzz::add_value_streams(folder);
  shira::fuzz::add_program_files(folder);
  shira::fuzz::add_packed_caches(folder);
  return 0;
}
