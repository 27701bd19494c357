// What becomes of buffers that nobody needs any more.
#include <algorithm>
#include <cstdlib>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "mlx/memory.h"
#include "primitive.h"

namespace mdt {

namespace mx = mlx::core;

void keep_buffers() {
  // On a CPU, MLX's limit is a share of the machine's memory, and by default it keeps 32 MiB of freed buffers: less than one step's, so
  // that every step maps, zeroes and unmaps its large ones.
  mx::set_cache_limit(mx::get_memory_limit() / 4);
#ifdef __GLIBC__
  // What is freed goes back to the system. By default the C library keeps what is below 32 MiB in heaps of its own, in pieces: an
  // update of LoRA with rows of many lengths took a quarter more than its buffers have.
  mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
}

void bound_buffers() {
  const size_t used = mx::get_active_memory(), peak = mx::get_peak_memory();
  if (used + mx::get_cache_memory() > peak / 2 * 3) {
    const size_t most = peak / 4 * 5;
    // MLX frees those first that nobody has taken for longest, once all that was dispatched has run.
    mx::set_cache_limit(mx::set_cache_limit(most - std::min(used, most)));
  }
}

} // namespace mdt
