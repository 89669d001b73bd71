"""TransNeXt's blocks on feature maps ``[B, C, H, W]``, for networks that are not TransNeXt."""

from __future__ import annotations

from torch import Tensor, nn

from transnext_ops.operators.checks import Grid, check_grid

from .attention import AggregatedAttention, GlobalAttention, PixelFocusedAttention
from .block import Block
from .conv_glu import ConvolutionalGLU
from .grids import StageGrids, map_grid, map_to_tokens, tokens_to_map
from .initialise import initialise

__all__ = ["OnMaps"]


class OnMaps(nn.Module):
    """A block of TransNeXt that takes and returns maps ``[B, C, H, W]``, of another size each call.

    :meth:`attention`, :meth:`conv_glu` and :meth:`block` build the block too; their arguments are
    those of the published classes (whose activations and norms cannot be chosen): code that
    calls these needs no other change.

    Parameters
    ----------
    module : PixelFocusedAttention, AggregatedAttention, GlobalAttention, ConvolutionalGLU or Block
        Its parameters are found under ``module.``
    input_resolution : (int, int), optional
        Height and width of the maps in training: the unit of distance of the position bias (paper
        section 3.1.3). Not needed by ConvolutionalGLU.
    sr_ratio : int
        Pixels of a map to each pooled one on an axis; 1 pools nothing, as global attention needs.
    is_extrapolation : bool
        Whether the position bias of maps of another size comes from their own coordinates, or is
        resized from that of `input_resolution`.

    Raises
    ------
    TypeError, ValueError
        The module is of another kind, or an argument is missing or does not fit it.
    """

    def __init__(
        self,
        module: nn.Module,
        input_resolution: Grid | None = None,
        sr_ratio: int = 1,
        is_extrapolation: bool = True,
    ) -> None:
        super().__init__()
        known = PixelFocusedAttention | GlobalAttention | ConvolutionalGLU | Block
        if not isinstance(module, known):
            raise TypeError(
                f"module: got {type(module).__name__}, needs an attention, a "
                "ConvolutionalGLU or a Block"
            )
        if isinstance(sr_ratio, bool) or not isinstance(sr_ratio, int) or sr_ratio < 1:
            raise ValueError(f"sr_ratio: got {sr_ratio!r}, needs an int of at least 1")
        self.sr_ratio = sr_ratio
        self.is_extrapolation = is_extrapolation
        self.input_resolution: Grid | None = None
        attention = module.attn if isinstance(module, Block) else module
        if not isinstance(attention, ConvolutionalGLU):
            if input_resolution is None:
                raise ValueError("input_resolution: got None, needs (height, width) of the maps")
            self.input_resolution = check_grid("input_resolution", input_resolution)
            if isinstance(attention, GlobalAttention) and sr_ratio != 1:
                raise ValueError(f"sr_ratio: got {sr_ratio}, needs 1 for global attention")
        self.module = module

    @classmethod
    def attention(
        cls,
        dim: int,
        input_resolution: Grid,
        num_heads: int = 8,
        window_size: int = 3,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        sr_ratio: int = 1,
        is_extrapolation: bool = True,
    ) -> OnMaps:
        """Build aggregated attention, or global attention where `sr_ratio` is 1.

        Parameters
        ----------
        dim, num_heads : int
            Channels and heads, which divide them.
        input_resolution, sr_ratio, is_extrapolation
            See the class.
        window_size : int
            Side of the local window.
        qkv_bias : bool
            Whether the projections of queries, keys and values have a bias.
        attn_drop, proj_drop : float
            Dropout rates of the attention weights and of the output.
        """
        built = _attention(dim, num_heads, window_size, qkv_bias, attn_drop, proj_drop, sr_ratio)
        return cls(built.apply(initialise), input_resolution, sr_ratio, is_extrapolation)

    @classmethod
    def conv_glu(
        cls,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        drop: float = 0.0,
    ) -> OnMaps:
        """Build a convolutional GLU; see :class:`ConvolutionalGLU` for the arguments."""
        built = ConvolutionalGLU(in_features, hidden_features, out_features, drop=drop)
        return cls(built.apply(initialise))

    @classmethod
    def block(
        cls,
        dim: int,
        num_heads: int,
        input_resolution: Grid,
        window_size: int = 3,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = False,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        *,
        sr_ratio: int = 1,
        is_extrapolation: bool = True,
    ) -> OnMaps:
        """Build a residual block: attention, then convolutional GLU, each normalised first.

        Parameters
        ----------
        dim, num_heads, input_resolution, window_size, qkv_bias, attn_drop
            See :meth:`attention`.
        mlp_ratio : float
            Width of the plain MLP that the GLU is as large as, over `dim`.
        drop : float
            Dropout rate of the projections.
        drop_path : float
            Stochastic depth rate of both branches.
        sr_ratio, is_extrapolation
            See the class.
        """
        attention = _attention(dim, num_heads, window_size, qkv_bias, attn_drop, drop, sr_ratio)
        mixer = ConvolutionalGLU(dim, int(dim * mlp_ratio), drop=drop)
        built = Block(dim, attention, mixer, drop_path)
        return cls(built.apply(initialise), input_resolution, sr_ratio, is_extrapolation)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` to the same, with `out_features` channels of a convolutional GLU."""
        if x.dim() != 4:
            raise ValueError(f"x: got {tuple(x.shape)}, needs a map [B, C, H, W]")
        grid = map_grid(x)
        tokens = map_to_tokens(x)
        if isinstance(self.module, ConvolutionalGLU):
            return tokens_to_map(self.module(tokens, grid), grid)
        trained = self.input_resolution
        assert trained is not None
        grids = StageGrids(grid, self._pooled(grid), trained)
        if not self.is_extrapolation:
            grids = grids._replace(train_grid=trained, train_pool_grid=self._pooled(trained))
        return tokens_to_map(self.module(tokens, grids), grid)

    def _pooled(self, grid: Grid) -> Grid:
        return max(1, grid[0] // self.sr_ratio), max(1, grid[1] // self.sr_ratio)


def _attention(
    dim: int,
    num_heads: int,
    window_size: int,
    qkv_bias: bool,
    attn_drop: float,
    proj_drop: float,
    sr_ratio: int,
) -> AggregatedAttention | GlobalAttention:
    if sr_ratio == 1:
        return GlobalAttention(dim, num_heads, qkv_bias, attn_drop, proj_drop)
    return AggregatedAttention(dim, num_heads, window_size, qkv_bias, attn_drop, proj_drop)
