// Writes the first inputs of each fuzz target: make_seeds FOLDER fills FOLDER/<target>/.
// SPDX-License-Identifier: Apache-2.0
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "attach_fixtures.h"
#include "shb_sample.h"

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
  const auto add = [&](const std::string& name, const testing::AdapterInput& input) {
    for (const char* target : {"fuzz_open", "fuzz_apply"}) {
      folder.add(target, name, testing::build_adapter(input));
    }
  };
  add("sample.shb", testing::sample_input());
  add("unbound.shb", testing::unbound_input());
  testing::AdapterInput one = testing::sample_input();
  one.tensors.resize(1);
  add("one.shb", one);
}

void add_index_streams(const Folder& folder) {
  const std::vector<uint32_t> index = {0, 1, 2, 3, 8, 9, 10, 11, 600, 601, 602, 603};
  for (uint8_t codec = 1; codec <= 5; ++codec) {
    const auto coded = testing::encode_index(static_cast<IndexCodec>(codec), index, 2);
    Bytes input(16);
    input[0] = static_cast<uint8_t>(codec - 1);
    testing::put<uint32_t>(&input, 4, coded.unit_count - 1);
    testing::put<uint32_t>(&input, 8, index.size() - coded.unit_count);
    testing::put<uint32_t>(&input, 12, 700);
    testing::append(&input, coded.stream.data(), coded.stream.size());
    folder.add("fuzz_index", "codec_" + std::to_string(codec), input);
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
  test::FlatTensors content;
  content.constants = {{"fc.weight", test::kF32, {3, 8}, {}, 0},
                       {"fc.bias", test::kF16, {8}, {}, 1},
                       {"odd", 99, {4}, {}, 1}};
  content.segments = {{0, 96}, {96, 16}};
  content.segment_alignment = 16;
  folder.add("fuzz_ptd", "two_segments.ptd", test::make_ptd(content));
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
  shira::fuzz::add_program_files(folder);
  return 0;
}
