// cp.async with only the guarantees of the PTX ISA: the target holds NaN from the copy until the
// wait that covers its group, and the data from then on. Copies that are pending when a thread
// exits are an error, as are addresses that are not multiples of the size or a target outside
// shared memory.
#pragma once

namespace transnext::emulation {

void copy_async(void* shared, const void* global, int bytes, bool valid);
void commit_copies();
void wait_copies(int groups_left);

// Called at the start of a block, and when one of its threads exits.
void forget_copies();
void check_no_copies_pending(unsigned thread);

}  // namespace transnext::emulation
