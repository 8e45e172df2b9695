// Collects a program's weights from its delegates and quantized operators, and gives them names.
// SPDX-License-Identifier: Apache-2.0
#include "attach/program_weights.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string_view>
#include <tuple>
#include <utility>

#include "attach/flatbuffer.h"
#include "attach/program_schema.h"
#include "attach/program_source.h"
#include "attach/quantized_tables.h"
#include "attach/twin_constants.h"
#include "attach/weight_names.h"
#include "attach/xnn_graph.h"

namespace shira {
namespace {

constexpr const char* kXnnpack = "XnnpackBackend";
// What a record of a weight costs in the flatbuffer that asks for it, about.
constexpr uint64_t kWeightCostBytes = 128;
// What may be kept of weights for each byte of a flatbuffer that describes them.
constexpr uint64_t kRecordBytes = 4;

class WeightReader {
 public:
  explicit WeightReader(std::vector<std::unique_ptr<ProgramSource>> files)
      : files_(std::move(files)), program_(*files_.front()), buffer_(program_.buffer()) {}

  Result<ProgramWeights> read() {
    for (size_t i = 0; i < files_.size(); ++i) {
      if (files_[i]->is_ptd() != (i > 0)) {
        return bad_program_file(files_[i]->path(), 4,
                                i > 0 ? "a program's data file has to be a .ptd (FT01)"
                                      : "a program has to be a .pte (ET12)");
      }
      named_data_.add(static_cast<uint32_t>(i), files_[i].get());
      SHIRA_TRY(files_[i]->check());
    }
    named_data_.sort();
    records_left_bytes_ = kRecordBytes * program_.flatbuffer_bytes();
    read_plans();
    SHIRA_TRY(program_.check());
    for (const auto& [place, part] : parts_) SHIRA_TRY(read_part(part));
    for (const auto& [id, methods] : other_delegates_) SHIRA_TRY(add_other_delegate(id, methods));
    for (QuantizedTable& table : read_quantized_tables(&program_, named_data_)) {
      SHIRA_TRY(add(std::move(table.weight), table.methods));
    }
    SHIRA_TRY(program_.check());
    finish_methods();
    SHIRA_ASSIGN(const WeightNames names, read_weight_names(&program_));
    SHIRA_TRY(name_weights(names, &program_, &result_.weights));
    SHIRA_TRY(refuse_twins(files_, names, &result_.weights));
    refuse_biases(&result_.weights);
    for (const auto& file : files_) result_.paths.push_back(file->path());
    return std::move(result_);
  }

 private:
  using Methods = std::set<std::string_view>;

  /// A delegate's payload, which several methods may share.
  struct Part {
    FileRange payload;
    Methods methods;
  };

  void read_plans() {
    const FlatVector plans = program_.root().vector(kProgramExecutionPlan, sizeof(uint32_t));
    const FlatVector inline_data =
        program_.root().vector(kProgramBackendDelegateData, sizeof(uint32_t));
    for (uint32_t p = 0; p < plans.count && buffer_.ok(); ++p) {
      const FlatTable plan = program_.root().item(plans, p);
      const std::string_view method = plan.string(kExecutionPlanName);
      const FlatVector delegates = plan.vector(kExecutionPlanDelegates, sizeof(uint32_t));
      for (uint32_t d = 0; d < delegates.count && buffer_.ok(); ++d) {
        const FlatTable delegate = plan.item(delegates, d);
        const std::string_view id = delegate.string(kBackendDelegateId);
        if (id.empty()) {
          buffer_.fail(delegate.position(), "a delegate has no name");
          return;
        }
        if (id != kXnnpack) {
          other_delegates_[id].insert(method);
          continue;
        }
        const FileRange payload =
            find_payload(delegate.table(kBackendDelegateProcessed), inline_data);
        Part& part = parts_[{payload.offset_bytes, payload.size_bytes}];
        part.payload = payload;
        part.methods.insert(method);
      }
    }
  }

  FileRange find_payload(const FlatTable& reference, const FlatVector& inline_data) {
    const auto location = reference.scalar<uint8_t>(kDataReferenceLocation);
    const auto index = reference.scalar<uint32_t>(kDataReferenceIndex);
    if (location == kDataLocationSegment && index < program_.segments().size()) {
      return program_.segments()[index];
    }
    if (location == kDataLocationInline && index < inline_data.count) {
      const FlatVector data =
          program_.root().item(inline_data, index).vector(kDelegateDataData, sizeof(uint8_t));
      return {data.position, data.count};
    }
    buffer_.fail(reference.position(), "the payload of a delegate is number " +
                                           std::to_string(index) + " of a list that is shorter");
    return {};
  }

  Result<void> read_part(const Part& part) {
    FileRange start = part.payload;
    start.size_bytes = std::min(start.size_bytes, kXnnHeaderBytes);
    SHIRA_ASSIGN(const Array<uint8_t> head, program_.read(start));
    SHIRA_ASSIGN(
        const std::optional<XnnPayload> payload,
        parse_xnn_header(ByteReader(head.data(), head.size()), part.payload, program_.path()));
    if (!payload) {
      ProgramWeight weight;
      weight.name = kXnnpack;
      weight.owner = kXnnpack;
      weight.why_not = "a payload of the delegate is in an unknown format";
      return add(std::move(weight), part.methods);
    }
    // Payloads that overlap would be read many times over.
    graph_bytes_ += payload->graph.size_bytes;
    records_left_bytes_ += kRecordBytes * payload->graph.size_bytes;
    if (graph_bytes_ > program_.file_bytes() || payload->graph.size_bytes > INT32_MAX) {
      return bad_program_file(program_.path(), part.payload.offset_bytes,
                              "the graphs of its delegates have more bytes than the file");
    }
    SHIRA_ASSIGN(const Array<uint8_t> graph, program_.read(payload->graph));
    SHIRA_ASSIGN(std::vector<XnnWeight> weights,
                 read_xnn_graph(ByteReader(graph.data(), graph.size()), *payload, program_.path()));
    for (XnnWeight& found : weights) SHIRA_TRY(add_packed(part, std::move(found)));
    return {};
  }

  Result<void> add_packed(const Part& part, XnnWeight found) {
    ProgramWeight weight;
    weight.owner = kXnnpack;
    weight.node = found.node;
    weight.storage = WeightStorage::packed;
    weight.dtype = found.dtype;
    weight.dims = std::move(found.dims);
    weight.group_length = found.group_length;
    weight.code_bias = weight.dtype == Dtype::i4 ? 8 : 0;
    weight.scale_dtype = found.group_length != 0 ? Dtype::bf16 : Dtype::f32;
    weight.why_not = std::move(found.why_not);
    weight.bias_why_not = std::move(found.bias_why_not);
    for (auto [data, bytes, key] : {std::tuple(&found.codes, &weight.codes, &weight.key),
                                    std::tuple(&found.scales, &weight.scales, &weight.scale_key),
                                    std::tuple(&found.bias, &weight.bias, &weight.bias_key)}) {
      SHIRA_TRY(find_bytes(*data, bytes, &weight.why_not));
      *key = std::move(data->key);
    }
    if (weight.key.empty() && weight.why_not.empty()) {
      weight.why_not = "its data has no name, and the delegate keeps what it packs of it to itself";
    }
    return add(std::move(weight), part.methods);
  }

  /// Sets `bytes`, and `why_not` where no file has them.
  Result<void> find_bytes(const XnnData& data, WeightBytes* bytes, std::string* why_not) const {
    if (data.key.empty()) {
      *bytes = {0, data.range};
      return {};
    }
    const NamedData::Entry* entry = named_data_.find(data.key);
    if (entry == nullptr) {
      if (why_not->empty()) *why_not = "its data is in none of the files (is a .ptd missing?)";
      return {};
    }
    *bytes = entry->bytes;
    const uint64_t needed_bytes = data.range.size_bytes;
    if (needed_bytes > bytes->range.size_bytes) {
      return bad_program_file(files_[bytes->file_index]->path(), bytes->range.offset_bytes,
                              "a weight of " + std::to_string(needed_bytes) +
                                  " bytes has room for " + std::to_string(bytes->range.size_bytes));
    }
    if (needed_bytes != 0) bytes->range.size_bytes = needed_bytes;
    return {};
  }

  Result<void> add_other_delegate(std::string_view id, const Methods& methods) {
    ProgramWeight weight;
    weight.owner = std::string(id);
    weight.name = weight.owner;
    weight.why_not = "only what XNNPACK packs can be switched inside of a delegate";
    return add(std::move(weight), methods);
  }

  /// Appends `weight`; one that is there already gets the methods instead. The same codes for
  /// another node, or with other scales, are another weight.
  Result<void> add(ProgramWeight weight, const Methods& methods) {
    uint64_t cost_bytes = kWeightCostBytes;
    for (const std::string_view method : methods) cost_bytes += sizeof(std::string) + method.size();
    if (weight.bias) cost_bytes *= 2;  // it becomes a record of its own
    // A hostile file would share a payload among many methods, or a name among many weights.
    if (cost_bytes > records_left_bytes_) {
      return bad_program_file(program_.path(), program_.root().position(),
                              "the file describes more weights than it has bytes for");
    }
    records_left_bytes_ -= cost_bytes;
    result_.weights.push_back(std::move(weight));
    const auto [place, is_new] = known_.insert(result_.weights.size() - 1);
    if (is_new) {
      methods_.push_back(methods);
    } else {
      result_.weights.pop_back();
      methods_[*place].insert(methods.begin(), methods.end());
    }
    return {};
  }

  void finish_methods() {
    for (size_t i = 0; i < result_.weights.size(); ++i) {
      result_.weights[i].methods.assign(methods_[i].begin(), methods_[i].end());
    }
  }

  /// Orders weights by all that tells them apart.
  struct ByIdentity {
    const std::vector<ProgramWeight>* weights;

    static auto identity(const ProgramWeight& w) {
      return std::tie(w.codes.file_index, w.codes.range.offset_bytes, w.key, w.owner, w.node,
                      w.name, w.dtype, w.dims, w.group_length, w.scales.file_index,
                      w.scales.range.offset_bytes, w.scale_key, w.zero_points.file_index,
                      w.zero_points.range.offset_bytes, w.bias.file_index,
                      w.bias.range.offset_bytes, w.bias_key, w.why_not, w.bias_why_not);
    }
    bool operator()(size_t a, size_t b) const {
      return identity((*weights)[a]) < identity((*weights)[b]);
    }
  };

  const std::vector<std::unique_ptr<ProgramSource>> files_;
  ProgramSource& program_;
  Flatbuffer& buffer_;
  NamedData named_data_;
  std::map<std::pair<uint64_t, uint64_t>, Part> parts_;  // by offset and size
  std::map<std::string_view, Methods> other_delegates_;
  uint64_t graph_bytes_ = 0;
  uint64_t records_left_bytes_ = 0;  // for what is kept of weights
  ProgramWeights result_;
  std::vector<Methods> methods_;  // of each weight
  std::set<size_t, ByIdentity> known_{ByIdentity{&result_.weights}};
};

}  // namespace

std::string packed_name(const ProgramWeight& weight) {
  // XNNPACK asks its cache for codes with a scale for each row without naming their bias.
  const bool has_row_scales =
      !is_float(weight.dtype.value_or(Dtype::f32)) && weight.group_length == 0;
  return has_row_scales ? weight.key : weight.key + weight.bias_key;
}

Result<ProgramWeights> read_program_weights(const std::string& path,
                                            const std::vector<std::string>& data_paths) {
  std::vector<std::unique_ptr<ProgramSource>> files;
  SHIRA_ASSIGN(auto program, ProgramSource::open(path));
  files.push_back(std::move(program));
  for (const std::string& data_path : data_paths) {
    SHIRA_ASSIGN(auto data, ProgramSource::open(data_path));
    files.push_back(std::move(data));
  }
  return WeightReader(std::move(files)).read();
}

Result<ProgramWeights> parse_program_weights(const std::vector<ByteReader>& files,
                                             const std::vector<std::string>& labels) {
  std::vector<std::unique_ptr<ProgramSource>> sources;
  for (size_t i = 0; i < files.size(); ++i) {
    SHIRA_ASSIGN(auto source, ProgramSource::over(files[i], labels[i]));
    sources.push_back(std::move(source));
  }
  return WeightReader(std::move(sources)).read();
}

Result<BaseMatrix> view_weight(const ProgramWeight& weight, const std::vector<ByteReader>& files) {
  BaseMatrix matrix;
  matrix.name = weight.name;
  matrix.row_count = weight.dims[0];
  matrix.column_count = weight.dims[1];
  matrix.dtype = weight.dtype.value_or(Dtype::f32);  // a weight without why_not has one
  matrix.code_bias = weight.code_bias;
  matrix.group_length = weight.group_length;
  for (const auto& [bytes, view] :
       {std::pair(&weight.codes, &matrix.codes), std::pair(&weight.scales, &matrix.scales),
        std::pair(&weight.bias, &matrix.bias)}) {
    if (!*bytes) continue;
    const FileRange& range = bytes->range;
    const ByteReader file =
        bytes->file_index < files.size() ? files[bytes->file_index] : ByteReader();
    if (!file.contains(range.offset_bytes, range.size_bytes)) {
      return Error{Status::TRUNCATED,
                   "file " + std::to_string(bytes->file_index) + " of the program has " +
                       std::to_string(file.size()) + " bytes, and the weight ends at byte " +
                       std::to_string(range.end_bytes()),
                   {},
                   weight.name,
                   range.offset_bytes};
    }
    *view = file.data() + range.offset_bytes;
  }
  return matrix;
}

}  // namespace shira
