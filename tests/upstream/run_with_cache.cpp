// run_with_cache MODEL.pte off|heap|PATH: one pass of a program's method "forward", with XNNPACK's
// weight cache off, in the heap or in the file PATH; prints the elements of the first output.
// SPDX-License-Identifier: Apache-2.0
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>

#include <cstdio>
#include <cstring>
#include <vector>

using executorch::runtime::BackendOptions;
using executorch::runtime::Error;
using executorch::runtime::LoadBackendOptionsMap;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: run_with_cache MODEL.pte off|heap|PATH\n");
    return 2;
  }
  const bool has_cache = std::strcmp(argv[2], "off") != 0;
  const char* const path = std::strcmp(argv[2], "heap") != 0 && has_cache ? argv[2] : "";
  BackendOptions<2> options;
  LoadBackendOptionsMap backends;
  executorch::extension::Module module(argv[1]);
  if (options.set_option("weight_cache_enabled", has_cache) != Error::Ok ||
      options.set_option("packed_cache_path", path) != Error::Ok ||
      backends.set_options("XnnpackBackend", options.view()) != Error::Ok ||
      module.load(backends) != Error::Ok || module.load_method("forward") != Error::Ok) {
    std::fprintf(stderr, "%s could not be loaded\n", argv[1]);
    return 1;
  }
  const auto meta = module.method_meta("forward");
  const auto sizes = meta->input_tensor_meta(0)->sizes();
  std::vector<executorch::aten::SizesType> shape(sizes.begin(), sizes.end());
  size_t count = 1;
  for (const auto size : shape) count *= static_cast<size_t>(size);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 7) - 3.0F;
  const auto input = executorch::extension::from_blob(values.data(), shape);
  const auto outputs = module.forward(input);
  if (!outputs.ok()) {
    std::fprintf(stderr, "the pass failed\n");
    return 1;
  }
  const auto& output = outputs->at(0).toTensor();
  for (ssize_t i = 0; i < output.numel(); ++i)
    std::printf("%.9g\n", static_cast<double>(output.const_data_ptr<float>()[i]));
  return 0;
}
