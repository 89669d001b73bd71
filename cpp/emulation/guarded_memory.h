// The call's tensors, copied to where an access outside them is noticed.
//
// Each tensor's bytes go between two guard areas, against the one behind or the one before them. To
// keep the address modulo 16, on which kernels may build, up to 15 bytes of slack are left; they
// hold 0xff (NaN) and must still do so at the end. Tensors that only go in cannot be written.
// Tensors that share memory (slices of one packed output) are one region.
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

  // Replaces every pointer into a tensor in a parameter block by the one to its copy.
  void translate(std::vector<unsigned char>& params) const;
  // Empty, or how a kernel wrote between a tensor's end and the guard.
  std::string slack_error() const;
  // Writes the outputs back to the tensors.
  void copy_back() const;
  // Empty, or what is at the address, in words.
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
