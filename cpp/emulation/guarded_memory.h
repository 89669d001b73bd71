// Copies of the call's tensors in memory that detects an access outside them.
//
// Each tensor's bytes lie between two guard areas, next to the one behind or the one before them.
// To preserve the address modulo 16, which kernels may rely on, there are up to 15 bytes of slack;
// they hold 0xff (NaN) and must still do so at the end. Inputs cannot be written. Tensors with
// common memory (slices of one packed output) are one region.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace transnext::emulation {

struct TensorRange {
  const char* name;
  unsigned char* begin;
  std::size_t bytes;
  bool output;
};

class GuardedMemory {
 public:
  GuardedMemory(const TensorRange* ranges, int count, bool against_end);
  ~GuardedMemory();
  GuardedMemory(const GuardedMemory&) = delete;
  GuardedMemory& operator=(const GuardedMemory&) = delete;

  // Replaces every pointer into a tensor in a parameter block by one into its copy.
  void translate(std::vector<unsigned char>& params) const;
  // Empty, or a description of a write between a tensor's end and the guard.
  std::string slack_error() const;
  // Writes the outputs back to the tensors.
  void copy_back() const;
  // Empty, or a description of what lies at the address.
  std::string describe(const void* address) const;

 private:
  struct Region {
    std::string name;
    unsigned char* original;
    std::size_t bytes;
    bool output;
    unsigned char* mapping;  // guard, pages, guard
    std::size_t pages;
    unsigned char* copy;
  };
  std::vector<Region> regions_;
};

}  // namespace transnext::emulation
