// What the C ABI makes of the classes' answers, where that is more than a copy.
// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "runtime_support.h"
#include "shira/shira.h"

namespace shira::testing {
namespace {

TEST(CApi, VerifyBaseCountsATensorOnceHoweverManyAdaptersDisagree) {
  const Bytes base = encode_values(Dtype::f32, {1, 2, 3, 4});
  LiveTensor weight = make_tensor("w", Dtype::f32, {4}, base);
  shira_error error{};
  error.struct_bytes = sizeof(error);
  shira_program* program = nullptr;
  ASSERT_EQ(shira_program_create(&program, nullptr), SHIRA_STATUS_OK);
  ASSERT_EQ(shira_program_add_tensor(program, "w", SHIRA_DTYPE_F32, 1, weight.dims.data(),
                                     weight.data(), &error),
            SHIRA_STATUS_OK);
  for (const char* name : {"x", "y"}) {
    AdapterInput input = simple_adapter(name, weight, {1}, {20}).input;
    input.tensors[0].base_digest[0] ^= 1;  // made for another base, with the same value there
    const Bytes file = build_adapter(input);
    shira_adapter* adapter = nullptr;
    ASSERT_EQ(shira_adapter_open_memory(file.data(), file.size(), name, &adapter, &error),
              SHIRA_STATUS_OK);
    ASSERT_EQ(shira_program_add_adapter(program, adapter, nullptr, 0, &error), SHIRA_STATUS_OK);
    shira_adapter_free(adapter);
  }
  EXPECT_EQ(shira_program_verify_base(program, &error), SHIRA_STATUS_BASE_MODIFIED);
  EXPECT_STREQ(error.message,
               "1 of 1 tensors differ from their source; the first is w, which is not the base "
               "that adapter \"x\" was made for");
  shira_program_free(program);
}

}  // namespace
}  // namespace shira::testing
