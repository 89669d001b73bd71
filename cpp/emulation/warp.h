// Shuffles and votes. Every lane deposits its value and the lane it reads; a source lane outside
// the mask is an error, since CUDA leaves its value undefined.
#pragma once

#include <cstring>

#include "emulation/block.h"

namespace transnext::emulation {

struct Shuffled {
  unsigned long long bits;
  int source;  // lane
};

// Returns to each lane of the mask its source's bits.
void shuffle_combine(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned mask);
// Returns to each lane of the mask the lanes whose value was not 0.
void ballot_combine(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned mask);
void nothing_combine(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned mask);

template <class T>
T shuffle(const Site& site, unsigned mask, T value, int source) {
  static_assert(sizeof(T) <= 8);
  Shuffled own{0, source};
  std::memcpy(&own.bits, &value, sizeof value);
  warp_operation(site, mask, shuffle_combine, &own, sizeof own, &value, sizeof value);
  return value;
}

inline int lane_number() {
  return static_cast<int>(thread_number() % kWarp);
}

inline unsigned ballot(const Site& site, unsigned mask, int value) {
  unsigned lanes;
  warp_operation(site, mask, ballot_combine, &value, sizeof value, &lanes, sizeof lanes);
  return lanes;
}

}  // namespace transnext::emulation

inline void __syncwarp(unsigned mask = 0xffffffffu, int line = __builtin_LINE()) {
  transnext::emulation::warp_operation({"__syncwarp", line}, mask,
                                       transnext::emulation::nothing_combine, &mask, 0, &mask, 0);
}

// `width` lanes, a power of two, shuffle among themselves; a lane whose source lies beyond them
// keeps its own value.
template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32,
                     int line = __builtin_LINE()) {
  const int first = transnext::emulation::lane_number() / width * width;
  return transnext::emulation::shuffle({"__shfl_sync", line}, mask, value,
                                       first + (source & (width - 1)));
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32,
                         int line = __builtin_LINE()) {
  const int lane = transnext::emulation::lane_number();
  const int source = lane ^ lanes;
  const int end = lane / width * width + width;
  return transnext::emulation::shuffle({"__shfl_xor_sync", line}, mask, value,
                                       source < end ? source : lane);
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                        int line = __builtin_LINE()) {
  const int lane = transnext::emulation::lane_number();
  const int source = lane - static_cast<int>(lanes);
  return transnext::emulation::shuffle({"__shfl_up_sync", line}, mask, value,
                                       source >= lane / width * width ? source : lane);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32,
                          int line = __builtin_LINE()) {
  const int lane = transnext::emulation::lane_number();
  const int source = lane + static_cast<int>(lanes);
  return transnext::emulation::shuffle({"__shfl_down_sync", line}, mask, value,
                                       source < lane / width * width + width ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int value, int line = __builtin_LINE()) {
  return transnext::emulation::ballot({"__ballot_sync", line}, mask, value);
}
inline int __any_sync(unsigned mask, int value, int line = __builtin_LINE()) {
  return transnext::emulation::ballot({"__any_sync", line}, mask, value) != 0;
}
inline int __all_sync(unsigned mask, int value, int line = __builtin_LINE()) {
  return transnext::emulation::ballot({"__all_sync", line}, mask, value) == mask;
}
