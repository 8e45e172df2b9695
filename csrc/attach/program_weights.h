// The weights of an ExecuTorch program that are no plain float constants: what its delegates pack,
// and the integer codes that its quantized operators read.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "attach/program_file.h"
#include "base/byte_reader.h"
#include "base/dtype.h"
#include "base/result.h"
#include "packed/base_matrix.h"

namespace shira {

/// Bytes of one of a program's files: file 0 is the .pte, the .ptd's follow in the order in which
/// they were given. None where the size is 0.
struct WeightBytes {
  uint32_t file_index = 0;
  FileRange range;

  bool operator==(const WeightBytes& other) const {
    return file_index == other.file_index && range == other.range;
  }
  explicit operator bool() const { return range.size_bytes != 0; }
};

/// How the codes are kept for the kernels that read them.
enum class WeightStorage : uint8_t {
  packed,        // XNNPACK packs them when a method is loaded, and reads the file no more
  packed_bias,   // no codes: the biases that are packed beside another weight, one for each row
  byte_table,    // read where they lie: (rows, columns) int8
  nibble_table,  // read where they lie: (rows, columns / 2) bytes, the even column in the high half
  unknown,       // then there is a why_not
};

/// One weight. Those that no adapter can change are listed with `why_not`, and then everything but
/// `name`, `owner` and `methods` may be missing; of tables there are `dtype` and `dims`.
struct ProgramWeight {
  /// The FQN that the program gives it. Without one "xnnpack:" and the first 16 digits of `key`, or
  /// for a bias those of its weight and ".bias". Where that is another weight's name already, "#2"
  /// and so on stands behind it.
  std::string name;
  std::string owner;  // "XnnpackBackend", another delegate, or the operator that reads it
  std::string node;   // of a delegate: "XNNFullyConnected", ...
  WeightStorage storage = WeightStorage::unknown;
  std::optional<Dtype> dtype;
  /// (rows, columns) of what has no why_not: outputs, inputs. Of a bias (rows,).
  std::vector<uint32_t> dims;
  uint32_t group_length = 0;  // of codes: columns that have one scale; 0: the whole row
  uint8_t code_bias = 0;      // of nibbles: what is added to a code to store it
  /// (rows, columns) of the dtype. i4: (rows, ceil(columns / 2)) bytes, XNNPACK's have the even
  /// column in the low half.
  WeightBytes codes;        // of a bias its f32 or f16
  WeightBytes scales;       // of codes: (rows,) or with groups (rows, columns / group_length)
  WeightBytes zero_points;  // of tables: none, or as many as scales, of their dtype
  Dtype scale_dtype = Dtype::f32;  // packed: f32 without groups, bf16 with them; tables: f32, f16
  WeightBytes bias;                // packed: (rows,) f32, or f16 beside f16
  /// What XNNPACK calls the bytes: SHA-256 in lower-case hex, of scales with "scale_" in front.
  /// Empty where there are none, or where they have no name: inside of the delegate's payload.
  std::string key, scale_key, bias_key;
  std::vector<std::string> methods;  // that use it, sorted
  std::string why_not;               // no adapter can change it; empty if one can
  std::string bias_why_not;          // of a weight: the same of its bias
  std::string beside;                // of a bias: the weight that it is packed beside
  /// Another name of this very weight, or of one that XNNPACK packs into the same bytes. Empty if
  /// there is none.
  std::string shares_storage_with;
};

/// What XNNPACK calls a packed weight in its cache: weights of one name it packs once, whatever
/// else they differ in. REQUIRES: storage is `packed`.
std::string packed_name(const ProgramWeight& weight);

/// All weights, sorted by name; names differ. Biases that are packed stand beside their weights.
struct ProgramWeights {
  std::vector<std::string> paths;  // of the files, by file_index
  std::vector<ProgramWeight> weights;
};

/// Reads a .pte and the .ptd's that its weights lie in; the weights themselves are not read. Errors
/// are those of read_program_file, at the offset in the file at fault.
Result<ProgramWeights> read_program_weights(const std::string& path,
                                            const std::vector<std::string>& data_paths);

/// The same over whole files' bytes, for tests and fuzzing: the .pte first.
Result<ProgramWeights> parse_program_weights(const std::vector<ByteReader>& files,
                                             const std::vector<std::string>& labels);

/// Views into `files`, which hold all bytes of the program's files (or more) and outlive the
/// result. TRUNCATED when one has become shorter. REQUIRES: a packed weight without why_not.
Result<BaseMatrix> view_weight(const ProgramWeight& weight, const std::vector<ByteReader>& files);

}  // namespace shira
