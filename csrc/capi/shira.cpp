// The C ABI of programs: converts arguments, structs and errors; holds no logic of its own.
// SPDX-License-Identifier: Apache-2.0
#include "shira/shira.h"

#include <algorithm>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attach/mapped_file.h"
#include "attach/raw_span.h"
#include "capi/convert.h"
#include "runtime/program.h"

namespace {

using namespace shira::capi;
using shira::Error;
using shira::Result;
using shira::Status;

shira_status give_report(const Result<shira::SwitchReport>& result, shira_switch_report* out,
                         shira_error* error) {
  if (!result.ok()) return fail(result.error(), error);
  if (out != nullptr) {
    const shira::SwitchReport& report = result.value();
    shira_switch_report known{};
    known.tensors_matched = report.tensors_matched;
    known.elements_written = report.elements_written;
    known.elements_changed = report.elements_changed;
    known.bytes_written = report.bytes_written;
    known.pages_touched = report.pages_touched;
    known.wait_ns = report.wait_ns;
    known.check_ns = report.check_ns;
    known.plan_ns = report.plan_ns;
    known.pages_ns = report.pages_ns;
    known.store_ns = report.store_ns;
    known.total_ns = report.total_ns;
    known.epoch = report.epoch;
    known.source_read_bytes = report.source_read_bytes;
    known.source_cold_bytes = report.source_cold_bytes;
    copy_struct(known, out);
  }
  return succeed(error);
}

shira_status switch_program(shira_program* program, const shira_member* members,
                            size_t member_count, bool wait, shira_switch_report* report,
                            shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  if (members == nullptr && member_count > 0) return invalid("members is NULL", error);
  if (report != nullptr && !fits(report))
    return invalid("report->struct_bytes is not the size of the struct", error);
  std::vector<shira::Member> next;
  for (size_t i = 0; i < member_count; ++i) {
    if (members[i].name == nullptr) return invalid("a member's name is NULL", error);
    next.push_back(shira::Member{members[i].name, members[i].scale});
  }
  return give_report(program->program.switch_to(next, wait), report, error);
}

}  // namespace

uint32_t shira_abi_version(void) { return SHIRA_ABI_VERSION; }

const char* shira_status_name(shira_status status) {
  return shira::status_name(static_cast<Status>(status));
}

const char* shira_status_text(shira_status status) {
  return shira::status_text(static_cast<Status>(status));
}

// ---- programs ----

shira_status shira_program_create(shira_program** program, shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  return give(new (std::nothrow) shira_program, program, error);
}

void shira_program_free(shira_program* program) { delete program; }

shira_status shira_program_add_tensor(shira_program* program, const char* name, shira_dtype dtype,
                                      uint32_t rank, const uint32_t* dims, void* data,
                                      shira_error* error) {
  if (program == nullptr || name == nullptr || data == nullptr || (dims == nullptr && rank > 0)) {
    return invalid("program, name, dims or data is NULL", error);
  }
  const auto dtype_number = static_cast<uint32_t>(dtype);
  if (dtype_number > UINT8_MAX || !shira::is_dtype(static_cast<uint8_t>(dtype_number))) {
    return invalid("dtype is not a shira_dtype", error);
  }
  if (rank > shira::kMaxRank) return invalid("rank is greater than 8", error);
  shira::TensorSpec spec;
  spec.name = name;
  spec.dtype = static_cast<shira::Dtype>(dtype_number);
  spec.dims.assign(dims, dims + rank);
  spec.data = static_cast<uint8_t*>(data);
  spec.region = shira::make_raw_region();
  return finish(program->program.add_tensor(std::move(spec)), error);
}

shira_status shira_program_attach_file(shira_program* program, const char* path,
                                       const shira_anchor* anchors, size_t anchor_count,
                                       shira_error* error) {
  if (program == nullptr || path == nullptr) return invalid("program or path is NULL", error);
  if (anchors == nullptr && anchor_count > 0) return invalid("anchors is NULL", error);
  std::vector<shira::Anchor> wanted;
  for (size_t i = 0; i < anchor_count; ++i) {
    if (anchors[i].name == nullptr) return invalid("an anchor's name is NULL", error);
    wanted.push_back(
        shira::Anchor{anchors[i].name, reinterpret_cast<uintptr_t>(anchors[i].address)});
  }
  Result<std::vector<shira::TensorSpec>> specs = shira::attach_mapped_file(path, wanted);
  if (!specs.ok()) return fail(specs.error(), error);
  return finish(program->program.add_tensors(std::move(specs.value())), error);
}

shira_status shira_program_require_signature(shira_program* program, const uint8_t* public_key,
                                             shira_error* error) {
  if (program == nullptr || public_key == nullptr)
    return invalid("program or public_key is NULL", error);
  return finish(program->program.require_signature(to_key(public_key)), error);
}

shira_status shira_program_add_adapter(shira_program* program, const shira_adapter* adapter,
                                       const char* name, uint32_t flags, shira_error* error) {
  if (program == nullptr || adapter == nullptr) return invalid("program or adapter is NULL", error);
  if ((flags & ~(SHIRA_ALLOW_UNVERIFIED_BASE | SHIRA_ALLOW_PARTIAL)) != 0)
    return invalid("unknown flags", error);
  shira::AddOptions options;
  options.name = name == nullptr ? "" : name;
  options.allow_unverified_base = (flags & SHIRA_ALLOW_UNVERIFIED_BASE) != 0;
  options.allow_partial = (flags & SHIRA_ALLOW_PARTIAL) != 0;
  return finish(program->program.add_adapter(adapter->adapter, options), error);
}

shira_status shira_program_remove_adapter(shira_program* program, const char* name,
                                          shira_error* error) {
  if (program == nullptr || name == nullptr) return invalid("program or name is NULL", error);
  return finish(program->program.remove_adapter(name), error);
}

shira_status shira_program_switch(shira_program* program, const shira_member* members,
                                  size_t member_count, shira_switch_report* report,
                                  shira_error* error) {
  return switch_program(program, members, member_count, true, report, error);
}

shira_status shira_program_try_switch(shira_program* program, const shira_member* members,
                                      size_t member_count, shira_switch_report* report,
                                      shira_error* error) {
  return switch_program(program, members, member_count, false, report, error);
}

shira_status shira_program_hard_revert(shira_program* program, shira_switch_report* report,
                                       shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  if (report != nullptr && !fits(report))
    return invalid("report->struct_bytes is not the size of the struct", error);
  return give_report(program->program.hard_revert(), report, error);
}

shira_status shira_program_verify_base(shira_program* program, shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  const Result<shira::VerifyReport> result = program->program.verify_base();
  if (!result.ok()) return fail(result.error(), error);
  const shira::VerifyReport& report = result.value();
  if (report.modified.empty()) return succeed(error);
  const shira::ModifiedTensor& first = report.modified.front();
  std::set<std::string_view> names;  // an entry for each adapter that disagrees names its tensor
  for (const shira::ModifiedTensor& tensor : report.modified) names.insert(tensor.name);
  std::string message = std::to_string(names.size()) + " of " +
                        std::to_string(report.tensors_checked) +
                        " tensors differ from their source; the first is " + first.name;
  if (!first.adapter.empty())
    message += ", which is not the base that adapter \"" + first.adapter + "\" was made for";
  if (first.first_offset_bytes != shira::kNoOffset) {
    message += ", from its byte " + std::to_string(first.first_offset_bytes) + " on";
  }
  return fail(Error{Status::BASE_MODIFIED, std::move(message), {}, first.name}, error);
}

shira_status shira_program_get_state(shira_program* program, shira_program_state* state,
                                     shira_error* error) {
  if (program == nullptr || state == nullptr) return invalid("program or state is NULL", error);
  if (!fits(state)) return invalid("state->struct_bytes is not the size of the struct", error);
  const shira::ProgramState now = program->program.state();
  shira_program_state known{};
  known.epoch = now.epoch;
  std::copy(now.digest.begin(), now.digest.end(), known.digest);
  known.active_count = static_cast<uint32_t>(now.active.size());
  copy_struct(known, state);
  return succeed(error);
}

shira_status shira_program_set_options(shira_program* program, const shira_program_options* options,
                                       shira_error* error) {
  if (program == nullptr || options == nullptr) return invalid("program or options is NULL", error);
  if (!fits(options)) return invalid("options->struct_bytes is not the size of the struct", error);
  if (!is_understood(options))
    return invalid("an option is set that this library does not know", error);
  const auto first_touch = static_cast<uint32_t>(options->first_touch);
  if (first_touch > SHIRA_FIRST_TOUCH_HUGE)
    return invalid("first_touch is not a shira_first_touch", error);
  const auto originals = static_cast<uint32_t>(options->originals);
  if (originals > SHIRA_ORIGINALS_FILE) return invalid("originals is not a shira_originals", error);
  const shira::FirstTouch old_first_touch = program->program.first_touch();
  Result<void> set = program->program.set_first_touch(static_cast<shira::FirstTouch>(first_touch));
  if (!set.ok()) return fail(set.error(), error);
  set = program->program.set_originals(static_cast<shira::Originals>(originals));
  if (!set.ok()) {
    static_cast<void>(program->program.set_first_touch(old_first_touch));
    return fail(set.error(), error);
  }
  program->program.set_max_dirty_bytes(options->max_dirty_bytes);
  return succeed(error);
}

shira_status shira_program_get_adapter_pages(shira_program* program, const char* name,
                                             shira_adapter_pages* pages, shira_error* error) {
  if (program == nullptr || name == nullptr || pages == nullptr)
    return invalid("program, name or pages is NULL", error);
  if (!fits(pages)) return invalid("pages->struct_bytes is not the size of the struct", error);
  const Result<shira::AdapterPages> result = program->program.adapter_pages(name);
  if (!result.ok()) return fail(result.error(), error);
  shira_adapter_pages known{};
  known.page_bytes = result.value().page_bytes;
  for (const shira::TensorPages& tensor : result.value().tensors) {
    known.page_count += tensor.page_count;
    known.tensor_pages += tensor.tensor_page_count;
  }
  copy_struct(known, pages);
  return succeed(error);
}

shira_status shira_program_get_memory(shira_program* program, shira_program_memory* memory,
                                      shira_error* error) {
  if (program == nullptr || memory == nullptr) return invalid("program or memory is NULL", error);
  if (!fits(memory)) return invalid("memory->struct_bytes is not the size of the struct", error);
  const Result<shira::ProgramMemory> result = program->program.memory();
  if (!result.ok()) return fail(result.error(), error);
  shira_program_memory known{};
  known.mapped_bytes = result.value().mapped_bytes;
  known.private_bytes = result.value().private_bytes;
  known.huge_bytes = result.value().huge_bytes;
  known.originals_bytes = result.value().originals_bytes;
  known.source_read_bytes = result.value().source_read_bytes;
  known.source_cold_bytes = result.value().source_cold_bytes;
  copy_struct(known, memory);
  return succeed(error);
}

shira_status shira_program_release_pages(shira_program* program, uint64_t* released_bytes,
                                         shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  const Result<uint64_t> released = program->program.release_pages();
  if (!released.ok()) return fail(released.error(), error);
  if (released_bytes != nullptr) *released_bytes = released.value();
  return succeed(error);
}

shira_status shira_program_set_threads(shira_program* program, uint32_t count, shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  return finish(program->program.set_thread_count(count), error);
}

shira_status shira_program_begin_forward(shira_program* program, shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  program->program.begin_forward();
  return succeed(error);
}

shira_status shira_program_end_forward(shira_program* program, shira_error* error) {
  if (program == nullptr) return invalid("program is NULL", error);
  if (!program->program.end_forward()) return invalid("no forward pass is in flight", error);
  return succeed(error);
}
