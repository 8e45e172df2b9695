/* shira.h: the C ABI of shira-runtime, for C, C++, JNI and any other foreign-function interface.
   SPDX-License-Identifier: Apache-2.0

   Conventions
   1. Objects are opaque; every object that a function creates is freed by the function of the
      same noun (shira_program_free). Freeing NULL does nothing. Whatever is made of an object keeps
      it alive: a program the adapters added to it, an adapter its file.
   2. Every function that can fail returns a shira_status and takes a shira_error* as last
      argument (may be NULL). The struct is owned by the caller, who sets struct_bytes =
      sizeof(shira_error) before; nothing is allocated for it.
   3. Structs that are passed by a pointer to one of them start with struct_bytes, set by the
      caller; later versions only append fields. Options that a library does not know yet must be
      zero. The elements of arrays (shira_anchor, shira_member) have no such field and never
      change.
   4. Strings are UTF-8, NUL-terminated. Pointers returned by getters live as long as the object
      they came from.
   5. A program may be used from several threads; files and adapters are immutable.
   6. Nothing prints, throws or exits. What grows with a file or with the weights answers
      SHIRA_STATUS_OUT_OF_MEMORY; where not even a name or a message can be allocated, the process
      ends.
   7. A failed call changes nothing: no weight, no state. */
#ifndef SHIRA_SHIRA_H_
#define SHIRA_SHIRA_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define SHIRA_API __attribute__((visibility("default")))
#else
#define SHIRA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* 1 while the ABI is compatible with this header. */
#define SHIRA_ABI_VERSION 1
SHIRA_API uint32_t shira_abi_version(void);

typedef enum shira_status {
#define X(number, name, parent, text) SHIRA_STATUS_##name = number,
#include "shira/status.def"
#undef X
  SHIRA_STATUS_FORCE_32_BIT = 0x7fffffff
} shira_status;

/* "BAD_INDEX"; "UNKNOWN" for other numbers. */
SHIRA_API const char* shira_status_name(shira_status status);
/* One sentence. */
SHIRA_API const char* shira_status_text(shira_status status);

#define SHIRA_NO_OFFSET UINT64_MAX

typedef struct shira_error {
  size_t struct_bytes;
  shira_status status;
  uint64_t offset_bytes; /* in file, or SHIRA_NO_OFFSET */
  char file[512];        /* each text is cut to fit, always terminated */
  char tensor[512];
  char message[1024];
} shira_error;

typedef enum shira_dtype {
  SHIRA_DTYPE_F32 = 1,
  SHIRA_DTYPE_F16 = 2,
  SHIRA_DTYPE_BF16 = 3,
  SHIRA_DTYPE_I8 = 4, /* codes of a quantized base */
  SHIRA_DTYPE_I4 = 5, /* the same, -8 to 7, one byte for each */
  SHIRA_DTYPE_FORCE_32_BIT = 0x7fffffff
} shira_dtype;

/* ---- adapter files ---- */

#define SHIRA_PUBLIC_KEY_BYTES 32

typedef struct shira_file shira_file;
typedef struct shira_adapter shira_adapter;

typedef struct shira_open_options {
  size_t struct_bytes;
  uint32_t tier_count; /* open only the first tiers; 0: all */
  uint32_t index_source_count;
  const uint8_t* public_key; /* NULL, or the 32 bytes of an Ed25519 key: other files are refused
                                before anything but their section table is looked at */
  const shira_file* const* index_sources; /* files whose positions this one may refer to, opened
                                             with keep_content */
  uint32_t keep_content; /* 1: keep the coded bytes beside what was decoded from them, so that
                            others may refer to this file; it takes more memory */
  uint32_t thread_count; /* up to 64 threads that read and check a large file; 0: one */
} shira_open_options;

/* Reads and validates a whole .shb file (docs/FORMAT.md). `options` may be NULL. */
SHIRA_API shira_status shira_file_open(const char* path, const shira_open_options* options,
                                       shira_file** file, shira_error* error);
/* The same from memory; the bytes are copied, `label` stands for the path in errors. */
SHIRA_API shira_status shira_file_open_memory(const void* bytes, size_t size_bytes,
                                              const char* label, const shira_open_options* options,
                                              shira_file** file, shira_error* error);
SHIRA_API void shira_file_free(shira_file* file);

typedef struct shira_file_info {
  size_t struct_bytes;
  uint32_t adapter_count;
  uint32_t tier_count; /* in the file */
  uint32_t opened_tier_count;
  uint32_t is_signed;
  uint64_t file_bytes;
  uint8_t content_digest[32];             /* SHA-256 as declared */
  uint8_t signer[SHIRA_PUBLIC_KEY_BYTES]; /* as the file says; zeros when unsigned */
} shira_file_info;
SHIRA_API shira_status shira_file_get_info(const shira_file* file, shira_file_info* info,
                                           shira_error* error);
/* The adapter of this number, to be freed; the file may be freed before it. */
SHIRA_API shira_status shira_file_get_adapter(const shira_file* file, uint32_t adapter_index,
                                              shira_adapter** adapter, shira_error* error);

/* ---- adapters ---- */

/* The one adapter of a file, without options. A file with several is refused
   (SHIRA_STATUS_INVALID_ARGUMENT): shira_file_open gives each of them. */
SHIRA_API shira_status shira_adapter_open(const char* path, shira_adapter** adapter,
                                          shira_error* error);
SHIRA_API shira_status shira_adapter_open_memory(const void* bytes, size_t size_bytes,
                                                 const char* label, shira_adapter** adapter,
                                                 shira_error* error);
SHIRA_API void shira_adapter_free(shira_adapter* adapter);

typedef struct shira_adapter_info {
  size_t struct_bytes;
  const char* name;
  const char* metadata_json;
  uint32_t tensor_count;
  uint32_t is_bound; /* 1: every tensor carries a base fingerprint */
  uint64_t entry_count;
  uint64_t file_bytes;
  uint8_t content_digest[32]; /* of the file: SHA-256 as declared */
} shira_adapter_info;
SHIRA_API shira_status shira_adapter_get_info(const shira_adapter* adapter,
                                              shira_adapter_info* info, shira_error* error);

typedef struct shira_tensor_info {
  size_t struct_bytes;
  const char* name;
  shira_dtype dtype;
  uint32_t rank;
  uint32_t dims[8];
  uint64_t nnz;
  uint64_t index_bytes;    /* coded positions, which other tensors of the file may share */
  uint64_t value_bytes;    /* coded values */
  const char* value_codec; /* "f16", "q4", ... (docs/FORMAT.md section 10) */
  uint32_t is_delta;       /* 0: target values */
  uint32_t is_derived;     /* 1: the positions follow from a rule */
} shira_tensor_info;
SHIRA_API shira_status shira_adapter_get_tensor(const shira_adapter* adapter, uint32_t tensor_index,
                                                shira_tensor_info* info, shira_error* error);

/* ---- programs: live weights ---- */

typedef struct shira_program shira_program;

SHIRA_API shira_status shira_program_create(shira_program** program, shira_error* error);
/* Weights stay as they are: switch to the base first if that is what you want. A file's mapping
   becomes read-only again; with an adapter left in it, it cannot be attached any more. */
SHIRA_API void shira_program_free(shira_program* program);

/* Registers caller-owned memory: row-major, writable, alive and in place until the program is
   freed. */
SHIRA_API shira_status shira_program_add_tensor(shira_program* program, const char* name,
                                                shira_dtype dtype, uint32_t rank,
                                                const uint32_t* dims, void* data,
                                                shira_error* error);

typedef struct shira_anchor {
  const char* name;    /* FQN of a constant */
  const void* address; /* where the program sees it (ExecuTorch: Method::get_attribute) */
} shira_anchor;

/* Attaches to a program already loaded from `path` (.pte or .ptd) through a memory map: its mapping
   becomes private and writable, the file is never written. `anchors` may be NULL with count 0; they
   settle which mapping is the program's where there are several. A constant of a .ptd that a
   delegate has packed as well, as tied weights may be, must have no anchor while others have: a
   switch would reach one of its two copies. `shira inspect model.pte` names it.
   SHIRA_STATUS_BASE_MODIFIED: it was attached before and still shows an adapter; load the program
   again. */
SHIRA_API shira_status shira_program_attach_file(shira_program* program, const char* path,
                                                 const shira_anchor* anchors, size_t anchor_count,
                                                 shira_error* error);

/* From now on only adapters of files that this Ed25519 key (SHIRA_PUBLIC_KEY_BYTES bytes) has
   signed can be added; fails when one that was added is not. SHIRA_STATUS_NOT_SIGNED, _WRONG_KEY,
   _DIGEST_MISMATCH, _BAD_SIGNATURE, _NO_CRYPTOGRAPHY. */
SHIRA_API shira_status shira_program_require_signature(shira_program* program,
                                                       const uint8_t* public_key,
                                                       shira_error* error);

/* Accept an adapter without fingerprints. */
#define SHIRA_ALLOW_UNVERIFIED_BASE 1u
/* Accept tensors that the program does not have; at least one must match. */
#define SHIRA_ALLOW_PARTIAL 2u

/* `name` NULL: the name in the file. */
SHIRA_API shira_status shira_program_add_adapter(shira_program* program,
                                                 const shira_adapter* adapter, const char* name,
                                                 uint32_t flags, shira_error* error);
SHIRA_API shira_status shira_program_remove_adapter(shira_program* program, const char* name,
                                                    shira_error* error);

typedef struct shira_member {
  const char* name;
  float scale;
} shira_member;

typedef struct shira_switch_report {
  size_t struct_bytes;
  uint64_t tensors_matched;
  uint64_t elements_written;
  uint64_t elements_changed;
  uint64_t bytes_written;
  uint64_t pages_touched;
  uint64_t wait_ns;
  uint64_t check_ns;
  uint64_t plan_ns;
  uint64_t pages_ns;
  uint64_t store_ns;
  uint64_t total_ns;
  uint64_t epoch;
  uint64_t source_read_bytes; /* base values read again from files (SHIRA_ORIGINALS_FILE) */
  uint64_t source_cold_bytes; /* of them, not in the page cache beforehand */
} shira_switch_report;

/* Makes exactly these adapters active; count 0 is the base. Waits for forwards in flight. `report`
   may be NULL. */
SHIRA_API shira_status shira_program_switch(shira_program* program, const shira_member* members,
                                            size_t member_count, shira_switch_report* report,
                                            shira_error* error);
/* The same, but SHIRA_STATUS_BUSY instead of waiting. */
SHIRA_API shira_status shira_program_try_switch(shira_program* program, const shira_member* members,
                                                size_t member_count, shira_switch_report* report,
                                                shira_error* error);
/* Back to the base by dropping the private pages of attached files. */
SHIRA_API shira_status shira_program_hard_revert(shira_program* program,
                                                 shira_switch_report* report, shira_error* error);
/* SHIRA_STATUS_BASE_MODIFIED names the first tensor that differs from its source outside the active
   adapters' entries. */
SHIRA_API shira_status shira_program_verify_base(shira_program* program, shira_error* error);

typedef struct shira_program_state {
  size_t struct_bytes;
  uint64_t epoch;     /* grows by one exactly when weights change */
  uint8_t digest[16]; /* equal exactly when the weights are equal: a key for KV and prompt caches */
  uint32_t active_count;
} shira_program_state;
SHIRA_API shira_status shira_program_get_state(shira_program* program, shira_program_state* state,
                                               shira_error* error);

/* ---- pages of attached files, which are copied on write ---- */

typedef enum shira_first_touch {
  SHIRA_FIRST_TOUCH_AUTO = 0,     /* huge pages where nearly every page is needed, else populate */
  SHIRA_FIRST_TOUCH_POPULATE = 1, /* the kernel copies the pages that are needed */
  SHIRA_FIRST_TOUCH_HUGE = 2,     /* a copy in huge pages wherever one of its pages is needed */
  SHIRA_FIRST_TOUCH_FORCE_32_BIT = 0x7fffffff
} shira_first_touch;

typedef enum shira_originals {
  SHIRA_ORIGINALS_MEMORY = 0, /* base values under adapters are saved and kept */
  SHIRA_ORIGINALS_FILE = 1,   /* they are read again from the attached file when needed */
  SHIRA_ORIGINALS_FORCE_32_BIT = 0x7fffffff
} shira_originals;

typedef struct shira_program_options {
  size_t struct_bytes;
  uint64_t max_dirty_bytes; /* 0: no limit; else a switch that needs more private memory is refused
                               with SHIRA_STATUS_DIRTY_LIMIT before anything is touched */
  shira_first_touch first_touch;
  shira_originals originals;
} shira_program_options;
/* From now on. SHIRA_STATUS_NOT_SUPPORTED: huge pages where the system has none, originals in a
   file for memory without one. */
SHIRA_API shira_status shira_program_set_options(shira_program* program,
                                                 const shira_program_options* options,
                                                 shira_error* error);

typedef struct shira_adapter_pages {
  size_t struct_bytes;
  uint64_t page_bytes;   /* of the system */
  uint64_t page_count;   /* with an entry of the adapter: switching to it makes them private */
  uint64_t tensor_pages; /* of the tensors it touches */
} shira_adapter_pages;
SHIRA_API shira_status shira_program_get_adapter_pages(shira_program* program, const char* name,
                                                       shira_adapter_pages* pages,
                                                       shira_error* error);

typedef struct shira_program_memory {
  size_t struct_bytes;
  uint64_t mapped_bytes;      /* of the attached files' mappings */
  uint64_t private_bytes;     /* of them, this process's own copies, as the kernel counts them */
  uint64_t huge_bytes;        /* of them, in copies that were made in huge pages */
  uint64_t originals_bytes;   /* saved base values */
  uint64_t source_read_bytes; /* since the program was made: base values read again from files */
  uint64_t source_cold_bytes; /* of them, not in the page cache beforehand */
} shira_program_memory;
/* Asks the kernel about every page: for reports. */
SHIRA_API shira_status shira_program_get_memory(shira_program* program,
                                                shira_program_memory* memory, shira_error* error);
/* Gives private pages back whose bytes are those of the file, as after a switch to the base. No
   weight changes. `released_bytes` may be NULL. */
SHIRA_API shira_status shira_program_release_pages(shira_program* program, uint64_t* released_bytes,
                                                   shira_error* error);

/* 1 to 64 threads for checks and stores; never changes a result. */
SHIRA_API shira_status shira_program_set_threads(shira_program* program, uint32_t count,
                                                 shira_error* error);

/* Call around every forward pass, so that no weight changes under it; the two may come from
   different threads. Between its own begin and end a thread must not call shira_program_switch,
   _hard_revert, _add_tensor or _attach_file, which would wait for it for ever, nor _verify_base,
   _add_adapter, _remove_adapter or another begin, which would as soon as another thread waits to
   switch.
   shira_program_try_switch answers SHIRA_STATUS_BUSY instead. */
SHIRA_API shira_status shira_program_begin_forward(shira_program* program, shira_error* error);
SHIRA_API shira_status shira_program_end_forward(shira_program* program, shira_error* error);

#ifdef __cplusplus
}
#endif

#endif /* SHIRA_SHIRA_H_ */
