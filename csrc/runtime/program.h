// Program: live base weights, the adapters added to them, and the switch between them. The heart of
// the runtime. SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "base/signature.h"
#include "format/adapter_file.h"
#include "runtime/region.h"
#include "runtime/tensor_spec.h"

namespace shira {

/// One adapter of an active set.
struct Member {
  std::string name;
  float scale = 1.0F;
};

struct AddOptions {
  std::string name;                    // empty: the name in the file
  bool allow_unverified_base = false;  // accept an adapter without fingerprints
  bool allow_partial =
      false;  // accept tensors that the program does not have (at least one must match)
};

/// What one switch did (law I8). Times are wall-clock nanoseconds.
struct SwitchReport {
  uint64_t tensors_matched = 0;   // tensors written by the new state or restored from the old one
  uint64_t elements_written = 0;  // stores: restored originals and new values
  uint64_t elements_changed = 0;  // elements whose bits differ from before this switch
  uint64_t bytes_written = 0;
  uint64_t pages_touched = 0;  // distinct pages with a store, summed over tensors
  uint64_t wait_ns = 0;        // for the gate
  uint64_t check_ns = 0;       // regions still attached, originals known
  uint64_t plan_ns = 0;        // new values computed
  uint64_t pages_ns = 0;       // pages made private
  uint64_t store_ns = 0;       // base compared, originals saved, weights written
  uint64_t total_ns = 0;
  uint64_t epoch = 0;  // after the switch
  // Base values read again from files because they are not kept (Originals::file), and those of
  // them that were not in the page cache.
  uint64_t source_read_bytes = 0;
  uint64_t source_cold_bytes = 0;
};

/// The state at one moment: what an application keys its KV and prompt caches on.
struct ProgramState {
  uint64_t epoch = 0;
  Hash128 digest{};
  std::vector<Member> active;
};

/// One tensor that verify_base() found modified.
struct ModifiedTensor {
  std::string name;
  /// Of the first differing byte, where the source could be compared bytewise, among the elements
  /// as they would lie one behind the other; where only what lies beside them in memory is wrong,
  /// of that, from the tensor's data.
  uint64_t first_offset_bytes = kNoOffset;
  std::string adapter;  // intact, but not the base that this adapter was made for; empty otherwise
};

struct VerifyReport {
  uint64_t tensors_checked = 0;
  uint64_t bytes_checked = 0;
  std::vector<ModifiedTensor> modified;  // empty: the base is intact
};

/// The pages of one tensor that an adapter's entries lie on.
struct TensorPages {
  std::string tensor;
  uint64_t page_count = 0;
  uint64_t tensor_page_count = 0;  // all pages of the tensor
};

/// What switching to an adapter costs at most in private memory, where weights are copied on write:
/// each of these pages.
struct AdapterPages {
  uint64_t page_bytes = 0;
  std::vector<TensorPages> tensors;
};

/// What a program takes in memory beside the pages that it shares with its files.
struct ProgramMemory {
  uint64_t mapped_bytes = 0;     // of the attached files' mappings
  uint64_t private_bytes = 0;    // of them, this process's own copies, as the kernel counts them
  uint64_t huge_bytes = 0;       // of them, in copies that were made in huge pages
  uint64_t originals_bytes = 0;  // saved base values
  // Since the program was made: base values read again from files, and those of them that were not
  // in the page cache.
  uint64_t source_read_bytes = 0;
  uint64_t source_cold_bytes = 0;
};

/// Where the base values stay that lie under active adapters.
enum class Originals : uint8_t {
  memory,  // saved when they are replaced, and kept
  file     // let go after each switch, and read again from the attached file when they are needed
};

/// Thread-safe: every method may be called from any thread. Switches and forwards exclude each
/// other through the gate. Between its own begin_forward and end_forward a thread must not call
/// what passes the gate itself (switch_to without BUSY, hard_revert, check_adapter, verify_base,
/// add_tensor, read_tensor, add_adapter, remove_adapter): it would wait for itself.
class Program {
 public:
  Program();
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  /// Registers a live tensor and records its digest (for verify_base) unless its region has a
  /// source to compare with. DUPLICATE_NAME; SHARED_STORAGE when the bytes partly overlap another
  /// tensor (equal spans are recorded as shared); READ_ONLY, DETACHED from the region;
  /// INVALID_ARGUMENT (null, misaligned, empty); NOT_SUPPORTED while there are adapters.
  Result<void> add_tensor(TensorSpec spec);

  /// The same for many: all of them or none.
  Result<void> add_tensors(std::vector<TensorSpec> specs);

  /// In the order in which they were added.
  std::vector<TensorSpec> tensors() const;

  /// Copies a tensor's live elements, wherever they lie, one behind the other: `out` takes numel
  /// elements as adapter files have them. UNKNOWN_TENSOR, INVALID_ARGUMENT (another size),
  /// DETACHED, READ_ONLY.
  Result<void> read_tensor(const std::string& name, uint8_t* out, uint64_t size_bytes);

  /// Binds an adapter by exact tensor names; nothing is written. Derived masks are expanded; those
  /// of the largest base values are found by reading the base, with the active adapters looked
  /// through. UNKNOWN_TENSOR (also when none matches), SHAPE_MISMATCH, DTYPE_MISMATCH,
  /// SHARED_STORAGE, UNVERIFIED_BASE, DUPLICATE_NAME, DETACHED, READ_ONLY,
  /// OUT_OF_MEMORY, and what require_signature() demands. Returns the name it goes by.
  Result<std::string> add_adapter(const std::shared_ptr<const Adapter>& source,
                                  const AddOptions& options);

  /// From now on only adapters whose file passes AdapterFile::check_signature(key) are added. Fails
  /// with its error, and changes nothing, when one that was added does not pass. Another call
  /// replaces the key.
  Result<void> require_signature(const PublicKey& key);

  /// Forgets an adapter, and the saved originals of positions that no other adapter shares.
  /// ADAPTER_IN_USE while active, UNKNOWN_ADAPTER.
  Result<void> remove_adapter(const std::string& name);

  std::vector<std::string> adapter_names() const;

  /// Checks an adapter's fingerprints against the live base without writing: BASE_MISMATCH names
  /// the first wrong tensor.
  Result<void> check_adapter(const std::string& name);

  /// Makes exactly these adapters active (none: the base). Scale 0 members are dropped first. All
  /// or nothing (I2): every computation and allocation precedes the first store, and a base that
  /// turns out wrong while it is overwritten is put back byte by byte. Waits for forwards in
  /// flight; with `wait` false: BUSY instead. UNKNOWN_ADAPTER, INVALID_ARGUMENT (twice the same
  /// name, scale not finite), BASE_MISMATCH, NON_FINITE_RESULT, DIRTY_LIMIT, DETACHED, READ_ONLY,
  /// OUT_OF_MEMORY. Switching to the active state is a no-op that reports zeros.
  Result<SwitchReport> switch_to(const std::vector<Member>& members, bool wait = true);

  /// Back to the base by dropping private pages instead of storing originals, in every region that
  /// has a source. What others stored there goes too, so every tensor is compared with its source
  /// beforehand: it costs reading them all, and the epoch grows exactly when a weight changes.
  /// Bytes of these pages that are no tensor's do not count. NOT_SUPPORTED when no region, or a
  /// patched tensor's region, has no source; DETACHED, READ_ONLY, IO_ERROR, OUT_OF_MEMORY. When a
  /// region refuses after others were dropped, the active state is put back; the epoch then grows
  /// when that did not bring every byte back. The report counts no stores.
  Result<SwitchReport> hard_revert();

  /// Compares every tensor, with the active adapters' entries replaced by their originals, with its
  /// source file or with the digest taken when it was added, and with the base digests of the
  /// adapters. Finds patches made by anybody else, anywhere. DETACHED, IO_ERROR.
  Result<VerifyReport> verify_base();

  std::vector<Member> active() const;  // in the order of summation
  uint64_t epoch() const;              // grows by one exactly when weights change (I10)

  /// XXH3-128 over what differs from the base (tensor names, positions, values): equal exactly when
  /// the weights are equal. The base's digest is that of zero bytes of input.
  Hash128 digest() const;

  /// Epoch, digest and active adapters of the same moment.
  ProgramState state() const;

  // ---- Pages of attached files, which are copied on write ----

  /// Known before the first switch. Pages that two tensors share count for each. UNKNOWN_ADAPTER.
  Result<AdapterPages> adapter_pages(const std::string& name) const;

  /// Asks the kernel about every page, so it is for reports. IO_ERROR where the system does not
  /// tell; OUT_OF_MEMORY.
  Result<ProgramMemory> memory();

  /// Gives private pages back whose bytes are those of the file, as they are after a switch to the
  /// base or to an adapter with other entries; returns how many bytes. Weights and epoch stay as
  /// they are; a later switch has to make the pages private again. Reads every page that switches
  /// have made private, so it is for times when memory is short. Waits for forwards in flight.
  /// DETACHED, READ_ONLY, IO_ERROR, OUT_OF_MEMORY: some pages may have been given back.
  Result<uint64_t> release_pages();

  /// A switch after which more bytes than this would be private to the process, in pages of all
  /// attached files together, is refused (DIRTY_LIMIT) before anything is touched, unless it makes
  /// no more pages private than there are. 0: no limit, as at first. Memory that others own, and
  /// pages that others have stored to, do not count.
  void set_max_dirty_bytes(uint64_t limit_bytes);
  uint64_t max_dirty_bytes() const;

  /// How pages become private from now on; see FirstTouch. NOT_SUPPORTED: `huge` where the system
  /// has no huge pages; nothing changes then.
  Result<void> set_first_touch(FirstTouch first_touch);
  FirstTouch first_touch() const;

  /// With `file`, what a switch, a scale or a check needs of the base under active adapters is read
  /// from the attached file, whose state must be what it was (else DETACHED) and whose values must
  /// have the hash that they had (else BASE_MISMATCH); then nothing is changed, and the adapters
  /// stay. NOT_SUPPORTED where a tensor has no such file.
  Result<void> set_originals(Originals originals);
  Originals originals() const;

  /// Threads for checks and stores, 1 to 64 (default 1). Never changes a result.
  Result<void> set_thread_count(uint32_t count);
  uint32_t thread_count() const;

  /// The gate (I9): any number of forwards at a time, none during a switch. begin waits for a
  /// switch in flight or already waiting; begin and end may come from different threads. end
  /// without a begin is refused: false.
  void begin_forward();
  bool end_forward();

 private:
  struct State;
  struct OriginalsDropper;
  std::unique_ptr<State> state_;
};

}  // namespace shira
