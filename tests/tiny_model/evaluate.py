"""Judges the shipped files with ComfyUI's own loaders, sampler and VAE, and draws the sheet of samples."""

import argparse
import time
from pathlib import Path

import environment
import torch
from environment import encoding
from pictures import draw, random_attributes, random_scenes
from torch import Tensor
from tqdm import tqdm

NAMES = list(encoding.ATTRIBUTES)


def load_files() -> tuple:
    """The MODEL and the VAE as the stock loader nodes make them."""
    import comfy.sd
    import comfy.utils

    weights, metadata = comfy.utils.load_torch_file(str(environment.VAE_FILE), return_metadata=True)
    return comfy.sd.load_diffusion_model(str(environment.MODEL_FILE)), comfy.sd.VAE(sd=weights, metadata=metadata)


def at_size(model, size: int):
    """The model for pictures of another size than 512: positions stretched as in training, by what ScaleROPE sets."""
    scale = (512 // 16 - 1) / (size // 16 - 1)
    patched = model.clone()
    patched.set_model_rope_options(scale_x=scale, shift_x=0.0, scale_y=scale, shift_y=0.0, scale_t=1.0, shift_t=0.0)
    return patched


@torch.inference_mode()
def reconstruction_psnr(vae, size: int, count: int = 8) -> float:
    """Mean PSNR in dB of fresh pictures through the VAE."""
    generator = torch.Generator().manual_seed(1234)
    pictures = draw(random_scenes(random_attributes(count, generator), generator), size).movedim(1, -1)
    decoded = torch.cat([vae.decode(vae.encode(chunk)) for chunk in pictures.split(4)])
    return (-10 * (decoded - pictures).square().mean(dim=(1, 2, 3)).log10()).mean().item()


@torch.inference_mode()
def sample(model, vae, indices: Tensor, arguments: argparse.Namespace, seed: int) -> Tensor:
    """Pictures [B, 3, H, W] for attribute indices [B, 5] (0 = "any"), by ComfyUI's KSampler."""
    import comfy.sample

    def conditioning(chosen: Tensor) -> list:
        tokens, pooled = encoding.encode(chosen)
        return [[tokens, {"pooled_output": pooled}]]

    latent = torch.zeros(len(indices), 16, arguments.size // 8, arguments.size // 8)
    noise = comfy.sample.prepare_noise(latent, seed)
    latent = comfy.sample.sample(
        model, noise, arguments.steps, arguments.cfg, arguments.sampler, arguments.scheduler,
        conditioning(indices), conditioning(torch.zeros_like(indices)), latent, seed=seed, disable_pbar=True,
    )  # fmt: skip
    return vae.decode(latent).movedim(-1, 1)


def write_sheet(path: Path, pictures: Tensor, attributes: Tensor, columns: int = 8, side: int = 168) -> None:
    """A grid of pictures [B, 3, H, W] with their prompts underneath."""
    from PIL import Image, ImageDraw, ImageFont

    font, label = ImageFont.load_default(size=11), 34
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + 8) + 8, rows * (side + label + 4) + 8), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (picture, row) in enumerate(zip(pictures, attributes.tolist())):
        x, y = 8 + i % columns * (side + 8), 8 + i // columns * (side + label + 4)
        pixels = (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS), (x, y))
        shape, colour, background, texture, position = (encoding.ATTRIBUTES[n][v] for n, v in zip(NAMES, row))
        text = f"{colour} {shape}, {texture}\non {background}, {position}"
        pen.text((x, y + side + 3), text, "black", font, spacing=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(256).save(path, optimize=True)


def main() -> None:
    """Parses the command line, samples, prints the figures and optionally writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", help="ComfyUI's folder (default: $COMFYUI_PATH)")
    parser.add_argument("--folder", type=Path, default=Path("tiny_model_run"), help="where the classifier is kept")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--cfg", type=float, default=3.0)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="simple")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="write the first 32 samples there, labelled")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    environment.use_comfyui(arguments.comfyui, training=False)
    from classifier import Classifier, classify, train_classifier

    kept = arguments.folder / "classifier.pt"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        torch.save(train_classifier().state_dict(), kept)
    classifier = Classifier().eval()
    classifier.load_state_dict(torch.load(kept, weights_only=True))
    generator = torch.Generator().manual_seed(99)
    truth = random_attributes(256, generator)
    drawn = classify(classifier, draw(random_scenes(truth, generator), 256)) == truth
    print("classifier on fresh drawings:", {n: f"{v:.1%}" for n, v in zip(NAMES, drawn.float().mean(dim=0).tolist())})

    model, vae = load_files()
    model = at_size(model, arguments.size)
    print("reconstruction PSNR:", {size: f"{reconstruction_psnr(vae, size):.1f} dB" for size in (256, 512)})
    attributes = random_attributes(arguments.pictures, torch.Generator().manual_seed(arguments.seed))
    started, pictures = time.perf_counter(), []
    for i, chunk in enumerate(tqdm(attributes.split(arguments.batch), desc="sampling")):
        pictures.append(sample(model, vae, chunk + 1, arguments, arguments.seed + i))
    seconds = (time.perf_counter() - started) / arguments.pictures
    pictures = torch.cat(pictures)
    right = classify(classifier, pictures) == attributes
    print(f"{arguments.pictures} samples at {arguments.size}, {arguments.sampler}/{arguments.scheduler}, "
          f"{arguments.steps} steps, cfg {arguments.cfg}: {seconds:.2f} s each")  # fmt: skip
    print("recognised:", {n: f"{v:.1%}" for n, v in zip(NAMES, right.float().mean(dim=0).tolist())})
    both, all_five = right[:, :2].all(dim=1).float().mean(), right.all(dim=1).float().mean()
    print(f"shape and colour: {both:.1%}, all five: {all_five:.1%}")
    if arguments.sheet:
        write_sheet(arguments.sheet, pictures[:32], attributes[:32])


if __name__ == "__main__":
    main()
