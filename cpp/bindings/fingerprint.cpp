#include "transnext/fingerprint.h"

#include <algorithm>
#include <vector>

#include "bindings/call.h"
#include "bindings/operators.h"

namespace transnext::bindings {
namespace {

constexpr index_t kSpanBytes = 256 * 1024;  // of one task

// Hashes a tensor's metadata.
Hash layout_hash(Hash hash, const dlpack::Tensor& tensor) {
  hash = mixed(hash, tensor.dtype.code);
  hash = mixed(hash, tensor.dtype.bits);
  hash = mixed(hash, static_cast<Hash>(tensor.rank));
  for (int i = 0; i < tensor.rank; ++i) hash = mixed(hash, static_cast<Hash>(tensor.shape[i]));
  if (tensor.strides == nullptr) return hash;
  for (int i = 0; i < tensor.rank; ++i) hash = mixed(hash, static_cast<Hash>(tensor.strides[i]));
  return hash;
}

// The bytes from a tensor's first element to its last. Gaps between elements are hashed too: they
// belong to the same storage, and a change there only costs a needless repacking.
index_t extent_bytes(const dlpack::Tensor& tensor) {
  index_t last = 0;
  index_t elements = 1;
  for (int i = tensor.rank - 1; i >= 0; --i) {
    if (tensor.shape[i] == 0) return 0;
    const index_t stride = tensor.strides != nullptr ? tensor.strides[i] : elements;
    if (stride < 0) throw py::value_error("fingerprint: got a negative stride, needs none");
    last += (tensor.shape[i] - 1) * stride;
    elements *= tensor.shape[i];
  }
  return (last + 1) * tensor.dtype.bits * tensor.dtype.lanes / 8;
}

Hash fingerprint(const py::sequence& tensors, int threads) {
  std::vector<MemorySpan> spans;
  Hash number = 0;
  for (py::handle argument : tensors) {
    const BorrowedTensor borrowed = borrowed_tensor(argument, "fingerprint", "tensors");
    const dlpack::Tensor& tensor = borrowed.tensor;
    if (tensor.device.type != dlpack::kCpu) {
      throw py::value_error("fingerprint: got a tensor on DLPack device type " +
                            std::to_string(tensor.device.type) + ", needs the CPU (1)");
    }
    const Hash seed = mixed(layout_hash(++number, tensor), borrowed.negative ? 1 : 0);
    const char* data = static_cast<const char*>(tensor.data) + tensor.byte_offset;
    // A freed storage, as FSDP leaves between gathers, has nothing to read.
    const index_t bytes = tensor.data != nullptr ? extent_bytes(tensor) : 0;
    index_t at = 0;
    do {  // an empty tensor has one span too
      const index_t length = std::min(kSpanBytes, bytes - at);
      spans.push_back({data + at, length, mixed(seed, static_cast<Hash>(at))});
      at += length;
    } while (at < bytes);
  }
  std::vector<Hash> hashes(spans.size());
  {
    py::gil_scoped_release release;
    cpu::fingerprint({spans.data(), hashes.data(), static_cast<index_t>(spans.size())}, threads);
  }
  Hash hash = 0;
  for (const Hash part : hashes) hash = mixed(hash, part);
  return hash;
}

}  // namespace

void define_fingerprint(py::module_& m) {
  m.def("fingerprint", &fingerprint, py::arg("tensors"), py::arg("threads") = 1);
}

}  // namespace transnext::bindings
