// UTF-8 and JSON as grammars: nothing is decoded, nothing is allocated.
// SPDX-License-Identifier: Apache-2.0
#include "format/text.h"

#include <cstring>

namespace shira {
namespace {

bool is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

bool is_hex_digit(uint8_t byte) {
  return is_digit(byte) || (byte >= 'a' && byte <= 'f') || (byte >= 'A' && byte <= 'F');
}

/// Walks one JSON text. Every scan_ function leaves position_ behind what it accepted, or at the
/// offending byte (the end of the text included) and returns false.
class JsonWalker {
 public:
  explicit JsonWalker(ByteReader text) : text_(text) {}

  size_t find_invalid() {
    if (peek() != '{') return 0;
    Expect expect = Expect::value;
    do {
      if (!step(&expect)) return position_;
    } while (depth_ > 0);
    return position_ == text_.size() ? kNoPosition : position_;
  }

 private:
  enum class Expect { value, first_value_or_close, key, first_key_or_close, comma_or_close };

  /// Accepts one value, bracket, key with its colon, or comma.
  bool step(Expect* expect) {
    skip_white_space();
    const uint8_t byte = peek();
    switch (*expect) {
      case Expect::first_value_or_close:
        if (byte == ']') return close(expect);
        [[fallthrough]];
      case Expect::value:
        if (byte == '{' || byte == '[') return open(byte == '{', expect);
        *expect = Expect::comma_or_close;
        return scan_scalar();
      case Expect::first_key_or_close:
        if (byte == '}') return close(expect);
        [[fallthrough]];
      case Expect::key:
        if (!scan_string()) return false;
        skip_white_space();
        *expect = Expect::value;
        return scan(':');
      case Expect::comma_or_close:
        if (byte == static_cast<uint8_t>(in_object() ? '}' : ']')) return close(expect);
        *expect = in_object() ? Expect::key : Expect::value;
        return scan(',');
    }
    return false;
  }

  bool in_object() const { return ((objects_ >> (depth_ - 1)) & 1U) != 0; }

  bool open(bool object, Expect* expect) {
    if (depth_ == kMaxJsonDepth) return false;
    const uint64_t bit = uint64_t{1} << depth_;
    objects_ = object ? objects_ | bit : objects_ & ~bit;
    ++depth_;
    ++position_;
    *expect = object ? Expect::first_key_or_close : Expect::first_value_or_close;
    return true;
  }

  bool close(Expect* expect) {
    --depth_;
    ++position_;
    *expect = Expect::comma_or_close;
    return true;
  }

  bool scan_scalar() {
    switch (peek()) {
      case '"':
        return scan_string();
      case 't':
        return scan_word("true");
      case 'f':
        return scan_word("false");
      case 'n':
        return scan_word("null");
      default:
        return scan_number();
    }
  }

  bool scan_string() {
    if (!scan('"')) return false;
    while (position_ < text_.size()) {
      const uint8_t byte = peek();
      if (byte < 0x20) return false;
      ++position_;
      if (byte == '"') return true;
      if (byte == '\\' && !scan_escape()) return false;
    }
    return false;
  }

  bool scan_escape() {
    if (peek() == '\0' || std::strchr("\"\\/bfnrtu", peek()) == nullptr) return false;
    const bool is_unicode = peek() == 'u';
    ++position_;
    for (int i = 0; is_unicode && i < 4; ++i) {
      if (!is_hex_digit(peek())) return false;
      ++position_;
    }
    return true;
  }

  bool scan_number() {
    if (peek() == '-') ++position_;
    if (peek() == '0') {
      ++position_;
    } else if (!scan_digits()) {
      return false;
    }
    if (peek() == '.') {
      ++position_;
      if (!scan_digits()) return false;
    }
    if (peek() == 'e' || peek() == 'E') {
      ++position_;
      if (peek() == '+' || peek() == '-') ++position_;
      if (!scan_digits()) return false;
    }
    return true;
  }

  bool scan_digits() {
    if (!is_digit(peek())) return false;
    while (is_digit(peek())) ++position_;
    return true;
  }

  bool scan_word(const char* word) {
    for (; *word != '\0'; ++word) {
      if (!scan(*word)) return false;
    }
    return true;
  }

  bool scan(char expected) {
    if (peek() != static_cast<uint8_t>(expected)) return false;
    ++position_;
    return true;
  }

  void skip_white_space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++position_;
  }

  /// The byte at position_, or 0 behind the end: no rule of the grammar accepts a NUL.
  uint8_t peek() const { return text_.u8(position_); }

  ByteReader text_;
  size_t position_ = 0;
  unsigned depth_ = 0;
  uint64_t objects_ = 0;  // bit d: the bracket opened at depth d is that of an object
};

static_assert(kMaxJsonDepth <= 64, "one bit per level");

}  // namespace

size_t find_invalid_utf8(ByteReader text) {
  size_t i = 0;
  while (i < text.size()) {
    const uint8_t lead = text.u8(i);
    if (lead < 0x80) {
      ++i;
      continue;
    }
    // The second byte's range is where overlong forms, surrogates and > U+10FFFF are shut out.
    size_t size_bytes = 0;
    uint8_t low = 0x80;
    uint8_t high = 0xBF;
    if (lead >= 0xC2 && lead <= 0xDF) {
      size_bytes = 2;
    } else if (lead >= 0xE0 && lead <= 0xEF) {
      size_bytes = 3;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
    } else if (lead >= 0xF0 && lead <= 0xF4) {
      size_bytes = 4;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (size_bytes == 0 || size_bytes > text.size() - i) return i;
    if (text.u8(i + 1) < low || text.u8(i + 1) > high) return i;
    for (size_t k = 2; k < size_bytes; ++k) {
      if ((text.u8(i + k) & 0xC0U) != 0x80U) return i;
    }
    i += size_bytes;
  }
  return kNoPosition;
}

size_t find_control_character(ByteReader text) {
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.u8(i) < 0x20 || text.u8(i) == 0x7F) return i;
    const bool is_c1 = text.u8(i) == 0xC2 && text.u8(i + 1) >= 0x80 && text.u8(i + 1) <= 0x9F;
    if (is_c1) return i;
  }
  return kNoPosition;
}

size_t find_invalid_json(ByteReader text) { return JsonWalker(text).find_invalid(); }

}  // namespace shira
