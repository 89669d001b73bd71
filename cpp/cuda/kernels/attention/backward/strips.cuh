// aggregated_attention backward of 16-bit types with a window of 3 x 3, the tokens' side: d_q, d_k, d_v,
// delta, and a block's partial sums of the parameters' gradients, on tensor cores. The formulas are
// those of tiles.cuh.
//
// A block walks down a strip (strip.cuh). In each step it loads as many rows of queries as it has warps,
// computes their gradients (strip_queries.cuh) and then those of the keys that no later query sees
// (strip_keys.cuh): all of a query is computed once but for the strips' edges, two columns of sixteen
// and, where an image has more than one strip below the other, two rows.
//
// Logits multiply queries and keys as they are stored, up to powers of two; norms, scales and biases
// enter in float. What is rounded to 16 bits are unit vectors and weights of rows, divided before by
// what makes them numbers of T: logits' gradients by the length of an output gradient, the query's own
// or the steps' largest, so that they have the values' magnitude, and window weights by a power of two
// that tokens may need.
//
// Where a block has room for it, it owns the gradients of the pooled keys too (strip_pooled.cuh), which
// otherwise are a kernel of their own (pooled.cuh).
//
// Per token and head: bytes (6 d + 2/7 of them for the outer columns) sizeof(T) + 8, and 16 more for other
// kernels; flops about 2 d (7 L + 3 P) 8/7.
#pragma once

#include "cuda/kernels/attention/backward/strip_keys.cuh"
#include "cuda/kernels/attention/backward/strip_sums.cuh"

namespace transnext {

namespace device {

template <class Parts>
class BackwardStrip {
 public:
  __device__ explicit BackwardStrip(const AggregatedAttentionBackwardLaunch& launch)
      : strip_(launch), launch_(launch) {}

  // Inlined, or the compiler would put the members and a copy of the parameters into local memory.
  __device__ __forceinline__ void run() {
    begin();
    StripSums<Parts> sums(strip_);
#pragma unroll 1
    do {
      load();
      __syncthreads();
      find_terms();
      __syncthreads();
      StripQueries<Parts>{strip_}.compute(sums.of_queries);
      __syncthreads();
      StripKeys<Parts>{strip_}.compute();
      sums.add();
      if constexpr (Parts::kOwnsPooled) StripPooled<Parts>{strip_}.add();
      __syncthreads();
      advance();
      __syncthreads();
    } while (strip_.top() <= strip_.state().owned_end);
    if constexpr (Parts::kOwnsPooled) StripPooled<Parts>{strip_}.store();
    sums.store();
  }

 private:
  using T = typename Parts::Element;
  static constexpr int kDim = Parts::kChannels;
  using Rows = typename Parts::Rows;
  static constexpr int kCells = Parts::kCells;

  // Finds out which strip this is, and loads what stays.
  __device__ void begin() const {
    const AggregatedAttentionInputs& in = strip_.p.in;
    const StripLayout& at = strip_.at();
    StripState& state = strip_.state();
    static_assert(sizeof(StripState) <= kStripStateBytes, "the plan's room for it");
    static_assert(sizeof(StripTensors<T>) <= kStripTensorBytes, "the plan's room for them");
    if (thread_index() == 0) {
      const auto heads = static_cast<unsigned>(in.q.shape[2]);
      const auto across = static_cast<unsigned>(strip_.plan.tiles_x);
      const auto down = static_cast<unsigned>(strip_.plan.tiles_y);
      const unsigned strip = blockIdx.x / heads;
      state.head = static_cast<int>(blockIdx.x % heads);
      state.batch = static_cast<int>(strip / across / down);
      state.owned_top = static_cast<int>(strip / across % down) * strip_.plan.tile_height;
      state.owned_end = min(state.owned_top + strip_.plan.tile_height, strip_.height());
      state.top = state.first_top = max(state.owned_top - 1, 0);
      state.parity = 0;
      state.left = static_cast<int>(strip % across) * (kStripColumns - 2) - 1;
      state.vectors = strip_.plan.vectors;
      state.scale = static_cast<const float*>(in.scale.data)[state.head * in.scale.stride[0]];
      state.no_bias = 0.0f;
      state.largest_d_out[0] = state.largest_d_out[1] = 0.0f;
      const AggregatedAttentionBackwardParams& p = strip_.p;
      strip_.tensors() = {{HeadRows<T>(in.q, state), HeadRows<T>(p.d_out, state)},
                          {HeadRows<T>(in.k, state), HeadRows<T>(in.v, state)},
                          HeadRows<T>(p.d_q, state),
                          HeadRows<T>(p.d_k, state),
                          HeadRows<T>(p.d_v, state),
                          reinterpret_cast<float4*>(strip_.workspace + strip_.plan.query_terms) +
                              (index_t{state.batch} * heads + state.head) * in.grid.size()};
    }
    // Rows above the first step's, and columns beyond the image, whose patches nobody computes.
#pragma unroll 1
    for (int i = at.zeros + thread_index() * kVector16Bytes; i < at.zeros_end;
         i += strip_.threads() * kVector16Bytes)
      *strip_.template part<float4>(i) = float4{0.0f, 0.0f, 0.0f, 0.0f};
    __syncthreads();
    const WindowParameters parameters(in, state.head);
    if (strip_.warp() == 0) {
      load_embedding(strip_, parameters);
    } else if (strip_.warp() == 1) {
      measure_tokens(parameters);
    } else if (strip_.warp() == 3) {
      if constexpr (Parts::kOwnsPooled) StripPooled<Parts>{strip_}.begin();
    } else if (thread_index() < 64 + 4) {
      const int row = thread_index() - 64;
      auto* terms = strip_.template part<float4>(at.window_terms);
      terms[row] = parameters.bias_row(row);
      terms[row + 4] = parameters.token_bias_row(row);
    }
    const PooledKeys<Parts> pooled{strip_};
    pooled.find_bias();
    __syncthreads();
    strip_.tokens().load(parameters, state.token_scale, strip_.threads());
    if (pooled.stays()) pooled.load(0);
  }

  // Scales of the tokens and of the weights with them, by one warp.
  __device__ void measure_tokens(const WindowParameters& parameters) const {
    const int lane = thread_index() % 32;
    const float scale = WindowTokens<T, kDim>::find_scale(parameters);
    float most = 0.0f;
    if (lane < kCells) {
      float square = 0.0f;
#pragma unroll 1
      for (int c = 0; c < kDim; ++c) {
        const float token = parameters.token(lane, c);
        square += token * token;
      }
      most = sqrtf(square) + fabsf(parameters.token_bias_of(lane));
    }
    most = warp_max(most);
    if (lane != 0) return;
    constexpr float kLarge = 16384.0f;  // weights are at most 1 + most
    const unsigned exponent = float_to_bits(most) & 0x7f800000u;
    strip_.state().weight_unit = most < kLarge ? 1.0f : bits_to_float(exponent) * (1.0f / kLarge);
    strip_.state().token_scale = scale;
  }

  // Goes on to the next step: the last two rows move to the front.
  __device__ void advance() const {
    if (thread_index() == 0) {
      StripState& state = strip_.state();
      state.top += strip_.rows();
      state.parity ^= 1;
      state.largest_d_out[state.parity] = 0.0f;
    }
    const StripLayout& at = strip_.at();
    constexpr int kQueries = 2 * kStripColumns;
    constexpr int kKeys = 2 * kStripKeyColumns;
    move(at.queries, kQueries * Rows::kRowBytes, kStripColumns * Rows::kRowBytes);
    move(at.d_outs, kQueries * Rows::kRowBytes, kStripColumns * Rows::kRowBytes);
    move(at.keys, kKeys * Rows::kRowBytes, kStripKeyColumns * Rows::kRowBytes);
    move(at.values, kKeys * Rows::kRowBytes, kStripKeyColumns * Rows::kRowBytes);
    move(at.key_terms, kKeys * static_cast<int>(sizeof(StripKey)),
         kStripKeyColumns * static_cast<int>(sizeof(StripKey)));
    move(at.d_logits, kQueries * kCells * 4, kStripColumns * kCells * 4);
    move(at.weights, kQueries * kCells * 2, kStripColumns * kCells * 2);
    move(at.lengths, kQueries * 4, kStripColumns * 4);
  }
  // Of a part whose rows have `row_bytes`.
  __device__ void move(int part, int bytes, int row_bytes) const {
    unsigned char* to = strip_.memory + part;
    const unsigned char* from = to + strip_.rows() * row_bytes;
#pragma unroll 1
    for (int i = thread_index() * kVector16Bytes; i < bytes; i += strip_.threads() * kVector16Bytes)
      *reinterpret_cast<float4*>(to + i) = *reinterpret_cast<const float4*>(from + i);
  }

  // Loads a step's rows; at first two rows of keys more.
  __device__ void load() const {
    const TileCorner corner = strip_.corner();
    if (strip_.rows() == kStripMostRows)
      start_copies<kStripMostRows>(corner);
    else
      start_copies<kStripFewerRows>(corner);
    if (strip_.is_first()) start_copies_of_keys<kStripFewerRows, 2>(corner, 0);
    commit_copies();
    find_queries(corner);
    wait_copies<0>();
  }

  template <int kRows>
  __device__ void start_copies(const TileCorner& corner) const {
    const StripTensors<T>& tensors = strip_.tensors();
    load_rectangle<32 * kRows, kRows, kStripColumns, T, kDim, 2>(
        thread_index(), {tensors.queries[0], tensors.queries[1]}, corner,
        {strip_.queries(), strip_.d_outs()}, 2 * kStripColumns);
    start_copies_of_keys<kRows, kRows>(corner, 2);
  }
  // Of kCopied rows from `row` on, by the first 32 kWarps threads.
  template <int kWarps, int kCopied>
  __device__ void start_copies_of_keys(const TileCorner& corner, int row) const {
    const StripTensors<T>& tensors = strip_.tensors();
    load_rectangle<32 * kWarps, kCopied, kStripKeyColumns, T, kDim, 2>(
        thread_index(), {tensors.keys[0], tensors.keys[1]},
        {corner.top + row - 1, corner.left - 1, corner.height, corner.width},
        {strip_.keys(), strip_.values()}, row * kStripKeyColumns);
  }

  // What queries need before their rows are there; a warp has a row.
  __device__ void find_queries(const TileCorner& corner) const {
    const int lane = thread_index() % 32;
    const int warp = thread_index() / 32;
    if (lane < kStripColumns) {
      const View<3>& log_sum_exp = strip_.p.log_sum_exp;
      const StripState& state = strip_.state();
      const int row = corner.top + warp;
      const int column = corner.left + lane;
      const bool inside = corner.inside(row, column);
      const int query = warp * kStripColumns + lane;
      BackwardQuery& terms = strip_.query_terms()[query];
      float offset = kNoLogit;
      if (inside)
        offset = static_cast<const float*>(
                     log_sum_exp.data)[state.batch * log_sum_exp.stride[0] +
                                       corner.token(row, column) * log_sum_exp.stride[1] +
                                       state.head * log_sum_exp.stride[2]] *
                 -kLog2E;
      terms.offset = offset;
      terms.bias =
          PooledKeys<Parts>{strip_}.query_offset(corner, row, column, query + 2 * kStripColumns);
      strip_.lengths()[query + 2 * kStripColumns] =
          inside ? length_scale(row, column, 3, strip_.p.in.grid, strip_.pooled()) : 0.0f;
    }
  }

  // Norms of queries and output gradients, a warp's row; keys are scaled.
  __device__ void find_terms() const {
    const int lane = thread_index() % 32;
    const int warp = thread_index() / 32;
    {
      RowOperand<T, kDim> operand;
      operand.load(strip_.queries(), (warp + 2) * kStripColumns);
      const float2 squares = operand.squares(lane);
      operand.load(strip_.d_outs(), (warp + 2) * kStripColumns);
      const float2 d_squares = operand.squares(lane);
      float largest = 0.0f;
      if (RowOperand<T, kDim>::holds_squares(lane)) {
        BackwardQuery* terms = strip_.query_terms() + warp * kStripColumns + lane / 4;
        terms[0].norm = inverse_norm(squares.x);
        terms[8].norm = inverse_norm(squares.y);
        const float lengths[2] = {sqrtf(d_squares.x), sqrtf(d_squares.y)};
        terms[0].d_out_norm = lengths[0];
        terms[8].d_out_norm = lengths[1];
        largest = fmaxf(lengths[0], lengths[1]);
      }
      largest = warp_max(largest);
      // Floats that are not negative have the order of their bits.
      if (lane == 0)
        atomicMax(reinterpret_cast<int*>(&strip_.state().largest_d_out[strip_.state().parity]),
                  static_cast<int>(float_to_bits(largest)));
    }
    const int end = (strip_.rows() + 2) * kStripKeyColumns;
#pragma unroll 1
    for (int row = (strip_.is_first() ? 0 : 2 * kStripKeyColumns) + warp * 16; row < end;
         row += strip_.rows() * 16)
      scale_rows(strip_.keys(), row, strip_.scaling_embedding(),
                 [&](int key, float norm, float inverse, float dot) {
                   strip_.key_terms()[key] = {norm, dot, inverse, 0.0f};
                 });
  }

  const Parts strip_;
  const AggregatedAttentionBackwardLaunch& launch_;
};

}  // namespace device

// Block (32 strip_rows). Grid: (head, strip, image), heads fastest, since rows of neighbouring heads
// share sectors.
template <class T, int kDim>
__global__ void __launch_bounds__(kStripMostRows * 32, kDim <= 32 ? 2 : 1)
    aggregated_attention_backward_strips(AggregatedAttentionBackwardLaunch launch) {
  device::BackwardStrip<device::Strip<T, kDim, false>>(launch).run();
}

// The same, and the sums for the pooled keys' gradients.
template <class T, int kDim>
__global__ void __launch_bounds__(kStripMostRows * 32, 2)
    aggregated_attention_backward_pooled_strips(AggregatedAttentionBackwardLaunch launch) {
  device::BackwardStrip<device::Strip<T, kDim, true>>(launch).run();
}

}  // namespace transnext
