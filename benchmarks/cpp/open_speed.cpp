// Benchmark: how fast .shb files are opened, and how much memory that takes at its peak.
// SPDX-License-Identifier: Apache-2.0
//
//   open_speed [--json] [--repeats N] FILE...
//
// For each file, medians over N (at least 9, 15 by default) repeats after some that warm the page
// cache: `open` is AdapterFile::open() without keep_content, that is reading the file, every check,
// and decoding to the lists in memory; `index` is decoding the index streams alone. Both pay for
// fresh memory every time, as the first file of a process does: malloc() is told to give large
// blocks back. `plan` is what stays decoded: the lists, and the values in the form in which they
// are applied. The peak counts all memory that opening the file takes. Times are those of the one
// thread on its core: others that compete for it do not count.

#include <time.h>

#include <algorithm>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include "base/file.h"
#include "format/adapter_file.h"
#include "format/layout.h"

namespace {

using shira::Adapter;
using shira::AdapterFile;
using shira::AdapterTensor;
using shira::Array;
using shira::ArrayPool;
using shira::ByteReader;
using shira::IndexList;
using shira::IndexStream;
using shira::SectionInfo;
using shira::SpentBytes;

using FilePointer = std::shared_ptr<const AdapterFile>;

constexpr int kLeastRepeats = 9;

struct Sample {
  std::string path;
  std::string index_codec;  // of the first tensor
  std::string value_codec;
  uint64_t file_bytes = 0;
  uint64_t entry_count = 0;
  uint64_t plan_bytes = 0;
  uint64_t peak_bytes = 0;
  std::vector<double> open_ns;   // per repeat
  std::vector<double> index_ns;  // per repeat
};

[[noreturn]] void fail(const shira::Error& error) {
  std::fprintf(stderr, "open_speed: %s: %s\n", error.file.c_str(), error.message.c_str());
  std::exit(1);
}

template <typename T>
T value_of(shira::Result<T> result) {
  if (!result.ok()) fail(result.error());
  return std::move(result.value());
}

/// Time that this thread has spent on a core, in the kernel too.
double now_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e9 * static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec);
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 != 0 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

// --- memory (Linux): the peak since it was reset, and what is resident now

uint64_t status_bytes(const char* field) {
  std::FILE* status = std::fopen("/proc/self/status", "r");
  if (status == nullptr) return 0;
  char line[256];
  uint64_t kibibytes = 0;
  while (std::fgets(line, sizeof(line), status) != nullptr) {
    if (std::strncmp(line, field, std::strlen(field)) != 0) continue;
    kibibytes = std::strtoull(line + std::strlen(field), nullptr, 10);
  }
  std::fclose(status);
  return 1024 * kibibytes;
}

void reset_peak() {
  std::FILE* control = std::fopen("/proc/self/clear_refs", "w");
  if (control == nullptr) return;
  std::fputs("5", control);
  std::fclose(control);
}

/// As a file is opened that is to be applied.
FilePointer open(const std::string& path) {
  shira::OpenOptions options;
  options.keep_content = false;
  return value_of(AdapterFile::open(path, options));
}

/// What opening the file adds to the memory of this process at its peak.
uint64_t measure_peak_bytes(const std::string& path) {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
  reset_peak();
  const uint64_t before = status_bytes("VmRSS:");
  const FilePointer file = open(path);
  const uint64_t peak = status_bytes("VmHWM:");
  return peak > before ? peak - before : 0;
}

// --- the decoded plan

uint64_t list_bytes(const IndexList& list) {
  return list.entries.size() * sizeof(uint32_t) + list.runs.size() * sizeof(shira::Run);
}

/// Lists that tensors share count once.
uint64_t plan_bytes(const AdapterFile& file) {
  uint64_t bytes = 0;
  std::vector<const IndexList*> counted;
  for (const Adapter& adapter : file.adapters()) {
    for (const AdapterTensor& tensor : adapter.tensors) {
      bytes += tensor.nnz * shira::dtype_bytes(tensor.value_dtype);
      const IndexList* list = tensor.index.get();
      if (list == nullptr || std::find(counted.begin(), counted.end(), list) != counted.end()) {
        continue;
      }
      counted.push_back(list);
      bytes += list_bytes(*list);
    }
  }
  return bytes;
}

// --- index streams alone

/// The streams of an opened file that are not derived; they point into `bytes`.
std::vector<IndexStream> index_streams(const AdapterFile& file, const Array<uint8_t>& bytes) {
  namespace index = shira::layout::index;
  std::vector<IndexStream> streams;
  const ByteReader reader(bytes.data(), bytes.size());
  for (const SectionInfo& section : file.sections()) {
    if (section.kind != shira::layout::kIndex) continue;
    for (uint32_t number = 0; number < section.index_count; ++number) {
      const uint64_t row = section.offset_bytes + number * shira::layout::kIndexRowBytes;
      IndexStream stream;
      stream.codec = static_cast<shira::IndexCodec>(reader.u8(row + index::kCodec));
      if (is_derived(stream.codec)) continue;
      stream.rice_bits = reader.u8(row + index::kRiceBits);
      stream.block_length = reader.u32(row + index::kBlockLength);
      stream.unit_count = reader.u32(row + index::kUnitCount);
      stream.element_count = reader.u64(row + index::kElementCount);
      stream.entry_count = reader.u64(row + index::kNnz);
      stream.bytes = reader.slice(section.offset_bytes + reader.u64(row + index::kOffset),
                                  reader.u64(row + index::kSize));
      streams.push_back(stream);
    }
  }
  return streams;
}

double decode_all_ns(const std::vector<IndexStream>& streams) {
  std::vector<IndexList> lists;
  uint64_t pool_bytes = 0;
  for (const IndexStream& stream : streams) pool_bytes += decoded_index_bytes(stream);
  const double begin = now_ns();
  ArrayPool pool = value_of(ArrayPool::make(pool_bytes));
  SpentBytes kept;
  for (const IndexStream& stream : streams) {
    lists.push_back(value_of(decode_index(stream, &pool, &kept)));
  }
  return now_ns() - begin;
}

// --- one file

Sample measure(const std::string& path, int repeats) {
  Sample sample;
  sample.path = path;
  open(path);  // what the program itself needs is loaded once
  sample.peak_bytes = measure_peak_bytes(path);
  const FilePointer file = open(path);
  sample.file_bytes = file->file_bytes();
  sample.plan_bytes = plan_bytes(*file);
  const AdapterTensor& first = file->adapters().front().tensors.front();
  sample.index_codec = index_codec_name(first.parts.front().codec);
  sample.value_codec = value_codec_name(first.value_codec);
  for (const Adapter& adapter : file->adapters()) sample.entry_count += adapter.entry_count();

  const shira::File source = value_of(shira::File::open(path));
  Array<uint8_t> bytes = value_of(Array<uint8_t>::make(sample.file_bytes));
  value_of(source.read_at(0, bytes.size(), bytes.data()));
  const std::vector<IndexStream> streams = index_streams(*file, bytes);
  for (int i = 0; i < repeats; ++i) {
    const double begin = now_ns();
    const FilePointer opened = open(path);
    sample.open_ns.push_back(now_ns() - begin);
    sample.index_ns.push_back(decode_all_ns(streams));
  }
  return sample;
}

// --- output

double per_entry(const Sample& sample, const std::vector<double>& times_ns) {
  return median(times_ns) / static_cast<double>(sample.entry_count);
}

void print_text(const Sample& sample) {
  const double open_ns = per_entry(sample, sample.open_ns);
  const double index_ns = per_entry(sample, sample.index_ns);
  std::printf("%-7s %-5s %9" PRIu64
              " entries  open %6.3f ns/entry %6.0f M/s  index %6.3f ns/entry"
              " %6.0f M/s  peak %.3f x plan  %s\n",
              sample.index_codec.c_str(), sample.value_codec.c_str(), sample.entry_count, open_ns,
              1e3 / open_ns, index_ns, 1e3 / index_ns,
              static_cast<double>(sample.peak_bytes) / static_cast<double>(sample.plan_bytes),
              sample.path.c_str());
}

void print_numbers(const char* name, const std::vector<double>& numbers) {
  std::printf("\"%s\": [", name);
  for (size_t i = 0; i < numbers.size(); ++i) {
    std::printf("%s%.0f", i == 0 ? "" : ", ", numbers[i]);
  }
  std::printf("]");
}

/// `file` is the number of the argument: a path may hold any byte, and JSON may not.
void print_json(const Sample& sample, size_t file) {
  std::printf("%s{\"file\": %zu, \"index_codec\": \"%s\", \"value_codec\": \"%s\", ",
              file == 0 ? "" : ",\n ", file, sample.index_codec.c_str(),
              sample.value_codec.c_str());
  std::printf("\"file_bytes\": %" PRIu64 ", \"entry_count\": %" PRIu64 ", \"plan_bytes\": %" PRIu64
              ", \"peak_bytes\": %" PRIu64 ", ",
              sample.file_bytes, sample.entry_count, sample.plan_bytes, sample.peak_bytes);
  std::printf("\"open_ns_per_entry\": %.4f, \"index_ns_per_entry\": %.4f, ",
              per_entry(sample, sample.open_ns), per_entry(sample, sample.index_ns));
  print_numbers("open_ns", sample.open_ns);
  std::printf(", ");
  print_numbers("index_ns", sample.index_ns);
  std::printf("}");
}

}  // namespace

int main(int argument_count, char** arguments) {
  bool as_json = false;
  int repeats = 15;
  std::vector<std::string> paths;
  for (int i = 1; i < argument_count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--json") {
      as_json = true;
    } else if (argument == "--repeats" && i + 1 < argument_count) {
      repeats = std::max(kLeastRepeats, std::atoi(arguments[++i]));
    } else {
      paths.push_back(argument);
    }
  }
  if (paths.empty()) {
    std::fprintf(stderr, "usage: open_speed [--json] [--repeats N] FILE...\n");
    return 2;
  }
#if defined(__GLIBC__)
  mallopt(M_MMAP_THRESHOLD, 128 * 1024);  // its default, which would else rise by itself
#endif
  if (as_json) std::printf("[");
  for (size_t i = 0; i < paths.size(); ++i) {
    const Sample sample = measure(paths[i], repeats);
    if (as_json) {
      print_json(sample, i);
    } else {
      print_text(sample);
    }
  }
  if (as_json) std::printf("]\n");
  return 0;
}
