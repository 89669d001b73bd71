// Thread block of sum_partials, shared by the kernel and the launch plans.
#pragma once

namespace transnext {

constexpr unsigned kPartialSumsLanes = 32;
constexpr unsigned kPartialSumsRows = 8;

}  // namespace transnext
