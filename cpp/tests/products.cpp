// `linear` of one instruction set against sums in double precision, on shapes that no tile divides:
// of run_kernels.cpp, what takes seconds to compile.
#include "tests/products.h"

#include <cstdio>
#include <string>

#include "tests/level.h"

int main() {
  if (!transnext::tests::may_run()) return 1;
  int failures = 0;
  transnext::tests::check_products([&](bool right, const std::string& what) {
    if (right) return;
    std::printf("FAILED: %s\n", what.c_str());
    ++failures;
  });
  std::printf("%s\n", failures == 0 ? "all products are right" : "failed");
  return failures == 0 ? 0 : 1;
}
