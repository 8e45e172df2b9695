// Putting files, methods and weights together.
// SPDX-License-Identifier: Apache-2.0
#include "executorch/executorch_program.h"

#include <executorch/extension/flat_tensor/flat_tensor_data_map.h>
#include <executorch/extension/named_data_map/merged_data_map.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>
#include <unistd.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "attach/mapped_file.h"
#include "attach/nibble_rows.h"
#include "attach/program_file.h"
#include "attach/program_weights.h"
#include "base/stopwatch.h"
#include "executorch/load_failure.h"
#include "executorch/loaded_method.h"
#include "executorch/log_capture.h"
#include "executorch/packed_cache.h"
#include "executorch/packed_weights.h"
#include "executorch/private_mapping.h"

namespace shira {

namespace et = executorch::runtime;
using executorch::extension::FlatTensorDataMap;
using executorch::extension::merged_data_map::MergedDataMap;

namespace {

constexpr const char* kXnnpack = "XnnpackBackend";

/// One .pte or .ptd.
struct ModelFile {
  explicit ModelFile(ProgramFile file_tables, std::shared_ptr<PrivateMapping> file_mapping)
      : tables(std::move(file_tables)), mapping(std::move(file_mapping)), loader(mapping) {}

  const ProgramFile tables;
  const std::shared_ptr<PrivateMapping> mapping;
  MappingLoader loader;
  std::unique_ptr<FlatTensorDataMap> data_map;  // of a .ptd
};

Result<std::unique_ptr<ModelFile>> open_file(const std::string& path, bool is_data) {
  SHIRA_ASSIGN(ProgramFile tables, read_program_file(path));
  if (tables.is_ptd != is_data) {
    return Error{Status::BAD_PROGRAM_FILE,
                 is_data ? "this is a program, where a data file (.ptd) is expected"
                         : "this is a data file (.ptd), where a program (.pte) is expected",
                 path};
  }
  SHIRA_ASSIGN(std::shared_ptr<PrivateMapping> mapping, PrivateMapping::map(path));
  return std::make_unique<ModelFile>(std::move(tables), std::move(mapping));
}

std::string join(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text;
}

}  // namespace

// Destroyed from the last to the first: methods before the program and the files they point into,
// and the weights first of all.
struct ExecutorchProgram::State {
  pid_t process = getpid();
  std::vector<std::unique_ptr<ModelFile>> files;  // the .pte, then the .ptd's
  std::unique_ptr<et::Program> image;
  std::vector<const et::NamedDataMap*> data_maps;
  std::unique_ptr<MergedDataMap> merged_data;
  std::unique_ptr<PackedCache> packed_cache;
  et::BackendOptions<2> xnnpack_options;
  et::LoadBackendOptionsMap backend_options;
  ProgramWeights weights;
  std::vector<std::string> method_names;  // of the file, in its order
  std::vector<std::unique_ptr<LoadedMethod>> methods;
  PackedCacheIndex packed_index;
  std::map<std::string, std::string> unpatchable;
  LoadReport load_report;
  Program program;

  Result<void> open(const std::string& path, const std::vector<std::string>& data_paths);
  Result<void> merge_data();
  Result<void> give_xnnpack_a_cache();
  Result<void> load_methods(std::vector<std::string> wanted);
  Result<void> attach();
  std::vector<ByteReader> file_bytes() const;
  Result<void> read_weights();
  Result<std::vector<TensorSpec>> attach_packed();
  Result<std::vector<TensorSpec>> attach_mapped(size_t file_index);
  std::string why_not_held(const std::string& name, const void* place) const;
  LoadedMethod* find(const std::string& name) const;
  Error no_such_method(const std::string& name) const;
};

Result<void> ExecutorchProgram::State::open(const std::string& path,
                                            const std::vector<std::string>& data_paths) {
  SHIRA_ASSIGN(std::unique_ptr<ModelFile> program_file, open_file(path, false));
  files.push_back(std::move(program_file));
  for (const std::string& data_path : data_paths) {
    SHIRA_ASSIGN(std::unique_ptr<ModelFile> data_file, open_file(data_path, true));
    files.push_back(std::move(data_file));
  }
  const LogCapture capture;
  et::Result<et::Program> loaded =
      et::Program::load(&files[0]->loader, et::Program::Verification::InternalConsistency);
  if (!loaded.ok())
    return capture.error(Status::BAD_PROGRAM_FILE, "ExecuTorch cannot load the program",
                         loaded.error());
  image = std::make_unique<et::Program>(std::move(*loaded));
  for (size_t i = 0; i < image->num_methods(); ++i) {
    const et::Result<const char*> name = image->get_method_name(i);
    if (!name.ok()) return Error{Status::BAD_PROGRAM_FILE, "a method has no name"};
    // Ours give the names of weights (export/program_file.py); nobody runs them.
    if (std::string_view(*name).substr(0, 6) != "shira_") method_names.emplace_back(*name);
  }
  return merge_data();
}

Result<void> ExecutorchProgram::State::merge_data() {
  for (size_t i = 1; i < files.size(); ++i) {
    const LogCapture capture;
    et::Result<FlatTensorDataMap> map = FlatTensorDataMap::load(&files[i]->loader);
    if (!map.ok()) {
      Error error =
          capture.error(Status::BAD_PROGRAM_FILE, "ExecuTorch cannot load the data", map.error());
      error.file = files[i]->tables.path;
      return error;
    }
    files[i]->data_map = std::make_unique<FlatTensorDataMap>(std::move(*map));
    data_maps.push_back(files[i]->data_map.get());
  }
  if (data_maps.size() < 2) return {};
  const LogCapture capture;
  et::Result<MergedDataMap> merged =
      MergedDataMap::load(et::Span<const et::NamedDataMap*>(data_maps.data(), data_maps.size()));
  if (!merged.ok())
    return capture.error(Status::DUPLICATE_NAME, "the data files cannot be used together",
                         merged.error());
  merged_data = std::make_unique<MergedDataMap>(std::move(*merged));
  return {};
}

/// Only a program of that delegate needs one, and it has to be there before the first method is.
Result<void> ExecutorchProgram::State::give_xnnpack_a_cache() {
  SHIRA_ASSIGN(PackedCache cache, PackedCache::make());
  packed_cache = std::make_unique<PackedCache>(std::move(cache));
  const bool is_set =
      xnnpack_options.set_option("weight_cache_enabled", true) == et::Error::Ok &&
      xnnpack_options.set_option("packed_cache_path", packed_cache->path().c_str()) ==
          et::Error::Ok &&
      backend_options.set_options(kXnnpack, xnnpack_options.view()) == et::Error::Ok;
  if (!is_set) return Error{Status::NOT_SUPPORTED, "XNNPACK does not take its options"};
  return {};
}

std::vector<ByteReader> ExecutorchProgram::State::file_bytes() const {
  std::vector<ByteReader> bytes;
  for (const auto& file : files)
    bytes.emplace_back(file->mapping->data(), file->mapping->size_bytes());
  return bytes;
}

/// Before ExecuTorch loads a method: it checks less of what a file says.
Result<void> ExecutorchProgram::State::read_weights() {
  std::vector<std::string> labels;
  for (const auto& file : files) labels.push_back(file->tables.path);
  SHIRA_ASSIGN(weights, parse_program_weights(file_bytes(), labels));
  return {};
}

Result<void> ExecutorchProgram::State::load_methods(std::vector<std::string> wanted) {
  if (wanted.empty()) wanted = method_names;
  for (const std::string& name : wanted) {
    if (std::find(method_names.begin(), method_names.end(), name) == method_names.end())
      return no_such_method(name);
    const et::Result<et::MethodMeta> meta = image->method_meta(name.c_str());
    if (meta.ok() && meta->uses_backend(kXnnpack) && !packed_cache)
      SHIRA_TRY(give_xnnpack_a_cache());
  }
  const et::NamedDataMap* data = merged_data         ? merged_data.get()
                                 : data_maps.empty() ? nullptr
                                                     : data_maps.front();
  for (const std::string& name : method_names) {
    if (std::find(wanted.begin(), wanted.end(), name) == wanted.end()) continue;
    Result<std::unique_ptr<LoadedMethod>> method =
        LoadedMethod::load(*image, name, data, backend_options);
    if (!method.ok()) {
      explain_load_failure(weights, file_bytes(), &method.error());
      return method.error();
    }
    methods.push_back(std::move(method.value()));
  }
  return {};
}

/// Empty when the methods compute with the constant at this place in the mapped file.
std::string ExecutorchProgram::State::why_not_held(const std::string& name,
                                                   const void* place) const {
  bool is_held = false;
  for (const auto& method : methods) {
    const void* const found = method->find_constant(name);
    if (found == nullptr) continue;
    if (found != place)
      return "method '" + method->info().name + "' computes with a copy of it, which it may change";
    is_held = true;
  }
  if (is_held) return {};
  return methods.size() == 1
             ? "method '" + methods[0]->info().name + "' does not hold it: unused or delegated"
             : "no loaded method holds it: unused or delegated";
}

/// Weights that a delegate has packed.
Result<std::vector<TensorSpec>> ExecutorchProgram::State::attach_packed() {
  if (!packed_cache) return std::vector<TensorSpec>{};
  std::vector<std::shared_ptr<PrivateMapping>> mappings;
  for (const auto& file : files) mappings.push_back(file->mapping);
  std::vector<std::string> loaded_names;
  for (const auto& method : methods) loaded_names.push_back(method->info().name);
  SHIRA_ASSIGN(PackedWeights found,
               find_packed_weights(*packed_cache, weights, mappings, loaded_names));
  packed_index = std::move(found.index);
  unpatchable.merge(found.unpatchable);
  return std::move(found.specs);
}

/// Weights that kernels read where the file is mapped: plain ones, and tables of codes.
Result<std::vector<TensorSpec>> ExecutorchProgram::State::attach_mapped(size_t file_index) {
  const ModelFile& file = *files[file_index];
  std::vector<TensorSpec> specs;
  const auto add = [&](const std::string& name, uint64_t offset_bytes, const std::string& why_not,
                       Dtype dtype, const std::vector<uint32_t>& dims) {
    if (unpatchable.count(name) != 0) return false;  // a delegate has packed the same values
    uint8_t* const place = file.mapping->data() + offset_bytes;
    const std::string reason = why_not.empty() ? why_not_held(name, place) : why_not;
    if (reason.empty()) {
      specs.push_back({name, dtype, dims, place, nullptr, {}, nullptr});
    } else {
      unpatchable.emplace(name, reason);
    }
    return reason.empty();
  };
  for (const ProgramWeight& weight : weights.weights) {
    const bool is_table = weight.storage == WeightStorage::byte_table ||
                          weight.storage == WeightStorage::nibble_table;
    if (!is_table || weight.codes.file_index != file_index) continue;
    if (!add(weight.name, weight.codes.range.offset_bytes, weight.why_not,
             weight.dtype.value_or(Dtype::i8), weight.dims))
      continue;
    specs.back().shares_storage_with = weight.shares_storage_with;
    if (weight.storage == WeightStorage::nibble_table)
      specs.back().layout = make_nibble_rows(specs.back().data, weight.dims[0], weight.dims[1]);
  }
  for (const ProgramTensor& tensor : file.tables.tensors) {
    if (add(tensor.name, tensor.offset_bytes, tensor.patchable ? "" : tensor.why_not, tensor.dtype,
            tensor.dims))
      specs.back().shares_storage_with = tensor.shares_storage_with;
  }
  if (specs.empty()) return specs;
  const std::shared_ptr<uint8_t> bytes(file.mapping, file.mapping->data());
  SHIRA_ASSIGN(const std::shared_ptr<Region> region, attach_own_mapping(file.tables.path, bytes));
  for (TensorSpec& spec : specs) spec.region = region;
  return specs;
}

Result<void> ExecutorchProgram::State::attach() {
  Stopwatch stage;
  for (const ProgramWeight& weight : weights.weights) {
    if (weight.storage == WeightStorage::unknown) unpatchable.emplace(weight.name, weight.why_not);
  }
  load_report.attach_ns += stage.lap();
  SHIRA_ASSIGN(std::vector<TensorSpec> specs, attach_packed());
  load_report.compare_ns = stage.lap();
  for (size_t i = 0; i < files.size(); ++i) {
    SHIRA_ASSIGN(std::vector<TensorSpec> mapped, attach_mapped(i));
    std::move(mapped.begin(), mapped.end(), std::back_inserter(specs));
    files[i]->mapping->keep_pages();
  }
  for (const TensorSpec& spec : specs) unpatchable.erase(spec.name);
  if (!specs.empty()) SHIRA_TRY(program.add_tensors(std::move(specs)));
  load_report.attach_ns += stage.lap();
  return {};
}

LoadedMethod* ExecutorchProgram::State::find(const std::string& name) const {
  for (const auto& method : methods) {
    if (method->info().name == name) return method.get();
  }
  return nullptr;
}

Error ExecutorchProgram::State::no_such_method(const std::string& name) const {
  const bool is_known =
      std::find(method_names.begin(), method_names.end(), name) != method_names.end();
  return {Status::INVALID_ARGUMENT,
          is_known ? "method '" + name + "' was not asked for when the program was loaded"
                   : "it has no method '" + name + "', only " + join(method_names),
          files[0]->tables.path};
}

ExecutorchProgram::ExecutorchProgram(std::unique_ptr<State> state) : state_(std::move(state)) {}
ExecutorchProgram::~ExecutorchProgram() = default;

Result<std::unique_ptr<ExecutorchProgram>> ExecutorchProgram::load(const std::string& path,
                                                                   const Options& options) {
  Stopwatch total;
  et::runtime_init();
  auto state = std::make_unique<State>();
  LoadReport& report = state->load_report;
  const auto steps = [&]() -> Result<void> {
    Stopwatch stage;
    SHIRA_TRY(state->open(path, options.data_paths));
    report.open_ns = stage.lap();
    SHIRA_TRY(state->read_weights());
    report.attach_ns = stage.lap();
    SHIRA_TRY(state->load_methods(options.methods));
    report.methods_ns = stage.lap();
    return state->attach();
  };
  if (Result<void> loaded = steps(); !loaded.ok()) {
    if (loaded.error().file.empty()) loaded.error().file = path;
    return loaded.error();
  }
  report.total_ns = total.lap();
  return std::unique_ptr<ExecutorchProgram>(new ExecutorchProgram(std::move(state)));
}

Program& ExecutorchProgram::program() { return state_->program; }

const std::map<std::string, std::string>& ExecutorchProgram::unpatchable() const {
  return state_->unpatchable;
}

std::vector<MethodInfo> ExecutorchProgram::methods() const {
  std::vector<MethodInfo> infos;
  for (const auto& method : state_->methods) infos.push_back(method->info());
  return infos;
}

Result<std::vector<Value>> ExecutorchProgram::forward(const std::string& method,
                                                      const std::vector<Value>& inputs) {
  state_->program.begin_forward();
  Result<std::vector<Value>> outputs = execute(method, inputs);
  state_->program.end_forward();
  return outputs;
}

Result<std::vector<Value>> ExecutorchProgram::execute(const std::string& method,
                                                      const std::vector<Value>& inputs) {
  LoadedMethod* const loaded = state_->find(method);
  if (loaded == nullptr) return state_->no_such_method(method);
  if (!loaded->info().backends.empty() && getpid() != state_->process) {
    return Error{Status::NOT_SUPPORTED,
                 "method '" + method + "' has a delegate (" + join(loaded->info().backends) +
                     "), and this process was forked after it was loaded: load the program again",
                 state_->files[0]->tables.path};
  }
  return loaded->execute(inputs);
}

const std::vector<PackedCacheEntry>& ExecutorchProgram::packed_weights() const {
  return state_->packed_index.entries();
}

const LoadReport& ExecutorchProgram::load_report() const { return state_->load_report; }

}  // namespace shira
