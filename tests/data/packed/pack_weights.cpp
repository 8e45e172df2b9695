// pack_weights MODEL.pte CACHE: lets ExecuTorch pack a program's weights into the file CACHE.
// SPDX-License-Identifier: Apache-2.0
#include <executorch/extension/module/module.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/backend/options.h>

#include <cstdio>

using executorch::runtime::BackendOptions;
using executorch::runtime::Error;
using executorch::runtime::LoadBackendOptionsMap;

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: pack_weights MODEL.pte CACHE\n");
    return 2;
  }
  BackendOptions<2> options;
  LoadBackendOptionsMap backends;
  executorch::extension::Module module(argv[1]);
  const bool loaded = options.set_option("weight_cache_enabled", true) == Error::Ok &&
                      options.set_option("packed_cache_path", argv[2]) == Error::Ok &&
                      backends.set_options("XnnpackBackend", options.view()) == Error::Ok &&
                      module.load(backends) == Error::Ok &&
                      module.load_method("forward") == Error::Ok;
  if (!loaded) std::fprintf(stderr, "%s could not be loaded\n", argv[1]);
  return loaded ? 0 : 1;
}
