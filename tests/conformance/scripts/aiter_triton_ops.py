"""A person's script: AITER's Triton operations, named as arguments, against torch in float64. Run by `aiterfuzz verify`.

It knows nothing of who runs it, and would run on a GPU. Ends with 0 where every result is right, 1 where one is wrong.
"""

import importlib
import math
import sys
import traceback

import torch

FP8 = torch.float8_e4m3fnuz if "gfx942" in torch.cuda.get_device_properties(0).gcnArchName else torch.float8_e4m3fn


def operation(name, module):
    """A function of AITER. Until 2025 the modules lay side by side (--flat), since then in folders."""
    flat = "--flat" in sys.argv
    return getattr(importlib.import_module(f"aiter.ops.triton.{module.rpartition('.')[2] if flat else module}"), name)


def normal(*shape, dtype=torch.bfloat16):
    return torch.randn(*shape, device="cuda").to(dtype)


def error(got, wanted):
    """Relative rms error."""
    got, wanted = got.double(), wanted.double()
    return ((got - wanted).square().mean() / wanted.square().mean().clamp_min(1e-30)).sqrt().item()


def rope():
    x, freqs = normal(17, 2, 3, 64), torch.randn(17, 1, 1, 32, device="cuda")
    got = operation("rope_fwd", "rope.rope")(x, freqs, 0, True, False)
    angle = torch.cat([freqs, freqs], -1).double()
    first, second = x.double().chunk(2, -1)
    return error(got, x.double() * angle.cos() + torch.cat([-second, first], -1) * angle.sin()), 4e-3


def rms_norm():
    x, weight = normal(5, 300), normal(300)
    got = operation("rms_norm", "normalization.rmsnorm")(x, weight, 1e-6)
    wide = x.double()
    return error(got, wide * (wide.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * weight.double()), 4e-3


def layer_norm():
    x, weight, bias = normal(5, 300), normal(300), normal(300)
    with torch.no_grad():
        got = operation("layer_norm", "normalization.norm")(x, weight, bias, 1e-5)
    wide = x.double()
    centred = wide - wide.mean(-1, keepdim=True)
    wanted = centred * (centred.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight.double() + bias.double()
    return error(got, wanted), 4e-3


def softmax():
    x = normal(7, 321)
    return error(operation("softmax", "softmax")(x), x.double().softmax(-1)), 4e-3


def gemm_a16w16():
    x, w = normal(33, 256), normal(64, 256)
    return error(operation("gemm_a16w16", "gemm.basic.gemm_a16w16")(x, w), x.double() @ w.double().T), 4e-3


def gemm_a8w8():
    x, w = (torch.randint(-20, 20, shape, dtype=torch.int8, device="cuda") for shape in ((33, 256), (64, 256)))
    x_scale, w_scale = torch.rand(33, 1, device="cuda") + 0.5, torch.rand(1, 64, device="cuda") + 0.5
    got = operation("gemm_a8w8", "gemm.basic.gemm_a8w8")(x, w, x_scale, w_scale)
    return error(got, (x.double() @ w.double().T) * x_scale.double() * w_scale.double()), 4e-3


def flash_attention():
    q, k, v = normal(2, 70, 4, 64), normal(2, 90, 2, 64), normal(2, 90, 2, 64)
    with torch.no_grad():
        got = operation("flash_attn_func", "attention.mha")(q, k, v, causal=True)
    keys, values = (each.double().repeat_interleave(2, 2) for each in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), keys) / 8
    hidden = torch.ones(70, 90, dtype=torch.bool).triu(21)
    wanted = torch.einsum("bhqk,bkhd->bqhd", scores.masked_fill(hidden.cuda(), -math.inf).softmax(-1), values)
    return error(got[0] if isinstance(got, tuple) else got, wanted), 6e-3


def routing_sigmoid_top1():
    x, w = normal(9, 128), normal(128, 16)
    ids, weights = operation("routing_sigmoid_top1", "moe.moe_routing_sigmoid_top1_fused")(x, w, 1)
    scores = (x.double() @ w.double()).sigmoid()
    # float32 rounds what is near 1 to 1: any of those may be chosen.
    chosen = scores.gather(1, ids.long())
    return max(error(weights, chosen), (scores.max(1, keepdim=True).values - chosen).abs().max().item()), 1e-4


def dynamic_per_token_quant():
    x = normal(6, 300)
    quantised, scale = torch.empty(6, 300, dtype=FP8, device="cuda"), torch.empty(6, dtype=torch.float32, device="cuda")
    operation("dynamic_per_token_quant_fp8_i8", "quant.quant")(quantised, x, scale)
    wanted = x.double().abs().amax(1) / torch.finfo(FP8).max
    return max(error(scale, wanted) * 1e3, error(quantised.float().double() * scale[:, None].double(), x)), 4e-2


def dynamic_mxfp4_quant():
    x = normal(8, 128)
    packed, scales = operation("dynamic_mxfp4_quant", "quant.quant")(x)
    table = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6], device="cuda", dtype=torch.float64)
    table = torch.cat([table, -table])
    codes = torch.stack([packed & 15, packed >> 4], -1).reshape(8, 128).long()
    step = torch.exp2(scales.contiguous()[:, :4].double() - 127).repeat_interleave(32, 1)
    # Half a step between neighbours, 4 and 6 being two apart, and 6 stands for up to 8 where a block's scale is rounded down.
    return ((table[codes] * step - x.double()).abs() / step).max().item() / 2, 1.0


def topk():
    x = torch.randn(4, 1000, device="cuda")
    values, indices = operation("topk", "topk")(x, 8)
    wanted = x.topk(8, -1)
    return float((values != wanted.values).sum() + (x.gather(1, indices.long()) != wanted.values).sum()), 0.5


def moe_align_block_size():
    experts, block = 8, 16
    ids = torch.randint(0, experts, (20, 2), dtype=torch.int32, device="cuda")
    room = ids.numel() + experts * (block - 1)
    token_ids = torch.full((room,), ids.numel(), dtype=torch.int32, device="cuda")
    owners, total = (torch.zeros(size, dtype=torch.int32, device="cuda") for size in (-(-room // block), 1))
    operation("moe_align_block_size_triton", "moe.moe_align_block_size")(ids, experts, block, token_ids, owners, total)
    wrong = 0
    for place, token in enumerate(token_ids[: int(total)].tolist()):
        if token < ids.numel():
            wrong += int(ids.reshape(-1)[token]) != int(owners[place // block])
    counts = torch.bincount(ids.reshape(-1).cpu(), minlength=experts)
    wrong += int(total) != int((-(-counts // block) * block).sum())
    return float(wrong + (sorted(t for t in token_ids.tolist() if t < ids.numel()) != list(range(ids.numel())))), 0.5


def paged_attention():
    import triton.language as tl

    heads, width, page, lengths = 8, 64, 16, (37, 5)
    query, keys, values = normal(2, heads, width), normal(9, 2, page, width), normal(9, 2, page, width)
    pages = torch.tensor([[3, 1, 7, 0], [5, 0, 0, 0]], dtype=torch.int32, device="cuda")
    seq_lens, one = torch.tensor(lengths, dtype=torch.int32, device="cuda"), torch.ones(1, device="cuda")
    output = torch.empty(2, heads, width, dtype=torch.bfloat16, device="cuda")
    operation("paged_attention_decode", "attention.pa_decode")(
        output, query, keys, values, seq_lens, pages, width**-0.5, max(lengths), tl.bfloat16, one, one
    )
    wanted = torch.empty(2, heads, width, dtype=torch.float64, device="cuda")
    for request, length in enumerate(lengths):
        own = [int(each) for each in pages[request]]
        for head in range(heads):
            row, column = (torch.cat([cache[p, head // 4] for p in own])[:length].double() for cache in (keys, values))
            wanted[request, head] = (query[request, head].double() @ row.T * width**-0.5).softmax(-1) @ column
    return error(output, wanted), 6e-3


OPERATIONS = (
    rope, rms_norm, layer_norm, softmax, gemm_a16w16, gemm_a8w8, flash_attention, routing_sigmoid_top1,
    dynamic_per_token_quant, dynamic_mxfp4_quant, topk, moe_align_block_size, paged_attention,
)  # fmt: skip


def main():
    named = [each for each in sys.argv[1:] if each != "--flat"] or [each.__name__ for each in OPERATIONS]
    wrong = 0
    for each in OPERATIONS:
        if each.__name__ not in named:
            continue
        torch.manual_seed(1)
        try:
            found, allowed = each()
        except Exception as failure:
            traceback.print_exc()
            print(f"{each.__name__}: {type(failure).__name__}: {str(failure)[:200]}", flush=True)
            wrong += 1
            continue
        wrong += not found < allowed
        print(f"{each.__name__}: {'right' if found < allowed else 'WRONG'}: {found:.3g}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
