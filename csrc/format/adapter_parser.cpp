// Runs the steps, then hands over what they found.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_parser.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

#include "format/adapter_digests.h"
#include "format/adapter_values.h"
#include "format/message.h"
#include "format/row_groups.h"

namespace shira {
AdapterParser::AdapterParser(AdapterFile* file, FileBytes* bytes) : file_(*file) {
  file->bytes_ = std::move(bytes->bytes);
  parsed_.bytes = ByteReader(file->bytes_.data(), file->bytes_.size());
  parsed_.header = bytes->header;
  parsed_.sections = std::move(bytes->sections);
  parsed_.pool = std::move(bytes->pool);
}

Result<std::shared_ptr<const AdapterFile>> AdapterParser::parse(FileBytes bytes,
                                                                const std::string& label,
                                                                const OpenOptions& options) {
  std::shared_ptr<AdapterFile> file(new (std::nothrow) AdapterFile());
  if (!file) return Error{Status::OUT_OF_MEMORY, "no memory for the adapter"};
  file->path_ = label;
  AdapterParser parser(file.get(), &bytes);
  SHIRA_TRY(parser.run_steps(options));
  parser.describe_file();
  SHIRA_TRY(parser.build_adapters());
  return std::shared_ptr<const AdapterFile>(std::move(file));
}

Result<void> AdapterParser::run_steps(const OpenOptions& options) {
  if (options.public_key) {
    SHIRA_TRY(check_file_signature(parsed_.bytes, parsed_.sections, *options.public_key,
                                   parsed_.pool.get()));
    file_.passed_key_ = options.public_key;
  }
  parsed_.group_bytes = options.threads_from_bytes / 2;
  // Of a signed file somebody may come to ask whether the signature is right.
  parsed_.keeps_content = options.keep_content || (parsed_.header.is_signed && !options.public_key);
  SHIRA_TRY(choose_tiers(options));
  SHIRA_TRY(parse_adapter_rows(&parsed_));
  SHIRA_TRY(parse_tensor_rows(&parsed_));
  SHIRA_TRY(check_names_and_metadata(parsed_));
  SHIRA_TRY(parse_index_tables(options, &parsed_));
  SHIRA_TRY(check_agreement(parsed_));
  SHIRA_TRY(decode_index_streams(&parsed_));
  SHIRA_TRY(check_value_streams(parsed_));
  return check_tiers(parsed_);
}

Result<void> AdapterParser::choose_tiers(const OpenOptions& options) {
  const uint32_t tier_count = parsed_.header.tier_count;
  if (options.tier_count > tier_count) {
    return Error{Status::INVALID_ARGUMENT, std::to_string(options.tier_count) +
                                               " tiers were asked for, but the file has " +
                                               std::to_string(tier_count)};
  }
  parsed_.opened_tier_count = options.tier_count == 0 ? tier_count : options.tier_count;
  return {};
}

void AdapterParser::describe_file() {
  const Header& header = parsed_.header;
  file_.version_major_ = header.version_major;
  file_.version_minor_ = header.version_minor;
  file_.tier_count_ = header.tier_count;
  file_.opened_tier_count_ = parsed_.opened_tier_count;
  file_.content_digest_ = header.content_digest;
  if (header.is_signed) file_.signer_ = header.public_key;
  file_.sections_ = parsed_.sections;
  file_.keeps_content_ = parsed_.keeps_content;
  if (!parsed_.keeps_content) return;
  for (uint32_t tier = 0; tier < parsed_.opened_tier_count; ++tier) {
    if (parsed_.tiers[tier].own) file_.index_tables_.push_back(parsed_.tiers[tier].own);
  }
}

/// Memory of its own, as the C ABI wants a NUL behind each object, and one that may be refused: a
/// file may have a gigabyte of it.
Result<void> AdapterParser::copy_metadata() {
  uint64_t size_bytes = 0;
  for (const AdapterRow& row : parsed_.adapters) size_bytes += row.metadata.size() + 1;
  SHIRA_ASSIGN(file_.metadata_, Array<char>::make(size_bytes));
  char* out = file_.metadata_.data();
  for (size_t number = 0; number < parsed_.adapters.size(); ++number) {
    const ByteReader& metadata = parsed_.adapters[number].metadata;
    std::memcpy(out, metadata.data(), metadata.size());
    file_.adapters_[number].metadata_json = {out, metadata.size()};
    out += metadata.size();
    *out++ = '\0';  // NOLINT(clang-analyzer-security.ArrayBound): counted above
  }
  return {};
}

Result<void> AdapterParser::build_adapters() {
  std::vector<bool> has_higher(parsed_.rows.size());
  for (uint32_t number = 0; number < parsed_.rows.size(); ++number) {
    const TensorRow& row = parsed_.rows[number];
    if (parsed_.is_opened(row) && row.lower_row != kNoRow) has_higher[row.lower_row] = true;
  }
  SHIRA_ASSIGN(value_pool_, make_value_pool(parsed_));
  spent_values_.assign(parsed_.opened_tier_count, SpentBytes(!parsed_.keeps_content));
  file_.adapters_.resize(parsed_.adapters.size());
  SHIRA_TRY(copy_metadata());
  for (uint32_t number = 0; number < parsed_.adapters.size(); ++number) {
    const AdapterRow& row = parsed_.adapters[number];
    Adapter& adapter = file_.adapters_[number];
    adapter.file = &file_;
    adapter.number = number;
    adapter.name = row.name;
    adapter.is_bound = row.is_bound;
    std::vector<uint32_t> last_rows;  // of each tensor, in its highest opened tier
    for (uint32_t i = row.first_tensor; i < row.first_tensor + row.tensor_count; ++i) {
      if (parsed_.is_opened(parsed_.rows[i]) && !has_higher[i]) last_rows.push_back(i);
    }
    std::sort(last_rows.begin(), last_rows.end(), [this](uint32_t a, uint32_t b) {
      return parsed_.rows[a].name < parsed_.rows[b].name;
    });
    adapter.tensors.resize(last_rows.size());
    for (size_t i = 0; i < last_rows.size(); ++i) {
      SHIRA_TRY(build_tensor(last_rows[i], &adapter.tensors[i]));
    }
  }
  for (SpentBytes& spent : spent_values_) spent.flush();
  return unpack_all();
}

Result<void> AdapterParser::build_tensor(uint32_t last_row, AdapterTensor* tensor) {
  const TensorRow& row = parsed_.rows[last_row];
  const Record record = parsed_.record_of(row);
  tensor->name = row.name;
  tensor->dtype = row.dtype;
  for (uint32_t i = 0; i < row.rank; ++i) {
    tensor->dims.push_back(record.u32(layout::tensor::kDims + uint64_t{4} * i));
  }
  tensor->numel = row.element_count;
  tensor->value_kind = row.value_kind;
  tensor->value_codec = row.values.codec;
  tensor->value_dtype = unpacked_dtype(row.values.codec);
  std::copy_n(record.bytes(layout::tensor::kFingerprint), sizeof(Hash128),
              tensor->fingerprint.begin());
  std::copy_n(record.bytes(layout::tensor::kBaseDigest), sizeof(Hash128),
              tensor->base_digest.begin());

  std::vector<uint32_t> row_numbers;  // of all tiers, ascending
  for (uint32_t number = last_row; number != kNoRow; number = parsed_.rows[number].lower_row) {
    row_numbers.insert(row_numbers.begin(), number);
  }
  for (const uint32_t number : row_numbers) {
    const TensorRow& part = parsed_.rows[number];
    const TierIndex& tier = parsed_.tiers[part.tier];
    const IndexStream& stream = tier.table->rows[part.index_number].stream;
    tensor->parts.push_back({stream.codec, stream.rice_bits, stream.block_length,
                             static_cast<uint32_t>(stream.unit_count), stream.bytes.size(),
                             part.tier, part.index_number});
    tensor->nnz += part.nnz;
    tensor->value_stream_bytes += part.values.bytes.size();
    tensor->rule = tier.rules[part.index_number];
  }
  return take_positions(row_numbers, tensor);
}

/// The tensor's positions and values, from the rows of its tiers.
Result<void> AdapterParser::take_positions(const std::vector<uint32_t>& row_numbers,
                                           AdapterTensor* tensor) {
  IndexLists lists;
  std::vector<const IndexList*> key;
  for (const uint32_t number : row_numbers) {
    lists.push_back(std::move(parsed_.positions[number]));
    key.push_back(lists.back().get());
  }
  if (lists.size() == 1) {
    tensor->index = lists[0];
    return take_values(row_numbers, lists, tensor);
  }
  std::shared_ptr<const IndexList>& merged = merged_[key];
  if (!merged) {
    SHIRA_ASSIGN(IndexList list, merge_positions(lists));
    merged.reset(new (std::nothrow) IndexList(std::move(list)));
    if (!merged) return Error{Status::OUT_OF_MEMORY, "no memory for the positions"};
  }
  tensor->index = merged;
  return take_values(row_numbers, lists, tensor);
}

Result<void> AdapterParser::take_values(const std::vector<uint32_t>& row_numbers,
                                        const IndexLists& lists, AdapterTensor* tensor) {
  if (row_numbers.size() > 1) return merge_values_of(row_numbers, lists, tensor);
  const ValueStream& stream = parsed_.rows[row_numbers[0]].values;
  tensor->values = stream.bytes.data();
  if (!is_packed(stream.codec)) return {};  // the values stay where they are
  SHIRA_ASSIGN(Array<uint8_t> unpacked, make_unpacked(stream, &value_pool_));
  tensor->values = unpacked.data();
  packed_.push_back({&stream, unpacked.data()});
  file_.unpacked_.push_back(std::move(unpacked));
  return {};
}

Result<void> AdapterParser::merge_values_of(const std::vector<uint32_t>& row_numbers,
                                            const IndexLists& lists, AdapterTensor* tensor) {
  std::vector<Array<uint8_t>> unpacked;
  std::vector<const uint8_t*> values;
  for (const uint32_t number : row_numbers) {
    const ValueStream& stream = parsed_.rows[number].values;
    values.push_back(stream.bytes.data());
    if (!is_packed(stream.codec)) continue;
    SHIRA_ASSIGN(Array<uint8_t> part, make_unpacked(stream, &value_pool_));
    unpack_values(stream, part.data());
    values.back() = part.data();
    unpacked.push_back(std::move(part));
  }
  SHIRA_ASSIGN(Array<uint8_t> merged,
               merge_values(lists, values, dtype_bytes(tensor->value_dtype)));
  tensor->values = merged.data();
  file_.unpacked_.push_back(std::move(merged));
  for (const uint32_t number : row_numbers) {
    const TensorRow& row = parsed_.rows[number];
    const ByteReader& bytes = row.values.bytes;
    spent_values_[row.tier].spend(bytes.data(), bytes.data() + bytes.size());
  }
  return {};
}

Result<void> AdapterParser::unpack_all() {
  const RowGroups groups(packed_.size(), parsed_.group_bytes,
                         [&](size_t i) { return packed_[i].stream->bytes.size(); });
  return groups.run(parsed_.pool.get(), [&](size_t number) -> Result<void> {
    SpentBytes spent(!parsed_.keeps_content);
    for (size_t i = groups[number].begin; i < groups[number].end; ++i) {
      const ByteReader& bytes = packed_[i].stream->bytes;
      unpack_values(*packed_[i].stream, packed_[i].out);
      spent.spend(bytes.data(), bytes.data() + bytes.size());
    }
    spent.flush();
    return {};
  });
}

}  // namespace shira
