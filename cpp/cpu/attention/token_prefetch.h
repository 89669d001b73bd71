// Prefetches tokens into the second-level cache during the work on others.
//
// Heads are interleaved in memory: at head dim 24 each head has 96 bytes per token, a pattern that
// no hardware prefetcher follows. So the rows that the next work item will load are prefetched a
// few at a time between the steps of the current one, and so are the rows that it will store, since
// a store waits for its cache line too. A core has buffers for about 20 outstanding misses: further
// prefetches would be dropped or stall it.
#pragma once

#include "cpu/attention/tokens.h"
#include "cpu/attention/work_items.h"

TRANSNEXT_BEGIN_LEVEL

// Prefetches the cache lines of a range of bytes.
inline void prefetch_lines(const char* begin, index_t bytes) {
  constexpr unsigned long kLine = 64;
  const auto first = reinterpret_cast<unsigned long>(begin) / kLine * kLine;
  const char* const end = begin + bytes;
  for (auto line = reinterpret_cast<const char*>(first); line < end; line += kLine)
    __builtin_prefetch(line, 0, 2);
}

class TokenPrefetch {
 public:
  // Starts over, for the tokens of `next` in an image of `tokens` tokens.
  void start(const HeadWorkItem& next, index_t tokens) {
    next_ = next;
    tokens_ = tokens;
    ranges_used_ = 0;
    current_ = 0;
    rows_ = 0;
  }

  // Adds a tensor's tokens, with `reach` more on both sides. Tensors without contiguous channels
  // are skipped.
  void add(const View<4>& tensor, index_t reach) {
    add_rows(tensor, larger(next_.first - reach, 0), smaller(next_.end() + reach, tokens_));
  }

  // Adds all pooled tokens unless there are more of them than of the item's own tokens: computing
  // with them then takes far longer than loading them.
  void add_pooled(const View<4>& tensor) {
    if (tensor.shape[1] <= next_.count) add_rows(tensor, 0, tensor.shape[1]);
  }

  // Spreads the rows over the calls of advance() during `blocks` blocks.
  void spread(index_t blocks, index_t steps_of_block) {
    const index_t steps = steps_of_block * blocks;
    rows_of_step_ = (rows_ + steps - 1) / steps;
  }

  // Prefetches the next rows.
  void advance() {
    index_t rows = rows_of_step_;
    while (rows > 0 && current_ < ranges_used_) {
      Range& range = ranges_[current_];
      const index_t now = smaller(rows, range.rows);
      for (index_t row = 0; row < now; ++row, range.next += range.stride)
        prefetch_lines(range.next, range.bytes);
      range.rows -= now;
      rows -= now;
      if (range.rows == 0) ++current_;
    }
  }

 private:
  static constexpr int kMost = 12;  // q, k, v, out, pooled k and v, and their gradients

  struct Range {
    const char* next;
    index_t stride;  // bytes from row to row
    index_t bytes;   // of a row
    index_t rows;
  };

  void add_rows(const View<4>& tensor, index_t first, index_t end) {
    if (next_.count == 0 || !tensor.present() || tensor.stride[3] != 1) return;
    const TokenView view = token_major(tensor, next_.batch, next_.head);
    const index_t size = element_size(view.dtype);
    const index_t stride = view.token_stride * size;
    ranges_[ranges_used_++] = {static_cast<const char*>(view.data) + first * stride, stride,
                               view.channels * size, end - first};
    rows_ += end - first;
  }

  HeadWorkItem next_{};
  index_t tokens_ = 0;
  Range ranges_[kMost];
  int ranges_used_ = 0;
  int current_ = 0;
  index_t rows_ = 0;
  index_t rows_of_step_ = 0;
};

TRANSNEXT_END_LEVEL
