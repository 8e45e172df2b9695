// Brings the bytes of a .shb file into owned memory and has them parsed.
// SPDX-License-Identifier: Apache-2.0
#include "format/adapter_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "format/adapter_parser.h"
#include "format/layout.h"

namespace shira {
namespace {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are handed out as they stand");

using AdapterPointer = std::shared_ptr<const AdapterFile>;

Error io_error(const char* what) {
  return Error{Status::IO_ERROR, std::string("the file cannot be ") + what + ": " +
                                     std::generic_category().message(errno)};
}

/// Closes its descriptor.
class FileDescriptor {
 public:
  explicit FileDescriptor(int number) : number_(number) {}
  ~FileDescriptor() {
    if (number_ >= 0) ::close(number_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int number() const { return number_; }

 private:
  int number_;
};

/// Reads exactly `size_bytes` bytes, however many calls the system makes of it.
Result<void> read_exactly(int file, uint8_t* out, size_t size_bytes) {
  size_t done_bytes = 0;
  while (done_bytes < size_bytes) {
    const ssize_t count = ::read(file, out + done_bytes, size_bytes - done_bytes);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return io_error("read");
    if (count == 0) return Error{Status::IO_ERROR, "the file became shorter while it was read"};
    done_bytes += static_cast<size_t>(count);
  }
  return {};
}

Result<AdapterPointer> read_and_parse(const std::string& path) {
  // Without O_NONBLOCK, opening a FIFO waits for somebody to write to it.
  int number;
  do {
    number = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  } while (number < 0 && errno == EINTR);
  const FileDescriptor file(number);
  if (file.number() < 0) return io_error("opened");
  struct stat status;
  if (::fstat(file.number(), &status) != 0) return io_error("examined");
  if (!S_ISREG(status.st_mode)) return Error{Status::IO_ERROR, "this is not a regular file"};

  const auto file_bytes = static_cast<uint64_t>(status.st_size);
  uint8_t header[layout::kHeaderBytes] = {};
  const auto header_bytes = static_cast<size_t>(std::min(file_bytes, layout::kHeaderBytes));
  SHIRA_TRY(read_exactly(file.number(), header, header_bytes));
  SHIRA_TRY(check_header(ByteReader(header, header_bytes), file_bytes));
  if (file_bytes > SIZE_MAX) {
    return Error{Status::OUT_OF_MEMORY, "the file does not fit the address space"};
  }
  SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(static_cast<size_t>(file_bytes)));
  std::memcpy(bytes.data(), header, header_bytes);
  SHIRA_TRY(read_exactly(file.number(), bytes.data() + header_bytes, bytes.size() - header_bytes));
  return AdapterParser::parse(std::move(bytes), path);
}

Result<AdapterPointer> copy_and_parse(const void* source, size_t size_bytes,
                                      const std::string& label) {
  const auto* source_bytes = static_cast<const uint8_t*>(source);
  SHIRA_TRY(check_header(ByteReader(source_bytes, size_bytes), size_bytes));
  SHIRA_ASSIGN(Array<uint8_t> bytes, Array<uint8_t>::make(size_bytes));
  std::memcpy(bytes.data(), source_bytes, size_bytes);
  return AdapterParser::parse(std::move(bytes), label);
}

Result<AdapterPointer> with_label(Result<AdapterPointer> result, const std::string& label) {
  if (!result.ok()) result.error().file = label;
  return result;
}

}  // namespace

const char* value_kind_name(ValueKind kind) {
  return kind == ValueKind::target ? "target" : "delta";
}

Result<std::shared_ptr<const AdapterFile>> AdapterFile::open(const std::string& path) {
  return with_label(read_and_parse(path), path);
}

Result<std::shared_ptr<const AdapterFile>> AdapterFile::from_bytes(const void* bytes,
                                                                   size_t size_bytes,
                                                                   const std::string& label) {
  return with_label(copy_and_parse(bytes, size_bytes, label), label);
}

uint64_t AdapterFile::entry_count() const {
  uint64_t count = 0;
  for (const AdapterTensor& tensor : tensors_) count += tensor.nnz();
  return count;
}

}  // namespace shira
