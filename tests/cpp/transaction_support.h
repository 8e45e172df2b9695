// Test helper: a program file with weights, adapters for it, and a process that has it attached.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "attach/mapped_file.h"
#include "attach/program_file.h"
#include "attach_fixtures.h"
#include "runtime_support.h"

namespace shira::testing {

/// A .pte with f32 weights w0, w1, ... of `page_count` pages each, and the adapters a, b, c (target
/// values) and d (deltas) for them.
class WeightsFile {
 public:
  explicit WeightsFile(int tensor_count, size_t page_count = 8)
      : content_(make_content(tensor_count, page_count)), file_(content_) {
    const ProgramFile tables = read_program_file(file_.path()).value();
    std::mt19937_64 random(7);
    for (const ProgramTensor& tensor : tables.tensors) {
      const auto begin = content_.begin() + static_cast<std::ptrdiff_t>(tensor.offset_bytes);
      model_.tensors.push_back(
          make_tensor(tensor.name, tensor.dtype, tensor.dims,
                      Bytes(begin, begin + static_cast<std::ptrdiff_t>(tensor.size_bytes))));
    }
    for (const char* name : {"a", "b", "c", "d"}) {
      AdapterInput input;
      input.name = name;
      const ValueKind kind = *name == 'd' ? ValueKind::delta : ValueKind::target;
      for (const LiveTensor& tensor : model_.tensors) {
        input.tensors.push_back(random_tensor(random, tensor, kind, 0.02));
      }
      adapters_[name] = seal(std::move(input));
    }
  }

  const std::string& path() const { return file_.path(); }
  const Bytes& content() const { return content_; }
  Bytes read() const { return file_.read(); }
  const Model& model() const { return model_; }
  const Adapters& adapters() const { return adapters_; }

  /// The bytes of every tensor under `members`, by the oracle.
  std::vector<Bytes> expected(const std::vector<Member>& members) const {
    return expected_state(model_, adapters_, members).bytes;
  }

  void truncate_to(uint64_t size_bytes) const {
    if (truncate(path().c_str(), static_cast<off_t>(size_bytes)) != 0) std::abort();
  }

  /// Makes the file what it was, in place.
  void restore() const {
    const int descriptor = open(path().c_str(), O_WRONLY);
    if (pwrite(descriptor, content_.data(), content_.size(), 0) !=
        static_cast<ssize_t>(content_.size()))
      std::abort();
    close(descriptor);
  }

 private:
  static Bytes make_content(int tensor_count, size_t page_count) {
    const size_t page = page_bytes();
    test::Program program;
    program.methods.emplace_back();
    for (int i = 0; i < tensor_count; ++i) {
      program.methods[0].push_back(
          {"w" + std::to_string(i),
           test::kF32,
           {static_cast<int32_t>(page_count), static_cast<int32_t>(page / 4)},
           {},
           static_cast<uint32_t>(i + 1)});
      program.offsets.push_back(program.constant_bytes);
      program.constant_bytes += page_count * page;
    }
    Bytes content = test::make_pte(program);
    // Drawn once for a part whose length is no multiple of a page: no two pages are alike.
    std::mt19937_64 random(11);
    const Bytes part = random_bytes(random, Dtype::f32, 65521);
    const size_t begin = content.size() - program.constant_bytes;
    for (size_t at = 0; at < program.constant_bytes; at += part.size()) {
      const size_t size = std::min<size_t>(part.size(), program.constant_bytes - at);
      std::copy_n(part.begin(), size, content.begin() + static_cast<std::ptrdiff_t>(begin + at));
    }
    return content;
  }

  const Bytes content_;
  const test::TemporaryFile file_;
  Model model_;  // what the tensors are; its live bytes are nobody's
  Adapters adapters_;
};

/// Watches over a region of another kind, and does something at chosen moments.
class HookRegion : public Region {
 public:
  explicit HookRegion(std::shared_ptr<Region> real) : real_(std::move(real)) {}

  Result<void> attach(const ProcessMaps& maps, const uint8_t* data, uint64_t size_bytes) override {
    return real_->attach(maps, data, size_bytes);
  }
  Result<void> check(const ProcessMaps& maps, const uint8_t* data,
                     uint64_t size_bytes) const override {
    SHIRA_TRY(real_->check(maps, data, size_bytes));
    SHIRA_TRY(ask("check", data));
    if (after_check) after_check(data);
    return {};
  }
  void add_watched(const uint8_t* data, uint64_t size_bytes,
                   std::vector<AddressRange>* ranges) const override {
    real_->add_watched(data, size_bytes, ranges);
  }
  Result<void> set_first_touch(FirstTouch first_touch) override {
    return real_->set_first_touch(first_touch);
  }
  Result<uint64_t> private_bytes_with(const std::vector<PageNeed>& needs) const override {
    return real_->private_bytes_with(needs);
  }
  Result<RegionMemory> memory() const override { return real_->memory(); }
  Result<void> prepare_stores(const uint8_t* data, const PageSet& pages) override {
    if (before_prepare) before_prepare(data);
    SHIRA_TRY(ask("prepare_stores", data));
    SHIRA_TRY(real_->prepare_stores(data, pages));
    if (after_prepare) after_prepare(data);
    return {};
  }
  void take_empty_pages_away(const uint8_t* data, uint64_t size_bytes) override {
    real_->take_empty_pages_away(data, size_bytes);
  }
  bool has_source() const override { return real_->has_source(); }
  Result<void> read_source(const uint8_t* data, uint64_t size_bytes, uint8_t* out) const override {
    SHIRA_TRY(ask("read_source", data));
    return real_->read_source(data, size_bytes, out);
  }
  uint64_t cold_source_bytes(const uint8_t* data, uint64_t size_bytes) const override {
    return real_->cold_source_bytes(data, size_bytes);
  }
  Result<uint64_t> release_pages() override { return real_->release_pages(); }
  Result<void> hard_revert() override { return real_->hard_revert(); }

  using Hook = std::function<void(const uint8_t* data)>;
  Hook after_check, before_prepare, after_prepare;

  /// The step that fails, and for which tensor.
  const char* refused_step = "none";
  const uint8_t* refused_data = nullptr;

 private:
  Result<void> ask(const std::string& step, const uint8_t* data) const {
    if (step != refused_step || data != refused_data) return {};
    return Error{Status::DETACHED, "the test refuses " + step};
  }

  const std::shared_ptr<Region> real_;
};

/// A process's view of a WeightsFile: mapped by a loader, attached, with every adapter added.
class AttachedProgram {
 public:
  explicit AttachedProgram(const WeightsFile& weights) : weights_(weights) {
    const ProgramFile tables = read_program_file(weights.path()).value();
    flatbuffer_ = std::make_unique<test::Load>(weights.path(), 0, tables.loads[0].size_bytes);
    constants_ = std::make_unique<test::Load>(weights.path(), tables.constants_offset_bytes,
                                              tables.constants_size_bytes);
    Result<std::vector<TensorSpec>> specs = attach_mapped_file(weights.path(), {});
    if (!specs.ok()) {
      fprintf(stderr, "%s\n", specs.error().message.c_str());
      std::abort();
    }
    region = std::make_shared<HookRegion>(specs.value().front().region);
    for (TensorSpec& spec : specs.value()) {
      data_.push_back(spec.data);
      spec.region = region;
    }
    if (!program.add_tensors(std::move(specs.value())).ok()) std::abort();
    for (const auto& [name, adapter] : weights.adapters()) {
      if (!program.add_adapter(adapter.source, {}).ok()) std::abort();
    }
  }

  std::vector<Bytes> live() const {
    std::vector<Bytes> bytes;
    for (size_t i = 0; i < data_.size(); ++i) {
      bytes.emplace_back(data_[i], data_[i] + weights_.model().tensors[i].pristine.size());
    }
    return bytes;
  }

  uint8_t* data(size_t tensor_index) const { return data_[tensor_index]; }

  /// Unloads the program, as its owner would before it uses the addresses again.
  void unload() { constants_->unload(); }

  std::shared_ptr<HookRegion> region;
  Program program;

 private:
  const WeightsFile& weights_;
  std::unique_ptr<test::Load> flatbuffer_;
  std::unique_ptr<test::Load> constants_;
  std::vector<uint8_t*> data_;
};

/// True when both states are the same in everything that an application can see.
inline bool same_state(const ProgramState& a, const ProgramState& b) {
  const auto same_member = [](const Member& x, const Member& y) {
    return x.name == y.name && x.scale == y.scale;
  };
  return a.epoch == b.epoch && a.digest == b.digest &&
         std::equal(a.active.begin(), a.active.end(), b.active.begin(), b.active.end(),
                    same_member);
}

/// `fallback`, unless the environment variable says how many.
inline long count_from_environment(const char* variable, long fallback) {
  const char* text = std::getenv(variable);
  return text == nullptr ? fallback : std::atol(text);
}

}  // namespace shira::testing
