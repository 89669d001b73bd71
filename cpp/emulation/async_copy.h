// cp.async as the PTX ISA promises it and no better: the target holds NaN from the copy until the
// wait that covers its group, and only then the data. Copies still under way when a thread exits are
// an error, as are addresses that are not multiples of the size or a target outside shared memory.
#pragma once

namespace transnext::emulation {

void copy_async(void* shared, const void* global, int bytes, bool valid);
void commit_copies();
void wait_copies(int groups_left);

// For the running block: at its start, and where one of its threads exits.
void forget_copies();
void check_no_copies_pending(unsigned thread);

}  // namespace transnext::emulation
