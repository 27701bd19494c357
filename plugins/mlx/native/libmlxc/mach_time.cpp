// Darwin's coarse clock, which mlx-rs reads to seed its default random key.
#include <cstdint>
#include <ctime>

extern "C" std::uint64_t mach_approximate_time() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::uint64_t(now.tv_sec) * 1'000'000'000u + std::uint64_t(now.tv_nsec);
}
