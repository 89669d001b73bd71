#include "emulation/warp.h"

namespace transnext::emulation {

void shuffle_combine(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned mask) {
  for (int lane = 0; lane < kWarp; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Shuffled own;
    std::memcpy(&own, in[lane].bytes, sizeof own);
    if (own.source < 0 || own.source >= kWarp || !(mask >> own.source & 1))
      fail("shuffle: lane %d reads lane %d, which the mask %#x does not name", lane, own.source,
           mask);
    std::memcpy(out[lane].bytes, in[own.source].bytes, sizeof own.bits);
  }
}

void ballot_combine(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned mask) {
  unsigned lanes = 0;
  for (int lane = 0; lane < kWarp; ++lane) {
    int value = 0;
    if (mask >> lane & 1) std::memcpy(&value, in[lane].bytes, sizeof value);
    lanes |= static_cast<unsigned>(value != 0) << lane;
  }
  for (Deposit& result : out) std::memcpy(result.bytes, &lanes, sizeof lanes);
}

void nothing_combine(const Deposit (&)[kWarp], Deposit (&)[kWarp], unsigned) {}

}  // namespace transnext::emulation
