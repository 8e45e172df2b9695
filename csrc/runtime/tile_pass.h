// TilePass: the stores of one switch, tensor by tensor and tile by tile, with a way back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "base/array.h"
#include "base/hash.h"
#include "base/result.h"
#include "base/thread_pool.h"
#include "kernels/kernels.h"
#include "runtime/list_walker.h"
#include "runtime/patch.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// From one patch of a tensor to another. `from` and `to` are not both nullptr, which is the base.
struct TensorStep {
  const TensorSpec* spec = nullptr;
  const Patch* from = nullptr;
  const Patch* to = nullptr;

  /// Not nullptr: the originals of `to` are not known yet, and the pass saves them here as it
  /// overwrites them. Otherwise it compares what it overwrites with them.
  Bytes* new_originals = nullptr;
  const Hash128* fingerprint = nullptr;  // that the new originals must have; nullptr: any

  bool shares_positions() const {
    return from != nullptr && to != nullptr && from->positions == to->positions;
  }

  // --- What the pass found.
  uint64_t elements_changed = 0;  // unless it was told not to count
  uint64_t effect_count = 0;      // of `to`
  bool has_faulted = false;       // pages of the tensor went away
};

/// Why one pass is enough: where a tile's base values are put back before new values are stored,
/// what the new values replace is the base. So the stores of a tile read, check and save the base
/// on the way, from cache lines that they need anyhow. Patches of the same positions have the same
/// originals, so that from one to the other nothing has to be read at all.
class TilePass {
 public:
  /// `counts_changes`: fill in elements_changed. REQUIRES: the arguments outlive the pass, and the
  /// patches' arrays the steps.
  TilePass(const kernels::KernelTable& kernels, ThreadPool& pool, std::vector<TensorStep>* steps,
           bool counts_changes)
      : kernels_(kernels), pool_(pool), steps_(*steps), counts_changes_(counts_changes) {}

  /// Divides the steps into tasks. OUT_OF_MEMORY.
  Result<void> prepare();

  /// Stores everything. BASE_MISMATCH without a message when a base value is not what it must be,
  /// DETACHED when pages went away (the steps say of which tensors): undo() is to be called then.
  /// Allocates nothing.
  Result<void> run();

  /// After a run() that failed: every value that was replaced is put back, where its page still
  /// exists. Allocates nothing.
  void undo();

 private:
  // A range of positions of one tensor.
  struct Task {
    size_t step_index = 0;
    uint64_t begin_position = 0;
    uint64_t end_position = 0;
    uint64_t stored_end = 0;  // what lies below was stored and stays so until undo()
    uint64_t elements_changed = 0;
    uint64_t effect_count = 0;
    bool has_faulted = false;
  };

  // What one thread needs beside the tile, small enough for its stack.
  struct Scratch {
    alignas(64) uint8_t live[TileWalker::kTileEntries * sizeof(uint32_t)];
    alignas(64) uint8_t replaced[TileWalker::kTileEntries * sizeof(uint32_t)];
  };

  Result<void> run_task(Task* task);
  bool store_tile(const TensorStep& step, const Tile& tile, Task* task, Scratch* scratch) const;
  void undo_tile(const TensorStep& step, const Tile& tile, const uint8_t* replaced) const;

  const kernels::KernelTable& kernels_;
  ThreadPool& pool_;
  std::vector<TensorStep>& steps_;
  const bool counts_changes_;
  Array<Task> tasks_;
  std::vector<std::atomic<uint32_t>> tasks_left_;  // of each step
  uint64_t entry_count_ = 0;
};

}  // namespace shira
