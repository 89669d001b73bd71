"""What runs an operator on a device: this package's backends and the alternatives users have.

Every candidate of a case takes the same leaves and must give the same result, up to its number
format; one that cannot run here gives the reason instead.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

import transnext_ops as ops
from benchmarks.cuda.inputs import AttentionInputs, Numbers, attention_inputs
from benchmarks.published import attention, conv_glu, window
from benchmarks.shapes.sizes import HEAD_DIM, WINDOW_SIZE, Shapes

BACKENDS = ("torch", "cpp", "cupy")
Function = Callable[..., Tensor]
Wanted = Callable[[str], bool]


def everything(name: str) -> bool:
    """Want every candidate."""
    return True


@dataclass
class Baselines:
    """One operator's candidates over the same leaves; the first is the baseline.

    Attributes
    ----------
    leaves : list of Tensor
        Gradients are taken to these.
    functions : dict
        By name: leaves to result.
    comparable : set of str
        Names whose result must agree with the baseline's.
    missing : dict
        By name: why a candidate cannot run here.
    wanted : function
        Whether a candidate of this name may enter; the baseline may in any case.
    """

    leaves: list[Tensor]
    wanted: Wanted = everything
    functions: dict[str, Function] = field(default_factory=dict)
    comparable: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, function: Function, comparable: bool = True) -> None:
        """Add a candidate."""
        if not self.may_enter(name):
            return
        self.functions[name] = function
        if comparable:
            self.comparable.add(name)

    def may_enter(self, name: str) -> bool:
        """Whether a candidate of this name is the baseline or wanted."""
        return not self.functions or self.wanted(name)

    def add_backends(self, op: str, call: Callable[..., Tensor]) -> None:
        """Add every backend that can run ``call(*leaves, backend=name)`` here."""
        for name in BACKENDS:
            if not self.may_enter(f"{op} {name}"):
                continue
            with_backend = _with_backend(call, name)
            try:
                with torch.no_grad():
                    with_backend(*self.leaves)
            except ops.BackendError as error:
                self.missing[f"{op} {name}"] = str(error)
            else:
                self.add(f"{op} {name}", with_backend)


def _with_backend(call: Callable[..., Tensor], name: str) -> Function:
    return lambda *leaves: call(*leaves, backend=name)


def baselines_of(
    subject: str,
    s: Shapes,
    dtype: torch.dtype,
    device: torch.device,
    wanted: Wanted = everything,
) -> Baselines:
    """Return the candidates of an operator at a stage's sizes: the baseline and those wanted."""
    return {
        "aggregated_attention": _aggregated_attention,
        "pixel_focused_attention": _pixel_focused_attention,
        "global_attention": _global_attention,
        "window_qk": _window_qk,
        "window_av": _window_av,
        "conv_glu": _conv_glu,
        "gelu_pool": _gelu_pool,
    }[subject](s, dtype, device, wanted)


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_()


def _aggregated_attention(
    s: Shapes, dtype: torch.dtype, device: torch.device, wanted: Wanted
) -> Baselines:
    inputs = attention_inputs(s, dtype, device)
    outside = window.padding_mask(s.grid, WINDOW_SIZE, device)
    length_scale = window.length_scale(outside, s.pool_length)
    dense = inputs.pool_bias.dense()
    entries = Baselines([_leaf(inputs.q), _leaf(inputs.kv), _leaf(inputs.kv_pool)], wanted)

    def published(q: Tensor, kv: Tensor, kv_pool: Tensor) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return attention.aggregated_attention(
                q,
                kv,
                kv_pool,
                grid=s.grid,
                window_size=WINDOW_SIZE,
                scale=inputs.scale[:, None, None],
                length_scale=length_scale,
                outside=outside,
                query_embedding=inputs.query_embedding[:, None],
                local_bias=inputs.local_bias,
                pool_bias=dense,
                tokens=inputs.tokens,
                token_bias=inputs.token_bias[:, None],
            )

    names = ("scale", "query_embedding", "local_bias", "pool_bias", "tokens", "token_bias")
    entries.add("published", published)
    entries.add("published, torch.compile", torch.compile(published))
    entries.add_backends("transnext_ops", _ours(ops.aggregated_attention, inputs, s, names))
    return entries


def _ours(operator: Function, inputs: AttentionInputs, s: Shapes, names: Sequence[str]) -> Function:
    """Return the package's attention of packed projections; it takes the parameters of `names`."""
    parameters = {name: getattr(inputs, name) for name in names}

    def run(q: Tensor, kv: Tensor, kv_pool: Tensor, backend: str) -> Tensor:
        return operator(
            *_replaced(inputs, q, kv, kv_pool), grid=s.grid, pool_grid=s.pool_grid,
            window_size=WINDOW_SIZE, **parameters, backend=backend,
        ).flatten(2)  # fmt: skip

    return run


def _replaced(inputs: AttentionInputs, q: Tensor, kv: Tensor, kv_pool: Tensor) -> list[Tensor]:
    return type(inputs)(q, kv, kv_pool, *list(vars(inputs).values())[3:]).heads_apart()


def _pixel_focused_attention(
    s: Shapes, dtype: torch.dtype, device: torch.device, wanted: Wanted
) -> Baselines:
    """Without tokens it is one softmax over a masked set of keys, which FlexAttention can take."""
    inputs = attention_inputs(s, dtype, device)
    entries = Baselines([_leaf(inputs.q), _leaf(inputs.kv), _leaf(inputs.kv_pool)], wanted)
    dense = inputs.pool_bias.dense()

    ours = _ours(ops.pixel_focused_attention, inputs, s, ("scale", "local_bias", "pool_bias"))
    entries.add_backends("transnext_ops", ours)
    if not entries.may_enter("FlexAttention"):
        return entries
    if device.type != "cuda":
        entries.missing["FlexAttention"] = "it is measured on CUDA devices"
        return entries
    entries.add("FlexAttention", flex_attention(inputs, s, dense))
    return entries


def flex_attention(
    inputs: AttentionInputs, s: Shapes, dense: Tensor, compiled: bool = True
) -> Function:
    """Return pixel-focused attention by FlexAttention over image and pooled keys together."""
    from torch.nn.attention.flex_attention import create_block_mask
    from torch.nn.attention.flex_attention import flex_attention as flex

    width, length, reach = s.grid[1], s.length, WINDOW_SIZE // 2
    device = inputs.q.device
    seen = (~window.padding_mask(s.grid, WINDOW_SIZE, device)).sum(1) + s.pool_length
    factor = inputs.scale[:, None] * seen.log()

    def offsets(query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return key // width - query // width, key % width - query % width

    def mask(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        down, right = offsets(query, key)
        near = (down.abs() <= reach) & (right.abs() <= reach)
        return (key >= length) | near

    def bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        down, right = offsets(query, key)
        cell = ((down + reach) * WINDOW_SIZE + right + reach).clamp(0, WINDOW_SIZE**2 - 1)
        pooled = dense[h, query, (key - length).clamp(min=0)]
        return score + torch.where(key >= length, pooled, inputs.local_bias[h, cell])

    blocks = create_block_mask(mask, None, None, length, length + s.pool_length, device=str(device))
    attend = torch.compile(flex) if compiled else flex

    def run(q: Tensor, kv: Tensor, kv_pool: Tensor) -> Tensor:
        queries, *keys = (
            view.transpose(1, 2) for view in _replaced(inputs, q, kv, kv_pool)
        )  # [B, h, ., d]
        queries = (F.normalize(queries, dim=-1) * factor[..., None]).to(q.dtype)
        key = torch.cat([F.normalize(keys[0], dim=-1), F.normalize(keys[2], dim=-1)], dim=2)
        value = torch.cat([keys[1], keys[3]], dim=2)
        out = attend(queries, key, value, score_mod=bias, block_mask=blocks, scale=1.0)
        return out.transpose(1, 2).flatten(2)

    return run


def _global_attention(
    s: Shapes, dtype: torch.dtype, device: torch.device, wanted: Wanted
) -> Baselines:
    """Every key is a pooled one here; SDPA computes the same with a dense bias."""
    numbers = Numbers(device)
    packed = numbers.normal(s.batch, s.length, 3 * s.width).to(dtype)
    scale = numbers.uniform(s.heads) + 1
    embedding = numbers.normal(s.heads, HEAD_DIM, spread=0.02)
    bias = numbers.normal(s.heads, s.length, s.length)
    entries = Baselines([_leaf(packed)], wanted)

    def apart(packed: Tensor) -> list[Tensor]:
        return [part.unflatten(-1, (-1, HEAD_DIM)) for part in packed.chunk(3, dim=-1)]

    def scaled(q: Tensor) -> Tensor:
        factor = scale * math.log(s.length)
        return ((F.normalize(q, dim=-1) + embedding) * factor[:, None]).to(dtype)

    def published(packed: Tensor) -> Tensor:
        q, k, v = (part.transpose(1, 2) for part in apart(packed))
        queries = scaled(q.transpose(1, 2)).transpose(1, 2)
        attn = (queries @ F.normalize(k, dim=-1).transpose(-2, -1) + bias).softmax(dim=-1)
        return (attn.to(dtype) @ v).transpose(1, 2).flatten(2)

    def sdpa(packed: Tensor) -> Tensor:
        q, k, v = apart(packed)
        out = F.scaled_dot_product_attention(
            scaled(q).transpose(1, 2),
            F.normalize(k, dim=-1).transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=bias.to(dtype),
            scale=1.0,
        )
        return out.transpose(1, 2).flatten(2)

    def ours(packed: Tensor, backend: str) -> Tensor:
        return ops.global_attention(
            *apart(packed),
            grid=s.grid,
            scale=scale,
            query_embedding=embedding,
            bias=bias,
            backend=backend,
        ).flatten(2)

    entries.add("published", published)
    entries.add("SDPA", sdpa)
    entries.add_backends("transnext_ops", ours)
    return entries


def _add_natten(entries: Baselines, name: str, grid: tuple[int, int]) -> None:
    """Add NATTEN's unfused QKᵀ, which shifts windows at the border: other numbers there."""
    if not entries.may_enter("NATTEN"):
        return
    if importlib.util.find_spec("natten") is None:
        entries.missing["NATTEN"] = "the package natten is not installed"
        return
    import natten.functional

    function = getattr(natten.functional, name, None)
    if function is None:
        entries.missing["NATTEN"] = f"this version of natten has no natten.functional.{name}"
        return

    def run(first: Tensor, second: Tensor) -> Tensor:
        return function(first.unflatten(2, grid), second.unflatten(2, grid), WINDOW_SIZE, 1)

    entries.add("NATTEN", run, comparable=False)


def _window_qk(s: Shapes, dtype: torch.dtype, device: torch.device, wanted: Wanted) -> Baselines:
    numbers = Numbers(device)
    shape = (s.batch, s.heads, s.length, HEAD_DIM)
    q, k = (numbers.normal(*shape).to(dtype) for _ in range(2))
    bias = numbers.normal(s.heads, WINDOW_SIZE**2)
    entries = Baselines([_leaf(q), _leaf(k)], wanted)
    sizes = {"grid": s.grid, "window_size": WINDOW_SIZE}
    entries.add("published", lambda q, k: window.window_qk(q, k, bias.to(dtype), **sizes))
    entries.add_backends(
        "transnext_ops", lambda q, k, backend: ops.window_qk(q, k, bias, **sizes, backend=backend)
    )
    _add_natten(entries, "na2d_qk", s.grid)
    return entries


def _window_av(s: Shapes, dtype: torch.dtype, device: torch.device, wanted: Wanted) -> Baselines:
    numbers = Numbers(device)
    attn = numbers.uniform(s.batch, s.heads, s.length, WINDOW_SIZE**2)
    v = numbers.normal(s.batch, s.heads, s.length, HEAD_DIM)
    entries = Baselines([_leaf(attn.to(dtype)), _leaf(v.to(dtype))], wanted)
    sizes = {"grid": s.grid, "window_size": WINDOW_SIZE}
    entries.add("published", lambda attn, v: window.window_av(attn, v, **sizes))
    entries.add_backends(
        "transnext_ops", lambda attn, v, backend: ops.window_av(attn, v, **sizes, backend=backend)
    )
    _add_natten(entries, "na2d_av", s.grid)
    return entries


def _conv_glu(s: Shapes, dtype: torch.dtype, device: torch.device, wanted: Wanted) -> Baselines:
    numbers = Numbers(device)
    x = numbers.normal(s.batch, s.length, 2 * s.hidden).to(dtype)
    weight = numbers.normal(s.hidden, 1, 3, 3) / 3
    bias = numbers.normal(s.hidden)
    entries = Baselines([_leaf(x), _leaf(weight), _leaf(bias)], wanted)

    def published(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return conv_glu.conv_glu(x, weight.to(dtype), bias.to(dtype), grid=s.grid)

    def ours(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        return ops.conv_glu(x, weight, bias, grid=s.grid, backend=backend)

    entries.add("published", published)
    entries.add("published, torch.compile", torch.compile(published))
    entries.add_backends("transnext_ops", ours)
    return entries


def _gelu_pool(s: Shapes, dtype: torch.dtype, device: torch.device, wanted: Wanted) -> Baselines:
    numbers = Numbers(device)
    x = numbers.normal(s.batch, s.length, s.width).to(dtype)
    entries = Baselines([_leaf(x)], wanted)

    def published(x: Tensor) -> Tensor:
        image = x.permute(0, 2, 1).reshape(s.batch, s.width, *s.grid)
        return attention.gelu_pool(image, pool_grid=s.pool_grid)

    entries.add("published", published)
    entries.add_backends(
        "transnext_ops",
        lambda x, backend: ops.gelu_pool(x, grid=s.grid, pool_grid=s.pool_grid, backend=backend),
    )
    return entries
