// Small .pte and .ptd files made by hand, and a loader that maps them as ExecuTorch's does.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/process_maps.h"
#include "temporary_folder.h"

namespace shira::test {

using Bytes = std::vector<uint8_t>;

/// Writes flatbuffers front to back: a table is laid out first, and what it refers to comes behind.
class FlatWriter {
 public:
  explicit FlatWriter(size_t head_bytes) : bytes_(head_bytes) {}

  Bytes& bytes() { return bytes_; }

  struct Table {
    size_t position = 0;
    std::map<unsigned, size_t> fields;  // number -> position
  };

  /// A table with these fields (number, width in bytes), all zero; the offset at `reference` points
  /// to it.
  Table table_at(size_t reference, const std::vector<std::pair<unsigned, unsigned>>& fields) {
    unsigned slots = 0;
    unsigned table_bytes = 4;
    for (const auto& [number, width] : fields) {
      slots = std::max(slots, number + 1);
      table_bytes += width;
    }
    const size_t list = bytes_.size();
    append<uint16_t>(static_cast<uint16_t>(4 + 2 * slots));
    append<uint16_t>(static_cast<uint16_t>(table_bytes));
    bytes_.resize(bytes_.size() + 2 * slots);
    Table table;
    table.position = bytes_.size();
    refer(reference);
    append<int32_t>(static_cast<int32_t>(table.position - list));
    for (const auto& [number, width] : fields) {
      const size_t field = bytes_.size();
      put<uint16_t>(list + 4 + 2 * number, static_cast<uint16_t>(field - table.position));
      table.fields[number] = field;
      bytes_.resize(field + width);
    }
    return table;
  }

  template <typename T>
  void put(size_t position, T value) {
    memcpy(&bytes_[position], &value, sizeof(value));
  }

  template <typename T>
  void append(T value) {
    bytes_.resize(bytes_.size() + sizeof(value));
    put(bytes_.size() - sizeof(value), value);
  }

  /// Makes the offset at `position` point to what is appended next.
  void refer(size_t position) { put(position, static_cast<uint32_t>(bytes_.size() - position)); }

  void refer_to(size_t position, size_t target) {
    put(position, static_cast<uint32_t>(target - position));
  }

  template <typename T>
  void vector_at(size_t position, const std::vector<T>& items) {
    refer(position);
    append(static_cast<uint32_t>(items.size()));
    for (const T& item : items) append(item);
  }

  void string_at(size_t position, const std::string& text) {
    vector_at(position, std::vector<char>(text.begin(), text.end()));
    append('\0');
  }

  /// Room for a vector of references; returns the position of the first.
  size_t references_at(size_t position, size_t count) {
    refer(position);
    append(static_cast<uint32_t>(count));
    const size_t first = bytes_.size();
    bytes_.resize(first + 4 * count);
    return first;
  }

  void pad(size_t alignment) {
    while (bytes_.size() % alignment != 0) bytes_.push_back(0);
  }

 private:
  Bytes bytes_;
};

constexpr uint8_t kF16 = 5;
constexpr uint8_t kF32 = 6;
constexpr uint8_t kBf16 = 15;
constexpr uint8_t kInt64 = 4;

/// A constant as a test asks for it.
struct Constant {
  std::string name;
  uint8_t dtype = kF32;
  std::vector<int32_t> sizes;
  std::vector<uint8_t> dim_order;  // empty: row-major
  uint32_t buffer = 0;             // .pte: index into `offsets`; .ptd: index of the segment
  uint8_t location = 0;
  bool is_mutable = false;
  int32_t storage_offset = 0;

  std::vector<uint8_t> order() const {
    std::vector<uint8_t> result = dim_order;
    for (size_t i = 0; result.size() < sizes.size(); ++i) result.push_back(static_cast<uint8_t>(i));
    return result;
  }
};

/// Byte `i` of every file's data segments: anything that differs from page to page.
inline uint8_t data_byte(uint64_t i) { return static_cast<uint8_t>((i * 2654435761U) >> 13); }

struct Program {
  std::vector<std::vector<Constant>> methods;
  std::vector<uint64_t> offsets{0};  // of constants, in the constant segment; [0] means "none"
  uint64_t constant_bytes = 0;       // size of the constant segment
  size_t segment_alignment = 128;
  uint64_t tail_bytes = 0;  // a second segment behind the constants
};

inline Bytes make_pte(const Program& program) {
  FlatWriter w(40);
  const auto root = w.table_at(0, {{0, 4}, {1, 4}, {4, 4}, {5, 4}});
  const size_t plans = w.references_at(root.fields.at(1), program.methods.size());
  for (size_t m = 0; m < program.methods.size(); ++m) {
    const auto plan = w.table_at(plans + 4 * m, {{0, 4}, {2, 4}});
    w.string_at(plan.fields.at(0), "method_" + std::to_string(m));
    const auto& constants = program.methods[m];
    const size_t values = w.references_at(plan.fields.at(2), constants.size() + 1);
    auto value =
        w.table_at(values, {{0, 1}, {1, 4}});  // an integer comes first: values need not be tensors
    w.put<uint8_t>(value.fields.at(0), 2);
    w.table_at(value.fields.at(1), {{0, 8}});
    for (size_t c = 0; c < constants.size(); ++c) {
      const Constant& constant = constants[c];
      value = w.table_at(values + 4 * (c + 1), {{0, 1}, {1, 4}});
      w.put<uint8_t>(value.fields.at(0), 5);
      std::vector<std::pair<unsigned, unsigned>> fields{{0, 1}, {1, 4}, {2, 4},
                                                        {3, 4}, {5, 4}, {9, 4}};
      if (constant.is_mutable) fields.push_back({6, 4});
      const auto tensor = w.table_at(value.fields.at(1), fields);
      w.put<uint8_t>(tensor.fields.at(0), constant.dtype);
      w.put<int32_t>(tensor.fields.at(1), constant.storage_offset);
      w.vector_at(tensor.fields.at(2), constant.sizes);
      w.vector_at(tensor.fields.at(3), constant.order());
      w.put<uint32_t>(tensor.fields.at(5), constant.buffer);
      if (constant.is_mutable) w.table_at(tensor.fields.at(6), {{0, 4}});
      const auto extra = w.table_at(tensor.fields.at(9), {{1, 4}, {2, 1}});
      w.put<uint8_t>(extra.fields.at(2), constant.location);
      w.string_at(extra.fields.at(1), constant.name);
    }
  }
  const std::vector<uint64_t> sizes{program.constant_bytes, program.tail_bytes};
  const size_t segments = w.references_at(root.fields.at(4), sizes.size());
  for (size_t i = 0; i < sizes.size(); ++i) {
    const auto segment = w.table_at(segments + 4 * i, {{0, 8}, {1, 8}});
    w.put<uint64_t>(segment.fields.at(0), i * program.constant_bytes);
    w.put<uint64_t>(segment.fields.at(1), sizes[i]);
  }
  const auto constants = w.table_at(root.fields.at(5), {{0, 4}, {1, 4}});
  w.vector_at(constants.fields.at(1), program.offsets);

  memcpy(&w.bytes()[4], "ET12eh00", 8);
  w.put<uint32_t>(12, 32);
  w.put<uint64_t>(16, w.bytes().size());
  w.pad(program.segment_alignment);
  w.put<uint64_t>(24, w.bytes().size());
  w.put<uint64_t>(32, program.constant_bytes + program.tail_bytes);
  for (uint64_t i = 0; i < program.constant_bytes + program.tail_bytes; ++i) {
    w.bytes().push_back(data_byte(i));
  }
  return w.bytes();
}

struct FlatTensors {
  std::vector<Constant> constants;                      // `buffer` is the segment
  std::vector<std::pair<uint64_t, uint64_t>> segments;  // offset behind the tables, size
  size_t segment_alignment = 128;
};

inline Bytes make_ptd(const FlatTensors& content) {
  FlatWriter w(48);
  const auto root = w.table_at(0, {{0, 4}, {1, 4}, {2, 4}});
  uint64_t data_bytes = 0;
  const size_t segments = w.references_at(root.fields.at(1), content.segments.size());
  for (size_t i = 0; i < content.segments.size(); ++i) {
    const auto segment = w.table_at(segments + 4 * i, {{0, 8}, {1, 8}});
    w.put<uint64_t>(segment.fields.at(0), content.segments[i].first);
    w.put<uint64_t>(segment.fields.at(1), content.segments[i].second);
    data_bytes = std::max(data_bytes, content.segments[i].first + content.segments[i].second);
  }
  const size_t entries = w.references_at(root.fields.at(2), content.constants.size());
  for (size_t c = 0; c < content.constants.size(); ++c) {
    const Constant& constant = content.constants[c];
    const auto entry = w.table_at(entries + 4 * c, {{0, 4}, {1, 4}, {2, 4}});
    w.string_at(entry.fields.at(0), constant.name);
    w.put<uint32_t>(entry.fields.at(1), constant.buffer);
    const auto layout = w.table_at(entry.fields.at(2), {{0, 1}, {1, 4}, {2, 4}});
    w.put<uint8_t>(layout.fields.at(0), constant.dtype);
    w.vector_at(layout.fields.at(1), constant.sizes);
    w.vector_at(layout.fields.at(2), constant.order());
  }
  memcpy(&w.bytes()[4], "FT01FH01", 8);
  w.put<uint32_t>(12, 40);
  w.put<uint64_t>(16, 48);
  w.put<uint64_t>(24, w.bytes().size() - 48);
  w.pad(content.segment_alignment);
  w.put<uint64_t>(32, w.bytes().size());
  w.put<uint64_t>(40, data_bytes);
  for (uint64_t i = 0; i < data_bytes; ++i) w.bytes().push_back(data_byte(i));
  return w.bytes();
}

/// A file in a directory of its own, removed with it.
class TemporaryFile {
 public:
  explicit TemporaryFile(const Bytes& content, const std::string& name = "model.pte")
      : path_(folder_ / name) {
    write(path_, content);
  }

  const std::string& path() const { return path_; }

  static void write(const std::string& path, const Bytes& content) {
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(content.data()),
               static_cast<std::streamsize>(content.size()));
  }

  Bytes read() const {
    std::ifstream stream(path_, std::ios::binary);
    return Bytes(std::istreambuf_iterator<char>(stream), {});
  }

 private:
  const TemporaryFolder folder_;
  const std::string path_;
};

/// One load of ExecuTorch's MmapDataLoader: whole pages, shared, read-only, and as many bytes as
/// the load has locked from the first page on (its last page often is not).
class Load {
 public:
  Load(const std::string& path, uint64_t offset_bytes, uint64_t size_bytes, bool lock = true) {
    const uint64_t page = page_bytes();
    const uint64_t begin = offset_bytes & ~(page - 1);
    length_ = ((offset_bytes + size_bytes + page - 1) & ~(page - 1)) - begin;
    const int descriptor = open(path.c_str(), O_RDONLY);
    void* memory =
        mmap(nullptr, length_, PROT_READ, MAP_SHARED, descriptor, static_cast<off_t>(begin));
    close(descriptor);
    if (memory == MAP_FAILED) std::abort();
    // Not through the C library: sanitizers turn its mlock into nothing.
    if (lock) locked_ = syscall(SYS_mlock, memory, size_bytes) == 0;
    pages_ = static_cast<uint8_t*>(memory);
    in_page_bytes_ = offset_bytes - begin;
  }
  ~Load() { unload(); }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  void unload() {
    if (pages_ != nullptr) munmap(pages_, length_);
    pages_ = nullptr;
  }

  uint8_t* data() const { return pages_ + in_page_bytes_; }
  uint8_t* pages() const { return pages_; }
  size_t length() const { return length_; }
  bool is_locked() const { return locked_; }

 private:
  uint8_t* pages_ = nullptr;
  size_t length_ = 0;
  uint64_t in_page_bytes_ = 0;
  bool locked_ = false;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;  // no RLIMIT_AS, and munlock does nothing
#else
constexpr bool kSanitized = false;
#endif

/// Runs `body` in a child process; returns its answer, or minus the signal that ended it.
template <typename Body>
int in_child(Body body) {
  fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/// What /proc/self/smaps says of the areas in [begin, begin + length).
struct Residency {
  uint64_t resident_kib = 0;
  uint64_t copied_kib = 0;
  bool is_locked = false;
  bool is_covered = false;
};

inline Residency residency(const uint8_t* begin, size_t length) {
  std::ifstream smaps("/proc/self/smaps");
  Residency result;
  bool inside = false;
  const auto first = reinterpret_cast<uintptr_t>(begin);
  for (std::string line; std::getline(smaps, line);) {
    unsigned long from = 0;
    unsigned long to = 0;
    unsigned long value = 0;
    char permissions[8];
    if (sscanf(line.c_str(), "%lx-%lx %7s ", &from, &to, permissions) == 3) {
      inside = from < first + length && to > first;
      result.is_covered = result.is_covered || inside;
    } else if (inside && sscanf(line.c_str(), "Rss: %lu", &value) == 1) {
      result.resident_kib += value;
    } else if (inside && sscanf(line.c_str(), "Anonymous: %lu", &value) == 1) {
      result.copied_kib += value;
    } else if (inside && line.rfind("VmFlags:", 0) == 0) {
      result.is_locked = result.is_locked || (line + " ").find(" lo ") != std::string::npos;
    }
  }
  return result;
}

}  // namespace shira::test
