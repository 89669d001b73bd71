#include "emulation/tensor_core.h"

#include <cstdint>
#include <cstring>

#include "emulation/block.h"
#include "emulation/shared_memory.h"

namespace transnext::emulation {
namespace {

struct Operands {
  float d[4];
  unsigned a[4];
  unsigned b[2];
};

Operands operands_of(const Deposit& deposit) {
  Operands operands;
  std::memcpy(&operands, deposit.bytes, sizeof operands);
  return operands;
}

float value_of(Half x) {
  return half_to_float(x);
}
float value_of(BFloat16 x) {
  return bfloat16_to_float(x);
}

// Element 0 (low half) or 1 of a register.
template <class T>
double element(unsigned pair, int which) {
  return value_of(T{static_cast<unsigned short>(pair >> (16 * which))});
}

// Adds the products of all lanes' operands to each lane's d.
template <int kDepth>
void add_products(const double (&a)[16][kDepth], const double (&b)[kDepth][8],
                  const Deposit (&in)[kWarp], Deposit (&out)[kWarp]) {
  for (int lane = 0; lane < kWarp; ++lane) {
    Operands operands = operands_of(in[lane]);
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8;
      const int column = lane % 4 * 2 + i % 2;
      double sum = operands.d[i];
      for (int k = 0; k < kDepth; ++k) sum += a[row][k] * b[k][column];
      operands.d[i] = static_cast<float>(sum);
    }
    std::memcpy(out[lane].bytes, operands.d, sizeof operands.d);
  }
}

template <class T, int kDepth>
void multiply(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned) {
  double a[16][kDepth];
  double b[kDepth][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const Operands operands = operands_of(in[lane]);
    const int group = lane / 4;
    const int pair = lane % 4 * 2;
    for (int i = 0; i < kDepth / 4; ++i)
      for (int j = 0; j < 2; ++j)
        a[group + i % 2 * 8][pair + i / 2 * 8 + j] = element<T>(operands.a[i], j);
    for (int i = 0; i < kDepth / 8; ++i)
      for (int j = 0; j < 2; ++j) b[pair + i * 8 + j][group] = element<T>(operands.b[i], j);
  }
  add_products(a, b, in, out);
}

void multiply_tensor_floats(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned) {
  constexpr int kDepth = 8;
  const auto value = [](unsigned bits) -> double { return bits_to_float(bits & 0xffffe000u); };
  double a[16][kDepth];
  double b[kDepth][8];
  for (int lane = 0; lane < kWarp; ++lane) {
    const Operands operands = operands_of(in[lane]);
    const int group = lane / 4;
    const int c = lane % 4;
    for (int i = 0; i < 4; ++i) a[group + i % 2 * 8][c + i / 2 * 4] = value(operands.a[i]);
    for (int i = 0; i < 2; ++i) b[c + i * 4][group] = value(operands.b[i]);
  }
  add_products(a, b, in, out);
}

template <int kMatrices, bool kTransposed>
void load(const Deposit (&in)[kWarp], Deposit (&out)[kWarp], unsigned) {
  for (int matrix = 0; matrix < kMatrices; ++matrix) {
    unsigned short elements[8][8];
    for (int row = 0; row < 8; ++row) {
      const void* address;
      std::memcpy(&address, in[matrix * 8 + row].bytes, sizeof address);
      if (!is_shared(address, 16))
        fail("ldmatrix: row %d of matrix %d is not in shared memory", row, matrix);
      if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0)
        fail("ldmatrix: row %d of matrix %d is not a multiple of 16 bytes", row, matrix);
      std::memcpy(elements[row], address, 16);
    }
    for (int lane = 0; lane < kWarp; ++lane) {
      const int r = lane / 4;
      const int c = lane % 4 * 2;
      const unsigned first = kTransposed ? elements[c][r] : elements[r][c];
      const unsigned second = kTransposed ? elements[c + 1][r] : elements[r][c + 1];
      const unsigned pair = first | second << 16;
      std::memcpy(out[lane].bytes + 4 * matrix, &pair, sizeof pair);
    }
  }
}

}  // namespace

template <class T>
void mma(float (&d)[4], const unsigned* a, const unsigned* b, int depth) {
  Operands operands{};
  std::memcpy(operands.d, d, sizeof d);
  std::memcpy(operands.a, a, static_cast<std::size_t>(depth));
  std::memcpy(operands.b, b, static_cast<std::size_t>(depth) / 2);
  const Combine combine = depth == 8 ? multiply<T, 8> : multiply<T, 16>;
  warp_operation({"mma", 0}, kAllLanes, combine, &operands, sizeof operands, d, sizeof d);
}

template void mma<Half>(float (&)[4], const unsigned*, const unsigned*, int);
template void mma<BFloat16>(float (&)[4], const unsigned*, const unsigned*, int);

void mma_tensor_float(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  Operands operands{};
  std::memcpy(operands.d, d, sizeof d);
  std::memcpy(operands.a, a, sizeof a);
  std::memcpy(operands.b, b, sizeof b);
  warp_operation({"mma", 1}, kAllLanes, multiply_tensor_floats, &operands, sizeof operands, d,
                 sizeof d);
}

void ldmatrix(unsigned* r, int matrices, const void* shared_row, bool transposed) {
  const Combine combine = matrices == 1   ? (transposed ? load<1, true> : load<1, false>)
                          : matrices == 2 ? (transposed ? load<2, true> : load<2, false>)
                                          : (transposed ? load<4, true> : load<4, false>);
  warp_operation({"ldmatrix", 0}, kAllLanes, combine, &shared_row, sizeof shared_row, r,
                 4 * matrices);
}

}  // namespace transnext::emulation
