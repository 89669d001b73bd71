// attention_branch on the CPU: the formula of transnext/attention_branch.h, composed of the kernels
// of its parts.
//
// The kernels run on groups of images (image_groups.h). Memory for the features between them, 4 to 7 C
// elements per token, is allocated once and reused for every group.
#include "transnext/attention_branch.h"

#include "cpu/runtime/image_groups.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/scratch.h"
#include "cpu/runtime/views.h"

TRANSNEXT_BEGIN_LEVEL

namespace {

// Part `part` of features [B, N, parts * C], as heads [B, N, h, d].
View<4> heads_of(const View<3>& features, index_t part, index_t heads, index_t width) {
  View<4> view;
  view.data = static_cast<char*>(features.data) + part * width * element_size(features.dtype);
  view.dtype = features.dtype;
  view.shape[0] = features.shape[0];
  view.shape[1] = features.shape[1];
  view.shape[2] = heads;
  view.shape[3] = width / heads;
  view.stride[0] = features.stride[0];
  view.stride[1] = features.stride[1];
  view.stride[2] = width / heads;
  view.stride[3] = 1;
  return view;
}

class Branch {
 public:
  Branch(const AttentionBranchParams& p, int threads)
      : p_(p),
        threads_(threads),
        width_(p.x.shape[2]),
        tokens_(p.x.shape[1]),
        windowed_(p.pool_projections.data != nullptr),
        pooled_(windowed_ ? p.attention.pool_grid.size() : 0),
        bytes_(element_size(p.features)),
        group_(images_in_group(p.x.shape[0], tokens_, width_, bytes_, threads)),
        projected_(group_ * tokens_ * parts() * width_ * bytes_),
        attended_(group_ * tokens_ * width_ * bytes_),
        pooled_features_(group_ * pooled_ * width_ * bytes_),
        pooled_projected_(group_ * pooled_ * 2 * width_ * bytes_) {}

  void run() {
    for (index_t first = 0; first < p_.x.shape[0]; first += group_)
      images(first, smaller(group_, p_.x.shape[0] - first));
  }

 private:
  index_t parts() const { return windowed_ ? 4 : 3; }
  void images(index_t first, index_t count) {
    const View<3> x = images_of(p_.x, first, count);
    const View<3> projected =
        contiguous<3>(projected_.data(), p_.features, {count, tokens_, parts() * width_});
    multiply(x, p_.norm, p_.projections, p_.projections_bias, View<3>{}, projected);

    AggregatedAttentionParams a;
    a.in = p_.attention;
    a.in.q = heads_of(projected, 0, p_.heads, width_);
    const View<4> k = heads_of(projected, 1, p_.heads, width_);
    const View<4> v = heads_of(projected, 2, p_.heads, width_);
    if (windowed_) {
      a.in.k = k;
      a.in.v = v;
      const View<3> pooled = pool(projected, count);
      a.in.k_pool = heads_of(pooled, 0, p_.heads, width_);
      a.in.v_pool = heads_of(pooled, 1, p_.heads, width_);
    } else {
      a.in.k_pool = k;
      a.in.v_pool = v;
    }
    const View<3> attended = contiguous<3>(attended_.data(), p_.features, {count, tokens_, width_});
    a.out = heads_of(attended, 0, p_.heads, width_);
    cpu::aggregated_attention(a, threads_);
    multiply(attended, LayerNormParams{}, p_.out_projection, p_.out_bias, x,
             images_of(p_.out, first, count));
  }

  // Keys and values of the pooled tokens, [count, P, 2 C].
  View<3> pool(const View<3>& projected, index_t count) {
    GeluPoolParams pool;
    pool.x = projected;
    pool.x.data = static_cast<char*>(projected.data) + 3 * width_ * bytes_;
    pool.x.shape[2] = width_;
    pool.out = contiguous<3>(pooled_features_.data(), p_.features, {count, pooled_, width_});
    pool.grid = p_.attention.grid;
    pool.pool_grid = p_.attention.pool_grid;
    cpu::gelu_pool(pool, threads_);
    View<1> bias = p_.projections_bias;
    if (bias.present()) {
      bias.data =
          static_cast<char*>(bias.data) + width_ * bias.stride[0] * element_size(bias.dtype);
      bias.shape[0] = 2 * width_;
    }
    const View<3> out =
        contiguous<3>(pooled_projected_.data(), p_.features, {count, pooled_, 2 * width_});
    multiply(pool.out, p_.pool_norm, p_.pool_projections, bias, View<3>{}, out);
    return out;
  }

  void multiply(const View<3>& x, const LayerNormParams& norm, const PackedWeight& weight,
                const View<1>& bias, const View<3>& residual, const View<3>& out) {
    LinearParams linear_params;
    linear_params.norm = norm;
    linear_params.weight = weight;
    linear_params.bias = bias;
    const auto run = [&](const View<3>& from, const View<3>& plus, const View<3>& to) {
      linear_params.x = tokens_of(from);
      if (plus.present()) linear_params.residual = tokens_of(plus);
      linear_params.out = tokens_of(to);
      cpu::linear(linear_params, threads_);
    };
    if (joined(x) && joined(out) && (!residual.present() || joined(residual)))
      return run(x, residual, out);
    for (index_t image = 0; image < x.shape[0]; ++image) {
      run(images_of(x, image, 1), residual.present() ? images_of(residual, image, 1) : View<3>{},
          images_of(out, image, 1));
    }
  }

  const AttentionBranchParams& p_;
  int threads_;
  index_t width_;   // C
  index_t tokens_;  // N
  bool windowed_;
  index_t pooled_;  // P
  index_t bytes_;   // of a feature
  index_t group_;   // images in a group
  Scratch<char> projected_;
  Scratch<char> attended_;
  Scratch<char> pooled_features_;
  Scratch<char> pooled_projected_;
};

}  // namespace

void attention_branch(const AttentionBranchParams& params, int threads) {
  if (params.x.shape[0] == 0) return;
  Branch(params, threads).run();
}

TRANSNEXT_END_LEVEL
