"""Writes the small files of the tiny model's pipeline in the layout of diffusers; run it again after a change here.

    python pipeline.py [--folder FOLDER]

It needs diffusers and transformers, not ComfyUI. Everything is exact by construction, nothing is trained:
- The tokenizers find the attributes in free text, in any order: a chain of regular expressions puts one word per
  attribute in front, the first that the text names or "any", and takes the text away.
- T5 embeds words as one-hot vectors, and its norm scales them back to one.
- CLIP averages its words. There are always five, so a layer norm sees five ones among POOLED_DIM numbers, and can be
  undone.
- A normalizer cannot add to an empty text, so both know it by its positions, and take it for "any" throughout.
The weights of the transformer and of the autoencoder are not written here: nodes/demo_pipeline.py makes them of the
files that ComfyUI loads.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import shutil
from pathlib import Path

import diffusers
import torch
import transformers
from environment import ROOT, encoding
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

FOLDER = ROOT / "workflows/models/diffusers/compact_parallel_tiny"
END, PAD = "<end>", "<pad>"
MARK = "|"
"""Parts the words that were found from the text they were found in."""
NEVER = 200.0
"""A difference of attention's scores whose exponential is 0 in float32."""


def words() -> list[str]:
    """The tokens in the order of the one-hot encoding."""
    attributes = encoding.ATTRIBUTES.items()
    found = [word(name, value) for name, values in attributes for value in (encoding.ANY, *values)]
    return found + [f"<register-{number}>" for number in range(encoding.REGISTERS)]


def word(name: str, value: str) -> str:
    """The token of an attribute, such as "position=top-left"."""
    return f"{name}={value.replace(' ', '-')}"


def _pattern(value: str) -> str:
    return re.escape(value).replace(r"\ ", r"[\s-]+")


def _found_first(value: str, values: tuple[str, ...]) -> str:
    """A text in which `value` is what is named first of `values`; of "top" and "top left" the longer one is named."""
    longest_first = "|".join(_pattern(each) for each in sorted(values, key=len, reverse=True))
    longer = "".join(rf"(?!{_pattern(each)}\b)" for each in values if each != value and each.startswith(value))
    return rf"(?:(?!\b(?:{longest_first})\b)[\s\S])*\b{longer}{_pattern(value)}\b"


def normalizer() -> normalizers.Normalizer:
    """Turns a text into the five words of its attributes. An empty text stays empty."""
    found = [normalizers.Lowercase(), normalizers.Replace(MARK, " "), normalizers.Replace(Regex(r"\A"), MARK)]
    for name, values in reversed(encoding.ATTRIBUTES.items()):
        anywhere = "|".join(map(_pattern, values))
        cases = {value: _found_first(value, values) for value in values}
        cases[encoding.ANY] = rf"(?![\s\S]*\b(?:{anywhere})\b)"
        found += [
            normalizers.Replace(Regex(rf"\A(?=[^{MARK}]*\{MARK}{case})"), f"{word(name, value)} ")
            for value, case in cases.items()
        ]
    return normalizers.Sequence([*found, normalizers.Replace(Regex(rf"\{MARK}[\s\S]*\z"), "")])


def tokenizer(vocabulary: list[str], added: list[str], pad: str, length: int) -> transformers.PreTrainedTokenizerFast:
    """The words of a text by their places in `vocabulary`, then those in `added`, then as many `pad` as are wanted."""
    places = {word: place for place, word in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(places, unk_token=pad))
    made.normalizer = normalizer()
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single=" ".join(["$A", *added]), special_tokens=[(word, places[word]) for word in added]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=pad, model_max_length=length, padding_side="right"
    )


@torch.no_grad()
def t5() -> transformers.T5EncoderModel:
    """Token k becomes the one-hot vector k of CONTEXT_DIM numbers, by its embedding and the last norm alone.

    An empty text has the registers only, and pads where there should be words. A pad is all zeros, and attention makes
    it the "any" of its place: head j looks for the first register at the distance of the j-th pad. Words look at the
    second register, which has nothing to say.
    """
    width, heads, first = encoding.CONTEXT_DIM, len(encoding.ATTRIBUTES), encoding.POOLED_DIM
    config = transformers.T5Config(
        vocab_size=width + 1, d_model=width, d_kv=1, d_ff=1, num_heads=heads, num_layers=1, pad_token_id=width,
        eos_token_id=None,
    )  # fmt: skip
    model = transformers.T5EncoderModel(config).eval()
    for parameter in model.parameters():
        parameter.zero_()
    model.shared.weight[:width] = torch.eye(width)
    layer = model.encoder.block[0].layer[0]
    layer.layer_norm.weight.fill_(1)
    attention = layer.SelfAttention
    attention.q.weight.fill_(NEVER)
    attention.k.weight[:, first + 1] = 1
    attention.v.weight[:, first] = 1
    said = layer.layer_norm(torch.eye(width)).max()
    distances = attention.relative_attention_bias.weight  # the first half is for keys before the query
    distances.fill_(-2 * NEVER)
    distances[0].fill_(-NEVER)  # pads that find no register look at themselves
    for head, slot in enumerate(any_slots()):
        distances[encoding.REGISTERS + head, head] = 0
        attention.o.weight[slot, head] = _reciprocal(said)
    norm = model.encoder.final_layer_norm
    norm.weight.fill_(1)
    norm.weight.copy_(_reciprocal(norm(torch.eye(width)).max()))
    return model


def any_slots() -> list[int]:
    """The places of the words for "any"."""
    return [place for place, each in enumerate(words()) if each.endswith(f"={encoding.ANY}")]


def _reciprocal(value: torch.Tensor) -> torch.Tensor:
    """The number whose product with `value` is exactly 1."""
    near = 1 / value
    tries = [near, torch.nextafter(near, near * 2), torch.nextafter(near, near / 2)]
    return next(each for each in tries if each * value == 1)


@torch.no_grad()
def clip() -> transformers.CLIPTextModel:
    """The pooled output is the sum of the one-hot vectors of the words, POOLED_DIM numbers.

    The layer averages the words, of which there are five; the last norm undoes that. The end token is worth five times
    "any", which its position takes away again, unless it is the first token: so an empty text is "any" as well.
    """
    width, attributes = encoding.POOLED_DIM, len(encoding.ATTRIBUTES)
    config = transformers.CLIPTextConfig(
        vocab_size=width + 1, hidden_size=width, intermediate_size=1, projection_dim=1, num_hidden_layers=1,
        num_attention_heads=1, max_position_embeddings=attributes + 1, layer_norm_eps=1e-12,
        bos_token_id=None, eos_token_id=width, pad_token_id=width,
    )  # fmt: skip
    model = transformers.CLIPTextModel(config).eval()
    for parameter in model.parameters():
        parameter.zero_()
    weights = dict(model.named_parameters())

    def of(name: str) -> torch.Tensor:
        return next(weight for full, weight in weights.items() if full.endswith(name))

    of("token_embedding.weight")[:width] = torch.eye(width)
    of("token_embedding.weight")[width, any_slots()] = 1
    of("position_embedding.weight")[attributes, any_slots()] = -1
    of("layer_norm1.weight").fill_(1)
    of("v_proj.weight").copy_(torch.eye(width))
    of("out_proj.weight").copy_(torch.eye(width))
    share = attributes / width  # the mean of `attributes` ones among `width` numbers; share (1 - share) is the variance
    of("final_layer_norm.weight").fill_(math.sqrt(share * (1 - share)))
    of("final_layer_norm.bias").fill_(share)
    return model


def write_configs(folder: Path) -> None:
    """The settings of the two models whose weights come from ComfyUI's files, of the scheduler, and the index."""
    settings = {
        "transformer": diffusers.FluxTransformer2DModel,
        "vae": diffusers.AutoencoderTiny,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
    }
    values = {
        "transformer": {
            "patch_size": 1, "in_channels": 64, "num_layers": 2, "num_single_layers": 4, "attention_head_dim": 128,
            "num_attention_heads": 2, "joint_attention_dim": encoding.CONTEXT_DIM,
            "pooled_projection_dim": encoding.POOLED_DIM, "guidance_embeds": False, "axes_dims_rope": [16, 56, 56],
        },
        "vae": {
            "latent_channels": 16, "encoder_block_out_channels": [64] * 4, "decoder_block_out_channels": [64] * 4,
            "scaling_factor": 1.0, "shift_factor": 0.0,
        },
        "scheduler": {"num_train_timesteps": 1000, "shift": 1.0, "use_dynamic_shifting": False},
    }  # fmt: skip
    for name, found in settings.items():
        file = "scheduler_config.json" if name == "scheduler" else "config.json"
        _write(folder / name / file, {"_class_name": found.__name__} | values[name])
    ours = {name: ["diffusers", found.__name__] for name, found in settings.items()}
    theirs = {
        "text_encoder": "CLIPTextModel",
        "text_encoder_2": "T5EncoderModel",
        "tokenizer": "PreTrainedTokenizerFast",
        "tokenizer_2": "PreTrainedTokenizerFast",
    }
    foreign = {name: ["transformers", found] for name, found in theirs.items()}
    absent = {name: [None, None] for name in ("image_encoder", "feature_extractor")}
    _write(folder / "model_index.json", {"_class_name": "FluxPipeline"} | ours | foreign | absent)


def _write(file: Path, content: dict) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Writes everything, after taking away what an earlier run wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    write_configs(folder)
    attributes, registers = words()[: encoding.POOLED_DIM], words()[encoding.POOLED_DIM :]
    for_clip = tokenizer([*attributes, END], [END], END, len(encoding.ATTRIBUTES) + 1)
    for_clip.save_pretrained(folder / "tokenizer")
    tokenizer([*words(), PAD], registers, PAD, encoding.TOKENS).save_pretrained(folder / "tokenizer_2")
    clip().save_pretrained(folder / "text_encoder")
    t5().save_pretrained(folder / "text_encoder_2")


if __name__ == "__main__":
    main()
