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

/* ---- Tiny adapter files (docs/FORMAT.md): each adapter holds deltas for two entries of w, an f32
 * tensor of 2 x 2, without fingerprints; all of them share their positions ---- */

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

enum { MAX_FILE_BYTES = 4096, MAX_ADAPTERS = 12, SECTIONS = 6 };

static const char* const kNames[MAX_ADAPTERS] = {"tin", "tan", "ton", "tun", "ten", "tip",
                                                 "tap", "top", "tup", "tot", "tit", "tat"};

/* The file with the first `adapter_count` names; returns its size. */
static size_t build(unsigned char* file, uint32_t adapter_count) {
  static const unsigned char kMagic[8] = {0x89, 'S', 'H', 'B', 0x0D, 0x0A, 0x1A, 0x0A};
  const uint32_t size[SECTIONS] = {
      64 * adapter_count, 128 * adapter_count, 3 * adapter_count + 1, 2 * adapter_count, 48 + 2,
      8 * adapter_count};
  size_t offset[SECTIONS];
  size_t end = 256 + 64 * SECTIONS;
  for (int i = 0; i < SECTIONS; ++i) {
    offset[i] = (end + 63) / 64 * 64;
    end = offset[i] + size[i];
  }
  memset(file, 0, MAX_FILE_BYTES);
  for (uint32_t i = 0; i < adapter_count; ++i) {
    const float deltas[2] = {10.0f * (float)(i + 1), -4.0f};
    unsigned char* adapter = file + offset[0] + 64 * i;
    unsigned char* tensor = file + offset[1] + 128 * i;
    put(adapter, 3 * i, 4); /* name_offset */
    put(adapter + 4, 3, 4); /* name_bytes */
    put(adapter + 8, i, 4); /* first_tensor */
    put(adapter + 12, 1, 4);
    put(adapter + 24, 2 * i, 4); /* metadata */
    put(adapter + 28, 2, 4);
    put(tensor, 3 * adapter_count, 4); /* "w", behind the adapters' names */
    put(tensor + 4, 1, 4);
    tensor[8] = SHIRA_DTYPE_F32;
    tensor[9] = 2;              /* rank */
    tensor[11] = 1;             /* F32 */
    tensor[12] = 1;             /* deltas */
    put(tensor + 24, 2, 8);     /* nnz */
    put(tensor + 32, 8 * i, 8); /* value_offset */
    put(tensor + 40, 8, 8);
    put(tensor + 64, 2, 4); /* 2 x 2 */
    put(tensor + 68, 2, 4);
    memcpy(file + offset[2] + 3 * i, kNames[i], 3);
    memcpy(file + offset[3] + 2 * i, "{}", 2);
    memcpy(file + offset[5] + 8 * i, deltas, 8);
  }
  file[offset[2] + size[2] - 1] = 'w';
  unsigned char* index = file + offset[4];
  index[0] = 1;           /* GAPS8 */
  put(index + 4, 1, 4);   /* block_length */
  put(index + 8, 2, 4);   /* units */
  put(index + 16, 4, 8);  /* elements */
  put(index + 24, 2, 8);  /* nnz */
  put(index + 32, 48, 8); /* the stream, behind the table */
  put(index + 40, 2, 8);
  index[48] = 1; /* flat index 1, then 3 */
  index[49] = 1;
  for (int i = 0; i < SECTIONS; ++i) {
    unsigned char* row = file + 256 + 64 * i;
    put(row, (uint64_t)i + 1, 4);
    put(row + 4, crc32c(file + offset[i], size[i]), 4);
    put(row + 8, offset[i], 8);
    put(row + 16, size[i], 8);
    put(row + 28, i == 4 ? 1 : 0, 4); /* index_count */
  }
  memcpy(file, kMagic, 8);
  put(file + 8, 1, 2); /* version 1.0 */
  put(file + 12, 256, 4);
  put(file + 16, end, 8);
  put(file + 40, SECTIONS, 4);
  put(file + 44, adapter_count, 4);
  put(file + 48, adapter_count, 4);
  put(file + 52, 1, 4); /* tiers */
  put(file + 56, crc32c(file + 256, 64 * SECTIONS), 4);
  put(file + 252, crc32c(file, 252), 4);
  return end;
}

/* ---- Tests ---- */

static shira_error error = {.struct_bytes = sizeof(shira_error)};

static void test_status_and_version(void) {
  CHECK(shira_abi_version() == SHIRA_ABI_VERSION);
  CHECK(strcmp(shira_status_name(SHIRA_STATUS_BAD_INDEX), "BAD_INDEX") == 0);
  CHECK(strcmp(shira_status_name((shira_status)999), "UNKNOWN") == 0);
  CHECK(strlen(shira_status_text(SHIRA_STATUS_OK)) > 0);
}

static shira_adapter* test_adapter(const unsigned char* file, size_t file_bytes) {
  shira_adapter* adapter = NULL;
  CHECK(shira_adapter_open("no such file", &adapter, &error) == SHIRA_STATUS_IO_ERROR);
  CHECK(error.status == SHIRA_STATUS_IO_ERROR && strcmp(error.file, "no such file") == 0 &&
        error.message[0] != '\0');
  CHECK(shira_adapter_open(NULL, &adapter, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_adapter_open("no such file", NULL, NULL) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_adapter_open_memory(file, file_bytes - 1, "cut", &adapter, &error) ==
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

  CHECK(shira_adapter_open_memory(file, file_bytes, NULL, &adapter, &error) == SHIRA_STATUS_OK);
  CHECK(error.status == SHIRA_STATUS_OK && error.message[0] == '\0' &&
        error.struct_bytes == sizeof(error));

  shira_adapter_info info = {.struct_bytes = sizeof(info)};
  CHECK(shira_adapter_get_info(adapter, &info, &error) == SHIRA_STATUS_OK);
  CHECK(strcmp(info.name, "tin") == 0 && strcmp(info.metadata_json, "{}") == 0);
  CHECK(info.tensor_count == 1 && info.is_bound == 0 && info.entry_count == 2 &&
        info.file_bytes == file_bytes);
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
  CHECK(tensor.known.index_bytes == 2 && tensor.known.value_bytes == 8 &&
        strcmp(tensor.known.value_codec, "f32") == 0);
  CHECK(tensor.known.is_delta == 1 && tensor.known.is_derived == 0);
  CHECK(shira_adapter_get_tensor(adapter, 1, &tensor.known, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  return adapter;
}

static void test_pack(float* weights) {
  unsigned char bytes[MAX_FILE_BYTES];
  const size_t size_bytes = build(bytes, MAX_ADAPTERS);
  shira_adapter* adapter = NULL;
  CHECK(shira_adapter_open_memory(bytes, size_bytes, "pack", &adapter, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(adapter == NULL && strstr(error.message, "12 adapters") != NULL &&
        strstr(error.message, "shira_file_open") != NULL &&
        strstr(error.message, "\"tin\", \"tan\"") != NULL && strstr(error.message, "tat") == NULL);

  shira_file* file = NULL;
  shira_open_options options = {.struct_bytes = sizeof(options)};
  CHECK(shira_file_open("no such file", NULL, &file, &error) == SHIRA_STATUS_IO_ERROR);
  CHECK(shira_file_open(NULL, NULL, &file, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_file_open_memory(NULL, 0, NULL, NULL, &file, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  options.tier_count = 2;
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &options, &file, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  options.tier_count = 1;
  options.thread_count = 65;
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &options, &file, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  options.thread_count = 64;
  options.index_source_count = 1;
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &options, &file, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  options.index_source_count = 0;
  options.struct_bytes = 0;
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &options, &file, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  options.struct_bytes = sizeof(options);
  /* An option of a later version is not passed over in silence, unless it asks for nothing. */
  struct {
    shira_open_options known;
    uint64_t later;
  } long_options = {.known = {.struct_bytes = sizeof(long_options)}, .later = 1};
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &long_options.known, &file, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(file == NULL && strstr(error.message, "does not know") != NULL);
  long_options.later = 0;
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &long_options.known, &file, &error) ==
        SHIRA_STATUS_OK);
  shira_file_free(file);
  file = NULL;
  static const uint8_t kKey[SHIRA_PUBLIC_KEY_BYTES] = {1};
  options.public_key = kKey; /* these files carry neither digests nor a signature */
  shira_status status = shira_file_open_memory(bytes, size_bytes, "pack", &options, &file, &error);
  CHECK(status == SHIRA_STATUS_NO_CRYPTOGRAPHY || status == SHIRA_STATUS_DIGEST_MISMATCH);
  options.public_key = NULL;
  CHECK(file == NULL);
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &options, &file, &error) ==
        SHIRA_STATUS_OK);
  shira_file* again = NULL;
  const shira_file* sources[1] = {file};
  options.index_sources = sources;
  options.index_source_count = 1;
  CHECK(shira_file_open_memory(bytes, size_bytes, "pack", &options, &again, &error) ==
        SHIRA_STATUS_OK);
  shira_file_free(again);

  shira_file_info info = {.struct_bytes = sizeof(info)};
  CHECK(shira_file_get_info(file, &info, &error) == SHIRA_STATUS_OK);
  CHECK(info.adapter_count == MAX_ADAPTERS && info.tier_count == 1 && info.opened_tier_count == 1);
  CHECK(info.is_signed == 0 && info.signer[0] == 0 && info.file_bytes == size_bytes);
  info.struct_bytes = 8;
  CHECK(shira_file_get_info(file, &info, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_file_get_info(NULL, &info, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_file_get_adapter(file, MAX_ADAPTERS, &adapter, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_file_get_adapter(file, 0, NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);

  shira_program* program = NULL;
  const uint32_t dims[2] = {2, 2};
  CHECK(shira_program_create(&program, &error) == SHIRA_STATUS_OK);
  CHECK(shira_program_add_tensor(program, "w", SHIRA_DTYPE_F32, 2, dims, weights, &error) ==
        SHIRA_STATUS_OK);
  for (uint32_t i = 0; i < 2; ++i) {
    CHECK(shira_file_get_adapter(file, i, &adapter, &error) == SHIRA_STATUS_OK);
    CHECK(shira_program_add_adapter(program, adapter, NULL, SHIRA_ALLOW_UNVERIFIED_BASE, &error) ==
          SHIRA_STATUS_OK);
    shira_adapter_free(adapter);
  }
  shira_file_free(file);
  const shira_member tan = {"tan", 1.0f};
  CHECK(shira_program_switch(program, &tan, 1, NULL, &error) == SHIRA_STATUS_OK);
  CHECK(weights[0] == 1 && weights[1] == 22 && weights[2] == 3 && weights[3] == 0);
  CHECK(shira_program_require_signature(program, NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  status = shira_program_require_signature(program, kKey, &error);
  CHECK(status == SHIRA_STATUS_NO_CRYPTOGRAPHY || status == SHIRA_STATUS_DIGEST_MISMATCH ||
        status == SHIRA_STATUS_NOT_SIGNED);
  CHECK(weights[1] == 22);
  CHECK(shira_program_switch(program, NULL, 0, NULL, &error) == SHIRA_STATUS_OK);
  shira_program_free(program);
}

static void test_registration(shira_program* program, float* weights) {
  const uint32_t dims[2] = {2, 2};
  CHECK(shira_program_create(NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_add_tensor(program, NULL, SHIRA_DTYPE_F32, 2, dims, weights, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_add_tensor(program, "w", (shira_dtype)7, 2, dims, weights, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);
  static int8_t codes[4];
  CHECK(shira_program_add_tensor(program, "codes", SHIRA_DTYPE_I8, 2, dims, codes, &error) ==
        SHIRA_STATUS_OK);
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

/* The calls about pages, on memory that the caller owns: it costs nothing and has no limit. */
static void test_pages(shira_program* program) {
  shira_program_options options = {.struct_bytes = sizeof(options), .max_dirty_bytes = 1};
  CHECK(shira_program_set_options(program, &options, &error) == SHIRA_STATUS_OK);
  options.originals = SHIRA_ORIGINALS_FILE;
  CHECK(shira_program_set_options(program, &options, &error) == SHIRA_STATUS_NOT_SUPPORTED);
  options.originals = (shira_originals)2;
  CHECK(shira_program_set_options(program, &options, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  options.originals = SHIRA_ORIGINALS_MEMORY;
  options.first_touch = (shira_first_touch)3;
  CHECK(shira_program_set_options(program, &options, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(shira_program_set_options(program, NULL, &error) == SHIRA_STATUS_INVALID_ARGUMENT);

  shira_adapter_pages pages = {.struct_bytes = sizeof(pages)};
  CHECK(shira_program_get_adapter_pages(program, "tin", &pages, &error) == SHIRA_STATUS_OK);
  CHECK(pages.page_count == 1 && pages.tensor_pages >= 1 && pages.page_bytes >= 4096);
  CHECK(shira_program_get_adapter_pages(program, "x", &pages, &error) ==
        SHIRA_STATUS_UNKNOWN_ADAPTER);
  pages.struct_bytes = 8;
  CHECK(shira_program_get_adapter_pages(program, "tin", &pages, &error) ==
        SHIRA_STATUS_INVALID_ARGUMENT);

  shira_program_memory memory = {.struct_bytes = sizeof(memory)};
  CHECK(shira_program_get_memory(program, &memory, &error) == SHIRA_STATUS_OK);
  CHECK(memory.mapped_bytes == 0 && memory.private_bytes == 0 && memory.originals_bytes == 8);
  uint64_t released_bytes = 1;
  CHECK(shira_program_release_pages(program, &released_bytes, &error) == SHIRA_STATUS_OK);
  CHECK(released_bytes == 0);
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
  CHECK(report.source_read_bytes == 0 && report.source_cold_bytes == 0);
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
  /* A caller from before the last two fields: nothing is stored behind what it has. */
  report.struct_bytes = offsetof(shira_switch_report, source_read_bytes);
  report.source_read_bytes = report.source_cold_bytes = 77;
  CHECK(shira_program_switch(program, &half, 1, &report, &error) == SHIRA_STATUS_OK);
  CHECK(report.struct_bytes == offsetof(shira_switch_report, source_read_bytes));
  CHECK(report.epoch == 1 && report.elements_written == 0);
  CHECK(report.source_read_bytes == 77 && report.source_cold_bytes == 77);
  report.struct_bytes = offsetof(shira_switch_report, source_read_bytes) - 1;
  CHECK(shira_program_switch(program, NULL, 0, &report, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  report.struct_bytes = 8;
  CHECK(shira_program_switch(program, NULL, 0, &report, &error) == SHIRA_STATUS_INVALID_ARGUMENT);
  CHECK(weights[1] == 7);

  test_pages(program);

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
  unsigned char file[MAX_FILE_BYTES];
  shira_program* program = NULL;
  const size_t file_bytes = build(file, 1);
  test_status_and_version();
  shira_adapter* adapter = test_adapter(file, file_bytes);
  test_pack(weights);
  CHECK(shira_program_create(&program, &error) == SHIRA_STATUS_OK);
  test_registration(program, weights);
  test_switching(program, adapter, weights);
  shira_adapter_free(adapter);
  shira_program_free(program);
  shira_file_free(NULL);
  shira_adapter_free(NULL);
  shira_program_free(NULL);
  return 0;
}
