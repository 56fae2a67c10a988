#!/usr/bin/env python3
"""The sink step in PyTorch, as the reference code of memorization sinks does it: every MLP neuron is computed, then
multiplied by its row's mask. A Llama-style decoder with RoPE, AdamW over all parameters and gradient clipping.

Needs nothing but torch, 1.13 or newer. As a benchmark of its own it prints one line of JSON:

  torch_seqtd.py --preset tiny --batch 16 --seq 64 --device cpu --threads 2
  torch_seqtd.py --preset nulls-1b --batch 8 --seq 1024 --device cuda --dtype bf16 --compile

With --serve it takes turns with others in `npm run bench:peers`: it shows ten losses, then runs as many steps as each
line of stdin asks for.
"""
import argparse
import json
import sys
import time
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

CHECKED_STEPS = 10


@dataclass(frozen=True)
class Shape:
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    general: int  # MLP neurons that are always on
    pool: int  # MLP neurons of which a row lights `active`, on average
    active: int
    vocab: int
    tied: bool = False

    @property
    def mlp(self):
        return self.general + self.pool


PRESETS = {
    "tiny": Shape(2, 64, 2, 2, 32, 104, 920, 48, 1024),
    "smol-360m": Shape(32, 960, 15, 5, 64, 2560, 0, 0, 49152, tied=True),
    "nulls-1b": Shape(32, 960, 15, 5, 128, 500, 7692, 100, 49152),
}


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + 1e-5)
        return self.scale * wide.to(x.dtype)


def rotate(x, turn):
    """RoPE on pairs that lie half a head apart; `turn` holds cosines and sines, [2, tokens, half a head]."""
    cos, sin = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def attend(q, k, v):
    if hasattr(F, "scaled_dot_product_attention"):  # torch 2
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    length = q.shape[-2]
    future = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(diagonal=1)
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    return scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        self.before_attention, self.before_mlp = Norm(shape.width), Norm(shape.width)
        self.q = nn.Linear(shape.width, queries, bias=False)
        self.k = nn.Linear(shape.width, keys, bias=False)
        self.v = nn.Linear(shape.width, keys, bias=False)
        self.o = nn.Linear(queries, shape.width, bias=False)
        self.gate = nn.Linear(shape.width, shape.mlp, bias=False)
        self.up = nn.Linear(shape.width, shape.mlp, bias=False)
        self.down = nn.Linear(shape.mlp, shape.width, bias=False)

    def forward(self, x, turn, mask):
        rows, length, _ = x.shape
        shape = self.shape
        y = self.before_attention(x)
        q = rotate(self.q(y).view(rows, length, shape.heads, -1).transpose(1, 2), turn)
        k = rotate(self.k(y).view(rows, length, shape.kv_heads, -1).transpose(1, 2), turn)
        v = self.v(y).view(rows, length, shape.kv_heads, -1).transpose(1, 2)
        if shape.kv_heads != shape.heads:
            k, v = (one.repeat_interleave(shape.heads // shape.kv_heads, dim=1) for one in (k, v))
        x = x + self.o(attend(q, k, v).transpose(1, 2).reshape(rows, length, -1))
        y = self.before_mlp(x)
        hidden = F.silu(self.gate(y)) * self.up(y)
        if mask is not None:
            hidden = hidden * mask.to(hidden.dtype)
        return x + self.down(hidden)


class Decoder(nn.Module):
    def __init__(self, shape, length):
        super().__init__()
        self.embed = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        self.head = nn.Linear(shape.width, shape.vocab, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        if shape.tied:
            self.head.weight = self.embed.weight
        frequencies = 1e5 ** (-torch.arange(0, shape.head_size, 2) / shape.head_size)
        angles = torch.outer(torch.arange(length), frequencies)
        self.register_buffer("turn", torch.stack((angles.cos(), angles.sin())), persistent=False)

    def forward(self, tokens, targets, mask):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, self.turn, mask)
        logits = self.head(self.norm(x)).float()
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def blas():
    """What multiplies matrices on the CPU: the reference BLAS of some systems is many times slower than any other."""
    try:
        with open("/proc/self/maps") as maps:
            files = {line.split()[-1] for line in maps if "blas" in line}
    except OSError:
        return "unknown BLAS"
    if any("openblas" in file for file in files):
        return "OpenBLAS"
    return "reference BLAS, which is slow" if any("/blas/" in file for file in files) else "built-in BLAS"


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--preset", choices=PRESETS, default="tiny")
    arguments.add_argument("--batch", type=int, default=16, help="rows of a step")
    arguments.add_argument("--seq", type=int, default=64, help="tokens of a row")
    arguments.add_argument("--device", default="cpu", help="cpu or cuda")
    arguments.add_argument("--dtype", choices=("f32", "bf16"), default="f32", help="bf16: autocast")
    arguments.add_argument("--compile", action="store_true", help="torch.compile, of torch 2")
    arguments.add_argument("--threads", type=int, default=0, help="0: as many as torch likes")
    arguments.add_argument("--steps", type=int, default=20, help="timed steps, without --serve")
    arguments.add_argument("--serve", action="store_true", help="take turns as stdin says")
    chosen = arguments.parse_args()

    torch.manual_seed(0)
    if chosen.threads > 0:
        torch.set_num_threads(chosen.threads)
    on_gpu = chosen.device.startswith("cuda")
    torch.backends.cuda.matmul.allow_tf32 = chosen.dtype == "bf16"
    shape = PRESETS[chosen.preset]
    model = Decoder(shape, chosen.seq).to(chosen.device)
    count = sum(parameter.numel() for parameter in model.parameters())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=5e-3 if chosen.preset == "tiny" else 5e-4, betas=(0.9, 0.95), weight_decay=0.1,
        **({"fused": True} if on_gpu else {})
    )
    compute = torch.compile(model) if chosen.compile else model

    # one batch for all steps, so that the loss must fall
    text = torch.randint(shape.vocab, (chosen.batch, chosen.seq + 1), device=chosen.device)
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    mask = None
    if shape.pool > 0:
        lit = torch.rand(chosen.batch, 1, shape.pool, device=chosen.device) < shape.active / shape.pool
        mask = torch.cat((torch.ones(chosen.batch, 1, shape.general, device=chosen.device), lit.float()), dim=-1)

    def step():
        with torch.autocast(torch.device(chosen.device).type, dtype=torch.bfloat16, enabled=chosen.dtype == "bf16"):
            loss = compute(tokens, targets, mask)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    def window(steps):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            step()
        if on_gpu:
            torch.cuda.synchronize()
        return {"steps": steps, "wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}

    losses, fastest = [], float("inf")
    for _ in range(CHECKED_STEPS):
        start = time.perf_counter()
        losses.append(step().item())
        fastest = min(fastest, time.perf_counter() - start)
    ready = {
        "name": "PyTorch",
        "version": torch.__version__,
        "adapter": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "parameters": count,
        "tokens": chosen.batch * chosen.seq,
        "losses": losses,
        "secondsPerStep": fastest,
        "note": "whole MLP, then the mask" + ("" if on_gpu else f"; {blas()}"),
    }
    if chosen.serve:
        print(json.dumps(ready), flush=True)
        for line in sys.stdin:
            print(json.dumps(window(json.loads(line)["steps"])), flush=True)
        return
    median = sorted(window(1)["wall"] for _ in range(chosen.steps))[chosen.steps // 2]
    print(json.dumps({
        **ready,
        "preset": chosen.preset,
        "dtype": chosen.dtype,
        "compiled": chosen.compile,
        "secondsPerStep": round(median, 5),
        "tokensPerSecond": round(ready["tokens"] / median, 1),
        "peakGiB": round(torch.cuda.max_memory_allocated() / 2**30, 2) if on_gpu else None,
    }))


if __name__ == "__main__":
    main()
