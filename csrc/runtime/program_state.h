// Program::State: what a Program holds, shared by the files that its methods are spread over.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/thread_pool.h"
#include "runtime/gate.h"
#include "runtime/originals.h"
#include "runtime/patch.h"
#include "runtime/program.h"
#include "runtime/weight_table.h"

namespace shira {

// Small strings and per-tensor records come from the ordinary allocator, whose failure ends the
// process; everything that grows with the weights or with a file is an Array and fails with
// OUT_OF_MEMORY.
struct Program::State {
  Gate gate;
  mutable std::mutex
      mutex;            // guards what follows; held briefly, and never while waiting for the gate
  WeightTable weights;  // changed only by the gate's writer, and only while there are no adapters
  std::map<std::string, std::shared_ptr<BoundAdapter>> adapters;
  std::shared_ptr<const ActiveSet> active =
      std::make_shared<ActiveSet>();  // replaced only by the gate's writer
  uint64_t epoch = 0;
  std::optional<PublicKey> required_key;  // every file of `adapters` passes it
  std::shared_ptr<ThreadPool> pool;
  uint64_t max_dirty_bytes = 0;  // 0: no limit
  FirstTouch first_touch = FirstTouch::automatic;
  Originals originals = Originals::memory;
  std::mutex reads_mutex;  // guards the next
  SourceReads reads;
  mutable std::mutex digest_mutex;  // guards the digests cached in patches

  Result<std::shared_ptr<BoundAdapter>> find(const std::string& name) const {
    const auto found = adapters.find(name);
    if (found != adapters.end()) return found->second;
    return Error{Status::UNKNOWN_ADAPTER, "no adapter \"" + name + "\" was added"};
  }

  bool is_active(const BoundAdapter& adapter) const {
    return std::any_of(
        active->members.begin(), active->members.end(),
        [&](const ActiveMember& member) { return member.adapter.get() == &adapter; });
  }

  std::vector<std::shared_ptr<BoundAdapter>> all_adapters() const {
    std::vector<std::shared_ptr<BoundAdapter>> all;
    for (const auto& [name, adapter] : adapters) all.push_back(adapter);
    return all;
  }

  // What active patches lack is read: in place for the gate's writer, else into copies.
  Result<SourceReads> load(const ActiveSet& set);
  Result<std::shared_ptr<const ActiveSet>> loaded(const std::shared_ptr<const ActiveSet>& set);
  // REQUIRES: the caller is the gate's writer.
  void drop_if_in_file();

  Result<std::vector<ActiveMember>> resolve(const std::vector<Member>& members) const;
  Result<void> check_signed(const AdapterFile& file, std::optional<PublicKey>* passed,
                            std::unique_lock<std::mutex>* lock) const;
  void commit(std::shared_ptr<const ActiveSet> next, SwitchReport* report);
};

}  // namespace shira
