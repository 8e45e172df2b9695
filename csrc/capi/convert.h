// What the files of the C ABI share: the objects behind the handles, structs and errors.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "base/result.h"
#include "base/signature.h"
#include "format/adapter_file.h"
#include "runtime/program.h"
#include "shira/shira.h"

// Small strings and records come from the ordinary allocator, whose failure would end the process;
// everything sized by a file or by the weights fails with SHIRA_STATUS_OUT_OF_MEMORY instead.

struct shira_file {
  std::shared_ptr<const shira::AdapterFile> file;
};

struct shira_adapter {
  std::shared_ptr<const shira::Adapter> adapter;
};

struct shira_program {
  shira::Program program;
};

namespace shira::capi {

// Copies as much of `text` as fits without cutting a UTF-8 sequence in two.
template <size_t kCapacity>
void copy_text(const std::string& text, char (&out)[kCapacity]) {
  size_t count = std::min(text.size(), kCapacity - 1);
  const auto continues = [&](size_t i) {
    return (static_cast<unsigned char>(text[i]) & 0xC0U) == 0x80U;
  };
  while (count < text.size() && count > 0 && continues(count)) --count;
  std::memcpy(out, text.data(), count);
  out[count] = '\0';
}

// Copies a struct of this version into the caller's, which may be shorter (an earlier version of
// the header) or longer (a later one): what the other side does not know is left out, or zeroed.
// REQUIRES: out->struct_bytes was checked by fits().
template <typename T>
void copy_struct(const T& known, T* out) {
  const size_t struct_bytes = out->struct_bytes;
  const size_t common_bytes = std::min(struct_bytes, sizeof(T));
  auto* const bytes = reinterpret_cast<unsigned char*>(out);
  std::memcpy(bytes, &known, common_bytes);
  std::memset(bytes + common_bytes, 0, struct_bytes - common_bytes);
  std::memcpy(bytes, &struct_bytes, sizeof(struct_bytes));
}

// Longer than any later version will be: a caller who says so forgot to set struct_bytes.
constexpr size_t kMaxStructBytes = 65536;

// What a struct had before fields were appended to it.
template <typename T>
constexpr size_t kFirstStructBytes = sizeof(T);
template <>
inline constexpr size_t kFirstStructBytes<shira_switch_report> =
    offsetof(shira_switch_report, source_read_bytes);

// The caller's struct has at least the fields that it had first.
template <typename T>
bool fits(const T* out) {
  return out->struct_bytes >= kFirstStructBytes<T> && out->struct_bytes <= kMaxStructBytes;
}

// Behind the fields of this version an argument is zero: an option of a later version that went
// unheard might be one that forbids something. REQUIRES: in->struct_bytes was checked by fits().
template <typename T>
bool is_understood(const T* in) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(in);
  return std::all_of(bytes + sizeof(T), bytes + in->struct_bytes,
                     [](unsigned char byte) { return byte == 0; });
}

inline shira_status fail(const Error& error, shira_error* out) {
  if (out != nullptr && fits(out)) {
    shira_error known{};
    known.status = static_cast<shira_status>(error.status);
    known.offset_bytes = error.offset_bytes;
    copy_text(error.file, known.file);
    copy_text(error.tensor, known.tensor);
    copy_text(error.message, known.message);
    copy_struct(known, out);
  }
  return static_cast<shira_status>(error.status);
}

inline shira_status invalid(const char* message, shira_error* out) {
  return fail(Error{Status::INVALID_ARGUMENT, message}, out);
}

inline shira_status succeed(shira_error* out) { return fail(Error{}, out); }

template <typename T>
shira_status finish(const Result<T>& result, shira_error* out) {
  return result.ok() ? succeed(out) : fail(result.error(), out);
}

// Hands a new object to the caller.
template <typename T>
shira_status give(T* object, T** out, shira_error* error) {
  if (object == nullptr)
    return fail(Error{Status::OUT_OF_MEMORY, "the object could not be allocated"}, error);
  *out = object;
  return succeed(error);
}

/// The first SHIRA_PUBLIC_KEY_BYTES bytes.
inline PublicKey to_key(const uint8_t* bytes) {
  PublicKey key{};
  std::copy(bytes, bytes + key.size(), key.begin());
  return key;
}

}  // namespace shira::capi
