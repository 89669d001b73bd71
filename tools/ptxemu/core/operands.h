// Operands of instructions as they are written, and the special registers.
#pragma once

#include <string>
#include <vector>

#include "matrix_handlers.h"

enum Coll : u8 { CO_SHFL, CO_VOTE, CO_MATCH, CO_REDUX, CO_BARWARP, CO_ELECT, CO_WARPOP };
struct Reg {
  u32 off = SINK;
  int size = 0;
  bool pred = false;
};
struct Opnd {
  char k = 0;
  Reg reg;
  bool bang = false, neg = false;
  Num num;
  std::vector<Opnd> v;
  std::string sym;
  i64 off = 0;
  int special = -1;
};
// k: r register, n number, m memory, v vector, s symbol, _ sink, x special register, | pair (v[0], v[1])

static const char* specNames[] = {"%tid.x",
                                  "%tid.y",
                                  "%tid.z",
                                  "%ntid.x",
                                  "%ntid.y",
                                  "%ntid.z",
                                  "%ctaid.x",
                                  "%ctaid.y",
                                  "%ctaid.z",
                                  "%nctaid.x",
                                  "%nctaid.y",
                                  "%nctaid.z",
                                  "%laneid",
                                  "%warpid",
                                  "%nwarpid",
                                  "%lanemask_eq",
                                  "%lanemask_lt",
                                  "%lanemask_le",
                                  "%lanemask_gt",
                                  "%lanemask_ge",
                                  "%smid",
                                  "%nsmid",
                                  "%gridid",
                                  "%dynamic_smem_size",
                                  "%total_smem_size",
                                  "%clusterid.x",
                                  "%clusterid.y",
                                  "%clusterid.z",
                                  "%nclusterid.x",
                                  "%nclusterid.y",
                                  "%nclusterid.z",
                                  "%cluster_ctaid.x",
                                  "%cluster_ctaid.y",
                                  "%cluster_ctaid.z",
                                  "%cluster_nctaid.x",
                                  "%cluster_nctaid.y",
                                  "%cluster_nctaid.z",
                                  "%cluster_ctarank",
                                  "%cluster_nctarank",
                                  "%clock",
                                  "%clock64",
                                  "%clock_hi",
                                  "%globaltimer",
                                  "%globaltimer_lo",
                                  "%globaltimer_hi",
                                  "%aggr_smem_size"};
enum { SPEC_CLOCK0 = 39, SPEC_CLOCK1 = 44 };
