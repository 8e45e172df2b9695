// LoadedMethod: one method of a program, with the memory that it computes in.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/runtime/executor/program.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/array.h"
#include "base/result.h"
#include "executorch/value.h"

namespace shira {

/// What a method declares. BAD_PROGRAM_FILE.
Result<MethodInfo> describe_method(const executorch::runtime::MethodMeta& meta);

/// Thread-safe. It computes in one set of buffers, so that passes of one method wait for each
/// other; those of different methods run side by side. Buffers that a program changes (a KV cache)
/// are its method's own and last as long as it does.
class LoadedMethod {
 public:
  /// BAD_PROGRAM_FILE with what ExecuTorch says, OUT_OF_MEMORY. The arguments must outlive it.
  static Result<std::unique_ptr<LoadedMethod>> load(
      const executorch::runtime::Program& program, const std::string& name,
      const executorch::runtime::NamedDataMap* data,
      const executorch::runtime::LoadBackendOptionsMap& options);

  const MethodInfo& info() const { return info_; }

  /// Where the method has the constant of this name; null when it does not hold it.
  const void* find_constant(const std::string& name);

  /// One pass. INVALID_ARGUMENT for inputs that the method does not take, and for whatever else
  /// ExecuTorch refuses. Input bytes are read during the call only; outputs are copies.
  Result<std::vector<Value>> execute(const std::vector<Value>& inputs);

 private:
  explicit LoadedMethod(MethodInfo info) : info_(std::move(info)) {}

  Result<void> plan_memory(const executorch::runtime::MethodMeta& meta);
  Result<void> give_outputs_memory(const executorch::runtime::MethodMeta& meta);
  Result<void> check_inputs(const std::vector<Value>& inputs) const;

  const MethodInfo info_;
  std::mutex mutex_;  // held during a pass
  std::vector<Array<uint8_t>> buffers_;
  std::vector<executorch::runtime::Span<uint8_t>> spans_;  // the buffers
  std::unique_ptr<executorch::runtime::HierarchicalAllocator> planned_memory_;
  executorch::extension::MallocMemoryAllocator method_allocator_;
  executorch::extension::MallocMemoryAllocator temporary_allocator_;
  std::unique_ptr<executorch::runtime::MemoryManager> memory_manager_;
  std::unique_ptr<executorch::runtime::Method> method_;
};

}  // namespace shira
