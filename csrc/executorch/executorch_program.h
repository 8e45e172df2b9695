// ExecutorchProgram: an ExecuTorch program that we load and run ourselves, with weights to switch.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "executorch/value.h"
#include "packed/cache_index.h"
#include "runtime/program.h"

namespace shira {

/// Where the time of loading a program went, in nanoseconds.
struct LoadReport {
  uint64_t open_ns = 0;     // files mapped, and their tables checked
  uint64_t methods_ns = 0;  // by ExecuTorch, whose delegates pack weights here
  uint64_t compare_ns = 0;  // packed weights found, and every number compared with the files
  uint64_t attach_ns = 0;   // weights listed and made switchable
  uint64_t total_ns = 0;
};

/// Files, methods and their memory, and the Program over their weights. Neither Python nor torch is
/// needed; the application links libexecutorch and whatever kernels and delegates its model uses.
///
/// Thread-safe: passes of one method wait for each other, those of different methods run side by
/// side, and a switch waits for all of them (law I9).
///
/// After fork() parent and child switch and run apart from each other, each its own copy of the
/// weights. But a method with a delegate is refused in the child (NOT_SUPPORTED), and so are
/// switches and checks of weights that a delegate has packed (DETACHED): the delegate's threads are
/// gone there, and its packed weights are the parent's. Load the program again, then.
/// REQUIRES: no pass and no switch is in flight while the process forks.
class ExecutorchProgram {
 public:
  struct Options {
    std::vector<std::string> data_paths;  // .ptd files with the program's weights
    std::vector<std::string> methods;     // to be loaded; empty: all
  };

  /// Loads a .pte. BAD_PROGRAM_FILE with what ExecuTorch says, TRUNCATED, IO_ERROR,
  /// INVALID_ARGUMENT (no such method, naming those that there are), DUPLICATE_NAME (two files have
  /// a weight of the same name), OUT_OF_MEMORY.
  static Result<std::unique_ptr<ExecutorchProgram>> load(const std::string& path,
                                                         const Options& options);

  ~ExecutorchProgram();
  ExecutorchProgram(const ExecutorchProgram&) = delete;
  ExecutorchProgram& operator=(const ExecutorchProgram&) = delete;

  /// The weights: adapters are added to it and switched there.
  Program& program();

  /// Named constants that no adapter can touch, each with the reason.
  const std::map<std::string, std::string>& unpatchable() const;

  /// The loaded methods, in the order of the file.
  std::vector<MethodInfo> methods() const;

  /// One pass of a method, while no switch can happen. INVALID_ARGUMENT (no such method, or inputs
  /// that it does not take, naming what it wants), NOT_SUPPORTED.
  Result<std::vector<Value>> forward(const std::string& method, const std::vector<Value>& inputs);

  /// The same for a caller that has called program().begin_forward() itself, as for several passes
  /// with the same weights.
  Result<std::vector<Value>> execute(const std::string& method, const std::vector<Value>& inputs);

  /// What the XNNPACK delegate has packed for this program. Empty without such a delegate.
  const std::vector<PackedCacheEntry>& packed_weights() const;

  const LoadReport& load_report() const;

 private:
  struct State;
  explicit ExecutorchProgram(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace shira
