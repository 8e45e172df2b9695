/* The C ABI seen from C: every function is called, every kind of refusal is met.
   SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shira/shira.h"

#define CHECK(condition)                                              \
  do {                                                                \
    if (!(condition)) {                                               \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                        \
    }                                                                 \
  } while (0)

/* ---- A tiny adapter file (docs/FORMAT.md): deltas for two entries of w, an f32 tensor of 2 x 2,
 * without fingerprints ---- */

static void put(unsigned char* at, uint64_t value, int byte_count) {
  for (int i = 0; i < byte_count; ++i) at[i] = (unsigned char)(value >> (8 * i));
}

static uint32_t crc32c(const unsigned char* bytes, size_t size_bytes) {
  uint32_t crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < size_bytes; ++i) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0);
  }
  return ~crc;
}

enum { FILE_BYTES = 904 };

static const unsigned char kSectionCount = 6;

static void build(unsigned char* file) {
  static const unsigned char kMagic[8] = {0x89, 'S', 'H', 'B', 0x0D, 0x0A, 0x1A, 0x0A};
  static const uint32_t kOffset[6] = {512, 576, 704, 768, 832, 896};
  static const uint32_t kSize[6] = {64, 128, 4, 2, 2, 8};
  const float deltas[2] = {10.0f, -4.0f};
  memset(file, 0, FILE_BYTES);
  put(file + 512 + 4, 3, 4);  /* the adapter's name has 3 bytes */
  put(file + 512 + 12, 1, 4); /* one tensor */
  put(file + 576 + 0, 3, 4);  /* the tensor's name starts behind */
  put(file + 576 + 4, 1, 4);
  file[576 + 8] = SHIRA_DTYPE_F32;
  file[576 + 9] = 2;  /* rank */
  file[576 + 10] = 1; /* GAPS8 */
  file[576 + 11] = 1; /* F32 */
  file[576 + 12] = 1; /* deltas */
  put(file + 576 + 20, 4, 4);
  put(file + 576 + 24, 5, 4);
  put(file + 576 + 28, 2, 4); /* units */
  put(file + 576 + 32, 2, 8); /* nnz */
  put(file + 576 + 48, 2, 8); /* index_bytes */
  put(file + 576 + 64, 2, 4); /* 2 x 2 */
  put(file + 576 + 68, 2, 4);
  memcpy(file + 704, "tinw", 4); /* "tin" and "w" */
  memcpy(file + 768, "{}", 2);
  file[832] = 1; /* flat index 1, then 3 */
  file[833] = 1;
  memcpy(file + 896, deltas, 8);
  for (int i = 0; i < kSectionCount; ++i) {
    unsigned char* row = file + 128 + 64 * i;
    put(row, (uint64_t)i + 1, 4);
    put(row + 4, crc32c(file + kOffset[i], kSize[i]), 4);
    put(row + 8, kOffset[i], 8);
    put(row + 16, kSize[i], 8);
  }
  memcpy(file, kMagic, 8);
  put(file + 10, 1, 2); /* version 0.1 */
  put(file + 12, 128, 4);
  put(file + 16, FILE_BYTES, 8);
  put(file + 40, kSectionCount, 4);
  put(file + 44, 1, 4);
  put(file + 48, 1, 4);
  put(file + 52, crc32c(file + 128, 384), 4);
  put(file + 124, crc32c(file, 124), 4);
}

/* ---- Tests ---- */

static shira_error error = {.struct_bytes = sizeof(shira_error)};

static void test_status_and_version(void) {
  CHECK(shira_abi_version() == SHIRA_ABI_VERSION);
  CHECK(strcmp(shira_status_name(SHIRA_STATUS_BAD_INDEX), "BAD_INDEX") == 0);
  CHECK(strcmp(shira_status_name((shira_status)999), "UNKNOWN") == 0);
  CHECK(strlen(shira_status_text(SHIRA_STATUS_OK)) > 0);
}

static shira_adapter* test_adapter(const unsigned char* file) {
  shira_adapter* adapter = NULL;
  CHECK(shira_adapter_open("no such file", &adapter, &error) == SHIRA_STATUS_IO_ERROR);
  CHECK(error.status == SHIRA_STATUS_IO_ERROR && strcmp(error.file, "no such file") == 0 &&
        error.message[0] != '\0');
  CHECK(shira_adapter_open(NULL, &adapter, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_adapter_open("no such file", NULL, NULL) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_adapter_open_memory(file, FILE_BYTES - 1, "cut", &adapter, &error) ==
        SHIRA_STATUS_TRUNCATED);
  CHECK(strcmp(error.file, "cut") == 0 && error.offset_bytes != SHIRA_NO_OFFSET);
  CHECK(shira_adapter_open_memory(NULL, 0, NULL, &adapter, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(adapter == NULL);

  /* A text that does not fit is cut in front of a character, never inside one. */
  char label[600];
  for (size_t i = 0; i + 1 < sizeof(label); i += 2) memcpy(label + i, "\xC3\xA4", 2);
  memmove(label + 1, label, sizeof(label) - 2);
  label[0] = 'x';
  label[sizeof(label) - 1] = '\0';
  CHECK(shira_adapter_open_memory(file, 4, label, &adapter, &error) == SHIRA_STATUS_TRUNCATED);
  CHECK(strlen(error.file) == sizeof(error.file) - 1 &&
        memcmp(error.file, label, strlen(error.file)) == 0);
  CHECK(shira_adapter_open_memory(file, 4, label + 1, &adapter, &error) == SHIRA_STATUS_TRUNCATED);
  CHECK(strlen(error.file) == sizeof(error.file) - 2);

  /* An error struct whose size was never set is left alone. */
  shira_error unset = {.struct_bytes = 0, .status = SHIRA_STATUS_BUSY};
  CHECK(shira_adapter_open_memory(file, 4, NULL, &adapter, &unset) == SHIRA_STATUS_TRUNCATED);
  CHECK(unset.status == SHIRA_STATUS_BUSY);

  CHECK(shira_adapter_open_memory(file, FILE_BYTES, NULL, &adapter, &error) == SHIRA_STATUS_OK);
  CHECK(error.status == SHIRA_STATUS_OK && error.message[0] == '\0' &&
        error.struct_bytes == sizeof(error));

  shira_adapter_info info = {.struct_bytes = sizeof(info)};
  CHECK(shira_adapter_get_info(adapter, &info, &error) == SHIRA_STATUS_OK);
  CHECK(strcmp(info.name, "tin") == 0 && strcmp(info.metadata_json, "{}") == 0);
  CHECK(info.tensor_count == 1 && info.is_bound == 0 && info.entry_count == 2 &&
        info.file_bytes == FILE_BYTES);
  CHECK(shira_adapter_get_info(NULL, &info, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  info.struct_bytes = sizeof(info) - 1;
  CHECK(shira_adapter_get_info(adapter, &info, &error) == SHIRA_STATUS_INVALID_ARGUMENT);

  /* A caller with a later, longer struct gets zeros in the fields that this library does not know.
   */
  struct {
    shira_tensor_info known;
    uint64_t later;
  } tensor;
  memset(&tensor, 0xFF, sizeof(tensor));
  tensor.known.struct_bytes = sizeof(tensor);
  CHECK(shira_adapter_get_tensor(adapter, 0, &tensor.known, &error) == SHIRA_STATUS_OK);
  CHECK(tensor.known.struct_bytes == sizeof(tensor) && tensor.later == 0);
  CHECK(strcmp(tensor.known.name, "w") == 0 && tensor.known.dtype == SHIRA_DTYPE_F32 &&
        tensor.known.nnz == 2);
  CHECK(tensor.known.rank == 2 && tensor.known.dims[0] == 2 && tensor.known.dims[1] == 2 &&
        tensor.known.dims[2] == 0);
  CHECK(shira_adapter_get_tensor(adapter, 1, &tensor.known, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  return adapter;
}

static void test_registration(shira_program* program, float* weights) {
  const uint32_t dims[2] = {2, 2};
  CHECK(shira_program_create(NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_add_tensor(program, NULL, SHIRA_DTYPE_F32, 2, dims, weights, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_add_tensor(program, "w", (shira_dtype)7, 2, dims, weights, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_add_tensor(program, "w", SHIRA_DTYPE_F32, 9, dims, weights, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_add_tensor(program, "w", SHIRA_DTYPE_F32, 2, dims, weights, &error) ==
        SHIRA_STATUS_OK);
  CHECK(shira_program_add_tensor(program, "w", SHIRA_DTYPE_F32, 2, dims, weights, &error) ==
        SHIRA_STATUS_DUPLICATE_NAME);
  CHECK(strcmp(error.tensor, "w") == 0);
  const shira_anchor anchor = {"w", weights};
  CHECK(shira_program_attach_file(program, "no such file", &anchor, 1, &error) ==
        SHIRA_STATUS_IO_ERROR);
  CHECK(shira_program_attach_file(program, "no such file", NULL, 1, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
}

static void test_switching(shira_program* program, shira_adapter* adapter, float* weights) {
  const shira_member half = {"tin", 0.5f};
  CHECK(shira_program_add_adapter(program, adapter, NULL, 0, &error) ==
        SHIRA_STATUS_UNVERIFIED_BASE);
  CHECK(shira_program_add_adapter(program, adapter, NULL, 1024, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_add_adapter(program, adapter, "other",
                                  SHIRA_ALLOW_UNVERIFIED_BASE | SHIRA_ALLOW_PARTIAL,
                                  &error) == SHIRA_STATUS_OK);
  CHECK(shira_program_add_adapter(program, adapter, NULL, SHIRA_ALLOW_UNVERIFIED_BASE, &error) ==
        SHIRA_STATUS_OK);
  CHECK(shira_program_remove_adapter(program, "other", &error) == SHIRA_STATUS_OK);
  CHECK(shira_program_remove_adapter(program, NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_set_threads(program, 2, &error) == SHIRA_STATUS_OK);
  CHECK(shira_program_set_threads(program, 0, &error) == SHIRA_STATUS_INVALID_ARGUMENT);

  shira_switch_report report = {.struct_bytes = sizeof(report)};
  CHECK(shira_program_switch(program, &half, 1, &report, &error) == SHIRA_STATUS_OK);
  CHECK(report.tensors_matched == 1 && report.elements_written == 2 &&
        report.elements_changed == 2);
  CHECK(report.bytes_written == 8 && report.pages_touched == 1 && report.epoch == 1 &&
        report.total_ns > 0);
  CHECK(weights[0] == 1 && weights[1] == 7 && weights[2] == 3 && weights[3] == 2);

  shira_program_state state = {.struct_bytes = sizeof(state)};
  CHECK(shira_program_get_state(program, &state, &error) == SHIRA_STATUS_OK);
  CHECK(state.epoch == 1 && state.active_count == 1);
  CHECK(shira_program_get_state(program, NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_remove_adapter(program, "tin", &error) == SHIRA_STATUS_ADAPTER_IN_USE);

  const shira_member not_finite = {"tin", NAN};
  CHECK(shira_program_switch(program, &not_finite, 1, NULL, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_switch(program, NULL, 1, NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  report.struct_bytes = 8;
  CHECK(shira_program_switch(program, NULL, 0, &report, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(weights[1] == 7);

  CHECK(shira_program_begin_forward(program, &error) == SHIRA_STATUS_OK);
  CHECK(shira_program_try_switch(program, NULL, 0, NULL, &error) == SHIRA_STATUS_BUSY);
  CHECK(shira_program_end_forward(program, &error) == SHIRA_STATUS_OK);
  CHECK(shira_program_end_forward(program, &error) == SHIRA_STATUS_INVALID_ARGUMENT);

  CHECK(shira_program_verify_base(program, &error) == SHIRA_STATUS_OK);
  weights[0] = 9;
  CHECK(shira_program_verify_base(program, &error) == SHIRA_STATUS_BASE_MODIFIED);
  CHECK(strcmp(error.tensor, "w") == 0);
  weights[0] = 1;
  CHECK(shira_program_hard_revert(program, NULL, &error) == SHIRA_STATUS_NOT_SUPPORTED);
  CHECK(shira_program_try_switch(program, NULL, 0, NULL, NULL) == SHIRA_STATUS_OK);
  CHECK(weights[0] == 1 && weights[1] == 2 && weights[2] == 3 && weights[3] == 4);
}

int main(void) {
  float weights[4] = {1, 2, 3, 4};
  unsigned char file[FILE_BYTES];
  shira_program* program = NULL;
  build(file);
  test_status_and_version();
  shira_adapter* adapter = test_adapter(file);
  CHECK(shira_program_create(&program, &error) == SHIRA_STATUS_OK);
  test_registration(program, weights);
  test_switching(program, adapter, weights);
  shira_adapter_free(adapter);
  shira_program_free(program);
  shira_adapter_free(NULL);
  shira_program_free(NULL);
  return 0;
}
