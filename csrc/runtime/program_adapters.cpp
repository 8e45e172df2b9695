// Program: its tensors and adapters, and checks of them that write nothing.
// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <utility>

#include "kernels/dispatch.h"
#include "runtime/base_verifier.h"
#include "runtime/binding.h"
#include "runtime/element_ops.h"
#include "runtime/live_access.h"
#include "runtime/program_state.h"

namespace shira {

// ---- Tensors and adapters ----

Result<void> Program::add_tensor(TensorSpec spec) {
  std::vector<TensorSpec> specs;
  specs.push_back(std::move(spec));
  return add_tensors(std::move(specs));
}

Result<void> Program::add_tensors(std::vector<TensorSpec> specs) {
  const GateWriter writer(state_->gate);
  const std::lock_guard<std::mutex> lock(state_->mutex);
  if (!state_->adapters.empty()) {
    return Error{Status::NOT_SUPPORTED, "tensors must be added before the first adapter"};
  }
  for (const TensorSpec& spec : specs) {
    if (!spec.region) continue;
    SHIRA_TRY(spec.region->set_first_touch(state_->first_touch));
    if (state_->originals == Originals::file) SHIRA_TRY(check_has_source(spec));
  }
  return state_->weights.add(std::move(specs));
}

std::vector<TensorSpec> Program::tensors() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->weights.specs();
}

Result<void> Program::read_tensor(const std::string& name, uint8_t* out, uint64_t size_bytes) {
  const GateReader reader(state_->gate);
  const int64_t found = state_->weights.find(name);
  if (found < 0) return Error{Status::UNKNOWN_TENSOR, "the program has no weight \"" + name + "\""};
  const auto index = static_cast<uint32_t>(found);
  const TensorSpec& spec = state_->weights.specs()[index];
  if (size_bytes != logical_bytes(spec)) {
    return Error{Status::INVALID_ARGUMENT, name + " takes " + std::to_string(logical_bytes(spec)) +
                                               " bytes, not " + std::to_string(size_bytes)};
  }
  SHIRA_TRY(state_->weights.check_live({index}));
  const DefaultFloatMode float_mode;
  return access_live(spec, [&] { read_elements(spec, 0, size_bytes, out); });
}

// `passed`: the key that the file was found to pass, or none so far. The lock is given up while a
// file is hashed, so the key may have become another one by then.
Result<void> Program::State::check_signed(const AdapterFile& file, std::optional<PublicKey>* passed,
                                          std::unique_lock<std::mutex>* lock) const {
  const auto shares_file = [&](const auto& entry) { return entry.second->source->file == &file; };
  while (required_key && required_key != *passed) {
    const PublicKey key = *required_key;
    if (std::none_of(adapters.begin(), adapters.end(), shares_file)) {
      lock->unlock();
      SHIRA_TRY(file.check_signature(key));
      lock->lock();
    }
    *passed = key;
  }
  return {};
}

Result<std::string> Program::add_adapter(const std::shared_ptr<const Adapter>& source,
                                         const AddOptions& options) {
  if (!source) return Error{Status::INVALID_ARGUMENT, "there is no adapter"};
  const GateReader reader(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  std::optional<PublicKey> passed;
  SHIRA_TRY(state_->check_signed(*source->file, &passed, &lock));
  const std::vector<std::shared_ptr<BoundAdapter>> others = state_->all_adapters();
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  lock.unlock();
  std::shared_ptr<const ActiveSet> whole_set = active_set;
  if (reads_base(*source)) {
    SHIRA_ASSIGN(whole_set, state_->loaded(active_set));
  }
  const BindContext context{state_->weights, *whole_set, others, *pool};
  SHIRA_ASSIGN(std::shared_ptr<BoundAdapter> adapter, bind_adapter(source, options, context));

  std::string name = adapter->name;
  lock.lock();
  SHIRA_TRY(state_->check_signed(*source->file, &passed, &lock));
  if (!state_->adapters.emplace(name, std::move(adapter)).second) {
    return Error{Status::DUPLICATE_NAME, "an adapter \"" + name + "\" was added before"};
  }
  return name;
}

Result<void> Program::require_signature(const PublicKey& key) {
  std::map<const AdapterFile*, std::shared_ptr<const Adapter>> passed;
  std::unique_lock<std::mutex> lock(state_->mutex);
  const auto is_unchecked = [&](const auto& entry) {
    return passed.count(entry.second->source->file) == 0;
  };
  for (;;) {
    const auto next = std::find_if(state_->adapters.begin(), state_->adapters.end(), is_unchecked);
    if (next == state_->adapters.end()) break;
    const std::shared_ptr<const Adapter> source = next->second->source;
    lock.unlock();  // others may come and go while a file is hashed
    SHIRA_TRY(source->file->check_signature(key));
    lock.lock();
    passed.emplace(source->file, source);
  }
  state_->required_key = key;
  return {};
}

Result<void> Program::remove_adapter(const std::string& name) {
  const GateReader reader(state_->gate);  // a switch in flight may be about to activate it
  const std::lock_guard<std::mutex> lock(state_->mutex);
  SHIRA_ASSIGN(const std::shared_ptr<BoundAdapter> adapter, state_->find(name));
  if (state_->is_active(*adapter)) {
    return Error{Status::ADAPTER_IN_USE,
                 "adapter \"" + name + "\" is active; switch away from it first"};
  }
  for (const auto& [other_name, other] : state_->adapters) other->changed_from.erase(adapter.get());
  state_->adapters.erase(name);
  return {};
}

std::vector<std::string> Program::adapter_names() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  std::vector<std::string> names;
  for (const auto& [name, adapter] : state_->adapters) names.push_back(name);
  return names;
}

// ---- Checks without writing ----

Result<void> Program::check_adapter(const std::string& name) {
  const GateReader reader(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  SHIRA_ASSIGN(const std::shared_ptr<BoundAdapter> adapter, state_->find(name));
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  lock.unlock();

  SHIRA_ASSIGN(const kernels::KernelTable* kernels, kernels::active_kernels());
  std::vector<uint32_t> touched_tensors;
  for (const BoundTensor& bound : adapter->tensors) touched_tensors.push_back(bound.tensor_index);
  SHIRA_TRY(state_->weights.check_live(touched_tensors));
  SHIRA_ASSIGN(const std::shared_ptr<const ActiveSet> whole_set, state_->loaded(active_set));
  const LiveWeights live{state_->weights, *kernels, *whole_set};
  return pool->run(adapter->tensors.size(), adapter->source->entry_count(),
                   [&](size_t i) -> Result<void> {
                     SHIRA_TRY(check_base(live, *adapter, adapter->tensors[i]));
                     return {};
                   });
}

Result<VerifyReport> Program::verify_base() {
  const GateReader reader(state_->gate);
  std::unique_lock<std::mutex> lock(state_->mutex);
  const std::vector<std::shared_ptr<BoundAdapter>> adapters = state_->all_adapters();
  const std::shared_ptr<const ActiveSet> active_set = state_->active;
  const std::shared_ptr<ThreadPool> pool = state_->pool;
  lock.unlock();

  SHIRA_ASSIGN(const kernels::KernelTable* kernels, kernels::active_kernels());
  SHIRA_ASSIGN(const std::shared_ptr<const ActiveSet> whole_set, state_->loaded(active_set));
  return verify_live_base(LiveWeights{state_->weights, *kernels, *whole_set}, adapters, *pool);
}

}  // namespace shira
