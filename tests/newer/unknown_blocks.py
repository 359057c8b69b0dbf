"""Two models of our own whose blocks are called as those of ComfyUI after 0.30 are; see `load`.

`Prefixed`, as Qwen-Image 2.1: text in front of the picture attends to the text before each token alone, in an attention
call of its own; its keys and values are kept from the second forward on, and each block then runs for the picture only.
In the forward that fills them, each block runs for the text by itself.
`Lockstep`, as Wan-Animate 2: blocks are called by another method than forward; each frame attends to all frames and to
one of a second video, in a call of its own.
B batch, N tokens, H heads, D head dim, C channels.
"""

import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import nn

HEADS, CHANNELS, TEXT, SHAPE = 6, 48, 20, 15


class PrefixedAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(CHANNELS, 3 * CHANNELS), nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x, pe, attn_fn, prefix_len, transformer_options):
        return self.out(attn_fn(*self.qkv(x + pe).chunk(3, dim=-1)))


class PrefixedBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = PrefixedAttention(), nn.Linear(CHANNELS, CHANNELS)
        self.norm = nn.LayerNorm(CHANNELS)

    def forward(self, x, gates, pe, attn_fn, prefix_len, transformer_options):
        y = self.attn(self.norm(x), pe, attn_fn, prefix_len, transformer_options)
        x[:, :prefix_len] += y[:, :prefix_len] * gates[0]
        x[:, prefix_len:] += y[:, prefix_len:] * gates[1]
        return x + self.mlp(self.norm(x))


class Prefixed(nn.Module):
    def __init__(self, keeps=False):
        super().__init__()
        self.text_in, self.img_in = nn.Linear(TEXT, CHANNELS), nn.Linear(4, CHANNELS)
        self.transformer_blocks = nn.ModuleList(PrefixedBlock() for _ in range(3))
        self.proj_out = nn.Linear(CHANNELS, 4)
        self.keeps, self.kept = keeps, {}

    def forward(self, x, context, transformer_options, **kwargs):
        text = context.shape[1]
        tokens = torch.cat([self.text_in(context), self.img_in(x)], 1)
        pe = torch.linspace(-1, 1, tokens.shape[1])[None, :, None].expand(1, -1, CHANNELS)
        gates, prefix_len, causal = (0.5, 1.5), text, torch.ones(text, text, dtype=torch.bool).tril()
        front, pe_front = tokens[:, :text], pe[:, :text]
        if self.keeps:
            tokens, pe, prefix_len = tokens[:, text:], pe[:, text:], 0
        call = {"heads": HEADS, "transformer_options": transformer_options}
        fills = self.keeps and not self.kept

        def before(q, k, v):
            return optimized_attention(q[:, :text], k[:, :text], v[:, :text], mask=causal, **call)

        def both(q, k, v):
            return torch.cat([before(q, k, v), optimized_attention(q[:, text:], k, v, **call)], 1)

        for i, block in enumerate(self.transformer_blocks):

            def fill(q, k, v, i=i):
                self.kept[i] = k, v
                return before(q, k, v)

            def kept(q, k, v, i=i):
                k, v = (torch.cat(pair, 1) for pair in zip(self.kept[i], (k, v)))
                return optimized_attention(q, k, v, **call)

            if fills:
                front = block(front, gates, pe_front, fill, text, transformer_options)
            tokens = block(tokens, gates, pe, kept if self.keeps else both, prefix_len, transformer_options)
        return self.proj_out(tokens[:, prefix_len:])


class Cross(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.kv = nn.Linear(CHANNELS, CHANNELS), nn.Linear(TEXT, 2 * CHANNELS)

    def forward(self, x, context, transformer_options):
        k, v = self.kv(context).chunk(2, dim=-1)
        return optimized_attention(self.q(x), k, v, heads=HEADS, transformer_options=transformer_options)


class LockstepBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.cross_attn = nn.Linear(CHANNELS, 3 * CHANNELS), Cross()
        self.ffn = nn.Sequential(nn.Linear(CHANNELS, 64), nn.GELU(), nn.Linear(64, CHANNELS))

    def draw(self, x, driving, context, frames, transformer_options):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        other_k, other_v = self.qkv(driving).chunk(3, dim=-1)[1:]
        each = x.shape[1] // frames
        drawn = []
        for first in range(0, x.shape[1], each):
            own = slice(first, first + each)
            k_all, v_all = torch.cat([k, other_k[:, own]], 1), torch.cat([v, other_v[:, own]], 1)
            drawn.append(
                optimized_attention(q[:, own], k_all, v_all, heads=HEADS, transformer_options=transformer_options)
            )
        x = x + torch.cat(drawn, 1)
        x = x + self.cross_attn(x, context, transformer_options=transformer_options)
        return x + self.ffn(x)


class Lockstep(nn.Module):
    def __init__(self):
        super().__init__()
        self.img_in = nn.Linear(4, CHANNELS)
        self.blocks = nn.ModuleList(LockstepBlock() for _ in range(2))
        self.proj_out = nn.Linear(CHANNELS, 4)

    def forward(self, x, driving, context, transformer_options, **kwargs):
        x, driving = self.img_in(x), self.img_in(driving)
        for block in self.blocks:
            x = block.draw(x, driving, context, 3, transformer_options)
        return self.proj_out(x)
