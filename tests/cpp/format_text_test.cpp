// UTF-8 and JSON checks: what RFC 3629 and RFC 8259 allow, and where everything else is refused.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdint>
#include <string>

#include "format/text.h"

namespace shira {
namespace {

ByteReader reader(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

std::string encode_utf8(uint32_t code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | ((code >> shift) & 0x3F)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xC0 | code >> 6), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xE0 | code >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | code >> 18), tail(12), tail(6), tail(0)};
}

TEST(Utf8, KnowsEveryCodePoint) {
  for (uint32_t code = 0; code < 0x120000; ++code) {
    const std::string text = "a" + encode_utf8(code) + "b";
    const bool valid = code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    ASSERT_EQ(find_invalid_utf8(reader(text)), valid ? kNoPosition : 1U) << code;
  }
}

TEST(Utf8, RefusesOverlongCutAndStrayBytes) {
  for (const char* bad :
       {"\xC0\x80", "\xC1\xBF", "\xE0\x80\x80", "\xE0\x9F\xBF", "\xF0\x80\x80\x80",
        "\xF0\x8F\xBF\xBF", "\x80", "\xBF", "\xC2", "\xE2\x82", "\xF0\x9F\x98", "\xC2 ",
        "\xE2\x82 ", "\xF0\x9F\x98 ", "\xF5\x80\x80\x80", "\xFF", "\xFE"}) {
    EXPECT_EQ(find_invalid_utf8(reader(std::string("ab") + bad)), 2U) << bad;
  }
  EXPECT_EQ(find_invalid_utf8(reader("")), kNoPosition);
}

TEST(ControlCharacters, AreThoseOfTheSpecification) {
  for (uint32_t code = 0; code < 0x2100; ++code) {
    const bool is_control = code < 0x20 || (code >= 0x7F && code <= 0x9F);
    EXPECT_EQ(find_control_character(reader("x" + encode_utf8(code) + "y")),
              is_control ? 1U : kNoPosition)
        << code;
  }
  EXPECT_EQ(find_control_character(reader("")), kNoPosition);
}

TEST(Json, AcceptsTheGrammar) {
  for (const char* good :
       {"{}", "{ }", "{\"a\":1}", "{\"a\" : [ ] }", "{\"\":{}}",
        "{\"a\":[1,2.5,-0,0.1e+5,1E-2,10]}", "{\"a\":[true,false,null]}",
        "{\"a\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00Ff\"}", "{\n\t\"a\":\r1 , \"a\":[[],{}]}",
        "{\"a\":{\"b\":{\"c\":[{\"d\":\"\"}]}},\"e\":[[[1]]]}", "{\"k\":\"\xC3\xA4\"}"}) {
    EXPECT_EQ(find_invalid_json(reader(good)), kNoPosition) << good;
  }
}

TEST(Json, RefusesEverythingElseAtTheRightByte) {
  const struct {
    std::string text;
    size_t position;
  } bad[] = {
      {"", 0},
      {"[]", 0},
      {" {}", 0},
      {"\"a\"", 0},
      {"{", 1},
      {"{} ", 2},
      {"{}}", 2},
      {"{}{}", 2},
      {"{,}", 1},
      {"{\"a\"}", 4},
      {"{\"a\":}", 5},
      {"{\"a\":1,}", 7},
      {"{\"a\":1 \"b\":2}", 7},
      {"{a:1}", 1},
      {"{'a':1}", 1},
      {"{1:1}", 1},
      {"{\"a\":[1,]}", 8},
      {"{\"a\":[,1]}", 6},
      {"{\"a\":[1}", 7},
      {"{\"a\":{]}", 6},
      {"{\"a\":01}", 6},
      {"{\"a\":-}", 6},
      {"{\"a\":+1}", 5},
      {"{\"a\":.5}", 5},
      {"{\"a\":1.}", 7},
      {"{\"a\":1e}", 7},
      {"{\"a\":1e+}", 8},
      {"{\"a\":NaN}", 5},
      {"{\"a\":Infinity}", 5},
      {"{\"a\":tru}", 8},
      {"{\"a\":True}", 5},
      {"{\"a\":nul", 8},
      {"{\"a\":\"\n\"}", 6},
      {"{\"a\":\"\\x\"}", 7},
      {"{\"a\":\"\\u12g4\"}", 10},
      {"{\"a\":\"b}", 8},
      {"{\"a\":\"b\\", 8},
      {"{\"a\":\"b\\\"}", 10},
      {"{\"a\":1}//", 7},
      {"{/**/}", 1},
      {std::string("{\"a\":\0}", 7), 5},
      {std::string("{\"a\":\"\0\"}", 9), 6},
      {std::string("{\"a\":\"\\\0\"}", 10), 7},
      {std::string("{}\0", 3), 2},
  };
  for (const auto& item : bad)
    EXPECT_EQ(find_invalid_json(reader(item.text)), item.position) << item.text;
}

TEST(Json, NestsSixtyFourDeepAndNoFurther) {
  const auto nested = [](size_t arrays) {
    return "{\"a\":" + std::string(arrays, '[') + std::string(arrays, ']') + "}";
  };
  EXPECT_EQ(find_invalid_json(reader(nested(63))), kNoPosition);
  EXPECT_EQ(find_invalid_json(reader(nested(64))), 5U + 63U);
  EXPECT_EQ(find_invalid_json(reader(nested(500000))), 5U + 63U);
}

TEST(Json, EveryTruncationIsRefused) {
  const std::string text = "{\"a\":[1.5e3,true,{\"b\":\"\\u00e4\"}],\"c\":null}";
  ASSERT_EQ(find_invalid_json(reader(text)), kNoPosition);
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_NE(find_invalid_json(reader(text.substr(0, size))), kNoPosition) << size;
  }
}

}  // namespace
}  // namespace shira
