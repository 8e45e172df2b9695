// PrivateMapping: a model file as a program of ours sees it, writable without being written.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <executorch/runtime/core/data_loader.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "base/file.h"
#include "base/result.h"

namespace shira {

/// The whole of a .pte or .ptd, mapped privately and writable: stores make copies of pages for this
/// process, the file keeps its bytes. Constants that a method reads from here are patchable where
/// they are.
class PrivateMapping {
 public:
  /// IO_ERROR, OUT_OF_MEMORY. The mapping is never locked, not even under mlockall: every page of a
  /// locked one would be copied at once.
  static Result<std::shared_ptr<PrivateMapping>> map(const std::string& path);

  ~PrivateMapping();
  PrivateMapping(const PrivateMapping&) = delete;
  PrivateMapping& operator=(const PrivateMapping&) = delete;

  const File& file() const { return file_; }
  const FileState& state() const { return state_; }  // when it was mapped
  uint8_t* data() const { return data_; }
  uint64_t size_bytes() const { return size_bytes_; }

  /// The pages of [data, data + size_bytes) are not needed any more (a delegate has packed what is
  /// in them) and are given back, until keep_pages() was called: from then on they may be patched.
  void give_back(const void* data, uint64_t size_bytes) const;
  void keep_pages() { keeps_pages_ = true; }

 private:
  PrivateMapping(File file, const FileState& state, uint8_t* data)
      : file_(std::move(file)), state_(state), data_(data), size_bytes_(state.size_bytes) {}

  const File file_;
  const FileState state_;
  uint8_t* const data_;
  const uint64_t size_bytes_;
  std::atomic<bool> keeps_pages_{false};
};

/// Loads from a mapping by pointing into it. Everything it gave out is valid while the mapping is.
class MappingLoader final : public executorch::runtime::DataLoader {
 public:
  explicit MappingLoader(std::shared_ptr<PrivateMapping> mapping) : mapping_(std::move(mapping)) {}

  executorch::runtime::Result<executorch::runtime::FreeableBuffer> load(
      size_t offset, size_t size, const SegmentInfo& segment_info) const override;
  executorch::runtime::Error load_into(size_t offset, size_t size, const SegmentInfo& segment_info,
                                       void* buffer) const override;
  executorch::runtime::Result<size_t> size() const override;

 private:
  bool has(size_t offset, size_t size) const;

  const std::shared_ptr<PrivateMapping> mapping_;
};

}  // namespace shira
